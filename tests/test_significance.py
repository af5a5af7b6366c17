"""Intervals against plain per-image arithmetic, and their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from bikd_ray.analysis import significance
from bikd_ray.analysis.bits import gram, pack, stack, unpack
from bikd_ray.analysis.scores import Bits
from bikd_ray.analysis.significance import (
    best_set,
    contrast,
    cross_fitted,
    differences,
    false_discovery,
    mcnemar,
    resolvable,
    rivals,
)


def vectors(rng, count, n, p=0.7):
    return rng.random((count, n)) < p


def packed(correct_VN):
    return stack([pack(c) for c in correct_VN])


def gram_of(correct_VN):
    return gram(packed(correct_VN))


def bits_of(correct_VN):
    return Bits(packed(correct_VN), len(correct_VN[0]))


@pytest.mark.parametrize("n", [1, 7, 8, 63, 64, 65, 899])
def test_packed_counts_equal_counts_of_booleans(n):
    c = vectors(np.random.default_rng(n), 5, n)
    assert np.array_equal(unpack(pack(c[0]), n), c[0])
    assert np.array_equal(gram_of(c), c.astype(int) @ c.T.astype(int))


def test_a_contrast_equals_the_formula_worked_out_image_by_image():
    rng = np.random.default_rng(1)
    n, seeds = 500, 3
    before, after = vectors(rng, 1, n)[0], vectors(rng, seeds, n, 0.75)
    weights = np.array([[-1.0, *np.eye(seeds)[s]] for s in range(seeds)])
    estimate = contrast(bits_of([before, *after]), weights)

    d_SN = after.astype(float) - before
    image_mean = d_SN.mean(0)
    v_images = ((image_mean**2).sum() + 3) / n - image_mean.mean() ** 2
    v_seeds = d_SN.mean(1).var(ddof=1)
    a, b = v_images / n, v_seeds / seeds
    assert estimate.mean == pytest.approx(100 * d_SN.mean(), abs=1e-12)
    assert estimate.se == pytest.approx(100 * (a + b) ** 0.5, rel=1e-12)
    t = (stats.t.ppf(0.975, n - 1) * a + stats.t.ppf(0.975, seeds - 1) * b) / (a + b)
    half = t * 100 * (a + b) ** 0.5
    assert (estimate.low, estimate.high) == pytest.approx(
        (estimate.mean - half, estimate.mean + half)
    )
    assert estimate.above_zero(0.025) == (estimate.low > 0)


def test_nothing_changed_is_not_certainty():
    c = vectors(np.random.default_rng(2), 1, 900)[0]
    estimate = contrast(bits_of([c, c]), np.array([[-1.0, 1.0]]))
    assert estimate.mean == 0
    assert 0.1 < estimate.half_width < 0.4


def test_mcnemar_mid_p_equals_its_definition():
    def exact(b, c):
        pmf = stats.binom.pmf(np.arange(b + c + 1), b + c, 0.5)
        mid = 2 * (pmf[: min(b, c)].sum() + 0.5 * pmf[min(b, c)])
        return min(1.0, mid)

    for b, c in [(0, 0), (5, 0), (3, 9), (12, 12), (40, 61)]:
        assert mcnemar(b, c) == pytest.approx(exact(b, c) if b + c else 1.0)


@pytest.mark.parametrize("seed_sd", [0.0, 0.01, 0.02, 0.05])
def test_intervals_of_delta_cover_the_truth(seed_sd):
    """800 simulated models, 3 seeds each: shared images, with and without seed variance."""
    rng = np.random.default_rng(3)
    n, seeds, runs, truth, hits = 1000, 3, 800, 0.02, 0
    weights = np.array([[-1.0, *np.eye(seeds)[s]] for s in range(seeds)])
    for _ in range(runs):
        ability = rng.random(n)
        before = ability < 0.75
        # every image has its own chance to be right afterwards; its mean shifts by the truth
        shift = truth + rng.normal(0, seed_sd, seeds)
        noise = rng.normal(0, 0.05, (seeds, n))
        after = ability + noise < 0.75 + shift[:, None]
        e = contrast(bits_of([before, *after]), weights)
        hits += e.low <= 100 * truth <= e.high
    assert hits / runs >= 0.94


def test_the_best_set_holds_the_true_best_and_drops_the_clearly_worse():
    rng = np.random.default_rng(4)
    n, runs, held, dropped = 2000, 300, 0, 0
    names = ["a", "b", "c", "d"]
    gains = {"a": 0.03, "b": 0.03, "c": 0.025, "d": -0.02}
    for _ in range(runs):
        ability = rng.random(n)
        after = {m: ability + rng.normal(0, 0.03, n) < 0.7 + g for m, g in gains.items()}
        bits = packed([after[m] for m in names])
        at = np.arange(4)[:, None]
        kept = best_set(rivals(Bits(bits, n), at))
        held += kept[0]
        dropped += not kept[3]
    assert held / runs >= 0.95
    assert dropped / runs > 0.9


def test_resolvable_difference_is_the_papers_figure():
    assert resolvable(50_000, 0.02) == pytest.approx(0.124, abs=1e-3)
    assert resolvable(50_000, 0.04) == pytest.approx(0.175, abs=1e-3)


def test_differences_are_contrasts_over_the_seeds_that_both_have():
    rng = np.random.default_rng(5)
    n = 300
    bits = packed(vectors(rng, 7, n))
    plus = np.array([[1, 2, 3], [4, -1, 5], [-1, -1, -1]])
    minus = np.array([[0, 0, 0], [0, 0, 6], [0, 0, 0]])
    found = differences(Bits(bits, n), plus, minus)
    for e, pairs in enumerate([[(1, 0), (2, 0), (3, 0)], [(4, 0), (5, 6)]]):
        weights = np.zeros((len(pairs), 7))
        for s, (p, m) in enumerate(pairs):
            weights[s, p], weights[s, m] = 1, -1
        one = contrast(Bits(bits, n), weights)
        for name in ("mean", "se", "low", "high", "p_value", "detectable", "seeds"):
            assert getattr(found, name)[e] == pytest.approx(getattr(one, name), rel=1e-12)
    assert np.isnan(found.mean[2])
    assert np.isnan(found.p_value[2])
    assert found.seeds[2] == 0
    assert not found.above_zero(0.5)[2]


def test_with_one_seed_p_is_that_of_a_t_test_over_images():
    rng = np.random.default_rng(6)
    n = 400
    before, after = vectors(rng, 2, n)
    e = contrast(bits_of([before, after]), np.array([[-1.0, 1.0]]))
    assert e.p_value == pytest.approx(2 * stats.t.sf(abs(e.mean / e.se), n - 1), rel=1e-6)
    assert (e.p_value < 0.05) == (not e.low <= 0 <= e.high)


@pytest.mark.parametrize("seeds", [2, 3])
def test_p_is_below_a_level_where_the_interval_of_that_level_leaves_out_zero(seeds):
    rng = np.random.default_rng(7)
    c = vectors(rng, 2 * seeds, 200)
    c[seeds:] |= rng.random((seeds, 200)) < 0.06
    weights = np.hstack([-np.eye(seeds), np.eye(seeds)])
    e = contrast(bits_of(c), weights)
    for alpha in (e.p_value * 0.99, e.p_value * 1.01):
        outside = abs(e.mean) > e.critical(alpha / 2) * e.se
        assert outside == (e.p_value < alpha)


def test_a_detectable_difference_is_found_in_four_of_five_experiments():
    rng = np.random.default_rng(8)
    n, runs = 1000, 1500
    before = rng.random((runs, n)) < 0.7
    first = contrast(bits_of([before[0], before[1]]), np.array([[-1.0, 1.0]]))
    truth = first.detectable / 100
    found = 0
    for _ in range(runs):
        a, b = rng.random(n) < 0.7, rng.random(n) < 0.7 + truth
        found += contrast(bits_of([a, b]), np.array([[-1.0, 1.0]])).low > 0
    assert found / runs == pytest.approx(0.8, abs=0.04)


def test_false_discovery_is_scipys():
    rng = np.random.default_rng(9)
    p = np.append(rng.random(40) ** 3, [0.5, 0.5])
    q = false_discovery(np.insert(p, 7, np.nan))
    assert np.isnan(q[7])
    assert np.delete(q, 7) == pytest.approx(stats.false_discovery_control(p))
    assert len(false_discovery(np.array([]))) == 0


def test_cross_fitting_takes_away_the_winners_luck():
    """Thirty equal partners: the best looks good on its own images, and not on others."""
    rng = np.random.default_rng(10)
    n, partners, runs = 400, 30, 40
    best, fitted = [], []
    for _ in range(runs):
        before = rng.random(n) < 0.7
        after = np.where(rng.random((partners, n)) < 0.1, rng.random((partners, n)) < 0.7, before)
        bits = stack([pack(c) for c in (before, *after)])
        best.append(100 * (after.mean(1) - before.mean()).max())
        fitted.append(cross_fitted(Bits(bits, n), 1 + np.arange(partners)[:, None], 0))
    assert np.mean(best) > 1.5
    assert abs(np.mean(fitted)) < 3 * np.std(fitted) / runs**0.5


def test_cross_fitting_leaves_a_truly_best_partner_its_gain():
    rng = np.random.default_rng(11)
    n = 1000
    before = rng.random(n) < 0.5
    far = before | (rng.random(n) < 0.4)
    bits = stack([pack(c) for c in (before, before, far, far)])
    at = np.array([[1, -1], [2, 3]])
    expected = 100 * (far.mean() - before.mean())
    assert cross_fitted(Bits(bits, n), at, 0) == pytest.approx(expected, abs=1e-9)


def test_all_rivals_at_once_are_the_differences_of_any_two():
    """Also where candidates lack seeds, and where two of them share none."""
    rng, n = np.random.default_rng(5), 5000  # more than is counted at a time
    for shape in ((7, 3), (4, 1), (5, 2)):
        right = rng.random(n) < 0.7
        vectors = right ^ (rng.random((1 + shape[0] * shape[1], n)) < 0.05)
        bits = packed(vectors)
        at = 1 + np.arange(shape[0] * shape[1]).reshape(shape)
        at = np.where(rng.random(shape) < 0.3, -1, at) if shape[1] > 1 else at
        got, want = rivals(Bits(bits, n), at), differences(Bits(bits, n), at[:, None], at[None])
        for name in ("mean", "var_images", "var_seeds", "seeds", "low"):
            there = want.seeds > 0
            mine, plain = getattr(got, name)[there], getattr(want, name)[there]
            assert mine == pytest.approx(plain, rel=1e-9, abs=1e-15), name
        assert (got.seeds == want.seeds).all()


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_a_p_value_is_twice_the_level_at_which_the_mean_is_critical(seeds):
    rng, n = np.random.default_rng(6), 400
    right = rng.random(n) < 0.7
    for share in (0.0, 0.01, 0.3):
        vectors = right ^ (rng.random((1 + seeds, n)) < share)
        found = differences(bits_of(vectors), 1 + np.arange(seeds), np.zeros(seeds, int))
        reached = abs(found.mean) / found.se
        assert found.critical(found.p_value / 2) == pytest.approx(reached, rel=1e-9, abs=1e-9)


def test_a_t_too_large_to_be_squared_has_density_0():
    """Of seeds and samples that all but agree; what overflows is an error in these tests."""
    t = np.array([0.0, 1.0, 1e200])
    found = significance._density(3, t)
    np.testing.assert_allclose(found[:2], stats.t.pdf(t[:2], 3), rtol=1e-12)
    assert found[2] == 0
