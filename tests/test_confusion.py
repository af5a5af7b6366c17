"""Pixel counts and the metrics of them: against vectors worked out elsewhere and plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from bikd_ray.analysis.segmentation import (
    IMAGE_IOU,
    POOLED,
    PixelCounts,
    image_iou_N,
    influence,
    metrics,
)
from bikd_ray.tasks.confusion import Frame, agreement, class_maps, count_each, log_maps
from bikd_ray.tasks.map_output import MapOutput, QueryLogits
from bikd_ray.tasks.segmentation import Segmentation

VECTORS = json.loads((Path(__file__).parent / "data" / "segmentation-vectors.json").read_text())
METRICS, PAIRED = VECTORS["metrics"], VECTORS["paired"]
CLASSES = METRICS["classes"]


def exact(actual, expected):
    expected = [np.nan if value is None else value for value in np.atleast_1d(expected).tolist()]
    np.testing.assert_allclose(np.atleast_1d(actual), expected, rtol=1e-12, atol=1e-12)


def counted(images, classes=CLASSES) -> PixelCounts:
    found = [count(torch.tensor(answer), torch.tensor(truth), classes) for answer, truth in images]
    names = ("labelled", "right", "predicted")
    return PixelCounts(*(np.stack([one[name].numpy() for one in found]) for name in names))


def count(answer_HW, labels_HW, classes) -> dict[str, torch.Tensor]:
    """Of one image."""
    found = count_each(answer_HW[None], labels_HW[None], classes)
    return {name: counts[0] for name, counts in found.items()}


def of_vectors() -> PixelCounts:
    return counted([(image["predicted"], image["labels"]) for image in METRICS["images"]])


def side(which: str) -> PixelCounts:
    of = PAIRED[which]
    return PixelCounts(*(np.array(x) for x in (PAIRED["gt_NC"], of["tp_NC"], of["pred_NC"])))


def drawn(images=30, classes=7, seed=0) -> PixelCounts:
    draw = np.random.default_rng(seed)
    labelled = draw.integers(0, 60, (images, classes)) * (draw.random((images, classes)) < 0.5)
    right = (labelled * draw.random((images, classes))).astype(int)
    wrong = (labelled - right).sum(1)
    extra = np.stack([draw.multinomial(n, np.ones(classes) / classes) for n in wrong])
    return PixelCounts(labelled, right, right + extra)


def plain_metrics(labels, answers, classes):
    """From a confusion matrix, pixel by pixel."""
    matrix = np.zeros((classes, classes))
    for truth, answer in zip(labels, answers, strict=True):
        for t, p in zip(np.ravel(truth), np.ravel(answer), strict=True):
            if t != 255:
                matrix[p, t] += 1
    labelled, right, answered = matrix.sum(0), np.diag(matrix), matrix.sum(1)
    there = [c for c in range(classes) if labelled[c]]
    iou = {c: right[c] / (labelled[c] + answered[c] - right[c]) for c in there}
    return {
        "miou": 100 * np.mean([iou[c] for c in there]),
        "fwiou": 100 * sum(labelled[c] * iou[c] for c in there) / labelled.sum(),
        "macc": 100 * np.mean([right[c] / labelled[c] for c in there]),
        "pacc": 100 * right.sum() / labelled.sum(),
    }


def test_counts_of_each_image_equal_the_vectors():
    counts = of_vectors()
    for n, image in enumerate(METRICS["images"]):
        exact(counts.labelled_NC[n], image["gt_C"])
        exact(counts.right_NC[n], image["tp_C"])
        exact(counts.predicted_NC[n], image["pred_C"])
    exact(image_iou_N(counts), [image["per_image_miou"] for image in METRICS["images"]])


def test_metrics_equal_the_vectors():
    counts = of_vectors()
    found = metrics(counts)
    for name in POOLED:
        exact(found[name], METRICS[name])
    exact(found[IMAGE_IOU], METRICS["mean_of_per_image_miou"])
    exact(counts.sums().iou_C, METRICS["iou_C"])
    exact(counts.sums().accuracy_C, METRICS["acc_C"])
    assert abs(found["miou"] - METRICS["miou_mmseg"]) > 16


@pytest.mark.parametrize("which", ["before", "after"])
def test_metrics_of_the_paired_models_equal_the_vectors(which):
    found, sums = metrics(side(which)), side(which).sums()
    for name in POOLED:
        exact(found[name], PAIRED[which][name])
    exact(sums.iou_C, PAIRED[which]["iou_C"])
    exact(sums.accuracy_C, PAIRED[which]["acc_C"])


def test_the_difference_its_influence_and_its_error_equal_the_vectors():
    before, after = influence(side("before"))["miou"], influence(side("after"))["miou"]
    exact(after.mean() - before.mean(), PAIRED["delta_miou"])
    apart = after - before
    exact(apart - apart.mean(), PAIRED["influence_of_delta_N"])
    exact(apart.std(ddof=1) / np.sqrt(len(apart)), PAIRED["se_of_delta_linearised"])


def test_resamples_equal_the_vectors_and_the_metrics_of_the_images_they_draw():
    rows_RN = np.array(PAIRED["resamples_RN"])
    weights_RN = np.stack([np.bincount(rows, minlength=rows_RN.shape[1]) for rows in rows_RN])
    found = [side(which).sums(weights_RN).metrics()["miou"] for which in ("before", "after")]
    exact(np.stack(found, 1).ravel(), np.ravel(PAIRED["miou_before_after_R2"]))
    exact(found[1] - found[0], PAIRED["delta_R"])
    one_by_one = [metrics(side("after").of(rows))["miou"] for rows in rows_RN]
    exact(found[1], one_by_one)


def test_the_mean_of_the_scores_is_the_metric_of_any_images():
    counts = drawn()
    counts.labelled_NC[3], counts.right_NC[3], counts.predicted_NC[3] = 0, 0, 0
    for part in (counts, counts.of(np.arange(0, 30, 3)), counts.of(slice(4, 5)), side("after")):
        scores, found = influence(part), metrics(part)
        assert set(scores) == set(found) == {*POOLED, IMAGE_IOU}
        for name, score in scores.items():
            exact(score.mean(), found[name])


@pytest.mark.parametrize("name", POOLED)
def test_a_score_is_the_derivative_by_an_images_weight(name):
    counts, step = drawn(), 1e-5
    scores = influence(counts)[name]
    for n in range(0, 30, 7):
        weights = np.ones((2, 30))
        weights[:, n] += (step, -step)
        up, down = counts.sums(weights).metrics()[name]
        slope = (up - down) / (2 * step)
        assert scores[n] - scores.mean() == pytest.approx(30 * slope, rel=1e-5, abs=1e-6)


def test_the_error_of_a_difference_is_the_bootstraps():
    before, after = drawn(400, seed=1), drawn(400, seed=2)
    apart = influence(after)["miou"] - influence(before)["miou"]
    error = apart.std(ddof=1) / np.sqrt(400)
    weights = np.random.default_rng(0).multinomial(400, np.ones(400) / 400, 2000)
    resampled = after.sums(weights).metrics()["miou"] - before.sums(weights).metrics()["miou"]
    assert resampled.std() == pytest.approx(error, rel=0.05)


def test_counting_equals_a_plain_loop_over_pixels():
    draw = np.random.default_rng(0)
    labels = [draw.choice([0, 1, 2, 4, 255], (h, w)) for h, w in ((9, 7), (5, 12), (3, 3))]
    answers = [draw.integers(0, 5, label.shape) for label in labels]
    found = metrics(counted(zip(answers, labels, strict=True)))
    for name, value in plain_metrics(labels, answers, 5).items():
        exact(found[name], value)


def test_predictions_under_unlabelled_pixels_change_nothing():
    labels = torch.tensor([[0, 1, 255], [255, 1, 0]], dtype=torch.uint8)
    first, other = torch.tensor([[0, 1, 0], [1, 0, 0]]), torch.tensor([[0, 1, 1], [0, 0, 0]])
    one, two = count(first, labels, 2), count(other, labels, 2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    alike, again = (agreement(a[None], a[None], labels[None]) for a in (first, other))
    assert torch.equal(alike, again)


def test_absent_classes_are_left_out_and_wrong_ones_lower_the_others():
    """Class 2 is never true: it counts in no mean, but takes pixels from class 0."""
    clean = metrics(counted([([[0, 0, 1, 1]], [[0, 0, 1, 1]])], 4))
    wrong = metrics(counted([([[0, 2, 1, 1]], [[0, 0, 1, 1]])], 4))
    assert clean["miou"] == clean["macc"] == 100
    exact(wrong["miou"], (50 + 100) / 2)
    exact(wrong["macc"], (50 + 100) / 2)


def test_a_class_predicted_over_others_pixels_loses_iou_and_not_accuracy():
    sums = counted([([[0, 0, 0, 1]], [[0, 0, 1, 1]])], 2).sums()
    exact(sums.accuracy_C, [100, 50])
    exact(sums.iou_C, [100 * 2 / 3, 50])


def test_without_labelled_pixels_metrics_are_not_numbers():
    found = metrics(counted([([[0, 1]], [[255, 255]])], 2))
    assert all(np.isnan(value) for value in found.values())


def test_joint_counts_are_those_of_a_plain_loop():
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 3, (6, 7), generator=draw) for _ in range(2))
    labels = torch.randint(0, 3, (6, 7), generator=draw)
    labels[2, 3:] = 255
    plain = [0] * 5
    for x, y, t in zip(a.ravel(), b.ravel(), labels.ravel(), strict=True):
        if t == 255:
            continue
        plain[{(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[int(x == t), int(y == t)]] += 1
        plain[4] += int(x != y)
    first, other = (torch.stack([x, labels]) for x in (a, b))
    found = agreement(first, other, torch.stack([labels] * 2))
    assert found.tolist() == [plain, [int((labels != 255).sum()), 0, 0, 0, 0]]


def models(seed=0) -> tuple[MapOutput, MapOutput]:
    draw = torch.Generator().manual_seed(seed)
    queries = QueryLogits(
        2 * torch.randn(1, 5, 4, generator=draw), 3 * torch.randn(1, 5, 8, 8, generator=draw)
    )
    return MapOutput(queries=(queries,)), MapOutput(torch.randn(1, 3, 16, 16, generator=draw))


FRAME = Frame(padded=(32, 32), content=(24, 32), label=(45, 60))


def up(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def test_a_mask_models_map_is_made_at_the_padded_input_cropped_and_resized():
    mask, _ = models()
    final = mask.queries[0]
    masks = up(final.mask_logits_BQhw, (32, 32)).sigmoid()
    probs = final.class_logits_BQC1.softmax(-1)
    plain = sum(probs[0, q, :3, None, None] * masks[0, q, :24] for q in range(probs.shape[1]))
    plain = up(torch.as_tensor(plain)[None], (45, 60))[0]
    assert_close(class_maps(mask, FRAME)[0], plain)
    assert torch.equal(log_maps(mask, FRAME).argmax(1)[0], plain.argmax(0))


def test_the_ensemble_is_the_argmax_of_the_mean_of_normalised_maps():
    mask, pixel = models()
    s, z = class_maps(mask, FRAME)[0], class_maps(pixel, FRAME)[0]
    assert_close(z, up(up(pixel.tensors()[0], (32, 32))[:, :, :24], (45, 60))[0])
    p = [(s + 1e-6) / (s + 1e-6).sum(0), z.softmax(0)]
    answers = [log_maps(output, FRAME) for output in (mask, pixel)]
    for which in ([0, 1], [0, 1, 1], [0]):
        found = Segmentation().ensemble([answers[i] for i in which])[0]
        plain = torch.stack([p[i] for i in which]).mean(0)
        assert_close(found, plain)
        assert torch.equal(found.argmax(0), plain.argmax(0))
    both = Segmentation().ensemble(answers)[0].argmax(0)
    assert not torch.equal(both, s.argmax(0))


def test_stripes_of_one_pixel_are_scored_at_the_labels_resolution():
    """At 384 x 384, where another library scores, they would be grey."""
    labels = (torch.arange(683) % 2).expand(512, 683)
    logits = torch.stack([1.0 - labels, labels.float()])[None]
    frame = Frame((512, 683), (512, 683), (512, 683))
    found = count(log_maps(MapOutput(logits), frame)[0].argmax(0), labels, 2)
    assert torch.equal(found["right"], found["labelled"])
    assert int(found["labelled"].sum()) == 512 * 683
