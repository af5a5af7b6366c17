"""The frames around a target as every model sees them: each decoded once for all of them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bikd_ray.data.clips.source import ClipSource
from bikd_ray.data.clips.windows import places
from bikd_ray.plan import View

Size = tuple[int, int]  # height, width


class Reel:
    """Clips of a source's videos. Frames stay until a clip of the same video begins after them, so
    that targets which follow one another share them, and memory is that of a window or two.
    """

    def __init__(self, source: ClipSource) -> None:
        self.source = source
        self._video = -1
        self._kept: dict[tuple[Size, int], np.ndarray] = {}

    def __len__(self) -> int:
        """Frames that are kept, of all sizes."""
        return len(self._kept)

    def clips(
        self, video: int, target: int, views: Sequence[View], *, alone: bool = False
    ) -> list[np.ndarray]:
        """Of each view uint8 [3, T, H, W], or [3, H, W] where it has no window.

        alone: no near target follows; else frames are at once resized for all views, which may want
        them next.
        Frames are resized as a whole, whatever their shape. Raises BadImage, which names the frame.
        """
        count = self.source.videos[video].count
        shown = [(size_of(view), places(view, target, count)) for view in views]
        wanted = sorted({place for _, at in shown for place in at.tolist()})
        if video != self._video:
            self._kept, self._video = {}, video
        self._kept = {key: frame for key, frame in self._kept.items() if key[1] >= wanted[0]}
        sizes: dict[int, set[Size]] = {place: set() for place in wanted}
        for size, at in shown:
            for place in at.tolist() if alone else wanted:
                sizes[place].add(size)
        missing = [at for at in wanted if any((size, at) not in self._kept for size in sizes[at])]
        for place, image in zip(missing, self.source.frames(video, missing), strict=True):
            for size in sizes[place]:
                self._kept[size, place] = _resized(image, size)
        clips = []
        for view, (size, at) in zip(views, shown, strict=True):
            frames = [self._kept[size, place] for place in at.tolist()]
            clips.append(frames[0] if view.window is None else np.stack(frames, 1))
        return clips


def size_of(view: View) -> Size:
    """Height and width."""
    return view.size, view.width or view.size


def _resized(image: Image.Image, size: Size) -> np.ndarray:
    """uint8 [3, H, W]; PIL's bilinear filter has antialias."""
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
