"""What timm measured for its own weights, to notice when an evaluation of ours differs.

A difference means that the images, their order of classes, the preprocessing or the weights are
not those that timm measured; it is found in minutes, before a sweep of days rests on it.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import timm

from bikd_ray.plan import ResolvedModel

SOURCE = (
    "huggingface/pytorch-image-models, results/results-imagenet.csv at commit 7479d451a6df "
    "(November 2024, Apache-2.0)"
)
"""Where published.csv comes from: every row, without the columns of errors, top-5 and size. Three
of its rows have a name without a tag, which does not say whose weights they were; no name finds
them."""

CLASSES, IMAGES = 1000, 50_000
"""Of ImageNet-1k's validation set."""

WARN_BEYOND = 0.1
"""Percentage points. Another library version or another JPEG decoder stays below that."""


@dataclass(frozen=True)
class Published:
    """Top-1 on ImageNet-1k's 50,000 validation images, in percent, and the input it was got at."""

    top1: float
    img_size: int
    crop_pct: float
    interpolation: str


def published(name: str, size: int | None = None) -> Published | None:
    """What timm published for its weights `name` at `size` (pixels), or None.

    Without a tag `name` means timm's default weights; without a size, the one that timm gives the
    model. `hf-hub:timm/NAME` is NAME.
    """
    try:
        config = timm.get_pretrained_cfg(name.removeprefix("hf-hub:timm/"))
    except RuntimeError:  # no such tag
        return None
    if config is None or not config.tag:
        return None
    return _figures().get((f"{config.architecture}.{config.tag}", size or config.input_size[-1]))


def published_for(model: ResolvedModel, n_val: int) -> Published | None:
    """What timm published for a model's own weights on its own input, or None.

    It is comparable on the whole validation set of ImageNet-1k only: 1,000 classes, 50,000 images.
    """
    if not model.entry.timm or model.entry.checkpoint:
        return None
    if model.num_classes != CLASSES or n_val != IMAGES:
        return None
    how = model.input
    known = published(model.entry.timm, how.size)
    if known is None or known.interpolation != how.interpolation:
        return None
    same_crop = abs(known.crop_pct - how.crop_pct) < 0.001  # published with three decimals
    return known if same_crop else None


@cache
def _figures() -> dict[tuple[str, int], Published]:
    """Model with tag, image size -> what was published."""
    text = (files("bikd_ray.zoo") / "published.csv").read_text(encoding="utf-8")
    return {
        (row["model"], int(row["img_size"])): Published(
            float(row["top1"]), int(row["img_size"]), float(row["crop_pct"]), row["interpolation"]
        )
        for row in csv.DictReader(text.splitlines())
    }
