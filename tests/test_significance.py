"""Intervals against plain per-image arithmetic, and their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from bikd_ray.analysis.bits import gram, pack, stack, unpack
from bikd_ray.analysis.significance import best_set, contrast, mcnemar, resolvable


def vectors(rng, count, n, p=0.7):
    return rng.random((count, n)) < p


def gram_of(correct_VN):
    return gram(stack([pack(c) for c in correct_VN]))


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
    estimate = contrast(gram_of([before, *after]), n, weights)

    d_SN = after.astype(float) - before
    image_mean = d_SN.mean(0)
    v_images = ((image_mean**2).sum() + 1) / n - image_mean.mean() ** 2
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
    estimate = contrast(gram_of([c, c]), 900, np.array([[-1.0, 1.0]]))
    assert estimate.mean == 0
    assert 0.1 < estimate.half_width < 0.4


def test_mcnemar_mid_p_equals_its_definition():
    def exact(b, c):
        pmf = stats.binom(b + c, 0.5).pmf(np.arange(b + c + 1))
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
        e = contrast(gram_of([before, *after]), n, weights)
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
        g = gram_of([after[m] for m in names])
        eye = np.eye(4)
        differences = {
            (q, p): contrast(g, n, (eye[i] - eye[j])[None])
            for i, q in enumerate(names)
            for j, p in enumerate(names)
            if q != p
        }
        kept = best_set(differences, names)
        held += "a" in kept
        dropped += "d" not in kept
    assert held / runs >= 0.95
    assert dropped / runs > 0.9


def test_resolvable_difference_is_the_papers_figure():
    assert resolvable(50_000, 0.02) == pytest.approx(0.124, abs=1e-3)
    assert resolvable(50_000, 0.04) == pytest.approx(0.175, abs=1e-3)
