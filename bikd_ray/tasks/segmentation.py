"""A class for each pixel: what maps are compared by, taught by and measured by.

Pixel models (logits of every pixel) and mask models (queries with class and mask logits) learn from
each other through maps of probabilities on one grid. All members of a job see the same pixels.
Suffixes: B and N images, C classes, h and w cells of the grid, H and W pixels; E = C events at
P = h·w positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.analysis.segmentation import PixelCounts, image_iou_N, scores
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.metrics import Metric
from bikd_ray.plan import ResolvedInput, View
from bikd_ray.tasks.base import AGREEMENT, Head, Prediction, Statistics, Task
from bikd_ray.tasks.confusion import Frame, agreement, count_each, log_maps
from bikd_ray.tasks.map_output import PIXEL_NLL, TASK_LOSS, MapOutput
from bikd_ray.tasks.painting import painted
from bikd_ray.tasks.semantic_maps import (
    IGNORE,
    at_cells,
    labelled,
    log_map,
    pixel_loss,
    pixel_nll,
    resized,
)

if TYPE_CHECKING:
    from bikd_ray.data.labels import LabelSpace
    from bikd_ray.data.loader import Batch
    from bikd_ray.data.sources import ImageSet
    from bikd_ray.plan import ResolvedData, ResolvedModel
    from bikd_ray.specs import Data, DataSource, ZooEntry
    from bikd_ray.tasks.mask_criterion import Criterion

SIZE, MULTIPLE = 512, 32
"""Pixels: the short side that ADE20K's models are measured at, and what padded sides are of."""

LONGEST = 4
"""Of the size: the most that the long side of a resized image may have."""

PADDED = "pad"
"""How the crop mode of a view begins that is padded to multiples of what follows."""

LABELS, CONTENT = "labels", "content"
"""Targets: uint8 [H, W], and int64 [2] (height, width) of what of a training view is no padding."""

METRICS = (
    Metric("miou", "mIoU", "%", pooled=True),
    Metric("fwiou", "fwIoU", "%", pooled=True),
    Metric("macc", "mACC", "%", pooled=True),
    Metric("pacc", "pACC", "%", pooled=True),
    Metric("image_iou", "image IoU", "%"),
)


