"""Segmentation as a task: what is trained and measured, against plain ways to do the same."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bikd_ray.analysis.cases import cases
from bikd_ray.data import open_split
from bikd_ray.data.loader import Batch, Loader
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.plan import Job, View, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.specs import Resources
from bikd_ray.sweep.measured_rows import pair_rows
from bikd_ray.tasks import task_of
from bikd_ray.tasks.segmentation import CONTENT, LABELS, Segmentation
from bikd_ray.train import Fit, fit
from bikd_ray.train.evaluate import evaluate, evaluate_pairs
from bikd_ray.train.member import Member
from bikd_ray.zoo import build
from tests.scene_nets import TWO, entry, scene_spec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found():
    spec = scene_spec(TWO)
    return spec, *resolve(spec)


def job_of(found: Any, *names: str) -> Job:
    spec, zoo, data = found
    jobs = all_jobs(spec, zoo, data)
    return next(job for job in jobs if set(job.names) == set(names))


def done(job: Job, **how: Any) -> Fit:
    *_, end = fit(job, [build(m.entry) for m in job.members], CPU, **how)
    assert isinstance(end, Fit)
    return end


def answers_of(model: Any, data: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicted classes and labels of each image: forward, and argmax at full size."""
    network, images = build(model.entry), open_split(data, "val")
    for index in range(len(images.labels)):
        image, labels = images.pair(index)  # type: ignore[attr-defined]
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            output = network((pixels - 0.5) / 0.5)
        if isinstance(output, Tensor):
            map_CHW = output[0]
        else:
            masks = F.interpolate(output["masks_queries_logits"], labels.shape, mode="bilinear")
            shares = output["class_queries_logits"].softmax(-1)[0, :, :-1]
            map_CHW = torch.einsum("qc,qhw->chw", shares, masks[0].sigmoid())
        yield map_CHW.argmax(0).numpy(), labels


def plainly(model: Any, data: Any) -> dict[str, float]:
    """All metrics from a confusion matrix."""
    confusion, per_image = np.zeros((11, 11)), []
    for answer, labels in answers_of(model, data):
        known = labels != 255
        one = np.zeros((11, 11))
        np.add.at(one, (answer[known], labels[known]), 1)
        confusion += one
        per_image.append(np.nanmean(iou_of(one)))
    truth = confusion.sum(0)
    iou, seen = iou_of(confusion), truth > 0
    found = {
        "miou": 100 * np.nanmean(iou),
        "fwiou": 100 * (iou[seen] * truth[seen]).sum() / truth.sum(),
        "macc": 100 * (np.diag(confusion)[seen] / truth[seen]).mean(),
        "pacc": 100 * np.diag(confusion).sum() / truth.sum(),
        "image_iou": 100 * np.mean(per_image),
    }
    return {name: float(value) for name, value in found.items()}


def iou_of(confusion: np.ndarray) -> np.ndarray:
    right, truth = np.diag(confusion), confusion.sum(0)
    union = truth + confusion.sum(1) - right
    return np.where(truth > 0, right / np.maximum(union, 1), np.nan)


@pytest.mark.parametrize("name", ["pixels", "masks"])
def test_all_metrics_are_those_of_a_plain_loop_over_scenes_of_three_shapes(found, name):
    _, zoo, data = found
    task, model = task_of("segmentation"), zoo[name]
    loader = Loader(open_split(data, "val"), [model.input.view], CPU, cache="none", task=task)
    member = Member(model, build(model.entry), CPU)
    (outcome,) = evaluate([member], loader, task=task).outcomes
    assert outcome.values == pytest.approx(plainly(model, data))
    again = {metric: scores.mean() for metric, scores in outcome.scores.items()}
    assert again == pytest.approx(outcome.values)


