"""Which frames of a video a model sees to predict the map of one of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """`frames` frames, each `stride` after the one before; the first lies `offset` frames from the
    target, whose map is predicted (32 frames that end with it: offset −31).

    The target need not be among them: 32 frames of stride 2 from −31 are −31, −29, …, 31.
    """

    frames: int = 1
    stride: int = 1
    offset: int = 0

    def places(self, target: int, count: int) -> np.ndarray:
        """int64 [frames]: positions in a video of `count` frames, 0-based; those before its first
        frame or after its last are that frame again.
        """
        first = target + self.offset
        return np.clip(first + self.stride * np.arange(self.frames), 0, count - 1)


@dataclass(frozen=True)
class ClipView:
    """What decides the pixels a clip model gets: its window, and its height and width.

    Frames are resized as a whole (PIL's bilinear filter, with antialias), whatever their shape.
    """

    window: Window
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def union(windows: Iterable[Window], targets: Iterable[int], count: int) -> np.ndarray:
    """The distinct positions, ascending, that the windows take around the targets."""
    targets = tuple(targets)
    of_each = [window.places(target, count) for window in windows for target in targets]
    return np.unique(np.concatenate([np.empty(0, np.int64), *of_each]))
