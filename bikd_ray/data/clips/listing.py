"""Which file belongs to which frame: matched by the number in its name."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bikd_ray.data.clips.layouts import Shot
from bikd_ray.data.clips.truths import READERS, fixation_kind
from bikd_ray.data.clips.video_file import count_frames, is_video
from bikd_ray.data.exclusions import LeftOut, is_hidden, is_image
from bikd_ray.data.files import file_stamp
from bikd_ray.errors import UserError

_NUMBER = re.compile(r"\d+")
_OF_STILLS = re.compile(r"_(fixmap|fixpts)$", re.IGNORECASE)

Key = Callable[[str], Any]
"""From a file's name to what it is matched by; None leaves it out."""

Entries = dict[Any, tuple[str, os.stat_result]]
"""Path and status of files by their key."""


def number_in(name: str) -> int | None:
    """The last number in a file's name: 12 of `eyeMap_00012.jpg`, None where there is none."""
    found = _NUMBER.findall(os.path.splitext(name)[0])
    return int(found[-1]) if found else None


def name_of_still(name: str) -> str:
    """What the names of an image, its map and its fixations have in common."""
    return _OF_STILLS.sub("", os.path.splitext(name)[0])


@dataclass
class Found:
    """What a person should know: counts by kind, with the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        if count:
            self.counts[kind] += count
            self.first.setdefault(kind, example)

    def extend(self, others: "Found") -> None:
        for kind, count in others.counts.items():
            self.add(kind, others.first[kind], count)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each kind."""
        return tuple(
            f"{count:,} {kind.format(s='s' * (count > 1))}, such as {self.first[kind]}"
            for kind, count in self.counts.items()
        )


@dataclass
class Files:
    """Paths and `file_stamp`s of all files of a set, in the order in which they were added."""

    paths: list[str] = field(default_factory=list)
    stamps: list[tuple[int, int, int, int]] = field(default_factory=list)

    def add(self, path: str, status: os.stat_result) -> int:
        """The number of the file."""
        self.paths.append(path)
        self.stamps.append(file_stamp(status))
        return len(self.paths) - 1

    def extend(self, others: "Files") -> int:
        """Those of another list after these; the number of its first."""
        first = len(self.paths)
        self.paths += others.paths
        self.stamps += others.stamps
        return first


@dataclass(frozen=True)
class Listed:
    """Of one shot, for each of its N frames: the file and the place in it, and the files of its map
    and fixations, −1 where it has none.
    """

    frame_file_N: np.ndarray
    place_N: np.ndarray
    map_file_N: np.ndarray
    fixation_file_N: np.ndarray

    def shifted(self, first: int) -> "Listed":
        """The same where the files are numbered from `first`."""
        maps, fixations = (
            np.where(of >= 0, of + first, -1) for of in (self.map_file_N, self.fixation_file_N)
        )
        return Listed(self.frame_file_N + first, self.place_N, maps, fixations)

    @classmethod
    def joined(cls, parts: "Sequence[Listed]") -> "Listed":
        """One after the other."""
        columns = ((p.frame_file_N, p.place_N, p.map_file_N, p.fixation_file_N) for p in parts)
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def list_shot(shot: Shot, files: Files, found: Found, left: LeftOut) -> Listed:
    """Match the files of a shot by number. Raises UserError for two files of one number."""
    maps = entries(shot.maps, lambda name: number_in(name) if is_image(name) else None, left)
    fixations = _fixations(shot, left)
    if is_video(shot.frames):
        numbers, frame_file, place = _in_video_file(shot.frames, [*maps, *fixations], files)
    else:
        numbers, frame_file, place = _in_folder(shot.frames, files, found, left)
    if not len(numbers):
        found.add("video{s} without frames, unused", shot.frames)
    of_maps = _matched(numbers, maps, "map{s} without a frame, unused", files, found)
    of_fixations = _matched(
        numbers, fixations, "fixation file{s} without a frame, unused", files, found
    )
    _say_what_lacks(shot, numbers, of_maps >= 0, of_fixations >= 0, found)
    return Listed(frame_file, place, of_maps, of_fixations)


