"""The statistics keep their promises: a small run of tests/benchmarks/coverage.py."""

from functools import cache

import numpy as np
import pytest

from tests.benchmarks.coverage import (
    INTERVALS,
    LARGE,
    LOSSES,
    LOSSES_APART,
    MIOU,
    NO_PARTNER,
    REGIMES,
    SHARED,
    VIDEOS,
    VIDEOS_APART,
    shares,
    study,
    with_error,
)

HARD = (*REGIMES, NO_PARTNER)
FLOATS = (LOSSES, LOSSES_APART, VIDEOS, VIDEOS_APART, MIOU)


@cache
def studied(regime, seeds=3):
    return study(regime, 60 if regime is MIOU else 300, seeds, start=1)


def name_of(regime):
    return regime.name


def test_the_simulated_truth_is_the_mean_of_many_images_and_seeds():
    drawn = LARGE.draw(np.random.default_rng(0), sweeps=400, seeds=5)
    right_V = drawn.scores.totals / LARGE.n
    gains_J = 100 * (right_V[drawn.at_WJS] - right_V[drawn.before_W][:, None, None]).mean((0, 2))
    assert gains_J == pytest.approx(np.array(LARGE.gains), abs=0.25)  # 4 sd
    assert drawn.gains_WJS.mean((0, 2)) == pytest.approx(np.array(LARGE.gains), abs=0.25)


@pytest.mark.parametrize("quantity", INTERVALS)
@pytest.mark.parametrize("regime", REGIMES, ids=name_of)
def test_intervals_cover_the_truth(regime, quantity):
    assert studied(regime)[f"{quantity}: covers"].mean() >= 0.94


@pytest.mark.parametrize("regime", FLOATS, ids=name_of)
def test_intervals_of_losses_of_miou_and_of_videos_cover_the_truth(regime):
    for quantity in INTERVALS:
        assert studied(regime)[f"{quantity}: covers"].mean() >= 0.94, quantity
    found = shares(regime, studied(regime))
    assert found["true best in the set"].mean() >= 0.95
    assert found["false discoveries"].mean() <= 0.05


@pytest.mark.parametrize("regime", [LOSSES, VIDEOS_APART, MIOU], ids=name_of)
def test_the_simulated_truth_of_floats_is_the_mean_of_many_units_and_seeds(regime):
    drawn = regime.draw(np.random.default_rng(0), 20 if regime is MIOU else 200, seeds=2)
    metric_V = drawn.scores.totals / regime.n
    gains_WJ = (metric_V[drawn.at_WJS] - metric_V[drawn.before_W][:, None, None]).mean(2)
    error_J = gains_WJ.std(0, ddof=1) / len(gains_WJ) ** 0.5
    assert (np.abs(gains_WJ.mean(0) - np.array(regime.gains)) < 4 * error_J).all()


def test_intervals_are_not_wide_for_safety_alone():
    assert studied(LARGE)["partner − partner: covers"].mean() < 0.98
    assert studied(SHARED)["Δ: width"].mean() < 3.4  # 1.7 times that of normal theory


def test_satterthwaites_intervals_would_be_too_narrow():
    assert studied(LARGE)["partner − partner: Satterthwaite covers"].mean() < 0.935


def test_one_seed_speaks_of_its_own_weights_only():
    found = studied(LARGE, seeds=1)
    assert found["Δ: covers"].mean() >= 0.94
    assert found["Δ, any seed: covers"].mean() < 0.7


@pytest.mark.parametrize("regime", HARD, ids=name_of)
def test_the_set_holds_the_true_best_partner(regime):
    assert shares(regime, studied(regime))["true best in the set"].mean() >= 0.95


@pytest.mark.parametrize("regime", HARD, ids=name_of)
def test_the_false_discovery_rate_holds(regime):
    assert shares(regime, studied(regime))["false discoveries"].mean() <= 0.05


def test_the_best_gain_is_too_high_and_the_cross_fitted_one_is_not():
    """Where only luck chooses among partners, that of the images and that of the seeds."""
    found = shares(NO_PARTNER, studied(NO_PARTNER))
    mean, error = with_error(found["cross-fitted, less that of the true best"])
    assert abs(mean) < 3 * error
    assert found["best Δ, less that of the true best"].mean() > 0.8
