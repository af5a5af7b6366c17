"""Metrics of frames that come in videos: from sums a video to the metric and to its scores.

Frames of one video are alike, so the units that are drawn at random are the videos (or what holds
several of them, such as films). Suffixes: N frames, V units.

The metric over all frames is a ratio, θ = ΣS_v / Σn_v. Its influence values

    u_v = θ + V · (S_v − θ · n_v) / Σn

have θ as their mean, and differences of them have the ratio's standard error: what the analyses do
with one score a unit holds for them (Cochran 1977, §6; Wooldridge 2010, §20.3). The scores that are
kept are `pseudo_values`, which come to the same where units are many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bikd_ray.analysis.scores import Parts, influence


@dataclass(frozen=True)
class ClusterSums:
    """Of one metric: how many frames of each unit have a value, their sum and sum of squares."""

    n_V: np.ndarray  # int64
    sum_V: np.ndarray  # float64
    squares_V: np.ndarray

    @classmethod
    def of(cls, value_N: np.ndarray, unit_N: np.ndarray, units: int) -> "ClusterSums":
        """From the frames' values (NaN where there is none) and each one's unit from 0."""
        value_N = np.asarray(value_N, np.float64)
        known = ~np.isnan(value_N)
        value_N, unit_N = value_N[known], np.asarray(unit_N)[known]
        return cls(
            np.bincount(unit_N, minlength=units).astype(np.int64),
            np.bincount(unit_N, value_N, units),
            np.bincount(unit_N, value_N**2, units),
        )

    def within(self, cluster_V: np.ndarray, clusters: int) -> "ClusterSums":
        """The sums of larger units: `cluster_V` says in which one each of these lies."""
        n = np.bincount(cluster_V, self.n_V, clusters).astype(np.int64)
        sums = (np.bincount(cluster_V, of, clusters) for of in (self.sum_V, self.squares_V))
        return ClusterSums(n, *sums)

    def only(self, units: np.ndarray) -> "ClusterSums":
        """Some of the units, such as the half that decides: by index or by a mask."""
        return ClusterSums(self.n_V[units], self.sum_V[units], self.squares_V[units])

    @property
    def counted_V(self) -> np.ndarray:
        """bool: the units that have a frame with a value. They are the same for every model."""
        return self.n_V > 0

    @property
    def mean(self) -> float:
        """The metric over all frames, each alike; NaN where no frame has a value."""
        return float(self.sum_V.sum() / self.n_V.sum()) if self.n_V.any() else float("nan")

    @property
    def mean_of_means(self) -> float:
        """The metric over units, each alike, whatever the number of its frames."""
        counted = self.counted_V
        if not counted.any():
            return float("nan")
        return float((self.sum_V[counted] / self.n_V[counted]).mean())

    @property
    def frame_deviation(self) -> float:
        """Standard deviation (n − 1) of the frames' values around their mean."""
        n = int(self.n_V.sum())
        left = self.squares_V.sum() - n * self.mean**2
        return float(np.sqrt(max(left, 0) / (n - 1))) if n > 1 else float("nan")

    def influence(self) -> np.ndarray:
        """float64, one for each of `counted_V`: scores whose mean is `mean`."""
        n, total = self.n_V[self.counted_V], self.sum_V[self.counted_V]
        if not len(n):
            return np.empty(0)
        theta = total.sum() / n.sum()
        return theta + len(n) * (total - theta * n) / n.sum()

    def unit_means(self) -> np.ndarray:
        """float64, one for each of `counted_V`: scores whose mean is `mean_of_means`."""
        return self.sum_V[self.counted_V] / self.n_V[self.counted_V]


def pseudo_values(sums_2V: np.ndarray) -> np.ndarray:
    """float64 [V]: scores of a ratio of sums, by leaving each unit out (`scores.influence`).

    A unit without a frame that has a value moves nothing: its score is the metric.
    """
    total_V, n_V = sums_2V
    metric = _ratio(total_V.sum(), n_V.sum())
    without_V = _ratio(total_V.sum() - total_V, n_V.sum() - n_V)
    # all frames are of one unit: nothing is known of how units differ
    return influence(metric, np.where(np.isnan(without_V), metric, without_V))


def ratios_of_parts(sums: Sequence[bytes], n: int) -> Parts:
    """What several ratios of sums are on parts of the n units, from the column `sums` of rows."""
    sums_V2N = np.stack([np.frombuffer(one, "<f8").reshape(2, n) for one in sums])

    def parts(units_TN: np.ndarray) -> np.ndarray:
        above_TV, below_TV = (units_TN.astype(np.float64) @ sums_V2N[:, i].T for i in (0, 1))
        return _ratio(above_TV, below_TV)

    return parts


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where nothing is counted."""
    out = np.full(np.shape(above), np.nan)
    return np.divide(above, below, out=out, where=np.asarray(below) > 0)


def standard_error(score_V: np.ndarray) -> float:
    """Of the mean of scores, or of differences of them; it has V − 1 degrees of freedom."""
    return float(np.std(score_V, ddof=1) / np.sqrt(len(score_V)))
