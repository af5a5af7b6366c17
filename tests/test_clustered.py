"""Sums a video, the metrics made of them, and scores that have the right standard error."""

import json
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.analysis.clustered import ClusterSums, standard_error

VECTORS = json.loads((Path(__file__).parent / "data" / "saliency-vectors.json").read_text())


def near(expected):
    return pytest.approx(expected, rel=1e-12, abs=1e-12)


def differences() -> ClusterSums:
    per_video = VECTORS["clustered"]["differences"].values()
    values = np.concatenate([np.array(v) for v in per_video])
    return ClusterSums.of(values, np.repeat([0, 1, 2], [len(v) for v in per_video]), 3)


def test_means_and_standard_errors_of_clustered_frames_equal_the_vectors():
    want, sums = VECTORS["clustered"], differences()
    assert sums.n_V.tolist() == list(want["n"].values())
    assert sums.sum_V == near(list(want["sum"].values()))
    assert sums.mean == near(want["frame_mean"])
    assert sums.influence().mean() == near(want["frame_mean"])
    assert standard_error(sums.influence()) == near(want["frame_mean_se_by_video"])
    assert sums.mean_of_means == near(want["video_mean"])
    assert standard_error(sums.unit_means()) == near(want["video_mean_se"])
    naive = sums.frame_deviation / np.sqrt(sums.n_V.sum())
    assert naive == pytest.approx(want["naive_se_of_independent_frames"], rel=1e-9)


def test_frames_and_videos_are_averaged_by_their_names_and_nan_is_dropped():
    frames = VECTORS["averaging"]["frames"]
    values = np.array([np.nan if f["cc"] is None else f["cc"] for f in frames])
    sums = ClusterSums.of(values, np.array([ord(f["video"]) - ord("a") for f in frames]), 2)
    assert sums.mean == pytest.approx(VECTORS["averaging"]["per_frame_mean"], rel=1e-12)
    assert sums.mean_of_means == pytest.approx(VECTORS["averaging"]["per_video_mean"], rel=1e-12)


def drawn(units: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    unit_N = np.repeat(np.arange(units), rng.integers(1, 40, units))
    return rng.normal(0.5, 0.2, units)[unit_N] + rng.normal(0, 0.1, len(unit_N)), unit_N


def test_influence_of_a_difference_is_the_difference_of_influences():
    """Both models are scored on the same frames, so one may be computed without the other."""
    before_N, unit_N = drawn(30, 0)
    after_N = before_N + np.random.default_rng(1).normal(0.02, 0.1, len(before_N))
    before, after, both = (
        ClusterSums.of(v, unit_N, 30).influence() for v in (before_N, after_N, after_N - before_N)
    )
    assert after - before == pytest.approx(both, abs=1e-12)


def test_units_without_a_value_are_left_out_of_the_scores():
    values, units = np.array([0.1, 0.3, np.nan, 0.8]), np.array([0, 0, 1, 2])
    sums = ClusterSums.of(values, units, 3)
    assert sums.counted_V.tolist() == [True, False, True]
    assert len(sums.influence()) == 2
    assert sums.influence().mean() == pytest.approx(0.4)
    assert sums.mean_of_means == pytest.approx(0.5)


def test_nothing_with_a_value_has_no_metric():
    sums = ClusterSums.of(np.array([np.nan, np.nan]), np.array([0, 1]), 2)
    assert np.isnan(sums.mean)
    assert np.isnan(sums.mean_of_means)
    assert len(sums.influence()) == 0


def test_videos_of_one_film_are_one_unit():
    value_N, video_N = drawn(12, 2)
    film_V = np.arange(12) // 3
    direct = ClusterSums.of(value_N, film_V[video_N], 4)
    joined = ClusterSums.of(value_N, video_N, 12).within(film_V, 4)
    assert joined.n_V.tolist() == direct.n_V.tolist()
    assert joined.influence() == pytest.approx(direct.influence(), abs=1e-12)
    assert joined.squares_V == pytest.approx(direct.squares_V, rel=1e-12)


def test_a_half_of_the_units_has_scores_of_its_own():
    value_N, unit_N = drawn(20, 3)
    sums, half = ClusterSums.of(value_N, unit_N, 20), np.arange(0, 20, 2)
    of_half = sums.only(half)
    assert of_half.influence().mean() == pytest.approx(value_N[unit_N % 2 == 0].mean(), rel=1e-12)
    assert sums.influence()[half].mean() != pytest.approx(of_half.mean, rel=1e-6)


def test_intervals_by_video_cover_and_those_of_independent_frames_do_not():
    covered = np.zeros(2)
    for draw in range(400):
        rng = np.random.default_rng(draw)
        unit_N = np.repeat(np.arange(40), rng.integers(5, 60, 40))
        value_N = rng.normal(0, 0.1, 40)[unit_N] + rng.normal(0, 0.1, len(unit_N))
        sums = ClusterSums.of(value_N, unit_N, 40)
        naive = sums.frame_deviation / np.sqrt(len(value_N))
        errors = np.array([standard_error(sums.influence()), naive])
        covered += abs(sums.mean) < 2.02 * errors
    assert covered[0] / 400 > 0.92
    assert covered[1] / 400 < 0.6
