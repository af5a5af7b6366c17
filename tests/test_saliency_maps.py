"""Losses, lessons and teachers of saliency maps against vectors worked out elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from bikd_ray.errors import UserError
from bikd_ray.tasks import saliency_maps as maps
from bikd_ray.transfer.objectives import OBJECTIVES, most_confident

VECTORS = json.loads((Path(__file__).parent / "data" / "saliency-vectors.json").read_text())
LOSSES = {case["name"]: case for case in VECTORS["loss"]}
GENERATOR = torch.Generator().manual_seed(0)


def exact(actual, expected):
    assert_close(actual.detach(), double(expected), rtol=1e-12, atol=1e-12)


def double(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=GENERATOR)


def joint(map_KBHW, truth_BHW, ties, detach=True):
    """Own losses and the lessons of those who have the lowest: total and teachers."""
    loss_KB = torch.stack([maps.task_loss(one, truth_BHW) for one in map_KBHW])
    how_sure_KB = maps.confidence(loss_KB, truth_BHW).detach()
    teaching = OBJECTIVES["bikd"].lessons(how_sure_KB, len(map_KBHW), ties)
    total = loss_KB.mean(1).sum()
    for source, teacher in enumerate(map_KBHW.detach() if detach else map_KBHW):
        for student, one in enumerate(map_KBHW):
            lesson_B = maps.divergence(teacher, one)
            total = total + (teaching.weights_SKN[source, student] * lesson_B).mean()
    return total, teaching.teacher_N


@pytest.mark.parametrize("name", LOSSES)
def test_divergence_correlation_and_loss_equal_the_vectors(name):
    case = LOSSES[name]
    map_KBHW, truth_BHW = double(case["pred_KBHW"]), double(case["gt_BHW"])
    exact(maps.divergence(truth_BHW, map_KBHW), case["kl_gt_pred_KB"])
    exact(maps.correlation(map_KBHW, truth_BHW.expand_as(map_KBHW)), case["cc_KB"])
    exact(maps.task_loss(map_KBHW, truth_BHW), case["task_loss_KB"])
    exact(maps.divergence(map_KBHW[None], map_KBHW[:, None]), case["lesson_KKB__student_teacher"])


@pytest.mark.parametrize("ties", ["first", "last", "drop"])
@pytest.mark.parametrize("name", LOSSES)
def test_totals_gradients_and_teachers_equal_the_vectors(name, ties):
    case, truth_BHW = LOSSES[name], double(LOSSES[name]["gt_BHW"])
    want = case["by_ties"][ties]
    map_KBHW = double(case["pred_KBHW"]).requires_grad_()
    total, teacher_B = joint(map_KBHW, truth_BHW, ties)
    assert teacher_B.tolist() == want["teacher_B"]
    exact(total, want["detached"]["total"])
    total.backward()
    assert map_KBHW.grad is not None
    exact(map_KBHW.grad, want["detached"]["grad_KBHW"])
    exact(joint(map_KBHW, truth_BHW, ties, detach=False)[0], want["not_detached"]["total"])


def test_prediction_is_resized_to_the_truth_as_the_vectors_have_it():
    case = VECTORS["resize"]
    map_KBHW, truth_BHW = double(case["pred_K1HW"]), double(case["gt_1HW"])
    found_KBHW = torch.stack([maps.resized(one, (6, 10)) for one in map_KBHW])
    exact(found_KBHW, case["resized_K1HW"])
    exact(maps.task_loss(found_KBHW, truth_BHW)[:, 0], case["task_loss_K"])
    exact(maps.divergence(found_KBHW[1], found_KBHW[0])[0], case["lesson_01_student0_teacher1"])
    exact(maps.divergence(found_KBHW[0], found_KBHW[1])[0], case["lesson_10_student1_teacher0"])


def test_largest_divergence_is_minus_log_epsilon():
    truth, found = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    truth[0, 0, 0], found[0, 1, 1] = 1, 1
    exact(maps.divergence(truth, found)[0], VECTORS["edge"]["kl_one_hot_gt_on_missing_pixel"])
    assert VECTORS["edge"]["upper_bound_-log(eps)"] == maps.HIGHEST_KL


@pytest.mark.parametrize("case", VECTORS["teacher_rule"])
@pytest.mark.parametrize("ties", ["first", "last", "drop"])
def test_teacher_has_the_lowest_loss_and_nan_never_teaches(case, ties):
    loss_KB = torch.tensor(
        [[torch.nan if v is None else v for v in row] for row in case["loss_KB"]]
    )
    assert most_confident(-loss_KB, ties).tolist() == case[ties]


def test_nobody_teaches_where_all_frozen_sources_are_nan():
    confidence_SN = torch.full((3, 1), torch.nan)
    lessons = OBJECTIVES["kl_dp_supervised"].lessons(confidence_SN, 1, "auto")
    assert lessons.teacher_N.tolist() == [-1]
    assert not lessons.weights_SKN.any()


def test_an_all_zero_truth_in_a_batch_has_weight_zero_and_leaves_everything_finite():
    truth_BHW = noise(3, 5, 6) * 255
    truth_BHW[1] = 0
    map_KBHW = noise(2, 3, 5, 6).requires_grad_()
    total, teacher_B = joint(map_KBHW, truth_BHW, "last")
    total.backward()
    grad = map_KBHW.grad
    assert grad is not None
    assert bool(total.isfinite())
    assert bool(grad.isfinite().all())
    assert not grad[:, 1].any()
    assert bool(grad[:, [0, 2]].any())
    assert teacher_B[1] == -1
    assert maps.has_truth(truth_BHW).tolist() == [True, False, True]


def test_scale_of_a_map_does_not_matter():
    truth, found = noise(1, 6, 7), noise(1, 6, 7)
    assert_close(maps.task_loss(found * 1e-12, truth * 255), maps.task_loss(found, truth))


@pytest.mark.parametrize("value", [0.3, 0.0])
def test_constant_prediction_correlates_zero_and_has_a_finite_gradient(value):
    truth, found = noise(1, 360, 640), torch.full((1, 360, 640), value, requires_grad=True)
    assert float(maps.correlation(found, truth).detach()) == 0
    maps.task_loss(found, truth).sum().backward()
    assert found.grad is not None
    assert bool(found.grad.isfinite().all())


def test_half_precision_is_left_before_anything_is_computed():
    truth, found = noise(2, 6, 8), noise(2, 6, 8).half()
    with torch.autocast("cpu", torch.bfloat16):
        loss = maps.task_loss(maps.resized(found, (6, 8)), truth)
        bigger = maps.resized(found, (12, 16))
    assert loss.dtype == bigger.dtype == torch.float32
    assert_close(loss, maps.task_loss(found.float(), truth), rtol=0, atol=0)


def test_mean_map_weighs_models_equally_whatever_their_sum():
    quiet, loud = noise(2, 1, 4, 4)
    mean = maps.mean_map(torch.stack([quiet, 1000 * loud]))
    assert_close(mean, (quiet / quiet.sum() + loud / loud.sum()) / 2)


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 1, 5, 6), (2, 1, 1, 5, 6)])
def test_one_map_a_clip_is_taken_with_or_without_axes_of_one(shape):
    assert maps.as_maps(torch.zeros(shape)).shape == (2, 5, 6)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (5, 6), (2, 8, 1, 5, 6)])
def test_other_shapes_are_refused_with_what_is_expected(shape):
    with pytest.raises(UserError, match=r"one map a clip, \[B, H, W\].*got \[\d"):
        maps.as_maps(torch.zeros(shape))


@pytest.mark.parametrize(
    ("value", "said"), [(-0.5, "below 0"), (torch.nan, "not finite"), (0.0, "0 everywhere")]
)
def test_what_is_no_map_is_told(value, said):
    assert said in (maps.fault(torch.full((1, 3, 3), value)) or "")
    assert maps.fault(torch.full((1, 3, 3), 0.5)) is None
