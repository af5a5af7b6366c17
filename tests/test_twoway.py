"""The two-way model against dense conditioning of Gaussians, and what it says of a best partner."""

import json
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.analysis.halves import deciding_half, on_half
from bikd_ray.analysis.ranking import chances_better, ranked
from bikd_ray.analysis.scores import Bits, Values
from bikd_ray.analysis.twoway import GRID, Cells, apportioned, fitted, scale_of

VECTORS = json.loads((Path(__file__).parent / "data" / "search-vectors.json").read_text())


def cells_of(rows):
    learner, teacher, gain, var = np.array(rows).T
    return Cells(learner.astype(int), teacher.astype(int), gain, var)


def off_diagonal(models):
    return np.nonzero(~np.eye(models, dtype=bool))


@pytest.mark.parametrize("name", ["two_way", "two_way_feature"])
def test_posterior_at_known_variances(name):
    given = VECTORS[name]
    features = np.array(given["feature"]).reshape(-1, 4, 4)
    sigmas = given["sigma_t"], given["sigma_w"]
    (point,) = fitted(cells_of(given["data"]), 4, features, sigmas, scale=1.0).points
    order = tuple(np.array(given["order"]).T)
    assert point.centre == pytest.approx(given["centre"], abs=1e-10)
    assert point.centre + point.learns_N == pytest.approx(given["learns"], abs=1e-10)
    assert point.teaches_N == pytest.approx(given["teaches"], abs=1e-10)
    assert point.beta_F == pytest.approx(given["beta"], abs=1e-10)
    assert point.effect_NN[order] == pytest.approx(given["partner_effect"], abs=1e-10)
    assert point.effect_sd_NN[order] == pytest.approx(given["partner_sd"], abs=1e-10)
    assert point.log_marginal == pytest.approx(given["log_marginal"], abs=1e-10)


def test_posterior_of_the_variances():
    given = VECTORS["variances"]
    fit = fitted(cells_of(given["data"]), 5)
    weights = {(p.sigma_t, p.sigma_w): w for p, w in zip(fit.points, fit.weights_G, strict=True)}
    assert tuple(given["grid"]) == GRID
    for sigma_t, sigma_w, weight in given["weights"]:
        assert weights[sigma_t, sigma_w] == pytest.approx(weight, abs=1e-10)
    assert sum(weights.values()) == pytest.approx(1)
    likeliest = fit.likeliest
    assert [likeliest.sigma_t, likeliest.sigma_w] == given["best"]
    assert likeliest.effect_NN == pytest.approx(
        np.array(given["partner_effect_at_best"]), abs=1e-10
    )


def test_equals_conditioning_the_whole_gaussian():
    rng = np.random.default_rng(3)
    models, sigma_t, sigma_w = 5, 0.06, 0.04
    off = off_diagonal(models)
    features = rng.standard_normal((2, models, models))
    gain = np.where(rng.random((models, models)) < 0.6, rng.standard_normal((models,) * 2), np.nan)
    np.fill_diagonal(gain, np.nan)
    var = np.full_like(gain, 0.002)
    cells = Cells.of(gain, var)
    # every (i, j) has a gain g and an effect u, all linear in independent a, t, beta, w
    rows = np.array(off).T
    own = np.eye(len(rows)) * sigma_w
    of_u = [sigma_t * np.eye(models)[j] for _, j in rows]
    of_u = np.hstack([of_u, 0.1 * features[:, off[0], off[1]].T, own])
    of_g = np.hstack([[np.eye(models)[i] for i, _ in rows], of_u])
    of_u = np.hstack([np.zeros((len(rows), models)), of_u])
    seen = ~np.isnan(gain[off])
    y = gain[off][seen] - np.nanmean(gain)
    V = of_g[seen] @ of_g[seen].T + 0.002 * np.eye(seen.sum())
    cross = of_u @ of_g[seen].T
    mean = cross @ np.linalg.solve(V, y)
    sd = np.sqrt(np.diag(of_u @ of_u.T - cross @ np.linalg.solve(V, cross.T)))
    log = -0.5 * (np.linalg.slogdet(V)[1] + y @ np.linalg.solve(V, y))

    (point,) = fitted(cells, models, features, (sigma_t, sigma_w), scale=1.0).points
    assert point.effect_NN[off] == pytest.approx(mean, abs=1e-10)
    assert point.effect_sd_NN[off] == pytest.approx(sd, abs=1e-10)
    assert point.log_marginal == pytest.approx(log, abs=1e-9)

    _, u = point.draws(np.random.default_rng(0), 40_000)
    assert u.mean(0)[off] == pytest.approx(mean, abs=5 * sd.max() / 200)
    assert u.std(0)[off] == pytest.approx(sd, rel=0.03)


