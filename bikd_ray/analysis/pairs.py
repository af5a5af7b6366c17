"""What two models know together, from predictions made before any training.

Definitions: method, section 4. Accuracies and ensembles in percent; overlaps are fractions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Answers:
    """One model's stored predictions on N samples: correct [N], its top k classes and
    probabilities [N, k], best first.
    """

    correct_N: np.ndarray
    predicted_N: np.ndarray
    top_classes_Nk: np.ndarray
    top_probs_Nk: np.ndarray


def counts(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, float | int | None]:
    """Joint correctness of two models on the same samples, and the measures made of it.

    Kappa, Q and phi are None where they are 0/0 (a model that is always or never right).
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    n = len(a)
    n11, n10, n01 = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    n00 = n - n11 - n10 - n01
    observed = (n11 + n00) / n
    chance = ((n11 + n10) * (n11 + n01) + (n01 + n00) * (n10 + n00)) / n**2
    odd = n11 * n00, n01 * n10
    margins = float(n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
    return {
        "n": n,
        "n11": n11,
        "n10": n10,
        "n01": n01,
        "n00": n00,
        "top1_a": 100 * (n11 + n10) / n,
        "top1_b": 100 * (n11 + n01) / n,
        "oracle_top1": 100 * (1 - n00 / n),
        "error_inconsistency": (n10 + n01) / n,
        "double_fault": n00 / n,
        "error_overlap": _ratio(n00, n10 + n01 + n00),
        "kappa": _ratio(observed - chance, 1 - chance),
        "q": _ratio(odd[0] - odd[1], odd[0] + odd[1]),
        "phi": _ratio(odd[0] - odd[1], margins**0.5),
    }


def _ratio(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


def pair_statistics(
    answers: Sequence[Answers], labels_N: np.ndarray, num_classes: int
) -> Iterator[tuple[int, int, dict[str, float | int | None]]]:
    """(i, j, statistics) for every pair of models, i < j."""
    for i, j in combinations(range(len(answers)), 2):
        a, b = answers[i], answers[j]
        row = counts(a.correct_N, b.correct_N)
        row["disagreement"] = float((a.predicted_N != b.predicted_N).mean())
        predicted, certain = ensemble(a, b, num_classes)
        row["ensemble_top1"] = 100 * float((predicted == labels_N).mean())
        row["ensemble_uncertain"] = int((~certain).sum())
        yield i, j, row


def ensemble(a: Answers, b: Answers, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The class [N] of the highest mean probability, and whether that is certain [N].

    A class outside a model's stored top k has at most its k-th probability, and at most what
    the stored ones leave of 1; an image is certain when no unseen mass could change the winner.
    With k = num_classes everything is certain.
    """
    n, rows = len(a.predicted_N), np.arange(len(a.predicted_N))[:, None]
    low = np.zeros((n, num_classes), np.float32)
    high = np.zeros((n, num_classes), np.float32)
    for model in (a, b):
        k = model.top_classes_Nk.shape[1]
        probs = model.top_probs_Nk.astype(np.float32)
        unseen = np.minimum(probs[:, -1], np.maximum(0, 1 - probs.sum(1) + 1e-6))
        unseen = unseen if k < num_classes else np.zeros_like(unseen)
        upper = np.repeat(unseen[:, None], num_classes, 1)
        upper[rows, model.top_classes_Nk] = probs
        high += upper
        low[rows, model.top_classes_Nk] += probs
    winner = low.argmax(1)
    floor = low[rows[:, 0], winner]
    high[rows[:, 0], winner] = -1
    return winner, floor >= high.max(1)
