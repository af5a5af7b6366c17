"""Intervals and tests from per-sample correctness of the same images.

Everything here is a *contrast*: a weighted sum of correctness vectors (after minus before, job
minus control, partner minus partner), whose variance comes from counts of the images on which two
vectors are both right. Suffixes: V vectors, S seeds, P and Q candidates, B bytes; arrays may have
axes before.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
import scipy  # special is loaded where it is first used; scipy.stats would take a second more

from bikd_ray.analysis.bits import ones_of, words_of

LEVEL = 0.95

POWER = 0.8
"""Of the smallest effect that is called detectable."""

SPLITS = 20
"""Random halvings of the images behind a cross-fitted difference."""

CHUNK = 512  # bytes of each vector that are counted at a time, unpacked to floats

ROUNDING = 1e-9
"""Percentage points that two sums of the same gains may differ by."""

SMALLEST = np.log(1e-300)
"""Of the logarithm of a level: smaller ones are no numbers any more."""


@dataclass(frozen=True)
class Estimates:
    """Mean differences in percentage points, each with the two variances of its mean.

    All arrays have one shape. `var_images`: from which `n` images were drawn. `var_seeds`: from
    which seeds were drawn; 0 with one seed, where intervals speak of image sampling only. Without
    any seed everything is NaN.
    """

    mean: np.ndarray
    var_images: np.ndarray
    var_seeds: np.ndarray
    seeds: np.ndarray
    n: int
    least: float = -np.inf
    most: float = np.inf

    def within(self, least: float, most: float) -> "Estimates":
        """The same with intervals that end where no true value can lie.

        A true value lies between both ends, so what is cut off never held it: coverage stays.
        """
        return replace(self, least=least, most=most)

    @property
    def se(self) -> np.ndarray:
        return np.sqrt(self.var_images + self.var_seeds)

    def critical(self, alpha: np.ndarray | float) -> np.ndarray:
        """The one-sided critical value of mean / se (Cochran & Cox 1950).

        It is the mean of the two t quantiles, weighted by their variances. Satterthwaite's degrees
        of freedom would be estimated from as few as two, and cover 92% where the method allows
        94% (3 seeds that differ a lot; docs/statistics.md); this covers at least 94%.
        """
        images, seeds = (_t(df, alpha) for df in self._degrees)
        parts = images * self.var_images + seeds * self.var_seeds
        return -parts / (self.var_images + self.var_seeds)

    @property
    def half_width(self) -> np.ndarray:
        return self.critical((1 - LEVEL) / 2) * self.se

    @property
    def low(self) -> np.ndarray:
        return np.clip(self.mean - self.half_width, self.least, self.most)

    @property
    def high(self) -> np.ndarray:
        return np.clip(self.mean + self.half_width, self.least, self.most)

    @property
    def p_value(self) -> np.ndarray:
        """Two-sided: twice the alpha whose critical value the mean just reaches.

        It lies between those of the two t distributions, and is found by Newton's method on its
        logarithm, within that bracket.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            reached = np.abs(self.mean) / self.se
            ends = np.log([scipy.special.stdtr(df, -reached) for df in self._degrees])
            low, high = np.maximum(SMALLEST, ends.min(0)), np.maximum(SMALLEST, ends.max(0))
            low = np.where(self.var_seeds > 0, low, ends[0].clip(SMALLEST))
            high = np.where(self.var_seeds > 0, high, low)
            log_alpha = (low + high) / 2
            for _ in range(60):
                short = self.critical(np.exp(log_alpha)) - reached
                low = np.where(short > 0, log_alpha, low)
                high = np.where(short > 0, high, log_alpha)
                step = short / self._slope(log_alpha)
                there = log_alpha + step
                outside = (there <= low) | (there >= high)
                there = np.where(outside & (np.abs(step) > 1e-12), (low + high) / 2, there)
                moved, log_alpha = np.abs(there - log_alpha), there
                if not (moved > 1e-12).any():
                    break
        return 2 * np.exp(log_alpha)

    @property
    def _degrees(self) -> tuple[int, np.ndarray]:
        """Degrees of freedom of the images and of the seeds."""
        return max(1, self.n - 1), np.maximum(1, self.seeds - 1)

    def _slope(self, log_alpha: np.ndarray) -> np.ndarray:
        """How fast `critical` falls with the logarithm of alpha."""
        alpha = np.exp(log_alpha)
        parts = zip(self._degrees, (self.var_images, self.var_seeds), strict=True)
        rise = sum(alpha * var / _density(df, _t(df, alpha)) for df, var in parts)
        return rise / (self.var_images + self.var_seeds)

    @property
    def detectable(self) -> np.ndarray:
        """The smallest true difference that has POWER to be told from 0, at these variances."""
        return (self.critical((1 - LEVEL) / 2) + self.critical(1 - POWER)) * self.se

    def above_zero(self, alpha: np.ndarray | float) -> np.ndarray:
        """Whether a one-sided test at `alpha` says that the truth is above zero."""
        return np.asarray(self.mean > self.critical(alpha) * self.se)


