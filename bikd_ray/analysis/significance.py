"""Intervals and tests from per-sample correctness of the same images.

Everything here is a *contrast*: a weighted sum of correctness vectors (after minus before, job
minus control, partner minus partner), so one function gives all the intervals from one Gram
matrix of bit counts. Suffixes: V vectors, S seeds.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit  # scipy.stats takes a second more to load

LEVEL = 0.95

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean difference in percentage points, with the two variances of that mean.

    `var_images`: from which images were drawn, `n` of them. `var_seeds`: from which seeds were
    drawn; 0 with one seed, where intervals speak of image sampling only.
    """

    mean: float
    var_images: float
    n: int
    var_seeds: float
    seeds: int

    @property
    def se(self) -> float:
        return (self.var_images + self.var_seeds) ** 0.5

    def critical(self, alpha: float) -> float:
        """The one-sided critical value of mean / se (Cochran & Cox 1950).

        It is the mean of the two t quantiles, weighted by their variances. Satterthwaite's degrees
        of freedom would be estimated from as few as two, and cover 92% where the method allows
        94% (3 seeds that differ a lot; LOG.md has the table); this covers at least 94%.
        """
        quantile = stdtrit(max(1, self.n - 1), 1 - alpha) * self.var_images
        if self.seeds > 1:
            quantile += stdtrit(self.seeds - 1, 1 - alpha) * self.var_seeds
        return float(quantile) / (self.var_images + self.var_seeds)

    @property
    def half_width(self) -> float:
        return self.critical((1 - LEVEL) / 2) * self.se

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def above_zero(self, alpha: float) -> bool:
        """Whether a one-sided test at `alpha` says that the truth is above zero."""
        return self.mean > self.critical(alpha) * self.se


def contrast(gram_VV: np.ndarray, n: int, weights_SV: np.ndarray) -> Estimate:
    """The mean over seeds and images of sum_v w[s, v] * correct_v, in percentage points.

    gram_VV: joint counts of the correctness vectors over the same n images; weights_SV: one row
    of weights for each seed.

    Var(mean) = Var_images(per-image mean over seeds) / n + Var_seeds / S: the images and the
    seeds are both drawn. Half a pseudo-image that gains and half a one that loses keep the
    first part above zero where nothing changed (as Agresti & Min 2005 do for matched
    proportions); they do not move the mean.
    """
    seeds = len(weights_SV)
    per_seed_S = weights_SV @ np.diag(gram_VV) / n
    mean = float(per_seed_S.mean())
    w_V = weights_SV.mean(0)
    square = float(w_V @ gram_VV @ w_V)  # sum over images of the per-image mean, squared
    var_images = ((square + 1) / n - mean**2) / n
    var_seeds = float(per_seed_S.var(ddof=1)) / seeds if seeds > 1 else 0.0
    return Estimate(100 * mean, 1e4 * var_images, n, 1e4 * var_seeds, seeds)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p McNemar test (Fagerland et al. 2013) on the images that changed sides."""
    changed, fewer = gained + lost, min(gained, lost)
    if changed == 0:
        return 1.0
    upto = bdtr(fewer, changed, 0.5)
    below = bdtr(fewer - 1, changed, 0.5) if fewer else 0.0
    return float(min(1.0, upto + below))  # twice P(fewer or less), less P(exactly fewer)


def best_set(
    differences: Mapping[tuple[Name, Name], Estimate], candidates: Sequence[Name]
) -> set[Name]:
    """The candidates that hold the true best one with 95% (multiple comparisons with the best).

    differences[q, p] estimates q minus p. A candidate p leaves the set when some rival is better
    by a one-sided test at 5% / (rivals of p): the first step of Holm over p's rivals, so the true
    best leaves with at most 5%.
    """
    kept = set()
    for p in candidates:
        rivals = [differences[q, p] for q in candidates if q != p and (q, p) in differences]
        if not any(d.above_zero((1 - LEVEL) / len(rivals)) for d in rivals):
            kept.add(p)
    return kept


def resolvable(n: int, changed: float) -> float:
    """The 95% half-width of one job's Δ, percentage points, if a share `changed` of n changes."""
    return float(100 * ndtri((1 + LEVEL) / 2) * np.sqrt(changed / n))
