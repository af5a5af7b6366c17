"""Statistics of all pairs of a zoo, against the plain way: two vectors, or two full softmaxes.

python tests/benchmarks/pairs.py

The models are made up. Each image has a difficulty and logits of its own that all models see, and
every model adds noise, a skill and a sharpness of its own: accuracies and errors correlate as much
as the table says. Stored are the best 32 of 1,000 classes, the classes in 16 bits. The plain way
adds whole softmaxes that lie in memory, and is timed on some of the pairs. All runs on one core.
"""

import time
from collections.abc import Callable
from itertools import combinations
from typing import TypeVar

import numpy as np

from bikd_ray.analysis.pairs import StoredPredictions, counts, ensemble, overlaps, pair_statistics

CLASSES, STORED = 1000, 32

T = TypeVar("T")


def main() -> None:
    rng = np.random.default_rng(0)
    print("what                             pairs  seconds  ms a pair  plain ms a pair  ratio")
    _overlaps(rng, models=300, samples=50_000)
    _ensembles(rng, models=40, samples=10_000)
    _ensembles(rng, models=4, samples=50_000)


def _overlaps(rng: np.random.Generator, models: int, samples: int) -> None:
    labels = rng.integers(CLASSES, size=samples)
    ease = rng.normal(0.8, 0.9, samples)
    zoo = []
    for _ in range(models):
        right = ease + rng.normal(rng.normal(0, 0.05), 0.4, samples) > 0
        wrong = (labels + rng.integers(1, 6, samples)) % CLASSES  # five classes look alike
        zoo.append(np.where(right, labels, wrong))

    def plain(i: int, j: int) -> None:
        counts(zoo[i] == labels, zoo[j] == labels)
        (zoo[i] != zoo[j]).mean()

    rows, seconds = _timed(lambda: list(overlaps(zoo, labels)))
    some = [rows[r][:2] for r in rng.choice(len(rows), 200)]
    _, slow = _timed(lambda: [plain(i, j) for i, j in some])
    _line(f"counts, {models} x {samples:,}", len(rows), seconds, slow / len(some))
    _about([row for *_, row in rows])


def _ensembles(rng: np.random.Generator, models: int, samples: int) -> None:
    labels = rng.integers(CLASSES, size=samples)
    shared = rng.standard_normal((samples, CLASSES), dtype=np.float32)
    shared[np.arange(samples), labels] += rng.normal(7.2, 3.2, samples)
    zoo, full = [], []
    for _ in range(models):
        probs = _model(shared, labels, rng)
        zoo.append(_stored(probs, labels))
        if len(full) < 4:  # enough to compare with; the whole zoo's would be 1.6 GB
            full.append(probs)

    def plain(i: int, j: int) -> np.ndarray:
        return ((full[i] + full[j]) / 2).argmax(1)

    found, seconds = _timed(lambda: list(pair_statistics(zoo, labels)))
    some = list(combinations(range(len(full)), 2))
    dense, slow = _timed(lambda: [plain(i, j) for i, j in some])
    _line(f"ensembles, {models} x {samples:,}", len(found), seconds, slow / len(some))
    _about([row for *_, row, _ in found])
    left = sum(len(undecided.samples_U) for *_, undecided in found)
    differ = sum(row["disagreement"] * samples for *_, row, _ in found)
    once = np.unique(np.concatenate([undecided.samples_U for *_, undecided in found]))
    wrong = 0
    for (i, j), want in zip(some, dense, strict=True):
        predicted, certain = ensemble(zoo[i], zoo[j])
        wrong += int((predicted != want)[certain].sum())
    print(
        f"  certified {100 * (1 - left / (samples * len(found))):.2f}% of the samples, "
        f"{100 * (1 - left / differ):.2f}% of those on which the two differ; "
        f"{wrong} certified wrongly in {len(some)} pairs; "
        f"{100 * len(once) / samples:.1f}% are open in some pair"
    )


def _model(shared: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probabilities [N, C], float32."""
    samples = len(labels)
    logits = 0.88 * rng.standard_normal(shared.shape, dtype=np.float32) + shared
    logits[np.arange(samples), labels] += rng.normal(rng.normal(0, 0.2), 0.7, samples)
    logits *= rng.uniform(1.6, 2.2)
    np.exp(logits - logits.max(1, keepdims=True), out=logits)
    logits /= logits.sum(1, keepdims=True)
    return logits


def _stored(probs: np.ndarray, labels: np.ndarray) -> StoredPredictions:
    best = np.sort(np.argpartition(-probs, STORED - 1, axis=1)[:, :STORED], axis=1)
    order = np.argsort(-np.take_along_axis(probs, best, 1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, 1)
    classes = best.astype(np.uint16)
    top, of_label = np.take_along_axis(probs, best, 1), probs[np.arange(len(probs)), labels]
    return StoredPredictions(classes[:, 0].copy(), classes, top, of_label)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _line(what: str, pairs: int, seconds: float, plain: float) -> None:
    each = seconds / pairs
    print(
        f"{what:30s}  {pairs:6d}  {seconds:7.2f}  {1e3 * each:9.3f}  {1e3 * plain:15.2f}"
        f"  {plain / each:5.0f}"
    )


def _about(rows: list[dict]) -> None:
    top1 = [row[side] for row in rows for side in ("score_a", "score_b")]
    kappa, differ = (np.mean([row[name] for row in rows]) for name in ("kappa", "disagreement"))
    print(
        f"  top-1 {min(top1):.1f}-{max(top1):.1f}%, mean kappa {kappa:.2f}, "
        f"mean disagreement {differ:.2f}"
    )


if __name__ == "__main__":
    main()
