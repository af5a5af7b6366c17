"""Scores: vectors of one number a unit of a set, whose mean is a metric, and sums over the units.

A unit is what was drawn at random: an image; for video, a video. Scores of 0 and 1 are held as
packed bits and counted exactly; all others are float32 and summed in float64, each vector less its
mean before anything is squared. Suffixes: V vectors, N units, S seeds, E contrasts, I candidates,
C seeds that candidates share, T teachers or halves, B bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement
from math import prod
from typing import Any

import numpy as np

from bikd_ray.analysis.bits import gram, ones_of, pack, stack, words_of
from bikd_ray.metrics import Metric

SPLITS = 20
"""Random halvings of the units behind a cross-fitted difference."""

CHUNK = 512  # bytes of each vector that are counted at a time, unpacked to floats

FLOATS = 1 << 20
"""Numbers in float64 that are worked on at a time."""

Parts = Callable[[np.ndarray], np.ndarray]
"""Booleans [T, N], the units of T parts of a set, to the metric [T, V] of each part."""


class Scores(ABC):
    """V vectors of scores of the same n units.

    sign: 1, or -1 where lower is better. scale: of the metric's unit in a score of 1.
    """

    n: int
    sign: int
    scale: float

    @staticmethod
    def of(
        rows: Sequence[Mapping[str, Any]], n: int, metric: Metric, parts: Parts | None = None
    ) -> "Scores":
        """The scores that rows of `results` and `baselines` hold of a metric.

        parts: of a pooled metric of these rows, what it is on a part of the units.
        """
        if metric.binary:
            return Bits(stack([row["bits"] for row in rows]), n, metric.sign)
        kept = [row["scores"] for row in rows]  # none in rows of version 1
        nothing = np.full(n, np.nan, "<f4").tobytes() if None in kept else b""
        values_VN = np.stack([np.frombuffer(one or nothing, "<f4", n) for one in kept])
        return Values(values_VN, metric.sign, metric.pooled, parts)

    @cached_property
    @abstractmethod
    def totals(self) -> np.ndarray:
        """[V]: the sums over the units."""

    @abstractmethod
    def combined(self, weights_SV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of weights [..., S, V]: the sums [..., S] of each row's combination of the vectors, and
        the squares [...] of their mean over S, as `variance` takes them.
        """

    @abstractmethod
    def differing(self, plus_S: np.ndarray, minus_S: np.ndarray, both_S: np.ndarray) -> np.ndarray:
        """[...]: the squares of the sum over S of vector plus less vector minus, where both are."""

    @abstractmethod
    def apart(self, at_CI: np.ndarray) -> np.ndarray:
        """[I, I]: the squares of the sum over C of vectors at[c, i] less that of at[c, j]."""

    @abstractmethod
    def variance(self, square: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Of the mean of a score over units drawn anew.

        square: the sum of its squares; of `Values`, of its squared distances from its mean.
        """

    @abstractmethod
    def in_halves(self) -> tuple[np.ndarray, tuple[int, int]]:
        """What the metric is on both parts of SPLITS random halvings, as numbers [2, T, V] to be
        divided by the two sizes.
        """

    @abstractmethod
    def unit_gains(self, plus_TS: np.ndarray, minus_TS: np.ndarray) -> np.ndarray:
        """[T, N]: vector plus less vector minus, the mean over the seeds S that have both (-1:
        none), of which each T has one at least.
        """


@dataclass(frozen=True, eq=False)
class Bits(Scores):
    """Scores of 0 and 1, as `bits.pack` packs them: uint8 [V, bytes]. The metric is in percent."""

    bits_VB: np.ndarray
    n: int
    sign: int = 1
    scale = 100.0

    @cached_property
    def totals(self) -> np.ndarray:
        return ones_of(self.bits_VB)

    @cached_property
    def gram(self) -> np.ndarray:
        """int64 [V, V]: on how many units two vectors are both 1."""
        return gram(self.bits_VB)

    def combined(self, weights_SV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w_V = _mean_of_rows(weights_SV)
        return weights_SV @ self.gram.diagonal(), ((w_V @ self.gram) * w_V).sum(-1)

    def differing(self, plus_S: np.ndarray, minus_S: np.ndarray, both_S: np.ndarray) -> np.ndarray:
        words = self._words
        square = np.zeros(both_S.shape[:-1])
        for s, t in combinations_with_replacement(range(both_S.shape[-1]), 2):
            joint = sum(
                sign * np.bitwise_count(words[u] & words[v]).sum(-1, dtype=np.int64)
                for u, v, sign in (
                    (plus_S[..., s], plus_S[..., t], 1),
                    (minus_S[..., s], minus_S[..., t], 1),
                    (plus_S[..., s], minus_S[..., t], -1),
                    (minus_S[..., s], plus_S[..., t], -1),
                )
            )
            square += np.where(both_S[..., s] & both_S[..., t], (1 + (s != t)) * joint, 0)
        return square

    def apart(self, at_CI: np.ndarray) -> np.ndarray:
        joint = np.zeros((at_CI.shape[1], at_CI.shape[1]))
        for start in range(0, self.bits_VB.shape[1], CHUNK):
            some_VB = self.bits_VB[:, start : start + CHUNK]
            sums = np.zeros((at_CI.shape[1], 8 * some_VB.shape[1]), np.float32)
            for at in at_CI:
                sums += np.unpackbits(some_VB[at], axis=1)
            joint += sums @ sums.T  # whole numbers, exact in float32
        return _distances(joint)

    def variance(self, square: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Three pseudo-units, one and a half that gain and as many that lose, keep it above zero
        where few units or none changed (after Agresti & Min 2005, who add half of each; a count
        of gains without losses is then covered at 94% at least, and at 86% with theirs); they do
        not move the mean.
        """
        return ((square + 3) / self.n - mean**2) / self.n

    def in_halves(self) -> tuple[np.ndarray, tuple[int, int]]:
        first = [
            np.bitwise_count(self._words & half).sum(1, dtype=np.int64)
            for half in _packed_halves(self.n)
        ]
        return np.stack([np.array(first), self.totals - first]), _sizes(self.n)

    def unit_gains(self, plus_TS: np.ndarray, minus_TS: np.ndarray) -> np.ndarray:
        def right(at_T: np.ndarray) -> np.ndarray:
            return np.unpackbits(self.bits_VB[at_T], axis=1, count=self.n).view(np.int8)

        sums = np.zeros((len(plus_TS), self.n), np.float32)
        return _seed_means(sums, plus_TS, minus_TS, right)

    @cached_property
    def _words(self) -> np.ndarray:
        return words_of(self.bits_VB)


@dataclass(frozen=True, eq=False)
class Values(Scores):
    """Scores of any size in the unit of the metric: float32 [V, N].

    A vector with a score that is no finite number has a mean, and differences, that are NaN.
    pooled: the metric is a ratio of sums over the units, and these are its `influence`: their mean
    over all units is the metric, that over a part is not the metric of the part, which `parts`
    works out anew; without it what needs a part is NaN.
    """

    values_VN: np.ndarray
    sign: int = 1
    pooled: bool = False
    parts: Parts | None = None
    n: int = field(init=False)
    scale = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.values_VN.shape[1])

    @cached_property
    def totals(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            totals = self.values_VN.sum(1, dtype=np.float64)
        return np.where(np.isfinite(totals), totals, np.nan)

    def combined(self, weights_SV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        used_V = (weights_SV != 0).reshape(-1, weights_SV.shape[-1]).any(0)
        weights_SV = weights_SV[..., used_V]
        w_V = _mean_of_rows(weights_SV)
        w_EV = w_V.reshape(prod(w_V.shape[:-1]), w_V.shape[-1])  # none may be used
        mean_E1 = (w_EV @ self.totals[used_V] / self.n)[:, None]
        square_E = np.zeros(len(w_EV))
        for some_VN in self._chunks(len(w_EV)):
            square_E += ((w_EV @ some_VN[used_V] - mean_E1) ** 2).sum(1)
        return weights_SV @ self.totals[used_V], square_E.reshape(w_V.shape[:-1])

    def differing(self, plus_S: np.ndarray, minus_S: np.ndarray, both_S: np.ndarray) -> np.ndarray:
        seeds = both_S.shape[-1]
        plus_SE, minus_SE, both_SE = (x.reshape(-1, seeds).T for x in (plus_S, minus_S, both_S))
        total_SE = self.totals[plus_SE] - self.totals[minus_SE]
        mean_E1 = np.where(both_SE, total_SE, 0).sum(0)[:, None] / self.n
        square_E = np.zeros(both_SE.shape[1])
        for some_VN in self._chunks(len(square_E)):
            sums_EN = np.zeros((len(square_E), some_VN.shape[1]))
            for plus_E, minus_E, both_E in zip(plus_SE, minus_SE, both_SE, strict=True):
                sums_EN += np.where(both_E[:, None], some_VN[plus_E] - some_VN[minus_E], 0)
            square_E += ((sums_EN - mean_E1) ** 2).sum(1)
        return square_E.reshape(both_S.shape[:-1])

    def apart(self, at_CI: np.ndarray) -> np.ndarray:
        mean_I = self.totals[at_CI].sum(0) / self.n
        joint = np.zeros((len(mean_I), len(mean_I)))
        for some_VN in self._chunks(len(mean_I)):
            sums_IN = np.zeros((len(mean_I), some_VN.shape[1]))
            for at in at_CI:
                sums_IN += some_VN[at]
            sums_IN -= mean_I[:, None]
            # what all of them share falls out of every difference, and would drown small ones
            sums_IN -= sums_IN[np.isfinite(mean_I)].sum(0) / max(1, np.isfinite(mean_I).sum())
            joint += sums_IN @ sums_IN.T
        return np.maximum(0, _distances(joint))

    def variance(self, square: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The plain one, with n - 1; of a single unit it is NaN."""
        return square / (self.n * (self.n - 1) or np.nan) + 0 * mean

    def in_halves(self) -> tuple[np.ndarray, tuple[int, int]]:
        halves_TN = halves(self.n)
        if self.pooled:
            if self.parts is None:
                return np.full((2, SPLITS, len(self.values_VN)), np.nan), (1, 1)
            return np.stack([self.parts(halves_TN), self.parts(~halves_TN)]), (1, 1)
        first_TV, start = np.zeros((SPLITS, len(self.values_VN))), 0
        for some_VN in self._chunks(0):
            end = start + some_VN.shape[1]
            first_TV += halves_TN[:, start:end].astype(np.float64) @ some_VN.T
            start = end
        return np.stack([first_TV, self.totals - first_TV]), _sizes(self.n)

    def unit_gains(self, plus_TS: np.ndarray, minus_TS: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(plus_TS), self.n))
        return _seed_means(sums, plus_TS, minus_TS, lambda at_T: self.values_VN[at_T])

    def _chunks(self, beside: int) -> Iterator[np.ndarray]:
        """Some units of all vectors at a time, float64 [V, some]; beside: rows made of them.

        What is no finite number is NaN, and says nothing on its way.
        """
        size = max(1, FLOATS // (len(self.values_VN) + 2 * beside))
        for start in range(0, self.n, size):
            some_VN = self.values_VN[:, start : start + size].astype(np.float64)
            some_VN[~np.isfinite(some_VN)] = np.nan
            yield some_VN


def stored(
    scores_N: np.ndarray, metric: Metric, sums_2N: np.ndarray | None = None
) -> dict[str, bytes | None]:
    """The columns of `results` and `baselines` that hold scores, as `Scores.of` reads them.

    scores_N: booleans of a binary metric, else numbers. sums_2N: where it is a ratio of sums.
    """
    if metric.binary:
        return {"bits": pack(scores_N), "scores": None, "sums": None}
    sums = None if sums_2N is None else np.ascontiguousarray(sums_2N, "<f8").tobytes()
    scores = np.ascontiguousarray(scores_N, "<f4").tobytes()
    return {"bits": None, "scores": scores, "sums": sums}


def influence(metric: float | np.ndarray, without_N: np.ndarray) -> np.ndarray:
    """[..., N]: scores of a pooled metric, whose mean is the metric, and whose differences have the
    variance of the metric's.

    without_N: the metric of all units but one. These are the jackknife's pseudo-values, moved to
    the metric (Efron & Stein 1981: their variance is not too small on average). The derivatives by
    each unit's weight come to the same where units are many, and to narrower intervals where few
    units hold much of a sum: a rare class, a long video.
    """
    left_out = without_N.mean(-1, keepdims=True) - without_N
    return np.asarray(metric)[..., None] + (without_N.shape[-1] - 1) * left_out


@lru_cache(4)
def halves(n: int) -> np.ndarray:
    """Booleans [SPLITS, N]: random halves of n units, the same for everyone who asks."""
    rng = np.random.default_rng(n)
    return rng.permuted(np.tile(np.arange(n) < n // 2, (SPLITS, 1)), axis=1)


@lru_cache(4)
def _packed_halves(n: int) -> np.ndarray:
    """uint64 [SPLITS, words]: the same, packed."""
    return words_of(np.packbits(halves(n), axis=1))


def _sizes(n: int) -> tuple[int, int]:
    return n // 2, n - n // 2


def _mean_of_rows(weights_SV: np.ndarray) -> np.ndarray:
    return weights_SV.sum(-2) / max(1, weights_SV.shape[-2])


def _distances(joint: np.ndarray) -> np.ndarray:
    """Sums of squared differences of any two rows, from the sums of their products [I, I]."""
    return joint.diagonal()[:, None] + joint.diagonal() - 2 * joint


def _seed_means(
    sums_TN: np.ndarray,
    plus_TS: np.ndarray,
    minus_TS: np.ndarray,
    vectors: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Sums of no seed yet, to the means over the seeds that have both."""
    both_TS = (plus_TS >= 0) & (minus_TS >= 0)
    for plus_T, minus_T, both_T in zip(plus_TS.T, minus_TS.T, both_TS.T, strict=True):
        sums_TN[both_T] += vectors(plus_T[both_T]) - vectors(minus_T[both_T])
    return sums_TN / both_TS.sum(1)[:, None].astype(sums_TN.dtype)
