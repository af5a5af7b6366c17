"""What two models get right together, from before their training to after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """Shares of images; `teacher` is the part of `one` in which the teacher was right, if known."""

    when: str
    both: float
    one: float
    none: float
    teacher: float | None = None


def cases(before: Row | None, epochs: Sequence[Row], after: Sequence[Row]) -> tuple[Case, ...]:
    """What the two got right before, in each epoch of training, and after.

    before: the pair's row of the table `pairs`, on val; nothing is known where that is not binary.
    epochs: curve rows of both with each other, on the training images. after: rows with score_a,
    score_b, error_overlap_after and the case shares (none in older stores) of each job, on val.
    """
    found = []
    if before is not None and before["n11"] is not None:
        n = sum(before[name] for name in ("n11", "n10", "n01", "n00"))
        one = before["n10"] + before["n01"]
        found.append(Case("before", before["n11"] / n, one / n, before["n00"] / n, before["case2"]))
    for epoch in sorted({r["epoch"] for r in epochs}):
        rows = [r for r in epochs if r["epoch"] == epoch and r["case1"] is not None]
        shares = [sum(r[f"case{c}"] for r in rows) for c in (1, 2, 3, 4)]
        if rows and sum(shares):
            c1, c2, c3, c4 = (share / sum(shares) for share in shares)
            found.append(Case(f"epoch {epoch}", c1, c2 + c4, c3, c2))
    joint = [
        shares_after(r["score_a"] / 100, r["score_b"] / 100, r["error_overlap_after"])
        for r in after
    ]
    if joint:
        both, none = (fmean(values) for values in zip(*joint, strict=True))
        taught = [r["case2_after"] for r in after]
        teacher = None if None in taught else fmean(taught)
        found.append(Case("after", both, 1 - both - none, none, teacher))
    return tuple(found)


def shares_after(a: float, b: float, overlap: float) -> tuple[float, float]:
    """Shares with both right and both wrong, from both accuracies and the errors' Jaccard.

    With r both right and w both wrong: a + b = 1 + r - w and w = overlap (1 - r).
    """
    both = (a + b - 1 + overlap) / (1 + overlap)
    return both, overlap * (1 - both)
