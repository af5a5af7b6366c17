"""A segmentation network with what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Segmenter:
    """A network in eval mode, and how its makers use it.

    mean, std: of pixels in 0-1, in the order red, green, blue. classes: names in the order of its
    maps, None where they are not known. licence: of its weights. config: what transformers builds
    the architecture from, and processor: its preprocessor_config.json, as plain values; None for
    a network that is not of transformers, or has no such file.
    notes: what a person may not know, a line each.
    """

    network: nn.Module
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    classes: tuple[str, ...] | None = None
    licence: str | None = None
    config: Mapping[str, Any] | None = None
    processor: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
