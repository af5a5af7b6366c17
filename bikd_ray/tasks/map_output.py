"""What a segmentation network answers, whatever library it is of.

Axes: B images, Q queries, C classes, h and w cells of the network's own output, 1 no object.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TASK_LOSS, PIXEL_NLL = "task_loss", "pixel_nll"


@dataclass(frozen=True)
class QueryLogits:
    """One output of a mask model."""

    class_logits_BQC1: Tensor  # the last class is: no object
    mask_logits_BQhw: Tensor

    def __getitem__(self, images: slice) -> "QueryLogits":
        return QueryLogits(self.class_logits_BQC1[images], self.mask_logits_BQhw[images])


@dataclass(frozen=True)
class MapOutput:
    """The outputs of one network: logits of every pixel, or those of queries.

    A mask model's outputs are the final one and then the auxiliary ones, in the order of its
    decoder. Exactly one of the two fields is set.
    """

    pixel_logits_BChw: Tensor | None = None
    queries: tuple[QueryLogits, ...] = ()

    def __post_init__(self) -> None:
        if (self.pixel_logits_BChw is None) == (not self.queries):
            raise ValueError("a map is made of pixel logits or of queries")

    @property
    def kind(self) -> Literal["pixel", "mask"]:
        return "mask" if self.queries else "pixel"

    @property
    def classes(self) -> int:
        """C, without no object."""
        if self.pixel_logits_BChw is not None:
            return self.pixel_logits_BChw.shape[1]
        return self.queries[0].class_logits_BQC1.shape[2] - 1

    @property
    def outputs(self) -> int:
        return len(self.queries) or 1

    def tensors(self) -> tuple[Tensor, ...]:
        """All logits, the final ones first."""
        if self.pixel_logits_BChw is not None:
            return (self.pixel_logits_BChw,)
        return tuple(t for q in self.queries for t in (q.class_logits_BQC1, q.mask_logits_BQhw))

    def __getitem__(self, images: slice) -> "MapOutput":
        """The outputs of some images; the batch stays an axis."""
        if self.pixel_logits_BChw is not None:
            return MapOutput(self.pixel_logits_BChw[images])
        return MapOutput(queries=tuple(output[images] for output in self.queries))

    def finite_B(self) -> Tensor:
        """Bool [B]: whether all logits of an image are numbers, on their device."""
        # one pass: a sum with such a value is no number either
        sums = [t.detach().flatten(1).sum(1, dtype=torch.float64) for t in self.tensors()]
        return torch.stack(sums).isfinite().all(0)


@dataclass(frozen=True)
class LossKind:
    """What two losses must share to be compared: the same sum of the same terms."""

    kind: Literal["pixel", "mask"]
    classes: int
    weights: tuple[float, ...] = ()  # of a mask model's criterion
    outputs: int = 1