def test_what_two_models_get_right_together_is_counted_in_pixels(found):
    _, zoo, data = found
    task, models = task_of("segmentation"), [zoo["pixels"], zoo["masks"]]
    loader = Loader(open_split(data, "val"), [models[0].input.view], CPU, cache="none", task=task)
    members = [Member(model, build(model.entry), CPU) for model in models]
    of_each, (together,) = evaluate_pairs(members, [(0, 1)], loader, task)
    rows = pair_rows(task, of_each[0], of_each[1], together)
    both = np.zeros(5, int)
    one, other = (answers_of(model, data) for model in models)
    for (a, labels), (b, _) in zip(one, other, strict=True):
        known = labels != 255
        x, y = (answer[known] == labels[known] for answer in (a, b))
        both += [
            (x & y).sum(),
            (x & ~y).sum(),
            (~x & y).sum(),
            (~x & ~y).sum(),
            (a != b)[known].sum(),
        ]
    pixels = both[:4].sum()
    assert both.min() > 0
    for row, metric in zip(rows, task.metrics, strict=True):
        assert row["n"] == 12
        assert row["score_a"] == of_each[0].values[metric.name]
        assert [row[name] for name in ("n11", "n10", "n01", "n00")] == both[:4].tolist()
        assert row["disagreement"] == both[4] / pixels
        assert row["error_overlap"] == both[3] / both[1:4].sum()
    (before,) = cases(rows[0] | {"case2": None}, [], [])
    assert (before.both, before.one) == (both[0] / pixels, both[1:3].sum() / pixels)


def test_a_batch_that_is_measured_comes_in_parts_of_one_shape_and_in_order(found):
    _, zoo, data = found
    views = [zoo["pixels"].input.view]
    loader = Loader(open_split(data, "val"), views, CPU, cache="none", task=task_of("segmentation"))
    batches = list(loader.batches(np.arange(12), 12))
    shapes = [tuple(batch.target[LABELS].shape[1:]) for batch in batches]
    assert set(shapes) == {(24, 24), (24, 48), (48, 24)}
    assert all(a != b for a, b in pairwise(shapes))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(12))


@pytest.mark.parametrize("size", [256, 512])
def test_small_images_that_are_enlarged_come_few_at_a_time(found, size):
    """Every model answers a map of each: their size counts, not that of the labels."""
    _, zoo, data = found
    view = replace(zoo["pixels"].input.view, size=size)
    loader = Loader(
        open_split(data, "val"), [view], CPU, cache="none", task=task_of("segmentation")
    )
    counts = [len(batch.index) for batch in loader.batches(np.array([0, 2, 4, 6, 8, 10]), 6)]
    assert counts == {256: [6], 512: [2, 2, 2]}[size]


def test_training_images_of_several_shapes_are_refused_with_the_fix_and_cropped_by_it(found):
    _, zoo, data = found
    images, view = open_split(data, "val"), zoo["pixels"].input.view
    how = {"cache": "none", "task": task_of("segmentation"), "whole": True}
    with pytest.raises(UserError, match="augment: joint"):
        list(Loader(images, [view], CPU, **how).batches(np.arange(8), 8))
    (batch,) = Loader(images, [view], CPU, augment="joint", **how).batches(np.arange(8), 8)
    assert batch.views[view].shape == (8, 3, 24, 24)
    assert batch.target[LABELS].shape == (8, 24, 24)
    padded = [labels[h:].eq(255).all() and labels[:, w:].eq(255).all()
              for labels, (h, w) in zip(batch.target[LABELS], batch.target[CONTENT].tolist(),
                                        strict=True)]  # fmt: skip
    assert all(padded)


def test_two_families_compete_by_the_likelihood_of_the_labels_and_one_by_its_loss(found):
    _, zoo, _ = found
    task = Segmentation()
    assert task.joined([zoo["pixels"], zoo["masks"]]).by == "pixel_nll"
    assert task.joined([zoo["masks"], zoo["masks"]]).by == "task_loss"
    fewer = replace(zoo["masks"], loss=zoo["masks"].loss.replace("outputs=1", "outputs=4"))
    assert task.joined([zoo["masks"], fewer]).by == "pixel_nll"


def test_models_of_two_sizes_are_refused(found):
    _, zoo, _ = found
    other = replace(zoo["masks"], input=replace(zoo["masks"].input, size=32))
    with pytest.raises(UserError, match="give them one"):
        Segmentation().joined([zoo["pixels"], other])


def test_both_learn_together_and_the_counts_of_each_image_are_kept(found):
    end = done(job_of(found, "pixels", "masks"))
    task = task_of("segmentation")
    for before, last in zip(end.before.outcomes, end.chosen["last"], strict=True):
        assert before.values != last.outcome.values
        columns = task.columns(last.outcome.statistics)
        images = open_split(found[2], "val")
        for index in range(12):
            labels = images.pair(index)[1]  # type: ignore[attr-defined]
            of = dict(zip(columns["classes"][index], columns["labelled"][index], strict=True))
            truth = {c: (labels == c).sum() for c in range(11) if (labels == c).any()}
            assert {c: n for c, n in of.items() if n} == truth
            assert sum(columns["predicted"][index]) == (labels != 255).sum()


