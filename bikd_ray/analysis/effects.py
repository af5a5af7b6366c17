"""Who teaches well and who learns well, whatever the partner: an additive model of the gains.

    gain[r] = learns[learner[r]] + teaches[teacher[r]] + rest[r],   sum of teaches = 0

by least squares. Suffixes: R pairings (ordered), M models, N units (images, videos).
"""

from dataclasses import dataclass

import numpy as np

from bikd_ray.analysis.significance import Estimates


@dataclass(frozen=True)
class Effects:
    """`learns`: the gain with an average teacher; `teaches`: what a teacher adds to that average.

    In the metric's unit; their intervals count the units and the pairings, as if both were drawn.
    The shares are of the variance of the gains: that of the learner first, then what the teacher
    adds to it.
    """

    learns: Estimates  # [M]
    teaches: Estimates  # [M]
    learner_share: float
    teacher_share: float


class PairGains:
    """Gains of ordered pairings, added learner by learner: only sums are held.

    binary: of scores of 0 and 1, whose metric is in percent; of others the variance over the
    units is that with n - 1.
    """

    def __init__(self, models: int, n: int, *, binary: bool = True) -> None:
        self.n = n
        self.binary = binary
        self.models = models
        self.learner: list[int] = []
        self.teacher: list[int] = []
        self.gains: list[float] = []
        self.sums = np.zeros((2 * models, n), np.float32)  # over pairings, per unit

    def add(self, learner: int, teachers_T: np.ndarray, gains_TN: np.ndarray) -> None:
        """A learner's pairings, each teacher once.

        gains_TN: `Scores.unit_gains` of after less before (or less control).
        """
        self.learner += [learner] * len(teachers_T)
        self.teacher += teachers_T.tolist()
        self.gains += gains_TN.mean(1).tolist()
        self.sums[learner] += gains_TN.sum(0)
        self.sums[self.models + teachers_T] += gains_TN

    def effects(self) -> Effects:
        """The least-squares fit.

        NaN for a model without a pairing as learner, or as teacher; and for all where the pairings
        fall into parts that share no learner and no teacher, which cannot be compared.
        """
        learner, teacher, gains = map(np.array, (self.learner, self.teacher, self.gains))
        both = (learner, self.models + teacher)
        normal = np.zeros((2 * self.models, 2 * self.models))  # of the design's 0s and 1s
        for i in both:
            for j in both:
                np.add.at(normal, (i, j), 1)
        seen = normal.diagonal() > 0
        fit = _centring(seen, self.models) @ np.linalg.pinv(normal, hermitian=True)
        effect = fit @ sum(np.bincount(i, gains, 2 * self.models) for i in both)
        rest = gains - effect[both[0]] - effect[both[1]]
        rank = int(np.linalg.matrix_rank(normal, hermitian=True))
        free = len(gains) - rank
        if rank < seen.sum() - 1:
            effect = np.full_like(effect, np.nan)
        per_unit, scale = fit @ self.sums, 100.0 if self.binary else 1.0
        with np.errstate(invalid="ignore", divide="ignore"):  # of one unit
            of_units = per_unit.var(1, dtype=np.float64, ddof=0 if self.binary else 1)
        noise = rest @ rest / free if free else np.nan
        estimates = Estimates(
            scale * effect,
            scale**2 * of_units / self.n,
            scale**2 * noise * ((fit @ normal) * fit).sum(1),
            np.full(len(effect), free + 1),
            self.n,
        )
        total = ((gains - gains.mean()) ** 2).sum() or np.nan
        by_learner = _between(gains, learner) / total
        return Effects(
            _where(estimates, slice(None, self.models), seen),
            _where(estimates, slice(self.models, None), seen),
            by_learner,
            float(1 - rest @ rest / total - by_learner),
        )


def _centring(seen: np.ndarray, models: int) -> np.ndarray:
    """Takes the mean of the teachers that there are from each, and adds it to the learners."""
    teachers = seen[models:] / max(1, seen[models:].sum())
    centre = np.eye(2 * models)
    centre[:models, models:] += teachers
    centre[models:, models:] -= teachers
    return centre


def _between(gains: np.ndarray, group: np.ndarray) -> float:
    """Sum of squares between groups."""
    sizes = np.bincount(group)
    means = np.bincount(group, gains) / np.maximum(1, sizes)
    return float((sizes * (means - gains.mean()) ** 2).sum())


def _where(estimates: Estimates, part: slice, seen: np.ndarray) -> Estimates:
    known = np.where(seen[part], 1.0, np.nan)
    return Estimates(
        estimates.mean[part] * known,
        estimates.var_images[part],
        estimates.var_seeds[part],
        estimates.seeds[part],
        estimates.n,
    )
