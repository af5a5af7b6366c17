"""The loss of a mask model, image by image: Mask2Former's criterion (Cheng et al. 2022).

For each output: 2 CE + 5 BCE + 5 dice, after a Hungarian matching of queries to the image's
masks, one for each class that it has. The published criterion divides by the masks of a whole
batch; here each image is normalised by itself, so that a batch's parts add up to it.
Axes: O outputs, Q queries, C classes, M masks, P points, 2 x and y in 0-1, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from bikd_ray.tasks.map_output import LossKind, MapOutput, QueryLogits
from bikd_ray.tasks.semantic_maps import IGNORE


@dataclass(frozen=True)
class Criterion:
    """The settings of the loss; the defaults are the published ones."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1  # of a query without a mask, in the class loss
    points: int = 12_544
    oversample: float = 3.0  # candidates for a point of the loss
    uncertain: float = 0.75  # share of the loss's points that are taken by uncertainty

    def kind(self, output: MapOutput) -> LossKind:
        """What another member's loss must share to be compared with this one."""
        weights = (self.class_weight, self.mask_weight, self.dice_weight, self.no_object)
        return LossKind(output.kind, output.classes, weights, output.outputs)


class Points(Protocol):
    """Where one image's masks are looked at."""

    def matching(self, outputs: int, like: Tensor) -> Tensor:
        """[O, P, 2], the same for all masks and queries of an output."""
        ...

    def loss(self, logits_XM1hw: Tensor) -> Tensor:
        """[X, M, P, 2] for the matched mask logits of X outputs, the masks in class order."""
        ...


