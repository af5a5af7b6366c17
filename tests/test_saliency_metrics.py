"""Metrics of saliency maps against vectors worked out elsewhere and against plain definitions."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.testing import assert_close

from bikd_ray.tasks.saliency_metrics import METRICS, at_size, auc_judd, blurred, measure

VECTORS = json.loads((Path(__file__).parent / "data" / "saliency-vectors.json").read_text())
FRAMES = {case["name"]: case for case in VECTORS["metrics"]}
NAMES = {
    "cc": "cc",
    "nss": "nss_sample_std",
    "sim": "sim_minmax",
    "kldiv": "kldiv",
    "auc_j": "auc_judd_ties_handled",
}
OF_THE_MAP = ("cc", "sim", "kldiv")


def frame(name: str, dtype: torch.dtype = torch.float64):
    case = FRAMES[name]
    found, truth = (torch.tensor([case[key]], dtype=dtype) for key in ("pred_HW", "gt_HW"))
    fixated = torch.zeros(truth.shape, dtype=torch.uint8)
    for y, x in case["fixations_yx"]:
        fixated[0, y, x] = 1
    return found, truth, fixated


def measured(name: str, dtype: torch.dtype = torch.float64) -> dict[str, float]:
    return {key: float(value) for key, value in measure(*frame(name, dtype)).items()}


def wanted(name: str, metric: str) -> float | None:
    """The vector's value, or what the policy for degenerate maps puts in its place."""
    if metric in OF_THE_MAP and name in ("constant_gt", "all_zero_gt"):
        return None
    value = FRAMES[name]["metrics"][NAMES[metric]]
    if name in ("constant_prediction", "all_zero_prediction"):
        uniform = FRAMES["constant_prediction"]["metrics"]
        truth = frame(name)[1].numpy()
        stretched = (truth - truth.min()) / (truth.max() - truth.min())
        share = np.minimum(stretched / stretched.sum(), 1 / stretched.size).sum()
        of_uniform = {"cc": 0.0, "nss": 0.0, "sim": share, "auc_j": 0.5}
        return of_uniform.get(metric, uniform["kldiv"])
    return value


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", FRAMES)
def test_metrics_equal_the_vectors(name, metric):
    got, want = measured(name)[metric], wanted(name, metric)
    if want is None:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(want, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", sorted(set(FRAMES) - {"nearly_constant"}))
def test_float32_is_near_float64(name):
    exact, single = measured(name), measured(name, torch.float32)
    assert single == pytest.approx(exact, rel=2e-5, abs=2e-6, nan_ok=True)


def test_correlation_never_exceeds_one():
    values = [abs(measured(name)["cc"]) for name in FRAMES]
    assert max(value for value in values if not math.isnan(value)) <= 1 + 1e-12


def test_frames_that_a_truth_leaves_undefined_are_the_same_for_every_model():
    parts = [frame(name) for name in ("smooth", "no_fixations", "all_zero_gt", "constant_gt")]
    truth, fixated = (torch.cat([part[i] for part in parts]) for i in (1, 2))
    good = torch.cat([part[0] for part in parts])
    broken = good.clone()
    broken[:, 0, 0] = torch.nan
    undefined = [
        {name: value.isnan().tolist() for name, value in measure(found, truth, fixated).items()}
        for found in (good, torch.zeros_like(good), broken)
    ]
    assert undefined[0] == undefined[1] == undefined[2]
    assert undefined[0]["nss"] == undefined[0]["auc_j"] == [False, True, False, False]
    assert undefined[0]["cc"] == undefined[0]["kldiv"] == [False, False, True, True]


def test_prediction_that_is_not_finite_scores_as_the_uniform_map():
    found, truth, fixated = frame("smooth")
    found[0, 2, 3] = torch.inf
    uniform = torch.ones_like(found)
    assert measure(found, truth, fixated) == measure(uniform, truth, fixated)


def test_nss_and_auc_are_never_taken_from_the_map():
    found, truth, _ = frame("smooth")
    values = measure(found, truth, torch.zeros(truth.shape, dtype=torch.bool))
    assert values["nss"].isnan().all()
    assert values["auc_j"].isnan().all()
    assert not values["cc"].isnan().any()


def test_a_fixated_pixel_counts_once_whatever_its_value():
    found, truth, fixated = frame("smooth")
    assert measure(found, truth, fixated) == measure(found, truth, fixated * 255)


def plain_auc_judd(found: np.ndarray, fixated: np.ndarray) -> float:
    """Judd et al.'s curve, point by point."""
    hits, others = found[fixated], found[~fixated]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(hits.tolist()), reverse=True):
        points.append(((others >= threshold).mean(), (hits >= threshold).mean()))
    points.append((1.0, 1.0))
    return sum((c - a) * (b + d) / 2 for (a, b), (c, d) in pairwise(points))


@pytest.mark.parametrize("levels", [2, 3, 10, 10**6])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_fast_auc_equals_the_plain_one(levels, share):
    rng = np.random.default_rng(levels)
    found = rng.integers(0, levels, (8, 7, 9)) / levels
    fixated = rng.random((8, 7, 9)) < share
    fixated[:, 0, 0], fixated[:, 0, 1] = True, False
    got = auc_judd(torch.from_numpy(found), torch.from_numpy(fixated))
    want = [plain_auc_judd(*pair) for pair in zip(found, fixated, strict=True)]
    assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_auc_is_undefined_where_every_pixel_is_fixated():
    found = torch.rand(2, 3, 3)
    fixated = torch.ones(2, 3, 3, dtype=torch.bool)
    fixated[1, 0, 0] = False
    assert auc_judd(found, fixated).isnan().tolist() == [True, False]
    assert auc_judd(found[:0], fixated[:0]).shape == (0,)


def test_blur_is_a_gaussian_of_eleven_pixels_mirrored_at_the_border():
    found = torch.rand(2, 20, 30, dtype=torch.float64)
    want = found.numpy()
    for axis in (1, 2):  # radius 5; SciPy calls this border "mirror"
        want = gaussian_filter1d(want, 2.0, axis, mode="mirror", radius=5)
    assert_close(blurred(found), torch.from_numpy(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_blur_takes_maps_smaller_than_its_filter(size):
    found = blurred(torch.full((1, *size), 0.25))
    assert_close(found, torch.full((1, *size), 0.25))


def test_prediction_is_brought_to_the_size_of_the_truth_and_blurred_by_choice():
    found = torch.rand(1, 8, 12)
    plain = at_size(found, (24, 36), blur=False)
    assert plain.shape == (1, 24, 36)
    assert_close(at_size(found, (24, 36)), blurred(plain))
    assert_close(at_size(found, (8, 12), blur=False), found)
