"""How alike the members of a job see the val images, before and after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from bikd_ray.train.evaluate import Evaluation
from bikd_ray.train.similarity import between, directions


@dataclass(frozen=True)
class Likeness:
    """CCA of two members' pre-logits features on val; None where it cannot be told.

    The numbers of correlations in the two means differ where training has changed how many
    directions the features have.
    """

    members: tuple[int, int]
    before: float | None
    after: float | None
    top_before: int | None
    top_after: int | None


def likenesses(
    before: Evaluation, after: Evaluation, live: int, device: torch.device
) -> Iterator[Likeness]:
    """Of each pair of members, of which the first `live` have learned.

    The directions of two members are held at a time: they are as large as the features. Those of a
    frozen one stay.
    """

    def of(features_ND: Tensor | None) -> Tensor | None:
        return None if features_ND is None else directions(features_ND.to(device))

    def mean(x_NP: Tensor | None, y_NQ: Tensor | None) -> tuple[float | None, int | None]:
        if x_NP is None or y_NQ is None:
            return None, None
        found = between(x_NP, y_NQ)
        return (found.mean().item(), len(found)) if len(found) else (None, None)

    for pair in combinations(range(len(before.features)), 2):
        found = {k: of(before.features[k]) for k in pair}
        was, top_before = mean(*found.values())
        for k in pair:
            if k < live:
                found[k] = None
                found[k] = of(after.features[k])
        now, top_after = mean(*found.values())
        yield Likeness(pair, was, now, top_before, top_after)
