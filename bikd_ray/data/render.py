"""An image as each of several models sees it."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bikd_ray.data.augment import augmentation
from bikd_ray.data.sources import ImageSet, Subset
from bikd_ray.data.views import pixels
from bikd_ray.plan import View

if TYPE_CHECKING:
    from bikd_ray.tasks.base import Task


def render(
    task: "Task",
    images: ImageSet,
    index: int,
    views: Sequence[View],
    augment: str = "none",
    seed: int = 0,
) -> tuple[list[np.ndarray], dict[str, np.ndarray] | None]:
    """What a task makes of a sample; of a part of a set, of the sample in the whole one."""
    while isinstance(images, Subset):
        images, index = images.images, int(images.rows[index])
    return task.render(images, index, views, augment, seed)


def rendered(
    image: Image.Image, views: Sequence[View], augment: str, seed: int
) -> list[np.ndarray]:
    """uint8 [3, size, size] of each view: as it is evaluated, or augmented with draws of `seed`."""
    return [_transform(view, augment)(image, seed) for view in views]


@lru_cache(maxsize=256)
def _transform(view: View, augment: str) -> Callable[[Image.Image, int], np.ndarray]:
    if augment != "none":
        return augmentation(augment, view)
    convert = pixels(view)
    return lambda image, seed: convert(image)
