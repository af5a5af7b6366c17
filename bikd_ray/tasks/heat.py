"""Maps of where people look as heat over a frame, for people. Suffixes: H, W pixels."""

import numpy as np
import torch
from torch import Tensor

COLD, HOT = (200.0, 30.0, 60.0), (255.0, 235.0, 90.0)
"""RGB of little and of most; where nobody looks the frame is bare."""

LOOKED = (60.0, 230.0, 255.0)
"""RGB of fixations."""

DIM = 0.75
"""Of a frame's own light below a map, in grey, so that no colour of it is taken for heat."""

DOTS = 90
"""A dot of a fixation is one pixel wide for each so many pixels of the longer side, and three at
least."""


def heated(photo_3HW: Tensor, map_HW: Tensor, fixated_HW: Tensor | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: the photo (values to 255) with the map as heat, relative to its highest
    value, and dots where fixations are.
    """
    grey_1HW = DIM * photo_3HW.float().mean(0, keepdim=True)
    heat_1HW = (map_HW / map_HW.max().clamp(min=1e-12))[None]
    cold_311, hot_311 = (torch.tensor(colour)[:, None, None] for colour in (COLD, HOT))
    colour_3HW = cold_311 + (hot_311 - cold_311) * heat_1HW
    over_1HW = heat_1HW.sqrt() * 0.85  # of the square root, so that a faint part shows too
    shown_3HW = grey_1HW * (1 - over_1HW) + colour_3HW * over_1HW
    if fixated_HW is not None:
        shown_3HW[:, _dots(fixated_HW)] = torch.tensor(LOOKED)[:, None]
    return plain(shown_3HW)


def plain(photo_3HW: Tensor) -> np.ndarray:
    """uint8 [H, W, 3] of values to 255."""
    return photo_3HW.movedim(0, 2).round().clamp(0, 255).byte().numpy()


def _dots(fixated_HW: Tensor) -> Tensor:
    """The fixated pixels and those around them, more on a large frame."""
    reach = max(1, max(fixated_HW.shape) // DOTS // 2)
    found_11HW = fixated_HW.float()[None, None]
    grown = torch.nn.functional.max_pool2d(found_11HW, 2 * reach + 1, 1, reach)
    return grown[0, 0] > 0
