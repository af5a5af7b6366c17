"""What two models know together, from predictions made before any training.

Definitions: docs/statistics.md. Accuracies and ensembles in percent; overlaps are fractions.
Suffixes: N samples, R some of them, U undecided ones, V models, C classes, k stored classes of a
sample, m the first few of those.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from bikd_ray.analysis.bits import gram, pack, stack

Row = dict[str, Any]


@dataclass(frozen=True)
class StoredPredictions:
    """One model's stored predictions on N samples: its class [N], its top k classes and their
    probabilities [N, k], best first, equal ones in class order, so that [:, 0] is its class; and
    the probability of the label [N].
    """

    predicted_N: np.ndarray
    top_classes_Nk: np.ndarray
    top_probs_Nk: np.ndarray
    label_prob_N: np.ndarray


@dataclass(frozen=True)
class Undecided:
    """The samples (int64 [U], ascending) whose ensemble the stored probabilities leave open, and
    on how many of the others the ensemble is right.
    """

    samples_U: np.ndarray
    right: int


def counts(correct_a: np.ndarray, correct_b: np.ndarray) -> Row:
    """Joint correctness of two models on the same samples (booleans [N]), and its measures.

    Kappa, Q and phi are None where they are 0/0 (a model that is always or never right).
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    return _row(len(a), int((a & b).sum()), int(a.sum()), int(b.sum()))


