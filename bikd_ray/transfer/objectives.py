"""Objectives: from the sources' confidence to the weight of every lesson.

Suffixes: S sources (the K live models, then the frozen ones), K students, N samples, C classes.
An objective turns confidence [S, N] into weights [S, K, N]: how much source s teaches student k
on sample n. Adding one is adding a row to `OBJECTIVES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ties = Literal["auto", "first", "last", "drop"]
TIES: tuple[str, ...] = ("auto", "first", "last", "drop")
CONFIDENCES: tuple[str, ...] = ("auto", "label", "max")


@dataclass(frozen=True)
class Teaching:
    weights_SKN: Tensor
    teacher_N: Tensor  # int64: the one source of sample n, -1 where there is none or no single one


@dataclass(frozen=True)
class Rule:
    """One objective.

    `lessons(confidence_SN, live, ties)`: who teaches whom.
    `confidence`: what sources compete by where the objective is not told: what labels say of them
    (of a class, its probability), or the highest probability.
    `supervised`, `divergence`: the weights of the two terms; a function where kd_weight sets them.
    `frozen`: (fewest, most) frozen sources it takes; `live`: the same for live models.
    `mixed`: frozen sources are averaged into one before they teach.
    `old_self`: the first frozen source is the live model as it was at the start.
    `unmasked`: the lessons where no choice is made among the sources, if the rule makes one.
    """

    lessons: Callable[[Tensor, int, str], Teaching]
    confidence: Literal["label", "max"] = "label"
    supervised: Callable[[float], float] = lambda kd_weight: 1.0
    divergence: Callable[[float], float] = lambda kd_weight: 1.0
    live: tuple[int, int | None] = (1, None)
    frozen: tuple[int, int | None] = (0, 0)
    mixed: bool = False
    old_self: bool = False
    unmasked: Callable[[Tensor, int, str], Teaching] | None = None


def most_confident(confidence_SN: Tensor, ties: str) -> Tensor:
    """The index [N] of the most confident source; a tie goes by `ties`, -1 under `drop`.

    NaN never teaches, as -inf; -1 where nothing else is there.
    """
    sources = confidence_SN.shape[0]
    confidence_SN = confidence_SN.masked_fill(confidence_SN.isnan(), -torch.inf)
    most_N = confidence_SN.amax(0)
    if ties == "last":
        teacher_N = sources - 1 - confidence_SN.flip(0).argmax(0)
    else:
        teacher_N = confidence_SN.argmax(0)  # the first of equals
    if ties == "drop":
        teacher_N = teacher_N.masked_fill((confidence_SN == most_N).sum(0) > 1, -1)
    return teacher_N.masked_fill(most_N == -torch.inf, -1)


def _one_hot(teacher_N: Tensor, sources: int, live: int, dtype: torch.dtype) -> Tensor:
    """weights_SKN with 1 where the source is the sample's teacher and not the student itself."""
    source_S = torch.arange(sources, device=teacher_N.device)
    teaches_SN = source_S[:, None] == teacher_N
    itself_SK = source_S[:, None] == source_S[:live]
    return (teaches_SN[:, None, :] & ~itself_SK[:, :, None]).to(dtype)


def _from_most_confident(confidence_SN: Tensor, live: int, ties: str) -> Teaching:
    """Bi-KD (Jain et al. 2025, Eq. 3 and 11): the most confident live model teaches the rest."""
    sources = confidence_SN.shape[0]
    if ties == "auto":  # the paper's two equations disagree at K = 2; each is kept where it stands
        ties = "last" if live == 2 else "first"
    teacher_N = most_confident(confidence_SN[:live], ties)
    return Teaching(_one_hot(teacher_N, sources, live, confidence_SN.dtype), teacher_N)


def _nobody(confidence_SN: Tensor, live: int, ties: str) -> Teaching:
    sources, samples = confidence_SN.shape
    nothing = confidence_SN.new_zeros(sources, live, samples)
    return Teaching(nothing, torch.full((samples,), -1, device=confidence_SN.device))


def _first_frozen(confidence_SN: Tensor, live: int, ties: str) -> Teaching:
    """The one frozen source teaches every sample (Hinton et al. 2015; `self`: its old self)."""
    sources, samples = confidence_SN.shape
    teacher_N = torch.full((samples,), live, device=confidence_SN.device)
    return Teaching(_one_hot(teacher_N, sources, live, confidence_SN.dtype), teacher_N)


def _frozen_most_confident(confidence_SN: Tensor, live: int, ties: str) -> Teaching:
    """KL+DP (Roth et al. 2024): a teacher where it beats the student's old self, else that self.

    The old self is the first frozen source, so that `first` gives it the ties.
    """
    sources = confidence_SN.shape[0]
    teacher_N = most_confident(confidence_SN[live:], "first")
    teacher_N = torch.where(teacher_N < 0, teacher_N, live + teacher_N)
    return Teaching(_one_hot(teacher_N, sources, live, confidence_SN.dtype), teacher_N)


def _everybody(confidence_SN: Tensor, live: int, ties: str) -> Teaching:
    """Every live model teaches every other on every sample: Bi-KD without its mask."""
    sources, samples = confidence_SN.shape
    peers_SK = 1 - torch.eye(sources, device=confidence_SN.device)[:, :live]
    weights = peers_SK.to(confidence_SN.dtype)[:, :, None].expand(sources, live, samples)
    return Teaching(weights, torch.full((samples,), -1, device=confidence_SN.device))


def _mean_of_everybody(confidence_SN: Tensor, live: int, ties: str) -> Teaching:
    """Deep mutual learning (Zhang et al. 2018): each learns from the mean of its peers' losses."""
    lessons = _everybody(confidence_SN, live, ties)
    return Teaching(lessons.weights_SKN / (live - 1), lessons.teacher_N)


OBJECTIVES: dict[str, Rule] = {
    "bikd": Rule(_from_most_confident, live=(2, None), unmasked=_everybody),
    "ce": Rule(_nobody, divergence=lambda w: 0.0),
    "self": Rule(_first_frozen, live=(1, 1), frozen=(1, 1), old_self=True),
    "kd": Rule(
        _first_frozen,
        supervised=lambda w: 1.0 - w,
        divergence=lambda w: w,
        live=(1, 1),
        frozen=(1, None),
        mixed=True,
    ),
    "kl_dp": Rule(
        _frozen_most_confident,
        confidence="max",
        supervised=lambda w: 0.0,
        live=(1, 1),
        frozen=(2, None),
        old_self=True,
    ),
    "kl_dp_supervised": Rule(
        _frozen_most_confident,
        supervised=lambda w: 0.0,
        live=(1, 1),
        frozen=(2, None),
        old_self=True,
    ),
    "dml": Rule(_mean_of_everybody, live=(2, None)),
}