class Segmentation(Task):
    """Semantic segmentation; docs/statistics.md defines its metrics.

    by: what members compete by, their own losses where those are of one kind, else the negative
    log-likelihood of the labels on the grid.
    """

    name = "segmentation"
    metrics = METRICS
    table, results_table = "counts", "result_counts"
    pictured = METRICS[-1]
    alike = LABELS
    augments = ("none", "joint")

    def __init__(self, by: str = TASK_LOSS) -> None:
        self.by = by

    # -- the models --------------------------------------------------------------------

    def input(self, entry: "ZooEntry", network: nn.Module) -> ResolvedInput:
        """The size is that of the data's views, which all members share; mean and std are the
        network's own.
        """
        given, known = entry.input, getattr(network, "pretrained_cfg", None) or {}
        size, multiple = given.size or SIZE, given.multiple or MULTIPLE
        if size % multiple:
            raise UserError(
                f"zoo: {entry.name}: input.size {size} is no multiple of {multiple}, to which "
                "views are padded; change the size, or input.multiple"
            )
        if given.crop_pct is not None or given.interpolation not in (None, "bilinear"):
            raise UserError(
                f"zoo: {entry.name}: for segmentation whole images are resized, bilinearly; leave "
                "out input.crop_pct and input.interpolation"
            )
        return ResolvedInput(
            size=size,
            mean=given.mean or tuple(known.get("mean", (0.485, 0.456, 0.406))),
            std=given.std or tuple(known.get("std", (0.229, 0.224, 0.225))),
            crop_pct=1.0,
            interpolation="bilinear",
            crop_mode=f"{PADDED}{multiple}",
        )

    def head(self, entry: "ZooEntry", network: nn.Module, how: ResolvedInput) -> Head:
        """Its classes, without no object, and the kind of its own loss."""
        from bikd_ray.tasks.mask_criterion import Criterion
        from bikd_ray.zoo.probe import examined
        from bikd_ray.zoo.segmentation import map_output

        notes = examined(entry.name, network, how)
        with torch.no_grad():
            output = map_output(network(torch.zeros(1, *how.view.shape)), entry.name)
        _refuse_other_weights(entry.name, network, output)
        known = getattr(network, "pretrained_cfg", None) or {}
        names = known.get("label_names")
        classes = tuple(names) if names and len(names) == output.classes else None
        of_file = (*known.get("notes", ()), *notes)
        return Head(output.classes, classes, of_file, str(Criterion().kind(output)))

    def check(self, model: "ResolvedModel", data: "ResolvedData") -> None:
        """Its maps have the data's classes, in their order."""
        from bikd_ray.zoo import check_classes

        if model.num_classes != data.num_classes:
            classes = data.num_classes
            background = model.num_classes == classes + 1
            more = "one more is often a background class: " if background else ""
            raise UserError(
                f"zoo: {model.name} outputs {model.num_classes} classes, but the data has "
                f"{classes}; {more}give a model with a head of {classes} classes, or the masks "
                f"its values (num_classes: {model.num_classes} and a label_map)"
            )
        check_classes(model, data.num_classes, data.classes)

    # -- the data ----------------------------------------------------------------------

    def open(self, source: "DataSource") -> "ImageSet":
        from bikd_ray.data.masks import open_masks

        return open_masks(source)

    def label_space(self, opened: Mapping[str, "ImageSet"], data: "Data") -> "LabelSpace":
        """The classes that the sources say; all splits and `data` must agree."""
        from bikd_ray.data.labels import LabelSpace, class_list

        masked: Mapping[str, Any] = opened
        counts = {split: images.num_classes for split, images in masked.items()}
        if data.num_classes is not None:
            counts["num_classes"] = data.num_classes
        if len(set(counts.values())) > 1:
            told = ", ".join(f"data.{where} {count}" for where, count in counts.items())
            raise UserError(f"data: numbers of classes differ: {told}; correct one")
        (classes,) = set(counts.values())
        names = class_list(data.classes) if data.classes else masked["train"].classes
        if names and len(names) != classes:
            raise UserError(
                f"data.classes has {len(names)} names and the data {classes} classes; correct one"
            )
        return LabelSpace(classes, names and tuple(names))

    def look(self, split: str, images: Any) -> tuple[list[str], list[str]]:
        from bikd_ray.data.masks import check_masks

        found = check_masks(split, images)
        return found.problems, found.remarks

    @property
    def rendering(self) -> str:
        return f"{super().rendering} 1"

    def render(
        self, images: Any, index: int, views: Sequence[View], augment: str, seed: int
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Labels at the mask's own size where nothing is augmented; else both augmented jointly."""
        from bikd_ray.data.masks import EvaluationView, JointAugmentation

        image, labels_HW = images.pair(index)
        if augment == "none":
            pixels = [
                EvaluationView(view.size, LONGEST * view.size, _multiple(view))(image)[0]
                for view in views
            ]
            return pixels, {LABELS: labels_HW}
        view = _only(views)
        sides = tuple(view.size * k // 10 for k in range(5, 21))
        joint = JointAugmentation(sides, LONGEST * view.size, view.size)
        found = joint(image, labels_HW, seed)
        target = {LABELS: found.labels_HW, CONTENT: np.array(found.size, np.int64)}
        return [found.pixels_3HW] * len(views), target

    # -- training ----------------------------------------------------------------------

    def joined(self, models: Sequence["ResolvedModel"]) -> "Segmentation":
        """Members compete by their own losses only where these are sums of the same terms."""
        _only([model.input.view for model in models])
        alike = len({model.loss for model in models}) == 1
        return Segmentation(TASK_LOSS if alike else PIXEL_NLL)

    def predict(self, output: Any, batch: "Batch") -> Prediction:
        """Maps on a grid over the view: at a quarter of its resolution where it is padded to
        multiples of 32, at its own where to 8 or less.
        """
        scene = _Scene.of(batch)
        log_p_BChw = log_map(_maps(output), scene.grid)
        return Prediction(log_p_BChw.flatten(2), scene.valid_Bhw.flatten(1))

    def loss(self, output: Any, prediction: Prediction, batch: "Batch") -> Tensor:
        """The model's own, image by image: cross-entropy of pixels, or Mask2Former's criterion."""
        from bikd_ray.tasks.mask_criterion import RandomPoints, mask_loss

        found, labels_BHW = _maps(output), _Scene.of(batch).labels_BHW
        if found.pixel_logits_BChw is not None:
            return pixel_loss(found.pixel_logits_BChw, labels_BHW)
        how = _criterion(labels_BHW)
        seeds = [derived_seed("points", batch.draw, int(i)) % 2**63 for i in batch.index.tolist()]
        points = [RandomPoints.seeded(seed, labels_BHW.device, how) for seed in seeds]
        return mask_loss(found, labels_BHW, points, how)

    def confidence(self, prediction: Prediction, loss_B: Tensor, batch: "Batch") -> Tensor:
        """Minus the loss that members compete by; nobody teaches where no pixel is labelled."""
        scene = _Scene.of(batch)
        if self.by == PIXEL_NLL:
            log_p_BChw = prediction.log_prob_BEP.unflatten(2, scene.grid)
            loss_B = pixel_nll(log_p_BChw, at_cells(scene.labels_BHW, scene.grid))
        return torch.where(labelled(scene.labels_BHW), -loss_B, -torch.inf)

    # -- measuring ---------------------------------------------------------------------

    def answer(self, output: Any, batch: "Batch") -> Tensor:
        """[B, C, H, W]: logits at the labels' own size."""
        scene = _Scene.of(batch)
        frame = Frame(scene.padded, scene.content, scene.label)
        return log_maps(_maps(output), frame).float()

    def ensemble(self, answers: Sequence[Any]) -> Tensor:
        """[B, C, H, W]: the mean of their probabilities."""
        mean = torch.zeros_like(answers[0])
        for answer in answers:
            mean.add_(answer.softmax(1), alpha=1 / len(answers))
        return mean

    def agreements(
        self, answers: Sequence[Any], pairs: Sequence[tuple[int, int]], batch: "Batch"
    ) -> Sequence[dict[str, Tensor]]:
        classes, labels_BHW = [answer.argmax(1) for answer in answers], batch.target[LABELS]
        return [{AGREEMENT: agreement(classes[a], classes[b], labels_BHW)} for a, b in pairs]

    def measure(self, answer: Any, batch: "Batch") -> dict[str, Tensor]:
        """int32 [B, C] counts of the labelled pixels of each class; `largest` [B]: the mean of what
        is largest at each, which is no number where an answer is none.
        """
        largest_BHW, predicted_BHW = answer.max(1)
        found = count_each(predicted_BHW, batch.target[LABELS], answer.shape[1])
        counts = {name: tensor.int() for name, tensor in found.items()}
        return {**counts, "largest": largest_BHW.mean((1, 2))}

    def scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        return scores(_counts(statistics))

    def columns(self, statistics: Statistics) -> dict[str, Any]:
        """Lists of each image's classes, true or predicted, and of the pixels of each."""
        counts = _counts(statistics)
        image_X, class_X = np.nonzero((counts.labelled_NC > 0) | (counts.predicted_NC > 0))
        ends = np.searchsorted(image_X, np.arange(1, len(counts.labelled_NC)))
        flat = {"classes": class_X} | {
            name: statistics[name][image_X, class_X] for name in ("labelled", "right", "predicted")
        }
        return {name: np.split(values, ends) for name, values in flat.items()}

    def of_each(self, statistics: Statistics) -> np.ndarray:
        return image_iou_N(_counts(statistics))

    def draw(self, batch: "Batch", answers: Sequence[Any]) -> list[np.ndarray]:
        """The photo, and over it each pixel's class as a colour; black where it is not labelled."""
        scene, (view,) = _Scene.of(batch), batch.views
        height, width = scene.content
        pixels_3hw = batch.views[view][0, :, :height, :width].float()
        photo_3HW = resized(pixels_3hw[None], scene.label)[0]
        labels = [batch.target[LABELS][0], *(answer[0].argmax(0) for answer in answers)]
        return [painted(photo_3HW), *(painted(photo_3HW, labels_HW) for labels_HW in labels)]

    def doubt(self, statistics: Statistics) -> str | None:
        """Whether it is no better than a constant answer."""
        counts = _counts(statistics)
        pixels_C = counts.labelled_NC.sum(0)
        if pixels_C.sum() == 0:
            return "no pixel is labelled, so nothing can be measured"
        right = counts.right_NC.sum() / pixels_C.sum()
        common = pixels_C.max() / pixels_C.sum()
        if (pixels_C > 0).sum() > 1 and right < common:
            return (
                f"{right:.1%} of the pixels are right, and always answering the most frequent "
                f"class gives {common:.1%}: do its classes have the data's order and its input its "
                "own mean and std?"
            )
        return None


@dataclass(frozen=True)
class _Scene:
    """Where the images of a batch lie in the pixels that networks see.

    padded, label: (height, width) of those and of the labels. content: of what is no padding, where
    it is the same for all. labels_BHW: at the padded size, IGNORE on padding. valid_Bhw: cells of
    the grid that are no padding.
    """

    padded: tuple[int, int]
    label: tuple[int, int]
    content: tuple[int, int]
    grid: tuple[int, int]
    labels_BHW: Tensor
    valid_Bhw: Tensor

    @classmethod
    def of(cls, batch: "Batch") -> "_Scene":
        view = _only(list(batch.views))
        labels_BHW, sizes_B2 = batch.target[LABELS], batch.target.get(CONTENT)
        padded, label = _size(batch.views[view]), _size(labels_BHW)
        content = padded if sizes_B2 is not None else _content(label, view)
        stride = max(1, _multiple(view) // 8)
        grid = (max(1, padded[0] // stride), max(1, padded[1] // stride))
        if sizes_B2 is None:
            sizes_B2 = torch.tensor([content], device=labels_BHW.device).expand(len(labels_BHW), 2)
            labels_BHW = _seen(labels_BHW, content, padded)
        inside = [
            torch.arange(side, device=labels_BHW.device) < sizes_B2[:, axis, None]
            for axis, side in enumerate(padded)
        ]
        valid_BHW = inside[0][:, :, None] & inside[1][:, None, :]
        return cls(padded, label, content, grid, labels_BHW, at_cells(valid_BHW, grid))


def _seen(labels_BHW: Tensor, content: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Labels of an evaluation view: at its size by nearest neighbours, then padded."""
    if tuple(labels_BHW.shape[-2:]) == padded == content:
        return labels_BHW
    found = labels_BHW.new_full((len(labels_BHW), *padded), IGNORE)
    found[:, : content[0], : content[1]] = at_cells(labels_BHW, content)
    return found


def _content(label: tuple[int, int], view: View) -> tuple[int, int]:
    """(height, width) of a whole image of that size in an evaluation view."""
    from bikd_ray.data.masks.augment import scaled

    width, height = scaled((label[1], label[0]), view.size, LONGEST * view.size)
    return height, width


def _size(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2], pixels.shape[-1]


def _multiple(view: View) -> int:
    return int(view.crop_mode.removeprefix(PADDED))


def _only(views: Sequence[View]) -> View:
    """The one view. Raises UserError for two: members see the same pixels."""
    distinct = list(dict.fromkeys(views))
    if len(distinct) > 1:
        told = " and ".join(f"{v.size} (multiple {_multiple(v)})" for v in distinct)
        raise UserError(
            f"zoo: models of input.size {told}: for segmentation all models of a sweep see "
            "the same crops; give them one input.size and input.multiple"
        )
    return distinct[0]


def _maps(output: Any) -> MapOutput:
    from bikd_ray.zoo.segmentation.outputs import map_output

    return map_output(output, "a model")


def _criterion(labels_BHW: Tensor) -> "Criterion":
    """The published one; no more points than there are pixels."""
    from bikd_ray.tasks.mask_criterion import Criterion

    published = Criterion()
    pixels = labels_BHW.shape[-2] * labels_BHW.shape[-1]
    return Criterion(points=min(published.points, pixels))


def _refuse_other_weights(name: str, network: nn.Module, output: MapOutput) -> None:
    """Raise UserError where a config asks for another criterion than the published one."""
    from bikd_ray.tasks.mask_criterion import Criterion
    from bikd_ray.zoo.segmentation import criterion_of

    config: Any = getattr(network, "config", None)
    if output.kind == "pixel" or not hasattr(config, "class_weight"):
        return
    given, published = criterion_of(config.to_dict()), Criterion()
    weights = ("class_weight", "mask_weight", "dice_weight", "no_object")
    if any(getattr(given, key) != getattr(published, key) for key in weights):
        told = ", ".join(f"{getattr(given, key):g}" for key in weights)
        raise UserError(
            f"zoo: {name}: its config weighs the terms of its loss {told}; only the published "
            "2, 5, 5, 0.1 are built in: give them as kwargs"
        )


def _counts(statistics: Statistics) -> PixelCounts:
    return PixelCounts(statistics["labelled"], statistics["right"], statistics["predicted"])
