"""Intervals and tests from the scores of the same units: images, or videos.

Everything here is a *contrast*: a weighted sum of vectors of scores (after minus before, job
minus control, partner minus partner), whose variance comes from sums over the units of products
of two vectors; see `analysis.scores`. Suffixes: V vectors, S seeds, P and Q candidates; arrays may
have axes before.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy  # special is loaded where it is first used; scipy.stats would take a second more

from bikd_ray.analysis.scores import Bits, Scores

LEVEL = 0.95

POWER = 0.8
"""Of the smallest effect that is called detectable."""

ROUNDING = 1e-9
"""In the metric's unit, that two sums of the same gains may differ by."""

SMALLEST = np.log(1e-300)
"""Of the logarithm of a level: smaller ones are no numbers any more."""


@dataclass(frozen=True)
class Estimates:
    """Mean differences in the metric's unit, each with the two variances of its mean.

    Of percent that is percentage points. All arrays have one shape. `var_images`: from which `n`
    units (images, videos) were drawn. `var_seeds`: from which seeds were drawn; 0 with one seed,
    where intervals speak of the sampling of units only. Without any seed everything is NaN.
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
        return np.sqrt(self._variance)

    @property
    def _variance(self) -> np.ndarray:
        return self.var_images + self.var_seeds

    def critical(self, alpha: np.ndarray | float) -> np.ndarray:
        """The one-sided critical value of mean / se (Cochran & Cox 1950).

        It is the mean of the two t quantiles, weighted by their variances. Satterthwaite's degrees
        of freedom would be estimated from as few as two, and cover 92% where the method allows
        94% (3 seeds that differ a lot; docs/statistics.md); this covers at least 94%.
        """
        images, seeds = (_t(df, alpha) for df in self._degrees)
        parts, total = images * self.var_images + seeds * self.var_seeds, self._variance
        with np.errstate(invalid="ignore", divide="ignore"):
            return -np.where(total == 0, images, parts / total)

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
        logarithm, within that bracket. A difference that is 0 on every unit has 1.
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
        same = (self.mean == 0) & (self._variance == 0)
        return np.where(same, 1.0, 2 * np.exp(log_alpha))

    @property
    def _degrees(self) -> tuple[int, np.ndarray]:
        """Degrees of freedom of the images and of the seeds."""
        return max(1, self.n - 1), np.maximum(1, self.seeds - 1)

    def _slope(self, log_alpha: np.ndarray) -> np.ndarray:
        """How fast `critical` falls with the logarithm of alpha."""
        alpha = np.exp(log_alpha)
        parts = zip(self._degrees, (self.var_images, self.var_seeds), strict=True)
        rise = sum(alpha * var / _density(df, _t(df, alpha)) for df, var in parts)
        return rise / self._variance

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
    scale = above - below - np.log(np.pi * df) / 2
    with np.errstate(over="ignore"):  # far out it is 0
        return np.exp(scale - (np.asarray(df) + 1) / 2 * np.log1p(t * t / df))


def contrast(scores: Scores, weights_SV: np.ndarray) -> Estimates:
    """The mean over seeds and units of sum_v w[..., s, v] * score_v, in the metric's unit.

    weights_SV: one row of weights for each seed, and any axes before.

    Var(mean) = Var_units(per-unit mean over seeds) / n + Var_seeds / S: the units and the seeds
    are both drawn. `Bits.variance` says what keeps the first part above zero.
    """
    totals, square = scores.combined(weights_SV)
    return _estimates(scores, totals / scores.n, np.ones_like(totals, bool), square)


def differences(scores: Scores, plus_S: np.ndarray, minus_S: np.ndarray) -> Estimates:
    """The `contrast` of one vector less another for each seed, over the seeds that have both.

    plus_S, minus_S: integers [..., S] that broadcast: which vector, or -1 for none.
    """
    totals = scores.totals
    plus_S, minus_S = np.broadcast_arrays(plus_S, minus_S)
    both = (plus_S >= 0) & (minus_S >= 0)
    per_seed = np.where(both, totals[plus_S] - totals[minus_S], 0) / scores.n
    square = scores.differing(plus_S, minus_S, both)
    return _estimates(scores, per_seed, both, square / np.maximum(1, both.sum(-1)) ** 2)


def rivals(scores: Scores, at_PS: np.ndarray) -> Estimates:
    """[Q, P]: by how much every candidate q is better than every candidate p.

    They are the `differences`, q less p; p less q where lower is better. Candidates that share the
    same seeds are taken together: a product of two matrices has the sums of all of them.
    """
    totals, there_PS = scores.sign * scores.totals, at_PS >= 0
    shape = len(at_PS), len(at_PS)
    mean, of_units, of_seeds = np.full((3, *shape), np.nan)
    found = Estimates(mean, of_units, of_seeds, np.zeros(shape, int), scores.n)
    for shared_S in _shared(there_PS):
        mine = np.flatnonzero((there_PS >= shared_S).all(1))
        at_CI = at_PS[mine][:, shared_S].T
        seeds = len(at_CI)
        square = scores.apart(at_CI) / seeds**2
        per_seed = [(totals[at][:, None] - totals[at]) / scores.n for at in at_CI]
        mean = np.sum(per_seed, axis=0) / seeds
        spread = np.sum([(one - mean) ** 2 for one in per_seed], axis=0) / max(1, seeds - 1) / seeds
        here = np.ix_(mine, mine)
        found.mean[here] = scores.scale * mean
        found.var_images[here] = scores.scale**2 * scores.variance(square, mean)
        found.var_seeds[here] = scores.scale**2 * spread if seeds > 1 else 0
        found.seeds[here] = seeds
    return found


def _shared(there_PS: np.ndarray) -> list[np.ndarray]:
    """The sets of seeds [S] that some two candidates have in common, a part before the whole."""
    each = np.unique(there_PS, axis=0)
    both = np.unique((each[:, None] & each).reshape(-1, there_PS.shape[1]), axis=0)
    return sorted((shared_S for shared_S in both if shared_S.any()), key=np.sum)


def _estimates(
    scores: Scores, per_seed: np.ndarray, present: np.ndarray, square: np.ndarray
) -> Estimates:
    """From per-seed means [..., S], of which some count, and the squares [...] of their mean."""
    seeds = present.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, per_seed, 0).sum(-1) / seeds
        spread = np.where(present, (per_seed - mean[..., None]) ** 2, 0).sum(-1)
        var_seeds = np.where(seeds > 1, spread / np.maximum(1, seeds - 1) / seeds, 0.0)
        var_images = scores.variance(square, mean)
    scale, square_scale = scores.scale, scores.scale**2
    return Estimates(
        scale * mean, square_scale * var_images, square_scale * var_seeds, seeds, scores.n
    )


def p_value(scores: Scores) -> float:
    """Two-sided, of the difference of two vectors of one job, before and after: McNemar's test of
    bits, a paired t test of all other scores.
    """
    if isinstance(scores, Bits):
        before_B, after_B = scores.bits_VB
        changed = (after_B & ~before_B, before_B & ~after_B)
        return mcnemar(*(int(np.bitwise_count(bits).sum()) for bits in changed))
    return float(differences(scores, np.array([1]), np.array([0])).p_value)


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

    rivals_QP: by how much every candidate q is better than every candidate p; the diagonal does
    not count. A candidate p leaves the set when some rival is better by a one-sided test at 5% /
    (rivals of p): the first step of Holm over p's rivals, so the true best leaves with at most 5%.
    (Multiple comparisons with the best, Hsu 1984.) One whose scores are NaN is not in the set.
    """
    known = ~np.isnan(rivals_QP.mean)
    compared = known & ~np.eye(len(known), dtype=bool)
    alpha = (1 - LEVEL) / np.maximum(1, compared.sum(0))
    return np.asarray(known.diagonal() & ~(rivals_QP.above_zero(alpha) & compared).any(0))


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


