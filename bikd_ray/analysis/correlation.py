"""Pearson's r over pairs of models, and how sure it is. Suffix: M pairs."""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEAST = 5
"""Models below which no interval is given: each model left out is one of its draws."""


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its 95% interval; None where there are too few models to tell."""

    value: float
    low: float | None
    high: float | None


def centred(values_M: np.ndarray, group_M: np.ndarray) -> np.ndarray:
    """[M]: values less the mean of their group."""
    if not len(values_M):
        return values_M
    size = np.maximum(1, np.bincount(group_M))
    return values_M - (np.bincount(group_M, values_M) / size)[group_M]


def correlation(x_M: np.ndarray, y_M: np.ndarray, ends_2M: np.ndarray) -> Correlation | None:
    """Pearson's r over pairs of models; ends_2M: the two models of each pair, by number.

    Pairs that share a model are not independent, so the interval is the delete-one-model
    jackknife of Fisher's z, with Student's t over the models. None where r does not exist.
    """
    if len(x_M) < 3:
        return None
    x_M, y_M = x_M - x_M.mean(), y_M - y_M.mean()  # sums of squares then lose no digits
    terms_5M = np.stack([np.ones_like(x_M), x_M, y_M, x_M * x_M, y_M * y_M, x_M * y_M])
    total = terms_5M.sum(1)
    value = _pearson(total[:, None])[0]
    if np.isnan(value):
        return None
    models = np.unique(ends_2M)
    own = sum(
        np.stack([np.bincount(end, term, ends_2M.max() + 1) for term in terms_5M])
        for end in ends_2M
    )
    without = _pearson((total[:, None] - own)[:, models])
    if len(models) < LEAST or np.isnan(without).any() or abs(value) > 1 - 1e-9:
        return Correlation(float(value), None, None)
    z, z_J = np.arctanh(value), np.arctanh(np.clip(without, -1 + 1e-12, 1 - 1e-12))
    k = len(models)
    error = np.sqrt((k - 1) / k * ((z_J - z_J.mean()) ** 2).sum())
    reach = stdtrit(k - 1, 0.975) * error
    return Correlation(float(value), float(np.tanh(z - reach)), float(np.tanh(z + reach)))


def _pearson(sums: np.ndarray) -> np.ndarray:
    """Of columns of sums: count, x, y, xx, yy, xy. NaN where x or y does not vary."""
    n, x, y, xx, yy, xy = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        across = (xx - x * x / n) * (yy - y * y / n)
        flat = ~(across > 1e-20 * (1 + xx * yy))
        return np.where(flat | (n < 3), np.nan, (xy - x * y / n) / np.sqrt(across))
