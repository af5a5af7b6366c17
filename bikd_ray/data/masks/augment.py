"""How training and evaluation see an image and its mask; both give uint8.

The recipe of Mask2Former on ADE20K: a random short side, a random crop, SSD's colours, a flip.
What a sample becomes depends on its seed alone, so that all members of a job see the same pixels.
A label is only ever moved, never mixed with another: masks are resized by nearest neighbours.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bikd_ray.data.masks.rule import IGNORED
from bikd_ray.errors import UserError

GREY = 128
"""Around training images; it is no label's colour."""

_BRIGHTNESS, _CONTRAST, _HUE = 32, (0.5, 1.5), 18
"""Of SSD (Liu et al., 2016): grey levels, factors (also of saturation), and hue in 180ths of the
wheel."""


@dataclass(frozen=True)
class JointAugmentation:
    """Random views of one size of an image and its mask.

    short_sides: of the resized image, one is drawn. long_side: the most it may have. crop: side of
    the view; what the image lacks is padded at the right and below, with grey and 255. colour,
    flip: whether colours change, and whether half of the views are mirrored.
    """

    short_sides: tuple[int, ...] = tuple(int(51.2 * k) for k in range(5, 21))
    long_side: int = 2048
    crop: int = 512
    colour: bool = True
    flip: bool = True

    def __post_init__(self) -> None:
        if not self.short_sides or min(*self.short_sides, self.long_side, self.crop) < 1:
            raise UserError(
                "augmentation needs at least one short side, and sizes of at least 1, got "
                f"short_sides {list(self.short_sides)}, long_side {self.long_side}, crop "
                f"{self.crop}"
            )

    def __call__(self, image: Image.Image, labels_HW: np.ndarray, seed: int) -> "MaskedView":
        """image: RGB. labels_HW: uint8, of its size. The same for the same arguments, always."""
        draw = random.Random(seed)
        size = scaled(image.size, draw.choice(self.short_sides), self.long_side)
        image = image.resize(size, Image.Resampling.BILINEAR)
        mask = Image.fromarray(labels_HW).resize(size, Image.Resampling.NEAREST)
        width, height = (min(side, self.crop) for side in size)
        left, top = draw.randint(0, size[0] - width), draw.randint(0, size[1] - height)
        box = left, top, left + width, top + height
        pixels_HW3, labels_HW = np.asarray(image.crop(box)), np.asarray(mask.crop(box))
        if self.colour:
            pixels_HW3 = _recoloured(pixels_HW3, draw)
        if self.flip and draw.random() < 0.5:
            pixels_HW3, labels_HW = pixels_HW3[:, ::-1], labels_HW[:, ::-1]
        below, beside = self.crop - height, self.crop - width
        return MaskedView(
            _padded(pixels_HW3.transpose(2, 0, 1), below, beside, (GREY, GREY, GREY)),
            np.pad(labels_HW, ((0, below), (0, beside)), constant_values=IGNORED),
            (height, width),
        )


@dataclass(frozen=True)
class MaskedView:
    """An image and its mask as training sees them.

    pixels_3HW, labels_HW: uint8. size: (height, width) of what is no padding, from the upper left.
    """

    pixels_3HW: np.ndarray
    labels_HW: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class EvaluationView:
    """The one view of an image that a model is measured on; masks keep their own size.

    short_side, long_side: as in training. multiple: of which the padded sides are multiples. fill:
    RGB of the padding. The authors pad with zeros after normalisation, which no uint8 is exactly:
    who needs those sets them beyond the size that is returned.
    """

    short_side: int = 512
    long_side: int = 2048
    multiple: int = 32
    fill: tuple[int, int, int] = (124, 116, 104)

    def __call__(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """uint8 [3, H, W] of an RGB image, and its (height, width) before the padding."""
        width, height = size = scaled(image.size, self.short_side, self.long_side)
        pixels_HW3 = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        below, beside = -height % self.multiple, -width % self.multiple
        return _padded(pixels_HW3.transpose(2, 0, 1), below, beside, self.fill), (height, width)


def scaled(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """(width, height) with a short side of `short`, or less where the long one would exceed
    `longest`; sides are rounded to the nearest pixel, as detectron2's `ResizeShortestEdge` does.

    >>> scaled((683, 512), 256, 2048)
    (342, 256)
    """
    factor = min(short / min(size), longest / max(size))
    width, height = (max(1, int(side * factor + 0.5)) for side in size)
    return width, height


def _padded(
    pixels_3HW: np.ndarray, below: int, beside: int, fill: tuple[int, int, int]
) -> np.ndarray:
    _, height, width = pixels_3HW.shape
    padded = np.empty((3, height + below, width + beside), np.uint8)
    padded[:] = np.array(fill, np.uint8)[:, None, None]
    padded[:, :height, :width] = pixels_3HW
    return padded


def _recoloured(pixels_HW3: np.ndarray, draw: random.Random) -> np.ndarray:
    """SSD's distortions, each half of the time; contrast comes before or after the other two."""
    if draw.random() < 0.5:
        pixels_HW3 = _linear(pixels_HW3, 1, draw.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    contrast_first = draw.random() < 0.5
    if contrast_first and draw.random() < 0.5:
        pixels_HW3 = _linear(pixels_HW3, draw.uniform(*_CONTRAST), 0)
    saturation = draw.uniform(*_CONTRAST) if draw.random() < 0.5 else 1.0
    hue = draw.randint(-_HUE, _HUE) if draw.random() < 0.5 else 0
    if (saturation, hue) != (1.0, 0):
        pixels_HW3 = _tinted(pixels_HW3, saturation, hue)
    if not contrast_first and draw.random() < 0.5:
        pixels_HW3 = _linear(pixels_HW3, draw.uniform(*_CONTRAST), 0)
    return pixels_HW3


def _linear(pixels: np.ndarray, factor: float, shift: float) -> np.ndarray:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    return table[pixels]


def _tinted(pixels_HW3: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    colours, strength, value = Image.fromarray(pixels_HW3).convert("HSV").split()
    turn = round(hue * 256 / 180)  # Pillow's wheel has 256 steps
    turned = colours.point([(step + turn) % 256 for step in range(256)])
    stronger = strength.point([min(255, int(step * saturation)) for step in range(256)])
    return np.asarray(Image.merge("HSV", (turned, stronger, value)).convert("RGB"))