def cross_fitted(scores: Scores, at_PS: np.ndarray, before: int) -> float:
    """The difference that the best candidate makes where luck does not choose it.

    The candidate with the largest gain on one random half of the units and all seeds but one is
    measured on the other half with that seed: the mean over both halves, all seeds and SPLITS
    halvings. Where several have the largest gain, it is the mean over them. On the units and
    seeds that chose it, the best one's gain is too high on average. Where lower is better the
    largest gain is the lowest difference.
    A candidate of one seed is passed over, and so is one whose scores are NaN; where there are no
    others with two seeds, units alone are split. NaN for a pooled metric whose `parts` are unknown.

    at_PS: which vector is candidate p after training with seed s, -1 for none. before: which is
    the untouched model.
    """
    halves_2TV, sizes = scores.in_halves()
    with np.errstate(invalid="ignore", divide="ignore"):
        made_2TPS = np.stack(
            [
                scores.scale * (half_TV[:, at_PS] - half_TV[:, before, None, None]) / size
                for half_TV, size in zip(halves_2TV, sizes, strict=True)
            ]
        )
        made_2TPS = np.where(at_PS >= 0, made_2TPS, 0)
        choose_FPS, measure_FPS = _seed_folds(at_PS >= 0)
        chosen_by = scores.sign * (choose_FPS * made_2TPS[..., None, :, :]).sum(-1)
        measured = (measure_FPS * made_2TPS[::-1, :, None]).sum(-1)
        most = np.fmax.reduce(chosen_by, axis=-1, keepdims=True)
        largest = chosen_by >= most - ROUNDING
        made = np.where(largest, measured, 0).sum(-1) / largest.sum(-1)
    return float(made.mean())


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
