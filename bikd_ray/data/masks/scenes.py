"""Scenes of scikit-learn's handwritten digits, with a label for each pixel: no download."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from bikd_ray.data.digits import DigitsImages
from bikd_ray.data.masks.rule import IGNORED
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed, digest
from bikd_ray.specs import DigitsData

SCENES_VERSION = 1
"""Part of their identity: raised when the same arguments give other pixels."""

CLASSES = ("background", *map(str, range(10)))
_INK, _RIM = 0.35, 0.15
"""Of a digit's darkest stroke: pixels above the first are labelled, those between are ignored."""


class DigitScenes:
    """N scenes of handwritten digits that may overlap, on a noisy ground.

    Scene i depends on its arguments and on i alone. Those of train and of val are made of disjoint
    digit images. 11 classes: the ground, and the digits 0–9; the rim of a stroke is ignored.

    size: of a scene, in pixels. digits: the least and the most in a scene. scales: the factors of
    which each digit's 8 × 8 pixels are enlarged by one. wide: every other scene is twice as wide
    as high, or twice as high. ground: whether the ground is a class; else its pixels are ignored
    and the classes are the ten digits, as in ADE20K, whose label 0 is what nothing else is.
    Raises UserError for digits that a scene cannot hold.
    """

    notes: tuple[str, ...] = ()
    location = "digit scenes"

    def __init__(
        self,
        split: Literal["train", "val"],
        count: int,
        *,
        size: int = 32,
        digits: tuple[int, int] = (2, 4),
        scales: Sequence[int] = (2,),
        seed: int = 0,
        wide: bool = False,
        ground: bool = True,
    ) -> None:
        if count < 1 or not 0 <= digits[0] <= digits[1]:
            raise UserError(
                f"data: digit scenes need count ≥ 1 and digits as [least, most], got {count} and "
                f"{list(digits)}"
            )
        if not scales or min(scales) < 1 or 8 * max(scales) > size:
            raise UserError(
                f"data: digits of 8 pixels enlarged by {list(scales)} do not fit in scenes of "
                f"{size}; size must be at least 8 × the largest scale"
            )
        source = DigitsImages(DigitsData(source="digits", split=split))
        grey = [np.asarray(source.image(i).convert("L")) for i in range(len(source.labels))]
        self.digit_images = np.stack(grey).astype(np.float32) / 255
        self._digit = source.labels
        self.split, self.count, self.size, self.digits = split, count, size, tuple(digits)
        self.scales, self.seed, self.wide, self.ground = tuple(scales), seed, wide, ground
        self.classes = CLASSES if ground else CLASSES[1:]
        self.num_classes = len(self.classes)
        self.labels = np.zeros(count, np.int64)
        self.source_id = digest(
            "digit scenes",
            SCENES_VERSION,
            [source.source_id, count, size, digits, self.scales, seed, wide, ground],
        )

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Image.Image:
        return self.pair(index)[0]

    def mask(self, index: int) -> np.ndarray:
        return self.pair(index)[1]

    def where(self, index: int) -> str:
        return f"digit scene {index} of {self.split}"

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """A scene in RGB and its labels, uint8 [H, W]."""
        rng = np.random.default_rng(derived_seed("digit scenes", self.split, self.seed, index))
        height, width = self._shape(index)
        scene = 0.3 + 0.1 * rng.standard_normal((height, width, 3), np.float32)
        labels = np.zeros((height, width), np.uint8)
        for _ in range(rng.integers(self.digits[0], self.digits[1] + 1)):
            which = int(rng.integers(len(self._digit)))
            scale = self.scales[rng.integers(len(self.scales))]
            side = 8 * scale
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            here = slice(top, top + side), slice(left, left + side)
            ink = self.digit_images[which].repeat(scale, 0).repeat(scale, 1)
            colour = rng.uniform(0.6, 1.0, 3).astype(np.float32)
            scene[here] += ink[..., None] * (colour - scene[here])
            labels[here][ink > _RIM] = IGNORED
            labels[here][ink > _INK] = self._digit[which] + 1
        if not self.ground:
            ignored = (labels == 0) | (labels == IGNORED)
            labels = np.where(ignored, IGNORED, labels - 1).astype(np.uint8)
        pixels = np.round(scene.clip(0, 1) * 255).astype(np.uint8)
        return Image.fromarray(pixels), labels

    def _shape(self, index: int) -> tuple[int, int]:
        if not self.wide or index % 2 == 0:
            return self.size, self.size
        return (self.size, 2 * self.size) if index % 4 == 1 else (2 * self.size, self.size)
