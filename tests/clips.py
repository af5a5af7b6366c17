"""Small videos with maps and fixations, written as data sets keep them."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16


def frame(number: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] whose first pixel tells the frame's number."""
    pixels = np.random.default_rng([seed, number]).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    pixels[0, 0] = number
    return pixels


def bump(number: int) -> np.ndarray:
    """uint8 [H, W]: a map with its highest value at (number mod H, number mod W)."""
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    return (255 * np.exp(-((y - number % HEIGHT) ** 2 + (x - number % WIDTH) ** 2) / 8)).astype(
        np.uint8
    )


def mask(number: int) -> np.ndarray:
    """uint8 [H, W] with two fixated pixels, one of them at the highest value of `bump`."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[number % HEIGHT, number % WIDTH] = 255
    found[0, 1] = 1
    return found


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_video(
    folder: Path,
    count: int = 6,
    *,
    seed: int = 0,
    frames: str | None = "images",
    maps: str | None = "maps",
    fixations: str | None = "fixations",
    name: str = "{:04}.png",
    numbers: Iterable[int] | None = None,
) -> Path:
    """A video's own folder, with frames, maps and masks numbered from 1, or as `numbers` says."""
    for number in numbers or range(1, count + 1):
        for inner, pixels in (
            (frames, frame(number, seed)),
            (maps, bump(number)),
            (fixations, mask(number)),
        ):
            if inner:
                save(folder / inner / name.format(number), pixels)
    return folder


def write_video_file(path: Path, count: int = 6, seed: int = 0) -> Path:
    """The same frames in one file without loss."""
    frames = (frame(number, seed) for number in range(1, count + 1))
    return write_frames_file(path, frames, "ffv1", "bgr0")


def write_frames_file(
    path: Path, frames: Iterable[np.ndarray], codec: str, pixel_format: str
) -> Path:
    """A video file of frames uint8 [H, W, 3], 25 a second."""
    av = import_module("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.pix_fmt = pixel_format
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