@pytest.mark.parametrize("parts", [2, 5])
def test_a_mask_models_loss_is_the_same_in_parts_of_the_batch(found, parts):
    """Its points are drawn for each image by the step, wherever the image comes."""
    job = job_of(found, "masks")
    whole = done(job).chosen["last"][0].state
    split = done(job, resources=Resources(micro_batch=parts)).chosen["last"][0].state
    assert whole is not None
    assert split is not None
    for key, tensor in whole.items():
        assert torch.allclose(tensor, split[key], atol=2e-4), key


def batch_of(labels_BHW: Tensor, view: View) -> Batch:
    pixels = torch.zeros(len(labels_BHW), 3, *labels_BHW.shape[1:], dtype=torch.uint8)
    index, count = torch.arange(len(labels_BHW)), len(labels_BHW)
    sizes = torch.tensor([labels_BHW.shape[1:]]).expand(count, 2)
    return Batch({view: pixels}, {LABELS: labels_BHW, CONTENT: sizes}, index, count, count)


def test_an_image_without_labels_has_no_teacher_and_a_finite_loss(found):
    _, zoo, _ = found
    view = zoo["pixels"].input.view
    labels = torch.randint(0, 11, (2, 24, 24)).to(torch.uint8)
    labels[1] = 255
    batch = batch_of(labels, view)
    for by in ("task_loss", "pixel_nll"):
        task = Segmentation(by)
        for name in ("pixels", "masks"):
            output = build(zoo[name].entry)(torch.randn(2, 3, 24, 24))
            prediction = task.predict(output, batch)
            loss_B = task.loss(output, prediction, batch)
            assert loss_B.isfinite().all()
            confidence_B = task.confidence(prediction, loss_B, batch)
            assert confidence_B.isfinite().tolist() == [True, False]


def test_padding_is_no_part_of_what_is_compared(found):
    _, zoo, _ = found
    batch = batch_of(torch.zeros(1, 24, 24, dtype=torch.uint8), zoo["pixels"].input.view)
    batch.target[CONTENT] = torch.tensor([[16, 12]])
    prediction = Segmentation().predict(torch.randn(1, 11, 24, 24), batch)
    assert prediction.valid_BP is not None
    valid = prediction.valid_BP.view(24, 24)
    assert valid[:16, :12].all()
    assert valid.sum() == 16 * 12


def test_points_of_the_loss_are_drawn_alike_for_all_members_and_anew_at_each_step(found):
    _, zoo, _ = found
    task, network = Segmentation(), build(zoo["masks"].entry)
    labels = torch.randint(0, 11, (2, 24, 24)).to(torch.uint8)
    batch = batch_of(labels, zoo["masks"].input.view)
    output = network(torch.randn(2, 3, 24, 24))

    def loss_at(step: int) -> list[float]:
        drawn = replace(batch, draw=derived_seed("draw", 0, step))
        return task.loss(output, task.predict(output, drawn), drawn).tolist()

    assert loss_at(0) == loss_at(0)
    assert loss_at(0) != loss_at(1)


def test_a_model_that_answers_no_numbers_fails_with_its_name(found):
    job = job_of(found, "pixels")
    network = build(job.members[0].entry)
    with torch.no_grad():
        network.head.bias.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(Exception, match="pixels answers NaN or infinite"):
        list(fit(job, [network], CPU))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": {"size": 20, "multiple": 8}}, "no multiple of 8"),
        ({"input": {"size": 24, "multiple": 8, "crop_pct": 0.9}}, "leave out input.crop_pct"),
        ({"kwargs": {"classes": 12}}, "outputs 12 classes, .* has 11; one more .* a label_map"),
        (
            {"kwargs": {"classes": 9}},
            "outputs 9 classes, .* has 11; give a model with a head of 11",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, says):
    spec = scene_spec([{**entry("Pixels", "a"), **change}, TWO[1]])
    with pytest.raises(UserError, match=says) as raised:
        resolve(spec)
    assert "\n" not in str(raised.value)


def test_images_of_classes_have_no_masks():
    digits = {split: {"source": "digits", "split": split} for split in ("train", "val")}
    with pytest.raises(UserError, match="has no masks"):
        resolve(scene_spec(TWO, data=digits))


def test_an_augmentation_of_images_alone_is_refused():
    with pytest.raises(UserError, match="is none of task segmentation"):
        resolve(scene_spec(TWO, recipe={"augment": "timm"}))
