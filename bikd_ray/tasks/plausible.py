"""Whether what a network answers can be logits, and whether it is better than chance.

Everything here looks at numbers alone. Suffixes: N images, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import bdtr, bdtrc
from torch import Tensor

from bikd_ray.tasks.base import Statistics
from bikd_ray.tasks.classification import correct

UNLIKELY = 0.01
"""Of a test against chance: larger, and the accuracy is as good as chance."""

FAR, SURE = 10.0, 0.001
"""Percentage points, and the probability of so few right answers, from which on a model is far
below what was published for it."""

ENOUGH_PAIRS, MOSTLY = 8, 0.4
"""Pairs of images of one class, and the share of them with one answer, from which on a model is
taken to know the classes: of 200 images of 1,000 classes 20 pairs are of one class."""

ROUNDING = 1e-3
"""What probabilities of half precision may miss of a sum of 1."""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with logits: each field by itself, and none for sound ones."""

    not_finite: tuple[int, ...] = ()  # the images whose logits are NaN or infinite
    probabilities: bool = False  # they differ, and each image's lie within 0–1 and sum to 1
    bounded: bool = False  # all lie within 0–1 (as a sigmoid's do), without that sum
    constant: bool = False  # the same for every image

    @property
    def sound(self) -> bool:
        return self == Diagnosis()


def diagnose(logits_NC: Tensor) -> Diagnosis:
    """What the logits of different images say of the network's last operation.

    Log-probabilities are sound: log-softmax leaves them as they are. With one class or one image
    there is nothing to tell apart, and that part is left out.
    """
    logits = logits_NC.detach().double().cpu()
    finite_N = logits.isfinite().all(1)
    bad = tuple(torch.nonzero(~finite_N).flatten().tolist())
    good = logits[finite_N]
    count, classes = good.shape
    if not count:
        return Diagnosis(not_finite=bad)
    within = bool(((good >= 0) & (good <= 1)).all())
    sums_to_1 = bool(((good.sum(1) - 1).abs() < ROUNDING).all())
    spread = (good - good[:1]).abs().max()
    # rounding differs from one place in a batch to another
    constant = count > 1 and bool(spread <= 1e-6 * good.abs().max())
    return Diagnosis(
        not_finite=bad,
        probabilities=classes > 1 and within and sums_to_1 and not constant,
        bounded=within and not sums_to_1 and not constant,
        constant=constant,
    )


@dataclass(frozen=True)
class Plausibility:
    """How many of n images a model is right about, and what that is to be held against."""

    right: int
    n: int
    chance: float  # percent, of always answering the most frequent class
    published: float | None  # percent
    one_answer: bool  # whether it answers the same class for all images
    reordered: bool  # whether it answers alike for images of one class, and otherwise for others

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.right / self.n

    @property
    def at_chance(self) -> bool:
        """Whether guessing is as often right with a probability of UNLIKELY or more.

        Never where so few images could not have told.
        """
        chance = self.chance / 100
        if chance**self.n >= UNLIKELY:
            return False
        return self.right == 0 or float(bdtrc(self.right - 1, self.n, chance)) >= UNLIKELY

    @property
    def far_below(self) -> bool:
        """Whether it is FAR below what was published, and that is no accident."""
        if self.published is None or self.published - self.top1 < FAR:
            return False
        return float(bdtr(self.right, self.n, self.published / 100)) < SURE

    @property
    def line(self) -> str:
        """Such as: 80.5% of 200 val images (chance 0.1%, published 82.5%)."""
        known = "" if self.published is None else f", published {self.published:.1f}%"
        return f"{self.top1:.1f}% of {self.n} val images (chance {self.chance:.3g}%{known})"

    @property
    def suspicion(self) -> str | None:
        """What is to be looked at before anything is trained on it, in a line; None if nothing."""
        if not self.at_chance and not self.far_below:
            return None
        if self.at_chance and self.one_answer and self.n > 1:
            what = f"the same answer for all {self.n} val images"
        elif self.at_chance:
            what = "no better than chance"
        else:
            what = "far below what was published"
        if self.reordered:
            return (
                f"{what}, but images of one class get one answer: its classes are most likely in "
                "another order than the data's"
            )
        return (
            f"{what}; likely causes: another order of classes than the data's, another "
            "normalisation (input: {mean, std}), other weights than meant, or a classifier that "
            "was never trained"
        )


def plausibility(
    statistics: Statistics, labels: np.ndarray, published: float | None = None
) -> Plausibility:
    """Judge a classifier's answers on some or all images of a set whose labels are `labels`.

    published: percent, where it is known.
    """
    predicted = statistics["predicted"]
    return Plausibility(
        right=int(correct(statistics).sum()),
        n=len(predicted),
        chance=100 * float(np.bincount(labels).max()) / len(labels),
        published=published,
        one_answer=bool((predicted == predicted[0]).all()),
        reordered=_reordered(predicted, statistics["label"]),
    )


def _reordered(predicted_N: np.ndarray, label_N: np.ndarray) -> bool:
    """Whether two images of a class mostly get one answer, and two of different classes do not."""

    def pairs(*columns: np.ndarray) -> int:
        counts = np.unique(np.stack(columns), axis=1, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    alike, both, answered = pairs(label_N), pairs(label_N, predicted_N), pairs(predicted_N)
    different = len(label_N) * (len(label_N) - 1) // 2 - alike
    if alike < ENOUGH_PAIRS or not different:
        return False
    of_one, of_two = both / alike, (answered - both) / different
    return of_one > MOSTLY and of_two < of_one / 4
