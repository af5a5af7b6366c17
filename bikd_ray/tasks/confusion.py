"""What is predicted at the labels' own resolution, counted image by image.

Nothing larger than one image's map is kept. Axes: B images, C classes, h and w cells of a
network's output, H and W pixels of a label file.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bikd_ray.tasks.map_output import MapOutput, QueryLogits
from bikd_ray.tasks.semantic_maps import EPS, IGNORE, query_map, resized


@dataclass(frozen=True)
class Frame:
    """Sizes (height, width) in pixels on the way from a network's input back to the labels."""

    padded: tuple[int, int]  # what the network was given
    content: tuple[int, int]  # the part of it that is the image: padding is right and below
    label: tuple[int, int]


def class_maps(output: MapOutput, frame: Frame) -> Tensor:
    """S or logits [B, C, H, W] of images of one size, whose argmax is the prediction.

    As Mask2Former evaluates: mask logits up to the padded input, the map there, padding cut off,
    and the map up to the labels. A pixel model's logits go the same way. Labels are never resized.
    """
    height, width = frame.content
    if output.pixel_logits_BChw is not None:
        map_BChw = resized(output.pixel_logits_BChw, frame.padded)
    else:
        final = output.queries[0]
        masks = resized(final.mask_logits_BQhw, frame.padded)[..., :height, :width]
        map_BChw = query_map(QueryLogits(final.class_logits_BQC1, masks))
    return resized(map_BChw[..., :height, :width], frame.label)


def log_maps(output: MapOutput, frame: Frame) -> Tensor:
    """[B, C, H, W]: what a softmax over the classes makes to their probabilities, of images of one
    size. The largest of a pixel is what is predicted there; no object never is.
    """
    map_BCHW = class_maps(output, frame)
    return map_BCHW if output.kind == "pixel" else map_BCHW.add(EPS).log_()


def count_each(
    predicted_BHW: Tensor, labels_BHW: Tensor, classes: int, ignore: int = IGNORE
) -> dict[str, Tensor]:
    """int64 [B, C] of the labelled pixels of images of one size: `labelled`, `right` and
    `predicted` of each class. Stays on the device and does not wait for it.
    """
    truth, answer = labels_BHW.flatten(1).long(), predicted_BHW.flatten(1)
    known = truth != ignore
    # what is not labelled falls behind the last class; right answers lie a row further
    answered = torch.where(truth == answer, answer + classes, answer).where(known, 2 * classes)
    tally = [
        truth.new_zeros(len(truth), size).scatter_add_(1, codes, torch.ones_like(codes))
        for codes, size in ((truth.where(known, classes), classes + 1), (answered, 2 * classes + 1))
    ]
    wrong, right = tally[1][:, : 2 * classes].unflatten(1, (2, classes)).unbind(1)
    return {"labelled": tally[0][:, :classes], "right": right, "predicted": wrong + right}


def agreement(a_BHW: Tensor, b_BHW: Tensor, labels_BHW: Tensor, ignore: int = IGNORE) -> Tensor:
    """int64 [B, 5] of each image's labelled pixels: both models right, only the first, only the
    second, neither; and those where the two predict different classes.
    """
    known = labels_BHW != ignore
    a, b = (known & (predicted == labels_BHW) for predicted in (a_BHW, b_BHW))
    parts = (a & b, a & ~b, b & ~a, known & ~a & ~b, known & (a_BHW != b_BHW))
    return torch.stack([part.flatten(1).sum(1) for part in parts], 1)
