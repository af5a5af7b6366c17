"""What timm measured for its own weights, to notice when an evaluation of ours differs.

A difference means that the images, their order of classes, the preprocessing or the weights are
not those that timm measured; it is found in minutes, before a sweep of days rests on it.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import timm

SOURCE = (
    "huggingface/pytorch-image-models, results/results-imagenet.csv at commit 7479d451a6df "
    "(November 2024, Apache-2.0)"
)
"""Where published.csv comes from: every row, without the columns of errors, top-5 and size. Three
of its rows have a name without a tag, which does not say whose weights they were; no name finds
them."""

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


def drift(name: str, size: int, crop_pct: float, interpolation: str, top1: float) -> float | None:
    """`top1` less the published one, in percentage points; None if none is of the same input.

    Compare only what was measured on the whole validation set of ImageNet-1k with the weights
    `name` as they come. WARN_BEYOND says how large a difference is worth a word.
    """
    known = published(name, size)
    if known is None or known.interpolation != interpolation:
        return None
    if abs(known.crop_pct - crop_pct) >= 0.001:  # published with three decimals
        return None
    return top1 - known.top1


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
