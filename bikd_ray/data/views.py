"""How one model sees an image: timm's own evaluation transform, split where uint8 ends.

The CPU part (resize and crop with PIL) gives uint8 and can be decoded once and kept; scaling and
normalisation run on the model's device. Together they equal timm's `create_transform` exactly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bikd_ray.plan import ResolvedInput, View


def pixels(view: View) -> Callable[[Image.Image], np.ndarray]:
    """The function from an RGB image to uint8 [3, size, size] of `view`."""
    from timm.data import create_transform  # type: ignore[attr-defined]

    extra: dict[str, Any] = {"mean": view.fill} if view.fill else {}
    transform: Any = create_transform(
        (3, view.size, view.size),
        is_training=False,
        use_prefetcher=True,  # stops before scaling and normalising
        interpolation=view.interpolation,
        crop_pct=view.crop_pct,
        crop_mode=view.crop_mode,
        **extra,
    )
    return lambda image: transform(image).numpy()


class Normalise:
    """uint8 [B, 3, H, W] or [B, 3, T, H, W] on any device to the float32 input of one model."""

    def __init__(self, how: ResolvedInput, device: torch.device) -> None:
        shape = (3, *[1] * (len(how.view.shape) - 1))
        self.mean = torch.tensor(how.mean, device=device).view(shape)
        self.std = torch.tensor(how.std, device=device).view(shape)

    def __call__(self, pixels_B3HW: Tensor) -> Tensor:
        return pixels_B3HW.float().div_(255).sub_(self.mean).div_(self.std)
