"""Random crops, flips and colours for training: timm's own transform, each draw repeatable.

What an image becomes depends on the job's seed, the epoch, the sample and the model's own size and
interpolation, never on partners, workers or positions: a control then trains on exactly the
pixels that its job trains on, and models of two sizes see the same crop.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from bikd_ray.plan import View

Augmentation = Callable[[Image.Image, int], np.ndarray]
"""(RGB image, seed) to uint8 [3, size, size]."""


def augmentation(name: str, view: View) -> Augmentation:
    """`timm`: crop of 8–100% of the area and of ratio 3/4–4/3, flip with 0.5, colour jitter 0.4,
    at the model's interpolation. `reference`: the same, always bilinear, as the reference code of
    Jain et al. (TMLR 2025) trains all but its ViTs.
    """
    from timm.data import create_transform  # type: ignore[attr-defined]

    transform: Any = create_transform(
        (3, view.size, view.size),
        is_training=True,
        use_prefetcher=True,  # stops before scaling and normalising
        interpolation=augmented_as(name, view)[1],
        color_jitter=0.4,
    )

    def apply(image: Image.Image, seed: int) -> np.ndarray:
        random.seed(seed)  # timm's crop draws from here, torchvision's flip and jitter from torch
        torch.default_generator.manual_seed(seed)
        return transform(image).numpy()

    return apply


def augmented_as(name: str, view: View) -> tuple[int, str]:
    """(size, interpolation): views that agree in these train on the same pixels."""
    return view.size, "bilinear" if name == "reference" else view.interpolation
