"""Frames around neighbouring targets of one video: decoded once, and cut for every model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bikd_ray.data.clips.source import ClipSource, Truth
from bikd_ray.data.clips.windows import ClipView, union

SPAN = 64
"""Frames from the first target of a segment to before its last: what bounds its memory."""


@dataclass(frozen=True, eq=False)
class Segment:
    """`targets` of video `video`, which has `count` frames, with their truths.

    frames: for each size (height, width) the positions [U] that are kept, ascending, and their
    pixels uint8 [U, 3, H, W].
    """

    video: int
    count: int
    targets: np.ndarray
    frames: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
    truths: list[Truth]

    def clip(self, index: int, view: ClipView) -> np.ndarray:
        """Uint8 [3, T, H, W]: what a model sees to predict the map of `targets[index]`."""
        at, pixels = self.frames[view.size]
        places = view.window.places(int(self.targets[index]), self.count)
        return np.ascontiguousarray(pixels[np.searchsorted(at, places)].transpose(1, 0, 2, 3))


def read_segment(
    source: ClipSource, video: int, targets: Sequence[int], views: Sequence[ClipView]
) -> Segment:
    """Decode each frame that a view needs once. Raises BadImage, which names the frame."""
    count = source.videos[video].count
    wanted = {
        size: union((v.window for v in views if v.size == size), targets, count)
        for size in dict.fromkeys(view.size for view in views)
    }
    pixels: dict[tuple[int, int], list[np.ndarray]] = {size: [] for size in wanted}
    positions = union((view.window for view in views), targets, count)
    for position, image in zip(
        positions.tolist(), source.frames(video, positions.tolist()), strict=True
    ):
        for size, at in wanted.items():
            if position in at:
                pixels[size].append(_resized(image, size))
    frames = {size: (wanted[size], np.stack(found)) for size, found in pixels.items()}
    truths = [source.truth(video, target) for target in targets]
    return Segment(video, count, np.array(targets, np.int64), frames, truths)


def _resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Uint8 [3, H, W], whatever the image's shape; PIL's bilinear filter has antialias."""
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def segments_of(samples: np.ndarray) -> list[tuple[int, list[int]]]:
    """Runs of samples [N, 2], (video, position), in their order: of one video, ascending, SPAN at
    most from the first to the last.
    """
    runs: list[tuple[int, list[int]]] = []
    for video, position in samples.tolist():
        if runs and runs[-1][0] == video and runs[-1][1][-1] < position < runs[-1][1][0] + SPAN:
            runs[-1][1].append(position)
        else:
            runs.append((video, [position]))
    return runs
