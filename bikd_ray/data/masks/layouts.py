"""Data sets for semantic segmentation whose layout is known: path and split are enough."""

import os
from collections.abc import Mapping
from typing import Literal

from bikd_ray.data.masks.masked import MaskedImages
from bikd_ray.data.masks.rule import IGNORED, LabelRule
from bikd_ray.data.masks.shifted import SHIFTED, refuse_second_shift
from bikd_ray.data.masks.trees import listed_tree, pairs
from bikd_ray.errors import UserError, choices

ADE20K_CLASSES = 150

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
"""Of the 34 ids, those of the 19 classes that are scored, in their order."""

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def ade20k(path: str, split: str) -> MaskedImages:
    """ADEChallengeData2016: `images/training` or `validation`, and `annotations` beside it.

    Labels are 0 for what is none of the 150 classes, and 1–150; the copy that detectron2's
    preparation makes (`annotations_detectron2`), which counts from 0, is taken as it is where it
    is the only one. Names of the classes come from `objectInfo150.txt`. Raises UserError.
    """
    root = _inside(path, "ADEChallengeData2016", "images")
    folder = {"train": "training", "val": "validation"}.get(split, split)
    images = _part(root, "images", folder, split, "ADE20K")
    shifted = not os.path.isdir(os.path.join(root, "annotations"))
    masks = os.path.join(root, SHIFTED if shifted else "annotations", folder)
    what = "it is where ADE20K has its masks"
    rule = LabelRule(ADE20K_CLASSES, reduce_zero_label=not shifted)
    names = _ade20k_names(os.path.join(root, "objectInfo150.txt"))
    return refuse_second_shift(
        pairs(listed_tree(images, what), listed_tree(masks, what), rule, classes=names)
    )


def cityscapes(path: str, split: str) -> MaskedImages:
    """Cityscapes: `leftImg8bit/SPLIT/CITY` with the fine labels in `gtFine/SPLIT/CITY`.

    `labelIds` become the 19 classes that are scored and 255; where there are none, `labelTrainIds`
    are taken as they are. Raises UserError.
    """
    images = _part(path, "leftImg8bit", split, split, "Cityscapes")
    what = "it is where Cityscapes has its fine labels"
    masks = listed_tree(os.path.join(path, "gtFine", split), what)
    by_id: dict[int | Literal["else"], int] = dict.fromkeys(range(34), IGNORED)
    by_id |= {number: label for label, number in enumerate(_CITYSCAPES_IDS)}
    kinds: Mapping[str, LabelRule] = {
        "_gtFine_labelIds": LabelRule(len(CITYSCAPES), label_map=by_id),
        "_gtFine_labelTrainIds": LabelRule(len(CITYSCAPES)),
    }
    found = (kind for kind in kinds if any(f"{kind}." in name for name in masks[1].names))
    kind = next(found, "_gtFine_labelIds")
    suffixes = ("_leftImg8bit", kind)
    return pairs(
        listed_tree(images, what), masks, kinds[kind], suffixes=suffixes, classes=CITYSCAPES
    )


def voc(path: str, split: str, masks: str = "SegmentationClass") -> MaskedImages:
    """Pascal VOC: `JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/SPLIT.txt`.

    The masks' palette has the index of the class: 0 is the background, a class of its own, and 255
    the border of objects, which is ignored. masks: another folder, such as that of the added
    labels. Raises UserError.
    """
    root = _inside(path, os.path.join("VOCdevkit", "VOC2012"), "JPEGImages")
    lists = os.path.join(root, "ImageSets", "Segmentation")
    file = os.path.join(lists, f"{split}.txt")
    try:
        with open(file, encoding="utf-8") as lines:
            only = [line.strip() for line in lines if line.strip()]
    except (OSError, ValueError):
        known = sorted(n.removesuffix(".txt") for n in _names(lists) if n.endswith(".txt"))
        raise UserError(
            f"data: cannot read {file}, the list of split {split!r}; {choices(split, known)}"
        ) from None
    what = "it is a part of Pascal VOC"
    return pairs(
        listed_tree(os.path.join(root, "JPEGImages"), what),
        listed_tree(os.path.join(root, masks), what),
        LabelRule(len(VOC)),
        classes=VOC,
        only=only,
    )


def _inside(path: str, folder: str, mark: str) -> str:
    """The root of a layout: `path`, or a folder in it as the archive unpacks it."""
    inner = os.path.join(path, folder)
    return inner if not os.path.isdir(os.path.join(path, mark)) and os.path.isdir(inner) else path


def _part(root: str, kind: str, folder: str, split: str, whose: str) -> str:
    part = os.path.join(root, kind, folder)
    if not os.path.isdir(part):
        known = [name for name in _names(os.path.join(root, kind)) if not name.startswith(".")]
        has = choices(split, known) if known else f"give the folder that holds {kind}/"
        raise UserError(f"data: {whose} has no {part}; {has}")
    return part


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _ade20k_names(file: str) -> tuple[str, ...] | None:
    """The last column of a table whose first line names its columns; None where it is not there."""
    try:
        with open(file, encoding="utf-8") as lines:
            rows = [line.rstrip("\n").split("\t") for line in lines if line.strip()][1:]
    except (OSError, ValueError):
        return None
    names = tuple(row[-1].strip() for row in rows)
    return names if len(names) == ADE20K_CLASSES and all(names) else None
