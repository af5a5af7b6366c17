"""What a source of clips gives, and which of its frames are trained on and scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class Video:
    """`count` frames, of which those at the positions `scored` have a map; others are context.

    cluster: what its frames are alike with, and drawn at random together with: the video itself,
    or the video that a shot was cut from.
    """

    name: str
    cluster: str
    count: int
    scored: np.ndarray  # int64, ascending


@dataclass(frozen=True, eq=False)
class Truth:
    """Where people looked in one frame: `map` float32 [H, W] of any scale, `fixated` bool [H, W].

    outside: fixations that lay beside the frame and were dropped. rescaled: they were given on a
    grid of another size than the map's.
    """

    map: np.ndarray
    fixated: np.ndarray
    outside: int = 0
    rescaled: bool = False


class ClipSource(Protocol):
    """Videos in memory by name, frames and truths on demand. It pickles, for loader processes."""

    source_id: str
    """What caches know it by: names and sizes; once it is checked, its content."""

    @property
    def videos(self) -> Sequence[Video]: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it was read, a line for each kind of thing."""
        ...

    def content_id(self) -> str:
        """Identity: of every file's bytes, and of which belongs to which frame."""
        ...

    def spot_check(self) -> str:
        """Identity of a few files."""
        ...

    def frame_path(self, video: int) -> str | None:
        """The file of a video's first frame, where it lies in one."""
        ...

    def frames(self, video: int, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """The frames at ascending positions in RGB, one after the other. Raises BadImage, which
        names file and frame, if one does not decode.
        """
        ...

    def truth(self, video: int, frame: int) -> Truth:
        """Of a frame that has a map. Raises BadImage or UserError, which name the file."""
        ...


def scored_samples(videos: Sequence[Video], stride: int = 1) -> np.ndarray:
    """int64 [N, 2], (video, position): every `stride`-th frame with a map of every video, from its
    first; a shorter video has one.
    """
    parts = [
        np.column_stack([np.full(len(kept), index), kept])
        for index, video in enumerate(videos)
        for kept in [video.scored[::stride]]
    ]
    return np.concatenate([np.empty((0, 2), np.int64), *parts])


def clusters(videos: Sequence[Video]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The cluster of each video, int64 [V], and the clusters' names, in order of appearance."""
    names = {name: i for i, name in enumerate(dict.fromkeys(video.cluster for video in videos))}
    return np.array([names[video.cluster] for video in videos], np.int64), tuple(names)
