"""What is predicted at the labels' own resolution, counted image by image.

Nothing larger than one image's map is kept. Axes: B images, C classes, h and w cells of a
network's output, H and W pixels of a label file.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from bikd_ray.analysis.segmentation import PixelCounts
from bikd_ray.tasks.map_output import MapOutput, QueryLogits
from bikd_ray.tasks.semantic_maps import IGNORE, normalised_log, query_map, resized


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


def class_map(output: MapOutput, frame: Frame) -> Tensor:
    """The same of one image (a batch of one), [C, H, W]."""
    return class_maps(output, frame)[0]


def predicted(output: MapOutput, frame: Frame) -> Tensor:
    """int64 [H, W]: the class of each pixel of one image; no object is never predicted."""
    return class_map(output, frame).argmax(0)


def probability_maps(output: MapOutput, frame: Frame) -> Tensor:
    """P [B, C, H, W] of images of one size: their maps normalised over classes."""
    map_BCHW = class_maps(output, frame)
    return map_BCHW.softmax(1) if output.kind == "pixel" else normalised_log(map_BCHW).exp()


def probability_map(output: MapOutput, frame: Frame) -> Tensor:
    """The same of one image (a batch of one), [C, H, W]."""
    return probability_maps(output, frame)[0]


def ensemble(*maps_CHW: Tensor) -> Tensor:
    """int64 [H, W]: the argmax of the mean of several models' probability maps of one image."""
    return reduce(torch.add, maps_CHW).argmax(0)


def count(
    predicted_HW: Tensor, labels_HW: Tensor, classes: int, ignore: int = IGNORE
) -> dict[str, Tensor]:
    """int64 [C] of one image's labelled pixels: `labelled`, `right` and `predicted` of each class.

    Stays on the device and does not wait for it.
    """
    found = count_each(predicted_HW[None], labels_HW[None], classes, ignore)
    return {name: counts_BC[0] for name, counts_BC in found.items()}


def count_each(
    predicted_BHW: Tensor, labels_BHW: Tensor, classes: int, ignore: int = IGNORE
) -> dict[str, Tensor]:
    """int64 [B, C], the same of several images of one size."""
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


@dataclass(frozen=True)
class Tally:
    """The counts of all images of a set, in one tensor from the start.

    Small tensors that stay, made between large ones that go, would keep the memory of the large.
    """

    counts_N3C: Tensor  # int64: labelled, right, predicted

    @classmethod
    def of(cls, images: int, classes: int, device: torch.device | str = "cpu") -> "Tally":
        return cls(torch.zeros(images, 3, classes, dtype=torch.int64, device=device))

    def add(
        self, image: int, predicted_HW: Tensor, labels_HW: Tensor, ignore: int = IGNORE
    ) -> None:
        """Count one image, which has its own row."""
        found = count(predicted_HW, labels_HW, self.counts_N3C.shape[2], ignore)
        torch.stack(list(found.values()), out=self.counts_N3C[image])

    def pixel_counts(self) -> PixelCounts:
        """On the host, as metrics take them."""
        labelled_NC, right_NC, predicted_NC = self.counts_N3C.cpu().numpy().swapaxes(0, 1)
        return PixelCounts(labelled_NC, right_NC, predicted_NC)


def agreement(a_HW: Tensor, b_HW: Tensor, labels_HW: Tensor, ignore: int = IGNORE) -> Tensor:
    """int64 [5] of one image's labelled pixels: both models right, only the first, only the
    second, neither; and those where the two predict different classes.

    Of one model before and after training: pixels kept, lost, gained.
    """
    known = labels_HW != ignore
    a, b = (known & (predicted == labels_HW) for predicted in (a_HW, b_HW))
    rest = known & ~a & ~b
    parts = (a & b, a & ~b, b & ~a, rest, known & (a_HW != b_HW))
    return torch.stack([part.sum() for part in parts])
