"""Videos as samples by index, as a loader takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from bikd_ray.data.clips.reel import Reel
from bikd_ray.data.clips.source import ClipSource, Truth, clusters, scored_samples
from bikd_ray.identity import digest
from bikd_ray.plan import View


class ClipSet:
    """The samples of a source of clips: frames with a map, every `stride`-th of each video; or,
    `to_learn`, its videos, of each of which a seed draws one such frame.

    size: of the maps to learn from (height, width). blur: whether what is measured is blurred.
    videos: those that count, by their places; None for all.
    """

    classes = None
    kind: str
    """What the samples are, for people."""
    labels: np.ndarray
    """int64 [N], zeros: no sample has a class."""

    def __init__(
        self,
        source: ClipSource,
        *,
        size: tuple[int, int],
        stride: int = 1,
        blur: bool = True,
        to_learn: bool = False,
        videos: np.ndarray | None = None,
    ) -> None:
        self.source, self.size, self.stride, self.blur = source, size, stride, blur
        self.to_learn = to_learn
        self.kind = "videos" if to_learn else "frames"
        self.notes, self.source_id = source.notes, source.source_id
        self.units, self.unit_names = clusters(source.videos)
        kept = range(len(source.videos)) if videos is None else videos.tolist()
        if to_learn:
            rows = [(video, -1) for video in kept if len(source.videos[video].scored)]
            self.samples = np.array(rows, np.int64).reshape(-1, 2)
        else:
            every = scored_samples(source.videos, stride)
            self.samples = every[np.isin(every[:, 0], list(kept))]
        self.labels = np.zeros(len(self.samples), np.int64)
        self._reel = Reel(source)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reel": Reel(self.source)}  # frames stay where they are

    def other(self, *, to_learn: bool, rows: np.ndarray | None = None) -> "ClipSet":
        """The same videos, or those of some samples, to learn from or to be measured on."""
        return ClipSet(
            self.source,
            size=self.size,
            stride=self.stride,
            blur=self.blur,
            to_learn=to_learn,
            videos=None if rows is None else np.unique(self.samples[rows, 0]),
        )

    def content_id(self) -> str:
        """Identity: the bytes of all files, and how they are learned from or measured."""
        how = self.size if self.to_learn else (self.stride, self.blur)
        return digest("clip set", self.source.content_id(), *how)

    def spot_check(self) -> str:
        """Identity of a few files."""
        return self.source.spot_check()

    def at(self, index: int, seed: int = 0) -> tuple[int, int]:
        """Video and position of a sample; of a video, as the seed draws it."""
        video, position = self.samples[index].tolist()
        if position < 0:
            scored = self.source.videos[video].scored
            position = int(scored[seed % len(scored)])
        return video, position

    def image(self, index: int) -> Image.Image:
        """The frame of a sample. Raises BadImage, which names it."""
        video, position = self.at(index)
        return next(iter(self.source.frames(video, [position])))

    def clips(self, index: int, views: Sequence[View], seed: int) -> list[np.ndarray]:
        """As `Reel.clips`."""
        return self._reel.clips(*self.at(index, seed), views, alone=self.to_learn)

    def truth(self, index: int, seed: int) -> Truth:
        """Raises BadImage or UserError, which name the file."""
        return self.source.truth(*self.at(index, seed))

    def unit(self, index: int) -> int:
        """What a sample is drawn together with: its video's place in `unit_names`."""
        return int(self.units[self.samples[index, 0]])

    def where(self, index: int) -> str:
        """How messages name a sample."""
        video, position = self.samples[index].tolist()
        name = f"data: {self.source.videos[video].name}"
        return name if position < 0 else f"{name}, frame {position + 1}"