def _t(df: np.ndarray | int, alpha: np.ndarray | float) -> np.ndarray:
    """Quantiles of Student's t; there are few different degrees of freedom, and each is slow."""
    df, alpha = np.asarray(df), np.asarray(alpha)
    if df.ndim == 0 or (df == df.flat[:1]).all():
        return np.asarray(scipy.special.stdtrit(df.max(initial=1), alpha))
    several = np.unique(df)
    quantiles = [scipy.special.stdtrit(one, alpha) for one in several]
    return np.select([df == one for one in several], quantiles)


def _density(df: np.ndarray | int, t: np.ndarray) -> np.ndarray:
    """Of Student's t distribution."""
    above, below = (scipy.special.gammaln(np.asarray(df + more) / 2) for more in (1, 0))
    scale = above - below
    return np.exp(scale - np.log(np.pi * df) / 2 - (np.asarray(df) + 1) / 2 * np.log1p(t * t / df))


def contrast(gram_VV: np.ndarray, n: int, weights_SV: np.ndarray) -> Estimates:
    """The mean over seeds and images of sum_v w[..., s, v] * correct_v, in percentage points.

    gram_VV: joint counts of the correctness vectors over the same n images; weights_SV: one row
    of weights for each seed, and any axes before.

    Var(mean) = Var_images(per-image mean over seeds) / n + Var_seeds / S: the images and the
    seeds are both drawn. Pseudo-images, one and a half that gain and as many that lose, keep
    the first part above zero where few images or none changed (after Agresti & Min 2005, who
    add half of each; a count of gains without losses is then covered at 94% at least, and at
    86% with theirs); they do not move the mean.
    """
    per_seed = weights_SV @ np.diag(gram_VV) / n
    w_V = weights_SV.sum(-2) / max(1, weights_SV.shape[-2])
    square = ((w_V @ gram_VV) * w_V).sum(-1)  # sum over images of the per-image mean, squared
    return _estimates(per_seed, np.ones_like(per_seed, bool), square, n)


def differences(bits_VB: np.ndarray, n: int, plus_S: np.ndarray, minus_S: np.ndarray) -> Estimates:
    """The `contrast` of one vector less another for each seed, over the seeds that have both.

    bits_VB: correctness vectors (`bits.stack`) over n images. plus_S, minus_S: integers [..., S]
    that broadcast: which vector, or -1 for none.
    """
    words, ones = words_of(bits_VB), ones_of(bits_VB)
    plus_S, minus_S = np.broadcast_arrays(plus_S, minus_S)
    both = (plus_S >= 0) & (minus_S >= 0)
    per_seed = np.where(both, ones[plus_S] - ones[minus_S], 0) / n
    square = np.zeros(both.shape[:-1])
    for s, t in combinations_with_replacement(range(both.shape[-1]), 2):
        joint = sum(
            sign * np.bitwise_count(words[u] & words[v]).sum(-1, dtype=np.int64)
            for u, v, sign in (
                (plus_S[..., s], plus_S[..., t], 1),
                (minus_S[..., s], minus_S[..., t], 1),
                (plus_S[..., s], minus_S[..., t], -1),
                (minus_S[..., s], plus_S[..., t], -1),
            )
        )
        square += np.where(both[..., s] & both[..., t], (1 + (s != t)) * joint, 0)
    return _estimates(per_seed, both, square / np.maximum(1, both.sum(-1)) ** 2, n)


