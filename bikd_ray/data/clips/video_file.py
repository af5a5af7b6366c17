"""Frames of a video file, decoded in order from its first: seeking by time is not exact.

PyAV brings FFmpeg with it; it is imported where a video file is read, and nowhere else.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from PIL import Image

from bikd_ray.data.decode import BadImage
from bikd_ray.errors import UserError

VIDEO_EXTENSIONS = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

KEPT = 96
"""Frames that a reader remembers, so that windows around near targets are decoded once."""


def is_video(name: str) -> bool:
    """Whether a file's name ends as a video's."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def count_frames(path: str) -> int:
    """How many frames a file's index or, without one, its packets announce; nothing is decoded.

    Raises UserError where the file is no video, or PyAV is missing.
    """
    with _opened(path) as container:
        announced = container.streams.video[0].frames
        if announced:
            return announced
        return sum(1 for packet in container.demux(video=0) if packet.size)


class VideoReader:
    """The frames of one file. It goes on from where it was, and begins anew to go back."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._frames: Iterator[Any] | None = None
        self._next = 0
        self._recent: deque[tuple[int, Any]] = deque(maxlen=KEPT)

    def frames(self, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """The frames at ascending positions in RGB. Raises BadImage with the frame's number."""
        for position in wanted:
            # equal to `to_image`, in a quarter of its time
            yield Image.fromarray(self._frame(int(position)).to_ndarray(format="rgb24"))

    def _frame(self, position: int) -> Any:
        oldest = self._recent[0][0] if self._recent else self._next
        if self._frames is None or position < oldest:
            self._frames, self._next = self._decoded(), 0
            self._recent.clear()
        while self._next <= position:
            where = f"data: {self.path}, frame {self._next + 1}"
            try:
                frame = next(self._frames)
            except StopIteration:
                self._frames = None
                raise BadImage.at(where, "the file ends before it") from None
            except _av().error.FFmpegError as error:
                self._frames = None
                raise BadImage.at(where, _reason(error)) from None
            self._recent.append((self._next, frame))
            self._next += 1
        return next(frame for at, frame in reversed(self._recent) if at == position)

    def _decoded(self) -> Iterator[Any]:
        with _opened(self.path) as container:
            container.streams.video[0].thread_type = "AUTO"
            yield from container.decode(video=0)


def frame_rate(path: str) -> float:
    """Frames a second, as the file says; a window's stride is in frames, whatever their rate."""
    with _opened(path) as container:
        return float(container.streams.video[0].average_rate or 0)


def _opened(path: str) -> Any:
    av = _av(path)
    try:
        container = av.open(path)
    except av.error.FFmpegError as error:
        raise UserError(f"data: {path} is not a readable video ({_reason(error)})") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"data: {path} has no video stream")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise UserError(
            f"data: {path} has a codec that this FFmpeg does not decode; write it anew as H.264, "
            "or extract its frames into images/"
        )
    return container


def _av(path: str = "a video file") -> Any:
    try:
        return import_module("av")
    except ImportError:
        raise UserError(
            f"data: reading {path} needs PyAV; install bikd-ray[video], or extract its frames into "
            "images/"
        ) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
