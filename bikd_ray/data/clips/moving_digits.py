"""Videos that come with the package: two handwritten digits on noise, and who moves is looked at.

Each video has a still digit and one that moves and rests by turns. The map has a Gaussian on the
mover and a quarter of it on the other; some fixations are drawn from it. A single frame does not
tell which of the two moves, and a short window does not while it rests. Train and val are made of
different images of digits.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from bikd_ray.data.clips.source import Truth, Video
from bikd_ray.data.digits import DigitsImages
from bikd_ray.identity import derived_seed, digest
from bikd_ray.specs import DigitsData

MOVING_VERSION = 1

DIGIT, SIGMA, FIXATIONS = 16, 5.0, 6
"""Pixels of a digit's side and of the Gaussian's standard deviation, and fixations a frame."""

MOVES, RESTS = (5, 12), (4, 9)
"""Frames for which the mover moves, then rests: from and below."""

VIDEOS = {"train": 120, "val": 40}


class MovingDigits:
    """`videos` videos of `frames` frames of height × width; the same on every machine.

    odd: with what real data has too: a video of 1 and one of 5 frames, a frame without fixations
    and one with an empty map, a map of half the size, a frame without a map.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        split: Literal["train", "val"],
        *,
        videos: int | None = None,
        frames: int = 40,
        size: tuple[int, int] = (64, 96),
        odd: bool = False,
    ) -> None:
        self.split: Literal["train", "val"] = split
        self.size, self.odd = size, odd
        lengths = np.full(VIDEOS[split] if videos is None else videos, frames)
        if odd:
            lengths[:2] = (1, 5)
        self.videos = tuple(self._video(index, int(n)) for index, n in enumerate(lengths))
        self.source_id = digest("moving digits", MOVING_VERSION, split, lengths.tolist(), size, odd)

    def content_id(self) -> str:
        """They are the same everywhere."""
        return self.source_id

    spot_check = content_id

    def _video(self, index: int, count: int) -> Video:
        scored = np.arange(count)
        if self._is_odd(index):
            scored = np.delete(scored, NO_MAP)
        name = f"{self.split}-{index:03}"
        return Video(name, name, count, scored)

    def _is_odd(self, video: int) -> bool:
        return self.odd and video == ODD_VIDEO

    def frame_path(self, video: int) -> None:
        """They lie in no file."""

    def frames(self, video: int, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """The frames at ascending positions in RGB."""
        pixels, _ = self._drawn(video)
        for position in wanted:
            yield Image.fromarray(pixels[position]).convert("RGB")

    def truth(self, video: int, frame: int) -> Truth:
        """Map and fixations of a frame."""
        at = self._drawn(video)[1][:, frame]
        height, width = self.size
        y, x = np.arange(height)[:, None], np.arange(width)
        bumps = [np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * SIGMA**2)) for cy, cx in at]
        both = bumps[0] + bumps[1] / 4
        rng = np.random.default_rng(derived_seed("looked at", self.split, video, frame))
        looked = rng.choice(both.size, FIXATIONS, p=(both / both.sum()).ravel())
        fixated = np.zeros(both.size, bool)
        fixated[looked] = True
        found = np.round(both / both.max() * 255).astype(np.float32)
        fixated = fixated.reshape(height, width)
        if self._is_odd(video):
            if frame == NO_FIXATIONS:
                fixated = np.zeros_like(fixated)
            elif frame == EMPTY_MAP:
                found = np.zeros_like(found)
            elif frame == HALF_SIZE:
                found, fixated = found[::2, ::2], fixated[::2, ::2]
        return Truth(found, fixated)

    def _drawn(self, video: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 [T, H, W] and centres float [2, T, 2] (y, x), the mover's first."""
        return _draw(self.split, video, self.videos[video].count, self.size)


ODD_VIDEO, NO_MAP, NO_FIXATIONS, EMPTY_MAP, HALF_SIZE = 2, 3, 4, 5, 6


@lru_cache(maxsize=256)  # of the usual length and size, 250 KB each
def _draw(
    split: Literal["train", "val"], video: int, count: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(derived_seed("moving digits", split, video))
    images = _digits(split)
    chosen = rng.choice(len(images), 2, replace=False)
    room = np.array(size) - DIGIT
    mover = _path(rng, count, room)
    still = rng.uniform(0, room)
    for _ in range(100):  # far enough apart to be told from each other at the start
        if np.abs(still - mover[0]).max() >= DIGIT:
            break
        still = rng.uniform(0, room)
    corners = np.stack([mover, np.broadcast_to(still, (count, 2))])
    pixels = rng.normal(70, 25, (count, *size))
    for index, corner_T2 in zip(chosen, corners, strict=True):
        for frame, (top, left) in enumerate(np.round(corner_T2).astype(int)):
            pixels[frame, top : top + DIGIT, left : left + DIGIT] += images[index] * 0.6
    return pixels.clip(0, 255).astype(np.uint8), corners + (DIGIT - 1) / 2


def _path(rng: np.random.Generator, count: int, room: np.ndarray) -> np.ndarray:
    """Corners [T, 2] of a digit that moves, rests, and is mirrored at the border."""
    steps = np.zeros((count, 2))
    frame = 0
    while frame < count:
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 3)
        moving = int(rng.integers(*MOVES))
        steps[frame : frame + moving] = speed * np.array([np.sin(angle), np.cos(angle)])
        frame += moving + int(rng.integers(*RESTS))
    unfolded = rng.uniform(0, room) + np.cumsum(steps, axis=0)
    folded = np.mod(unfolded, 2 * room)
    return np.minimum(folded, 2 * room - folded)


@lru_cache(maxsize=2)
def _digits(split: Literal["train", "val"]) -> np.ndarray:
    """float64 [N, 16, 16], 0–255."""
    images = DigitsImages(DigitsData(source="digits", split=split))
    big = (
        images.image(i).convert("L").resize((DIGIT, DIGIT), Image.Resampling.BILINEAR)
        for i in range(len(images.labels))
    )
    return np.stack([np.asarray(image, np.float64) for image in big])