def rivals(bits_VB: np.ndarray, n: int, at_PS: np.ndarray) -> Estimates:
    """[Q, P]: `differences` of every candidate q less every candidate p.

    Candidates that share the same seeds are taken together: a product of two matrices counts for
    all of them, on how many seeds each was right, image by image.
    """
    ones, there_PS = ones_of(bits_VB), at_PS >= 0
    shape = len(at_PS), len(at_PS)
    mean, of_images, of_seeds = np.full((3, *shape), np.nan)
    found = Estimates(mean, of_images, of_seeds, np.zeros(shape, int), n)
    for shared_S in _shared(there_PS):
        mine = np.flatnonzero((there_PS >= shared_S).all(1))
        at_CI = at_PS[mine][:, shared_S].T
        seeds = len(at_CI)
        joint = _gram_of_sums(bits_VB, at_CI)
        square = (joint.diagonal()[:, None] + joint.diagonal() - 2 * joint) / seeds**2
        per_seed = [(ones[at][:, None] - ones[at]) / n for at in at_CI]
        mean = np.sum(per_seed, axis=0) / seeds
        spread = np.sum([(one - mean) ** 2 for one in per_seed], axis=0) / max(1, seeds - 1) / seeds
        here = np.ix_(mine, mine)
        found.mean[here] = 100 * mean
        found.var_images[here] = 1e4 * _of_images(square, mean, n)
        found.var_seeds[here] = 1e4 * spread if seeds > 1 else 0
        found.seeds[here] = seeds
    return found


def _gram_of_sums(bits_VB: np.ndarray, at_CI: np.ndarray) -> np.ndarray:
    """float64 [I, I]: the sum over images of sum_c right[at[c, i]] * sum_c right[at[c, j]]."""
    joint = np.zeros((at_CI.shape[1], at_CI.shape[1]))
    for start in range(0, bits_VB.shape[1], CHUNK):
        some_VB = bits_VB[:, start : start + CHUNK]
        sums = np.zeros((at_CI.shape[1], 8 * some_VB.shape[1]), np.float32)
        for at in at_CI:
            sums += np.unpackbits(some_VB[at], axis=1)
        joint += sums @ sums.T  # whole numbers, exact in float32
    return joint


def _shared(there_PS: np.ndarray) -> list[np.ndarray]:
    """The sets of seeds [S] that some two candidates have in common, a part before the whole."""
    each = np.unique(there_PS, axis=0)
    both = np.unique((each[:, None] & each).reshape(-1, there_PS.shape[1]), axis=0)
    return sorted((shared_S for shared_S in both if shared_S.any()), key=np.sum)


def _of_images(square: np.ndarray, mean: np.ndarray, n: int) -> np.ndarray:
    """The images' part of the variance of a mean; see `contrast` for the pseudo-images."""
    return ((square + 3) / n - mean**2) / n


