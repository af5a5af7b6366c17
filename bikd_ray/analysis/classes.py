"""Accuracy class by class, from the packed bits of `correct`. Suffixes: N images, C classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bikd_ray.analysis.bits import unpack


@dataclass(frozen=True)
class ClassGain:
    """What a model gained in one class: accuracies in percent, differences in percentage points.

    control: the gain without a partner; None where no control is known.
    """

    label: int
    n: int
    before: float
    after: float
    control: float | None

    @property
    def delta(self) -> float:
        return self.after - self.before


def class_gains(
    labels_N: np.ndarray, before: bytes, after: Sequence[bytes], controls: Sequence[bytes]
) -> Iterator[ClassGain]:
    """One for each class that has images, in their order; means over the seeds.

    before, after, controls: packed bits of the N images, the latter two of each seed.
    """
    counts_C = np.bincount(labels_N)

    def percent(seeds: Sequence[bytes]) -> np.ndarray:
        right_N = np.mean([unpack(bits, len(labels_N)) for bits in seeds], axis=0)
        return 100 * np.bincount(labels_N, right_N) / np.maximum(1, counts_C)

    before_C, after_C = percent([before]), percent(after)
    control_C = percent(controls) - before_C if controls else None
    for label in np.flatnonzero(counts_C):
        control = None if control_C is None else float(control_C[label])
        n, first, last = int(counts_C[label]), float(before_C[label]), float(after_C[label])
        yield ClassGain(int(label), n, first, last, control)