def test_nothing_known_is_the_prior():
    fit = fitted(Cells.of(np.full((3, 3), np.nan), np.ones((3, 3))), 3)
    assert not fit.expected_NN.any()
    prior = [np.exp(-(p.sigma_t**2 + p.sigma_w**2) / (2 * 0.1**2)) for p in fit.points]
    assert fit.weights_G == pytest.approx(np.array(prior) / np.sum(prior))


def test_draws_are_shared_out_by_weight_and_are_the_same_for_the_same_seed():
    assert list(apportioned(np.array([0.5, 0.3, 0.2]), 5)) == [3, 1, 1]
    assert apportioned(np.array([1.0, 1.0, 1.0]) / 3, 400).sum() == 400
    fit = fitted(cells_of(VECTORS["variances"]["data"]), 5)
    (a, u), (b, v) = fit.draws(7), fit.draws(7)
    assert np.array_equal(u, v)
    assert np.array_equal(a, b)
    assert u.shape == (400, 5, 5)
    assert not np.array_equal(u, fit.draws(8)[1])


def test_other_units_change_the_scale_alone():
    rows = np.array(VECTORS["variances"]["data"])
    large = rows * [1, 1, 50, 2500]
    assert scale_of(rows[:, 2]) == 1
    one, other = (
        fitted(cells_of(rows), 5, scale=scale_of(50 * rows[:, 2]) / 50),
        fitted(cells_of(large), 5),
    )
    assert other.scale == pytest.approx(50 * 0.910089130593033)
    assert other.effect_NN == pytest.approx(50 * one.effect_NN)


def test_leaders_regret_and_places_from_draws():
    given = VECTORS["next_jobs"]
    found = ranked(np.array(given["draws"]))
    assert list(found.leader_N) == given["leader"]
    assert found.regret_N == pytest.approx(given["expected_regret"], abs=1e-10)
    assert found.first_NN == pytest.approx(np.array(given["best"]), abs=1e-10)
    assert found.second_NN == pytest.approx(np.array(given["second"]), abs=1e-10)


def test_chance_that_another_is_better_by_more():
    u = np.array([[[-np.inf, 0.0, 0.2], [0.1, -np.inf, 0.0]], [[-np.inf, 0.3, 0.32], [0, 0, 0]]])
    u = np.concatenate([u, np.zeros((2, 1, 3))], 1)
    others = np.zeros((3, 3), bool)
    others[0, 2] = True
    chances = chances_better(u, np.array([1, 0, 0]), others, by=0.05)
    assert list(chances) == [0.5, 0, 0]


def test_the_deciding_half():
    given = VECTORS["halves"]
    assert list(deciding_half(given["images"]).astype(int)) == given["first_half"]
    assert deciding_half(50_001).sum() == 25_000


@pytest.mark.parametrize("n", [16, 21])
def test_halves_of_bits_are_halves_of_scores(n):
    right = np.random.default_rng(n).random((3, n)) < 0.6
    bits, values = Bits(np.packbits(right, axis=1), n), Values(right.astype(np.float32))
    for deciding in (True, False):
        one, other = on_half(bits, deciding), on_half(values, deciding)
        assert one.n == other.n == (n // 2 if deciding else n - n // 2)
        assert list(one.totals) == list(other.totals)
    assert on_half(bits, None) is bits