@dataclass(frozen=True)
class RandomPoints:
    """Points drawn from a generator on the logits' device, those of the loss where it is unsure.

    Masks are taken in class order, so that models with equal seeds draw equal candidates for one
    mask, whichever of their queries was matched to it.
    """

    generator: torch.Generator
    criterion: Criterion = Criterion()

    @classmethod
    def seeded(
        cls, seed: int, device: torch.device | str, criterion: Criterion | None = None
    ) -> "RandomPoints":
        """The points of one image. seed: of the job, the step and the image, never of the model
        or of the image's place in the batch.
        """
        generator = torch.Generator(device).manual_seed(seed)
        return cls(generator, criterion or Criterion())

    def matching(self, outputs: int, like: Tensor) -> Tensor:
        return self._draw(like, outputs, self.criterion.points)

    def loss(self, logits_XM1hw: Tensor) -> Tensor:
        shape, points = logits_XM1hw.shape[:2], self.criterion.points
        candidates = self._draw(logits_XM1hw, *shape, int(points * self.criterion.oversample))
        unsure = int(points * self.criterion.uncertain)
        margin = sampled(logits_XM1hw.flatten(0, 1), candidates.flatten(0, 1)).abs()[:, 0]
        picked = margin.topk(unsure, largest=False).indices.view(*shape, unsure, 1)
        chosen = candidates.gather(2, picked.expand(-1, -1, -1, 2))
        return torch.cat([chosen, self._draw(logits_XM1hw, *shape, points - unsure)], 2)

    def _draw(self, like: Tensor, *shape: int) -> Tensor:
        return torch.rand(*shape, 2, generator=self.generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Terms:
    """The three terms of each output, unweighted [O], and what was matched."""

    class_O: Tensor
    mask_O: Tensor
    dice_O: Tensor
    query_OM: Tensor  # int64: the query of each mask, -1 where there are fewer queries than masks


def mask_loss(
    output: MapOutput,
    labels_BHW: Tensor,
    points: Sequence[Points],
    criterion: Criterion | None = None,
    ignore: int = IGNORE,
) -> Tensor:
    """A mask model's own loss [B], summed over its outputs, in float32 or wider.

    labels: one class for each pixel, or `ignore`, which belongs to no mask (as padding does).
    points: those of each image. An image without masks has the class loss alone. An image with
    logits that are NaN or infinite has the loss NaN: nothing is matched to them. Waits for the
    device once, since the matching is done on the host.
    """
    with torch.autocast(labels_BHW.device.type, enabled=False):
        return _mask_loss(output, labels_BHW, points, criterion or Criterion(), ignore)


def _mask_loss(
    output: MapOutput,
    labels_BHW: Tensor,
    points: Sequence[Points],
    how: Criterion,
    ignore: int,
) -> Tensor:
    classes_of = [image_classes(labels, ignore) for labels in labels_BHW]
    images = [image_queries(output[n : n + 1].queries) for n in range(len(labels_BHW))]
    costs = [
        matching_cost(image, classes, labels, draw.matching(image.outputs, image.masks), how)
        for image, classes, labels, draw in zip(images, classes_of, labels_BHW, points, strict=True)
    ]
    finite_B = output.finite_B()
    on_host = torch.cat([finite_B.to(costs[0].dtype), *(cost.flatten() for cost in costs)]).cpu()
    finite, *flat = on_host.split([len(costs), *(cost.numel() for cost in costs)])
    losses = []
    for n, (image, classes) in enumerate(zip(images, classes_of, strict=True)):
        if not finite[n]:
            losses.append(image.classes.sum() * torch.nan)
            continue
        query_OM = matched(flat[n].view(costs[n].shape)).to(labels_BHW.device)
        terms = matched_terms(image, classes, labels_BHW[n], query_OM, points[n], how)
        losses.append(total(terms, how))
    return torch.stack(losses)


def total(terms: Terms, criterion: Criterion) -> Tensor:
    """The weighted sum of the terms over the outputs, a scalar."""
    each_O = (
        criterion.class_weight * terms.class_O
        + criterion.mask_weight * terms.mask_O
        + criterion.dice_weight * terms.dice_O
    )
    return each_O.sum()


@dataclass(frozen=True)
class ImageQueries:
    """All outputs of one image."""

    classes: Tensor  # logits [O, Q, C + 1]
    masks: Tensor  # logits [O, Q, h, w]

    @property
    def outputs(self) -> int:
        return len(self.classes)


def image_queries(outputs: Sequence[QueryLogits]) -> ImageQueries:
    """The outputs of a batch of one image, in float32 or wider."""
    classes = torch.cat([output.class_logits_BQC1 for output in outputs])
    masks = torch.cat([output.mask_logits_BQhw for output in outputs])
    wide = torch.promote_types(classes.dtype, torch.float32)
    return ImageQueries(classes.to(wide), masks.to(wide))


def image_classes(labels_HW: Tensor, ignore: int = IGNORE) -> Tensor:
    """int64 [M]: the classes of one image in order, each of which is a mask."""
    classes_M = labels_HW.unique()
    return classes_M[classes_M != ignore].long()


def share_of(labels_HW: Tensor, points_2: Tensor, classes: Tensor) -> Tensor:
    """How much of each point belongs to a class: its mask, bilinear at the point, 0 outside.

    points [..., 2] in 0-1 and classes [...] are broadcast against each other; no mask is made.
    """
    height, width = labels_HW.shape
    around = F.pad(labels_HW.long(), (1, 1, 1, 1), value=-1).flatten()
    x, y = points_2[..., 0] * width - 0.5, points_2[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    corner = (top.long() + 1) * (width + 2) + left.long() + 1
    at = (0, 1, width + 2, width + 3)
    a, b, c, d = ((around[corner + step] == classes).to(x.dtype) for step in at)
    above, below = torch.lerp(a, b, x - left), torch.lerp(c, d, x - left)
    return torch.lerp(above, below, y - top)


def sampled(maps_XYhw: Tensor, points_XP2: Tensor) -> Tensor:
    """[X, Y, P]: maps at points, bilinear, 0 outside."""
    grid = 2 * points_XP2[:, :, None] - 1
    return F.grid_sample(maps_XYhw, grid, align_corners=False)[..., 0]


@torch.no_grad()
def matching_cost(
    queries: ImageQueries,
    classes_M: Tensor,
    labels_HW: Tensor,
    points_OP2: Tensor,
    criterion: Criterion,
) -> Tensor:
    """[O, Q, M]: minus the class's probability, BCE and dice at the points, weighted."""
    x_OQP = sampled(queries.masks, points_OP2)
    t_OPM = share_of(labels_HW, points_OP2[:, :, None], classes_M)
    # BCE is softplus(x) - x t, of which only the second depends on the mask
    bce = (F.softplus(x_OQP).sum(-1, keepdim=True) - x_OQP @ t_OPM) / x_OQP.shape[-1]
    s_OQP = x_OQP.sigmoid()
    size = s_OQP.sum(-1, keepdim=True) + t_OPM.sum(1, keepdim=True)
    dice = 1 - (2 * s_OQP @ t_OPM + 1) / (size + 1)
    probs = queries.classes.softmax(-1)[..., classes_M]
    return (
        criterion.mask_weight * bce + criterion.dice_weight * dice - criterion.class_weight * probs
    )


def matched(cost_OQM: Tensor) -> Tensor:
    """int64 [O, M] on the host: the query of each mask at the least cost, each used once."""
    query_OM = np.full((cost_OQM.shape[0], cost_OQM.shape[2]), -1)
    for row_M, cost_QM in zip(query_OM, cost_OQM.numpy(), strict=True):
        queries, masks = linear_sum_assignment(cost_QM)
        row_M[masks] = queries
    return torch.from_numpy(query_OM)


def matched_terms(
    queries: ImageQueries,
    classes_M: Tensor,
    labels_HW: Tensor,
    query_OM: Tensor,
    points: Points,
    criterion: Criterion,
) -> Terms:
    """The loss terms of one image whose masks have their queries."""
    outputs, count, with_none = queries.classes.shape
    has = query_OM >= 0  # as many in each output: min(Q, M)
    output_X, mask_X = has.nonzero(as_tuple=True)
    query_X = query_OM[output_X, mask_X]
    target_OQ = torch.full((outputs, count), with_none - 1, device=classes_M.device)
    target_OQ[output_X, query_X] = classes_M[mask_X]
    weight_C1 = queries.classes.new_ones(with_none)
    weight_C1[-1] = criterion.no_object
    each_OQ = F.cross_entropy(
        queries.classes.flatten(0, 1), target_OQ.flatten(), weight_C1, reduction="none"
    ).view(outputs, count)
    class_O = each_OQ.sum(1) / weight_C1[target_OQ].sum(1)
    if not len(mask_X):
        nothing_O = queries.masks.sum((1, 2, 3)) * 0
        return Terms(class_O, nothing_O, nothing_O, query_OM)
    logits_X1hw = queries.masks[output_X, query_X][:, None]
    with torch.no_grad():
        at = points.loss(logits_X1hw.unflatten(0, (outputs, -1))).flatten(0, 1)
        t_XP = share_of(labels_HW, at, classes_M[mask_X][:, None])
    x_XP = sampled(logits_X1hw, at)[:, 0]
    bce_X = F.binary_cross_entropy_with_logits(x_XP, t_XP, reduction="none").mean(1)
    s_XP = x_XP.sigmoid()
    dice_X = 1 - (2 * (s_XP * t_XP).sum(1) + 1) / (s_XP.sum(1) + t_XP.sum(1) + 1)
    masks = len(classes_M)
    mask_O, dice_O = (term.view(outputs, -1).sum(1) / masks for term in (bce_X, dice_X))
    return Terms(class_O, mask_O, dice_O, query_OM)
