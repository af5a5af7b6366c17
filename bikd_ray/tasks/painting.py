"""Labels of pixels as colours over a photo, for people. Suffixes: H, W pixels."""

import colorsys

import numpy as np
import torch
from torch import Tensor

from bikd_ray.tasks.semantic_maps import IGNORE

STRENGTH = 0.65
"""Of the colour; the rest is the photo."""

_GOLDEN = 0.618034
"""Of a turn: so far apart are the hues of neighbouring classes, and none comes again soon."""


GROUND = 106.0, 115.0, 130.0
"""Of class 0, which is what lies behind the others in most data: a quiet grey."""


def _colour(label: int) -> tuple[float, float, float]:
    if label == IGNORE:
        return 0.0, 0.0, 0.0
    if label == 0:
        return GROUND
    lightness, saturation = (0.5, 0.35, 0.68)[label % 3], (0.75, 0.9)[label // 3 % 2]
    red, green, blue = colorsys.hls_to_rgb(label * _GOLDEN % 1, lightness, saturation)
    return 255 * red, 255 * green, 255 * blue


COLOURS = torch.tensor([_colour(label) for label in range(256)])
"""float32 [256, 3], RGB to 255 of each label."""


def painted(photo_3HW: Tensor, labels_HW: Tensor | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: the photo (values to 255), with the labels' colours over it."""
    shown_HW3 = photo_3HW.movedim(0, 2).cpu()
    if labels_HW is not None:
        over_HW3 = COLOURS[labels_HW.long().cpu()]
        shown_HW3 = (1 - STRENGTH) * shown_HW3 + STRENGTH * over_HW3
    return shown_HW3.round().clamp(0, 255).byte().numpy()
