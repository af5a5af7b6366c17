"""Semantic maps, their divergence and the choice of teachers: against vectors worked out elsewhere
and against plain loops over pixels.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from bikd_ray.tasks.base import Prediction
from bikd_ray.tasks.map_output import MapOutput, QueryLogits
from bikd_ray.tasks.segmentation import Segmentation
from bikd_ray.tasks.semantic_maps import (
    at_cells,
    labelled,
    log_map,
    normalised_log,
    pixel_loss,
    pixel_nll,
    query_map,
    resized,
)
from bikd_ray.transfer.loss import transfer_loss

VECTORS = json.loads((Path(__file__).parent / "data" / "segmentation-vectors.json").read_text())
FAMILIES = VECTORS["families"]
GRID = tuple(FAMILIES["grid"])
MAPS = ["maps_k2", "maps_k3"]


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exact(actual, expected, scale: float = 1.0):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert_close(actual.detach(), expected, rtol=1e-12, atol=1e-12 * scale)


def leaf(values) -> torch.Tensor:
    return f64(values).requires_grad_()


def grad(z: torch.Tensor) -> torch.Tensor:
    assert z.grad is not None
    return z.grad


def families() -> tuple[MapOutput, MapOutput]:
    queries = QueryLogits(leaf([FAMILIES["class_logits_QC1"]]), leaf([FAMILIES["mask_logits_Qhw"]]))
    return MapOutput(queries=(queries,)), MapOutput(leaf([FAMILIES["pixel_logits_CHW"]]))


def divergence(student, teacher, valid_Bhw, **how) -> torch.Tensor:
    """[B]: what the joint loss of two models adds to each image that the second teaches."""
    found, sure = [], f64([[0.0], [1.0]])
    for n, valid_hw in enumerate(valid_Bhw):
        logs = torch.stack([student[n], teacher[n]]).flatten(2)[:, None]
        valid = valid_hw.flatten()[None]
        found.append(transfer_loss(logs, f64([[0.0], [0.0]]), sure, valid_BP=valid, **how).total)
    return torch.stack(found)


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_normalised_with_its_epsilon(name):
    want = VECTORS[name]
    for map_BCHW, normalised in zip(want["maps_KBCHW"], want["normalised_KBCHW"], strict=True):
        exact(normalised_log(f64(map_BCHW)).exp(), normalised)


@pytest.mark.parametrize("name", MAPS)
def test_the_divergence_of_every_pair_equals_the_vectors(name):
    want = VECTORS[name]
    logs = [normalised_log(f64(m)) for m in want["maps_KBCHW"]]
    valid, labels = torch.tensor(want["valid_BHW"]), torch.tensor(want["labels_BHW"])
    for t, teacher in enumerate(logs):
        for j, student in enumerate(logs):
            expected = want["kl_teacher_student_image"][t][j]
            exact(divergence(student, teacher, valid), expected)
            counted = valid & (labels != 255)
            expected = want["kl_over_labelled_pixels_only"][t][j]
            some = [n for n, value in enumerate(expected) if value is not None]
            found = divergence(student, teacher, counted)
            exact(found[some], [expected[n] for n in some])


GRADIENTS = {"gradient_KBCHW": True, "gradient_teacher_not_detached_KBCHW": False}


@pytest.mark.parametrize(
    ("name", "ties", "key"),
    [
        (name, ties, key)
        for name in MAPS
        for ties, by in VECTORS[name]["by_ties"].items()
        for key in GRADIENTS
        if by[key] is not None
    ],
)
def test_teachers_total_and_gradients_equal_the_vectors(name, ties, key):
    want, by, detached = VECTORS[name], VECTORS[name]["by_ties"][ties], GRADIENTS[key]
    maps = [leaf(m) for m in want["maps_KBCHW"]]
    logs = [normalised_log(m) for m in maps]
    valid, labels = torch.tensor(want["valid_BHW"]), torch.tensor(want["labels_BHW"])
    loss_KB = f64(want["task_loss_KB"])
    found = transfer_loss(
        torch.stack(logs).flatten(3),
        loss_KB,
        torch.where(labelled(labels), -loss_KB, -torch.inf),
        valid_BP=valid.flatten(1),
        ties=ties,
        detach_teacher=detached,
    )
    assert found.teacher.tolist() == by["teacher_B"]
    exact(found.divergence, f64(by["student_kl_KB"]).mean(1))
    exact(found.total, by["total_with_task_losses"])
    found.total.backward()
    for one, expected in zip(maps, by[key], strict=True):
        exact(grad(one), expected, scale=f64(expected).abs().max().item() or 1.0)


def test_auto_ties_are_those_of_the_paper():
    sure = torch.where(torch.tensor([True, False]), torch.ones(3, 2), -torch.inf)
    same = torch.zeros(3, 2, 4, 1).log_softmax(2)
    for count, teacher in ((2, 1), (3, 0)):
        found = transfer_loss(same[:count], torch.ones(count, 2), sure[:count])
        assert found.teacher.tolist() == [teacher, -1]


def test_maps_of_both_families_equal_the_vectors():
    mask, pixel = families()
    masks = resized(mask.queries[0].mask_logits_BQhw, GRID)
    exact(masks[0], FAMILIES["mask_logits_on_grid"])
    queries = QueryLogits(mask.queries[0].class_logits_BQC1, masks)
    exact(query_map(queries)[0], FAMILIES["semantic_map_CHW"])
    exact(log_map(mask, GRID)[0].exp(), FAMILIES["normalised_map_CHW"])
    exact(log_map(pixel, GRID)[0].exp(), FAMILIES["pixel_softmax_CHW"])


def test_families_teach_each_other_with_the_vectors_gradients():
    valid = torch.tensor([FAMILIES["valid_HW"]])
    mask, pixel = families()
    kl = divergence(log_map(mask, GRID), log_map(pixel, GRID).detach(), valid)
    kl.sum().backward()
    want = FAMILIES["mask_model_taught"]
    exact(kl[0], want["kl"])
    exact(grad(mask.queries[0].class_logits_BQC1)[0], want["grad_class_logits"])
    exact(grad(mask.queries[0].mask_logits_BQhw)[0], want["grad_mask_logits"])
    mask, pixel = families()
    kl = divergence(log_map(pixel, GRID), log_map(mask, GRID).detach(), valid)
    kl.sum().backward()
    want = FAMILIES["pixel_model_taught"]
    exact(kl[0], want["kl"])
    exact(grad(pixel.tensors()[0])[0], want["grad_pixel_logits"])


def test_the_pixel_nll_of_both_families_equals_the_vectors():
    labels = torch.tensor([FAMILIES["labels_HW"]])
    for output, name in zip(families(), ("mask_model", "pixel_model"), strict=True):
        found = pixel_nll(log_map(output, GRID), labels)
        exact(found[0], FAMILIES["pixel_nll"][name])


def test_it_is_not_the_reference_codes_divergence():
    want = VECTORS["reference_divergence"]
    student, teacher = (
        normalised_log(f64(want[f"{who}_map"]).view(1, len(want["student_map"]), 1, -1))
        for who in ("student", "teacher")
    )
    found = divergence(student, teacher, torch.ones(1, 1, student.shape[-1], dtype=torch.bool))
    exact(found[0], want["ours"])
    assert abs(found.item() - want["value"]) > 0.4


def test_temperature_softens_both_families_alike():
    """softmax(z / T) of a pixel model is p^(1/T) normalised, which is what a map has."""
    _, pixel = families()
    z, log_p = pixel.tensors()[0].detach(), log_map(pixel, GRID)
    other = log_p.flip(1).detach()
    valid = torch.ones(1, *GRID, dtype=torch.bool)
    p, q = (z.flip(1) / 4).softmax(1), (z / 4).log_softmax(1)
    plain = 16 * (p * (p.log() - q)).sum(1).mean()
    exact(divergence(log_p, other, valid, temperature=4.0)[0], plain)
    root = log_p.exp() ** (1 / 4)
    exact((log_p / 4).log_softmax(1).exp(), (root / root.sum(1, keepdim=True)).detach())


def test_a_doubled_image_has_the_same_divergence_and_padding_does_not_count():
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64).log_softmax(1)
        for _ in range(2)
    )
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    once = divergence(a, b, valid)
    twice = divergence(a.tile(1, 1, 2, 1), b.tile(1, 1, 2, 1), valid.tile(1, 2, 1))
    exact(twice, once)
    padded = divergence(F.pad(a, (0, 2), value=math.nan), F.pad(b, (0, 2)), F.pad(valid, (0, 2)))
    exact(padded, once)
    wider = divergence(F.pad(a, (0, 0) * 2 + (0, 3), value=-1e9), F.pad(b, (0, 0) * 2 + (0, 3),
                       value=-1e9), valid)  # fmt: skip
    exact(wider, once)
    assert divergence(a, b, torch.zeros_like(valid)).tolist() == [0, 0]


def test_cells_take_the_pixel_at_their_centre():
    pixels = torch.arange(12 * 6).view(1, 12, 6)
    cells = at_cells(pixels, (3, 4))
    for i in range(3):
        for j in range(4):
            row, column = math.floor((i + 0.5) * 12 / 3), math.floor((j + 0.5) * 6 / 4)
            assert cells[0, i, j] == pixels[0, row, column]
    labels = torch.randint(0, 200, (2, 37, 53))
    assert set(at_cells(labels, (9, 13)).unique().tolist()) <= set(labels.unique().tolist())
    assert torch.equal(at_cells(labels, (37, 53)), labels)


def test_a_pixel_models_loss_is_the_mean_over_each_images_labelled_pixels():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (3, 10, 13), generator=generator)
    labels[0, :5], labels[2] = 255, 255
    loss = pixel_loss(z, labels)
    loss.sum().backward()
    large = F.interpolate(z.detach(), size=(10, 13), mode="bilinear", align_corners=False)
    for n in range(2):
        values = [
            -large[n, :, i, j].log_softmax(0)[labels[n, i, j]]
            for i in range(10)
            for j in range(13)
            if labels[n, i, j] != 255
        ]
        exact(loss[n], torch.stack(values).mean())
    assert loss[2] == 0
    assert grad(z).isfinite().all()
    assert (grad(z)[2] == 0).all()
    parts = [pixel_loss(z[n : n + 1], labels[n : n + 1])[0] for n in range(3)]
    exact(torch.stack(parts), loss.detach())


def test_a_model_that_answers_nan_has_a_nan_loss_where_it_is_labelled():
    z, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    z[1, 0, 2, 2] = math.nan
    assert pixel_loss(z, labels).isnan().tolist() == [False, True]
    assert MapOutput(z).finite_B().tolist() == [True, False]


def test_confidence_without_labels_is_the_mean_of_the_top_log_probability():
    log_p = torch.tensor([[0.5, 0.9], [0.5, 0.1]]).log().view(1, 2, 1, 2)
    for valid, mean in (([[True, True]], [0.5, 0.9]), ([[True, False]], [0.5])):
        found = Segmentation().certainty(Prediction(log_p.flatten(2), torch.tensor(valid)))
        assert_close(found[0], torch.tensor(mean).log().mean())


def test_half_precision_is_raised_before_the_non_linearity():
    mask, pixel = families()
    for output in (mask[0:1], pixel[0:1]):
        half = MapOutput(
            output.pixel_logits_BChw.bfloat16() if output.pixel_logits_BChw is not None else None,
            tuple(
                QueryLogits(q.class_logits_BQC1.bfloat16(), q.mask_logits_BQhw.bfloat16())
                for q in output.queries
            ),
        )
        found = log_map(half, GRID)
        assert found.dtype == torch.float32
        assert_close(found.exp().sum(1), torch.ones(1, *GRID))


def test_a_map_is_made_in_full_precision_under_autocast():
    mask, _ = families()
    wide = MapOutput(
        queries=tuple(
            QueryLogits(q.class_logits_BQC1.float(), q.mask_logits_BQhw.float())
            for q in mask.queries
        )
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = log_map(wide, GRID)
    assert torch.equal(found, log_map(wide, GRID))