def overlaps(
    predicted: Sequence[np.ndarray],
    labels_N: np.ndarray,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> Iterator[tuple[int, int, Row]]:
    """(i, j, row) of each pair, by default all i < j: `counts` and the disagreement.

    predicted: the class [N] of each of V models.
    """
    n = len(labels_N)
    both_VV = gram(stack([pack(p == labels_N) for p in predicted])).tolist()
    widest = np.min_scalar_type(max(int(p.max()) for p in predicted))
    narrow = [p.astype(widest) for p in predicted]  # a quarter of the bytes or less, for all pairs
    for i, j in combinations(range(len(predicted)), 2) if pairs is None else pairs:
        row = _row(n, both_VV[i][j], both_VV[i][i], both_VV[j][j])
        row["disagreement"] = int(np.count_nonzero(narrow[i] != narrow[j])) / n
        yield i, j, row


def _row(n: int, n11: int, right_a: int, right_b: int) -> Row:
    n10, n01 = right_a - n11, right_b - n11
    n00 = n - n11 - n10 - n01
    return {
        "n": n,
        **joint_measures(n11, n10, n01, n00),
        "score_a": 100 * right_a / n,
        "score_b": 100 * right_b / n,
        "oracle": 100 * (1 - n00 / n),
    }


def joint_measures(n11: int, n10: int, n01: int, n00: int) -> Row:
    """What follows from how often both, only a, only b and none of two models is right, of at
    least one answer: of samples, or of the pixels of all of them.
    """
    n, right_a, right_b = n11 + n10 + n01 + n00, n11 + n10, n11 + n01
    by_chance = right_a * right_b + (n - right_a) * (n - right_b)
    odd = n11 * n00, n01 * n10
    margins = right_a * (n - right_a) * right_b * (n - right_b)
    return {
        "n11": n11,
        "n10": n10,
        "n01": n01,
        "n00": n00,
        "error_inconsistency": (n10 + n01) / n,
        "double_fault": n00 / n,
        "error_overlap": _ratio(n00, n10 + n01 + n00),
        "kappa": _ratio(n * (n11 + n00) - by_chance, n * n - by_chance),
        "q": _ratio(odd[0] - odd[1], odd[0] + odd[1]),
        "phi": _ratio(odd[0] - odd[1], margins**0.5),
    }


def _ratio(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


def pair_statistics(
    answers: Sequence[StoredPredictions],
    labels_N: np.ndarray,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> Iterator[tuple[int, int, Row, Undecided]]:
    """(i, j, row, undecided) of each pair, by default all i < j.

    The row's `ensemble` is None as long as there are undecided samples: see `settle`.
    """
    for i, j, row in overlaps([a.predicted_N for a in answers], labels_N, pairs):
        predicted_N, certain_N = ensemble(answers[i], answers[j])
        right = int((certain_N & (predicted_N == labels_N)).sum())
        undecided = Undecided(np.flatnonzero(~certain_N), right)
        a, b = answers[i], answers[j]
        right_a_N, right_b_N = (one.predicted_N == labels_N for one in (a, b))
        row |= case_shares(right_a_N, right_b_N, a.label_prob_N, b.label_prob_N)
        row["ensemble"] = None if len(undecided.samples_U) else 100 * right / row["n"]
        yield i, j, row, undecided


def case_shares(
    right_a_N: np.ndarray, right_b_N: np.ndarray, prob_a_N: np.ndarray, prob_b_N: np.ndarray
) -> Row:
    """Shares of the four cases of a teacher and a student, where the teacher of a sample is the
    model that gives its label more (b on a tie): 1 both right, 2 only the teacher, 3 none, 4 only
    the student. The paper (Jain et al. 2025) counts the fourth with the second.

    right, prob: of each model whether it is right, and what it gives the label.
    """
    n, both = len(right_a_N), np.count_nonzero(right_a_N & right_b_N)
    one_right_N = right_a_N != right_b_N
    one = np.count_nonzero(one_right_N)
    teacher_alone = np.count_nonzero(one_right_N & (right_b_N == (prob_b_N >= prob_a_N)))
    return {
        "case1": both / n,
        "case2": teacher_alone / n,
        "case3": (n - both - one) / n,
        "case4": (one - teacher_alone) / n,
    }


def settle(
    row: Row,
    undecided: Undecided,
    probs_a_UC: np.ndarray,
    probs_b_UC: np.ndarray,
    labels_U: np.ndarray,
) -> Row:
    """The row with its `ensemble`, from both models' probabilities of all classes on the
    undecided samples, in float32 as they were stored.
    """
    winner_U = np.add(probs_a_UC, probs_b_UC, dtype=np.float64).argmax(1)
    right = undecided.right + int((winner_U == labels_U).sum())
    return {**row, "ensemble": 100 * right / row["n"]}


def ensemble(a: StoredPredictions, b: StoredPredictions) -> tuple[np.ndarray, np.ndarray]:
    """The class [N] with the highest sum of both probabilities, and whether that is certain [N].

    Certain means: it equals the argmax of the sums of all C classes, added in float64, where the
    lowest class wins a tie. With k = C everything is certain.
    """
    # Both say c: no class has more in a, none has more in b, so none has a higher sum. One with
    # an equal sum has as much as c in both, and equal ones are stored in class order, so it comes
    # after c. (The least difference that float32 knows, 2**-24 of a top probability of at least
    # 1/C, is not lost in float64's 2**-53.)
    winner_N = a.predicted_N.copy()
    certain_N = a.predicted_N == b.predicted_N
    for m, depth in ((3, 8), (6, None), (None, None)):  # the cheapest look settles most
        rows_R = np.flatnonzero(~certain_N)
        winner_N[rows_R], certain_N[rows_R] = _decide(a, b, rows_R, m, depth)
    return winner_N, certain_N


def _decide(
    a: StoredPredictions, b: StoredPredictions, rows_R: np.ndarray, m: int | None, depth: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """As `ensemble`, of samples rows_R: each model's first m classes may win, and are looked up
    among the other's first `depth`; None means all k.

    A class that is not among those has at most the probability of the last of them. Rounding
    keeps order, so a sum of bounds bounds the sum in float64 too.
    """
    classes_a, probs_a = _first(a, rows_R, depth)
    classes_b, probs_b = _first(b, rows_R, depth)
    low_a, high_a = _bounds(classes_a[:m], probs_a[:m], classes_b, probs_b)
    low_b, high_b = _bounds(classes_b[:m], probs_b[:m], classes_a, probs_a)
    classes = np.concatenate((classes_a[:m], classes_b[:m]))  # one that both list is here twice
    low, high = np.concatenate((low_a, low_b)), np.concatenate((high_a, high_b))
    floor_R = low.max(0)
    winner_R = np.where(low == floor_R, classes, np.iinfo(classes.dtype).max).min(0)
    reaches = (high > floor_R) | ((high == floor_R) & (classes < winner_R))
    rivals = (reaches & (classes != winner_R)).any(0)
    # With k = C there are no other classes, and this asks nothing: the least of both together is
    # below the floor unless both are the same everywhere, and then both say class 0.
    others_R = probs_a[:m][-1] + probs_b[:m][-1]
    return winner_R, ~rivals & (others_R < floor_R)


def _first(
    answers: StoredPredictions, rows_R: np.ndarray, depth: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and probabilities, best first; samples last, which numpy reduces much faster."""
    classes = answers.top_classes_Nk[:, :depth][rows_R].T
    probs = answers.top_probs_Nk[:, :depth][rows_R].T
    return np.ascontiguousarray(classes), np.ascontiguousarray(probs, np.float64)


def _bounds(
    classes: np.ndarray, probs: np.ndarray, other_classes: np.ndarray, other_probs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that one model's classes [m, R] can have in both together."""
    found = np.zeros(classes.shape, bool)
    other = np.zeros(classes.shape)
    for class_R, prob_R in zip(other_classes, other_probs, strict=True):
        same = classes == class_R
        found |= same
        other += same * prob_R
    return probs + other, probs + np.where(found, other, other_probs[-1])