def _in_video_file(
    path: str, known: list[int], files: Files
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, file and place of each frame. The first is called 1, unless a map is called 0."""
    count = count_frames(path)
    file = files.add(path, os.stat(path))
    place = np.arange(count)
    return place + (0 if 0 in known else 1), np.full(count, file), place


def _in_folder(
    folder: str, files: Files, found: Found, left: LeftOut
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = entries(folder, lambda name: number_in(name) if is_image(name) else None, left)
    numbers = np.array(sorted(images), np.int64)
    file = np.array([files.add(*images[number]) for number in numbers.tolist()], np.int64)
    steps = np.diff(numbers)
    if len(gap := np.flatnonzero(steps > 1)):
        example = f"number {numbers[gap[0]] + 1} of {folder}"
        found.add("frame{s} missing in the middle", example, int((steps - 1).sum()))
    return numbers, file, np.zeros(len(numbers), np.int64)


def _matched(
    numbers: np.ndarray, known: Entries, extra: str, files: Files, found: Found
) -> np.ndarray:
    """The file of each number, −1 where there is none; what no number has is counted as `extra`."""
    of_frames = [files.add(*known[n]) if n in known else -1 for n in numbers.tolist()]
    unused = sorted(set(known) - set(numbers.tolist()))
    if unused:
        found.add(extra, known[unused[0]][0], len(unused))
    return np.array(of_frames, np.int64)


def _say_what_lacks(
    shot: Shot, numbers: np.ndarray, mapped: np.ndarray, fixated: np.ndarray, found: Found
) -> None:
    if not mapped.any():
        found.add("video{s} without maps, context only", shot.name)
        return
    for kind, lacking, folder in (
        ("frame{s} without a map, context only", ~mapped, shot.frames),
        ("map{s} without fixations: NSS and AUC-J leave them out", mapped & ~fixated, shot.maps),
    ):
        if lacking.any():
            example = f"number {numbers[lacking.argmax()]} of {folder}"
            found.add(kind, example, int(lacking.sum()))


def _fixations(shot: Shot, left: LeftOut) -> Entries:
    """The first folder that has fixations, in it the first kind of file that is there."""
    kinds = list(READERS)
    for folder in shot.fixations:
        # in a video's own folder only MATLAB files are told from what else lies there
        own = shot.maps is not None and folder == os.path.dirname(shot.maps)

        def key(name: str, own: bool = own) -> tuple[int, int] | None:
            kind, number = fixation_kind(name), number_in(name)
            usable = kind is not None and number is not None and (kind == "mat" or not own)
            return (kinds.index(kind), number) if usable and number is not None else None

        known = entries(folder, key, left)
        if known:
            first = min(kind for kind, _ in known)
            return {number: at for (kind, number), at in known.items() if kind == first}
    return {}


def entries(folder: str | None, key: Key, left: LeftOut) -> Entries:
    """Path and status of each file of a folder that has a key, by it.

    Raises UserError for two files of one key, and for a folder that cannot be read.
    """
    if folder is None:
        return {}
    found: Entries = {}
    try:
        with os.scandir(folder) as listing:
            for entry in sorted(listing, key=lambda entry: entry.name):
                if is_hidden(entry.name):
                    left.hidden(entry.path)
                    continue
                at = key(entry.name)
                if at is None or not entry.is_file():
                    continue
                if at in found:
                    both = f"{os.path.basename(found[at][0])} and {entry.name}"
                    raise UserError(
                        f"data: {folder} has two files of one number or name, {both}; keep one"
                    )
                found[at] = entry.path, entry.stat()
    except OSError as error:
        raise UserError(f"data: cannot read {error.filename or folder}: {error.strerror}") from None
    return found