def _estimates(per_seed: np.ndarray, present: np.ndarray, square: np.ndarray, n: int) -> Estimates:
    """Per-seed means [..., S] of which some count; sums over images of the squared mean [...]."""
    seeds = present.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, per_seed, 0).sum(-1) / seeds
        spread = np.where(present, (per_seed - mean[..., None]) ** 2, 0).sum(-1)
        var_seeds = np.where(seeds > 1, spread / np.maximum(1, seeds - 1) / seeds, 0.0)
        var_images = _of_images(square, mean, n)
    return Estimates(100 * mean, 1e4 * var_images, 1e4 * var_seeds, seeds, n)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p McNemar test (Fagerland et al. 2013) on the images that changed sides."""
    changed, fewer = gained + lost, min(gained, lost)
    if changed == 0:
        return 1.0
    upto = scipy.special.bdtr(fewer, changed, 0.5)
    below = scipy.special.bdtr(fewer - 1, changed, 0.5) if fewer else 0.0
    return float(min(1.0, upto + below))  # twice P(fewer or less), less P(exactly fewer)


def best_set(rivals_QP: Estimates) -> np.ndarray:
    """Booleans [P]: who is in the set that holds the true best with 95%.

    rivals_QP: every candidate q minus every candidate p; the diagonal does not count. A candidate
    p leaves the set when some rival is better by a one-sided test at 5% / (rivals of p): the
    first step of Holm over p's rivals, so the true best leaves with at most 5%. (Multiple
    comparisons with the best, Hsu 1984.)
    """
    compared = (rivals_QP.seeds > 0) & ~np.eye(len(rivals_QP.mean), dtype=bool)
    alpha = (1 - LEVEL) / np.maximum(1, compared.sum(0))
    return np.asarray(~(rivals_QP.above_zero(alpha) & compared).any(0))


def false_discovery(p: np.ndarray) -> np.ndarray:
    """q-values of Benjamini & Hochberg (1995); NaN where p is NaN, which counts for nothing.

    scipy.stats.false_discovery_control gives the same, after a second of loading.
    """
    q = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    falling = known[np.argsort(-p[known], kind="stable")]
    ranks = np.arange(len(falling), 0, -1)
    q[falling] = np.minimum.accumulate(p[falling] * len(falling) / ranks)
    return q


def cross_fitted(bits_VB: np.ndarray, n: int, at_PS: np.ndarray, before: int) -> float:
    """The gain of the best candidate where luck does not choose it, percentage points.

    The candidate with the largest gain on one random half of the images and all seeds but one is
    measured on the other half with that seed: the mean over both halves, all seeds and SPLITS
    halvings. Where several have the largest gain, it is the mean over them. On the images and
    seeds that chose it, the best one's gain is too high on average.
    A candidate of one seed is passed over; where there are no others, images alone are split.

    bits_VB: correctness vectors (`bits.stack`) over n images. at_PS: which vector is candidate p
    after training with seed s, -1 for none. before: which is the untouched model.
    """
    words, right_V = words_of(bits_VB), ones_of(bits_VB)
    in_half = [np.bitwise_count(words & half).sum(1, dtype=np.int64) for half in _halves(n)]
    in_half_TV = np.array(in_half)
    gain_2TPS = np.stack(
        [
            100 * (right_TV[:, at_PS] - right_TV[:, before, None, None]) / size
            for right_TV, size in ((in_half_TV, n // 2), (right_V - in_half_TV, n - n // 2))
        ]
    )
    choose_FPS, measure_FPS = _seed_folds(at_PS >= 0)
    chosen_by = (choose_FPS * gain_2TPS[..., None, :, :]).sum(-1)
    measured = (measure_FPS * gain_2TPS[::-1, :, None]).sum(-1)
    with np.errstate(invalid="ignore"):
        largest = chosen_by >= np.nanmax(chosen_by, axis=-1, keepdims=True) - ROUNDING
    return float(((measured * largest).sum(-1) / largest.sum(-1)).mean())


@lru_cache(4)
def _halves(n: int) -> np.ndarray:
    """uint64 [SPLITS, words]: random halves of n images, the same for everyone who asks."""
    rng = np.random.default_rng(n)
    halves = rng.permuted(np.tile(np.arange(n) < n // 2, (SPLITS, 1)), axis=1)
    return words_of(np.packbits(halves, axis=1))


def _seed_folds(present_PS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [F, P, S] of the seeds that choose (NaN: no candidate) and of those that measure."""
    held_out = np.eye(present_PS.shape[1], dtype=bool)[:, None]
    choose, measure = present_PS & ~held_out, present_PS & held_out
    if not (choose.any(-1) & measure.any(-1)).any():
        choose = measure = present_PS[None]
    able_FP = np.logical_and(choose.any(-1), measure.any(-1))
    choose, measure = (x / np.maximum(1, x.sum(-1, keepdims=True)) for x in (choose, measure))
    some_F = np.flatnonzero(able_FP.any(-1))
    return np.where(able_FP[..., None], choose, np.nan)[some_F], measure[some_F]


def resolvable(n: int, changed: float) -> float:
    """The 95% half-width of one job's Δ, percentage points, if a share `changed` of n changes."""
    return float(100 * scipy.special.ndtri((1 + LEVEL) / 2) * np.sqrt(changed / n))
