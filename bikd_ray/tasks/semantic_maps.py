"""Semantic maps: what segmentation models of different families are compared by.

A map says for every cell of a grid how probable each class is. Axes: K models, B images, C
classes, Q queries, h and w cells of a grid, H and W pixels of labels. Everything is worked out for
each image by itself, so that parts of a batch add up to it. Losses in nats.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bikd_ray.tasks.map_output import MapOutput, QueryLogits

EPS = 1e-6
"""Added to each class of a mask model's map before it is normalised."""

IGNORE = 255
"""The label of pixels that are not labelled, padding among them."""


def query_map(queries: QueryLogits) -> Tensor:
    """S [B, C, h, w] = sum_q softmax(class_q)[c] * sigmoid(mask_q), c < C (Cheng et al. 2022).

    No object is dropped after the softmax, so a cell's sum over classes may be near 0 or above 1.
    """
    probs_BQC = _wide(queries.class_logits_BQC1).softmax(-1)[..., :-1]
    masks_BQhw = _wide(queries.mask_logits_BQhw).sigmoid()
    with torch.autocast(masks_BQhw.device.type, enabled=False):
        return torch.einsum("bqc,bqhw->bchw", probs_BQC, masks_BQhw)


def normalised_log(map_BChw: Tensor) -> Tensor:
    """Log p [B, C, h, w], p = (S + EPS) / sum_c (S + EPS)."""
    logs_BChw = (_wide(map_BChw) + EPS).log()
    return logs_BChw - logs_BChw.logsumexp(1, keepdim=True)


def resized(logits_BXhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with align_corners False, in float32 or wider; the same tensor at its own size."""
    logits_BXhw = _wide(logits_BXhw)
    if tuple(logits_BXhw.shape[-2:]) == tuple(size):
        return logits_BXhw
    return F.interpolate(logits_BXhw, size=size, mode="bilinear", align_corners=False)


def log_map(output: MapOutput, grid: tuple[int, int]) -> Tensor:
    """Log p [B, C, h, w] of a model's final output on a common grid.

    Logits (a mask model's mask logits) are resized before the softmax or sigmoid.
    """
    if output.pixel_logits_BChw is not None:
        return resized(output.pixel_logits_BChw, grid).log_softmax(1)
    final = output.queries[0]
    masks = resized(final.mask_logits_BQhw, grid)
    return normalised_log(query_map(QueryLogits(final.class_logits_BQC1, masks)))


def at_cells(pixels_BHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, h, w]: the pixel at each cell's centre, of labels or of a mask; no mean of pixels."""
    rows, columns = (
        _centres(pixels, cells, pixels_BHW.device)
        for pixels, cells in zip(pixels_BHW.shape[1:], grid, strict=True)
    )
    return pixels_BHW[:, rows[:, None], columns]


def _centres(pixels: int, cells: int, device: torch.device) -> Tensor:
    """int64 [cells]: floor((cell + 1/2) * pixels / cells), without rounding."""
    return (2 * torch.arange(cells, device=device) + 1) * pixels // (2 * cells)


def pixel_nll(log_p_BChw: Tensor, labels_Bhw: Tensor, ignore: int = IGNORE) -> Tensor:
    """[B]: the mean of -log p[label] over an image's labelled cells, 0 where it has none."""
    labelled_Bhw = labels_Bhw != ignore
    at_label = labels_Bhw.long().where(labelled_Bhw, 0)[:, None]
    return _mean_where(-log_p_BChw.gather(1, at_label).squeeze(1), labelled_Bhw)


def pixel_loss(logits_BChw: Tensor, labels_BHW: Tensor, ignore: int = IGNORE) -> Tensor:
    """A pixel model's own loss [B]: cross-entropy at the labels' resolution, its logits resized.

    A mean over each image's labelled pixels, 0 where it has none.
    """
    logits_BCHW = resized(logits_BChw, (labels_BHW.shape[1], labels_BHW.shape[2]))
    loss_BHW = F.cross_entropy(
        logits_BCHW, labels_BHW.long(), ignore_index=ignore, reduction="none"
    )
    return _mean_where(loss_BHW, labels_BHW != ignore)


def labelled(labels_BHW: Tensor, ignore: int = IGNORE) -> Tensor:
    """Bool [B]: whether an image has a labelled pixel; without one it has no teacher."""
    return (labels_BHW != ignore).flatten(1).any(1)


def _mean_where(values_BHW: Tensor, counts_BHW: Tensor) -> Tensor:
    """[B]: the mean where it counts, 0 where nothing does; what is left out may be any number."""
    kept = values_BHW.where(counts_BHW, 0.0)
    return kept.flatten(1).sum(1) / counts_BHW.flatten(1).sum(1).clamp(min=1)


def _wide(values: Tensor) -> Tensor:
    """In float32 or wider."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
