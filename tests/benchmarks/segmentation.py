"""Segmentation's counts, statistics and mask loss, against the plain ways; all on one core.

OMP_NUM_THREADS=1 python tests/benchmarks/segmentation.py

Times are of the process, so that other work on the machine counts less. Counts are made up: of 150
classes 14 are true in an image, and models differ in skill. The plain bootstrap resamples 2,000
times for one pair. transformers' criterion is called on slices of one image each, as it has to be
for losses of images; where it is not installed its line is left out.
"""

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch

from bikd_ray.analysis.segmentation import PixelCounts, scores
from bikd_ray.tasks.confusion import count_each
from bikd_ray.tasks.map_output import MapOutput, QueryLogits
from bikd_ray.tasks.mask_criterion import Criterion, RandomPoints, mask_loss

IMAGES, CLASSES, MODELS = 2000, 150, 100

T = TypeVar("T")


def main() -> None:
    torch.set_num_threads(1)
    _statistics(np.random.default_rng(0))
    _counting()
    _criterion()


def _counts(rng: np.random.Generator, truth_NC: np.ndarray, skill: float) -> PixelCounts:
    shown = truth_NC > 0
    rate_NC = np.clip(rng.normal(skill, 0.2, truth_NC.shape), 0, 1) * shown
    right = (truth_NC * rate_NC).astype(np.int32)
    wrong = (truth_NC - right).sum(1)
    moved = np.zeros_like(right)
    for _ in range(4):
        moved[np.arange(len(wrong)), rng.integers(CLASSES, size=len(wrong))] += wrong // 4
    return PixelCounts(truth_NC, right, right + moved)


def _statistics(rng: np.random.Generator) -> None:
    truth = np.zeros((IMAGES, CLASSES), np.int32)
    for row in truth:
        row[rng.choice(CLASSES, 14, replace=False)] = rng.integers(200, 40_000, 14)
    zoo = [_counts(rng, truth, rng.normal(0.6, 0.02)) for _ in range(MODELS)]

    def pairs() -> tuple[np.ndarray, np.ndarray]:
        scores_VN = np.stack([scores(counts)["miou"] for counts in zoo])
        centred = scores_VN - scores_VN.mean(1, keepdims=True)
        gram = centred @ centred.T
        own = np.diag(gram)
        variance = (own[:, None] + own - 2 * gram) / (IMAGES * (IMAGES - 1))
        return scores_VN.mean(1)[:, None] - scores_VN.mean(1), np.sqrt(np.maximum(variance, 0))

    (_, error), seconds = _timed(pairs)
    print(f"all {MODELS * (MODELS - 1) // 2} differences of mIoU with errors: {seconds:.1f} s")
    weights = rng.multinomial(IMAGES, np.ones(IMAGES) / IMAGES, 2000)
    resampled, seconds = _timed(
        lambda: [counts.sums(weights).metrics()["miou"] for counts in zoo[:2]]
    )
    spread = (resampled[0] - resampled[1]).std()
    print(f"one of them by 2,000 resamples: {seconds:.1f} s; error {spread:.4f}, {error[0, 1]:.4f}")


def _counting() -> None:
    labels = torch.randint(0, CLASSES, (512, 683))
    answers = torch.randint(0, CLASSES, (512, 683))

    def plain() -> np.ndarray:
        found = np.zeros((CLASSES, CLASSES), np.int64)
        np.add.at(found, (answers.numpy().ravel(), labels.numpy().ravel()), 1)
        return found

    one = answers[None], labels[None], CLASSES
    parts, seconds = _timed(lambda: [count_each(*one) for _ in range(20)])
    matrix, slow = _timed(plain)
    assert parts[0]["right"][0].tolist() == np.diag(matrix).tolist()
    print(f"counts of 512 x 683: {50 * seconds:.1f} ms; a confusion matrix {1000 * slow:.1f} ms")


def _criterion() -> None:
    batch, outputs, how = 4, 10, Criterion()
    labels = torch.randint(0, 9, (batch, 16, 16)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    queries = tuple(
        QueryLogits(torch.randn(batch, 100, 151), torch.randn(batch, 100, 128, 128))
        for _ in range(outputs)
    )
    output = MapOutput(queries=queries)
    points = [RandomPoints.seeded(n, "cpu", how) for n in range(batch)]
    _, seconds = _timed(lambda: mask_loss(output, labels, points, how))
    print(f"mask loss of {batch} images of 512 x 512, {outputs} outputs: {seconds:.2f} s")
    if find_spec("transformers"):
        _, slow = _timed(lambda: _of_transformers(queries, labels))
        print(f"the same by transformers' criterion on slices: {slow:.2f} s")


def _of_transformers(queries: tuple[QueryLogits, ...], labels: torch.Tensor) -> list[Any]:
    config = import_module("transformers").Mask2FormerConfig(num_labels=150)
    modeling = import_module("transformers.models.mask2former.modeling_mask2former")
    criterion = modeling.Mask2FormerLoss(config, {})
    found = []
    for n, image in enumerate(labels):
        classes = image.unique()
        masks = (image == classes[:, None, None]).float()
        for query in queries:
            one = query[n : n + 1]
            found.append(criterion(one.mask_logits_BQhw, one.class_logits_BQC1, [masks], [classes]))
    return found


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.process_time()
    return work(), time.process_time() - began


if __name__ == "__main__":
    main()
