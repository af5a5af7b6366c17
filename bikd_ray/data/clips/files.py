"""Videos, maps and fixations that lie in files, whatever the layout."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from PIL import Image

from bikd_ray.data.clips.layouts import (
    Layout,
    Shot,
    Split,
    find_shots,
    layout_named,
    natural,
    stills_of,
)
from bikd_ray.data.clips.listing import Files, Found, Listed, entries, list_shot, name_of_still
from bikd_ray.data.clips.source import Truth, Video
from bikd_ray.data.clips.truths import fixation_kind, read_truth
from bikd_ray.data.clips.video_file import VideoReader, is_video
from bikd_ray.data.content import content_hashes, file_spot_check
from bikd_ray.data.decode import decode
from bikd_ray.data.exclusions import LeftOut, is_image
from bikd_ray.data.files import image_stamps
from bikd_ray.data.names import Names, array_digest
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

CLIP_VERSION = 1
_LISTERS = 16

Shots = Literal["glued", "separate"]


class ClipFiles:
    """The videos of a data set in one of `LAYOUTS`.

    split: of the data set's root; without it, root is the folder of videos itself. videos: a folder
    with the frames of each video, where they do not lie beside the maps. shots: of a video that
    lies in several folders, glued into one in natural order, or each a video of its own that is
    still one cluster with the others.

    Raises UserError for folders that are missing, ambiguous, or without a map.
    """

    random_access = True

    def __init__(
        self,
        root: str,
        layout: str = "general",
        *,
        split: Split | None = None,
        videos: str | None = None,
        shots: Shots = "glued",
    ) -> None:
        self.root = self.location = root
        left, found, files = LeftOut(), Found(), Files()
        rule = layout_named(layout)
        if rule.stills:
            groups = _stills(root, rule, split, files, found, left)
        else:
            groups = _videos(root, rule, split, videos, shots, files, found, left)
        groups = [group for group in groups if len(group[2].place_N)]
        self._listed = [listed for _, _, listed in groups]
        self.videos = tuple(
            Video(name, cluster, len(of.place_N), np.flatnonzero(of.map_file_N >= 0))
            for name, cluster, of in groups
        )
        if not any(len(video.scored) for video in self.videos):
            raise UserError(f"data: no map under {root} belongs to a frame; match them by number")
        self.notes = left.notes + found.notes
        self.paths = Names(files.paths)
        stamps = np.array(files.stamps, np.int64).reshape(-1, 4)
        self.stamps = image_stamps(stamps, np.ones(len(stamps), np.int64))
        self.nbytes = int(stamps[:, 1].sum())
        names = Names(os.path.relpath(path, root) for path in files.paths)
        sizes = array_digest(stamps[:, 1])
        self.source_id = digest("clips", CLIP_VERSION, names.digest(), sizes, self._structure())
        self._reader: VideoReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}  # an open file does not pickle

    def content_id(self) -> str:
        """Identity: 16 hex digits over the bytes of every file and what belongs to which frame."""
        of_all = array_digest(content_hashes(self).view(np.int64))
        return digest("clips", CLIP_VERSION, of_all, self._structure())

    def spot_check(self) -> str:
        """Identity of a few files: told in moments whether a node has another copy."""
        return file_spot_check(self, len(self.paths))

    def _structure(self) -> str:
        """Which file belongs to which frame of which video, whatever their names."""
        parts = [
            np.stack([of.frame_file_N, of.place_N, of.map_file_N, of.fixation_file_N])
            for of in self._listed
        ]
        lengths = np.array([part.shape[1] for part in parts])
        return array_digest(np.concatenate([lengths, np.concatenate(parts, axis=1).ravel()]))

    def where(self, index: int) -> str:
        """How messages name file `index`."""
        return f"data: {self.paths[index]}"

    def encoded(self, index: int) -> bytes:
        """The content of file `index`. Raises UserError if it cannot be read."""
        path = self.paths[index]
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"data: cannot read {path}: {error.strerror}") from None

    def frame_path(self, video: int) -> str:
        """The file of a video's first frame."""
        return self.paths[int(self._listed[video].frame_file_N[0])]

    def frames(self, video: int, wanted: Sequence[int]) -> Iterator[Image.Image]:
        """The frames at ascending positions in RGB. Raises BadImage, which names file and frame."""
        of = self._listed[video]
        for position in wanted:
            file, place = int(of.frame_file_N[position]), int(of.place_N[position])
            if is_video(self.paths[file]):
                yield from self._reader_of(self.paths[file]).frames([place])
            else:
                yield decode(self.encoded(file), self.where(file))

    def _reader_of(self, path: str) -> VideoReader:
        if self._reader is None or self._reader.path != path:
            self._reader = VideoReader(path)
        return self._reader

    def truth(self, video: int, frame: int) -> Truth:
        """Of a frame that has a map. Raises BadImage or UserError, which name the file."""
        of = self._listed[video]
        map_file, fixations = int(of.map_file_N[frame]), int(of.fixation_file_N[frame])
        return read_truth(
            (self.encoded(map_file), self.paths[map_file]),
            (self.encoded(fixations), self.paths[fixations]) if fixations >= 0 else None,
        )


_Group = tuple[str, str, Listed]
"""Name, cluster and files of what counts as one video."""


def _videos(
    root: str,
    rule: Layout,
    split: Split | None,
    videos: str | None,
    shots: Shots,
    files: Files,
    found: Found,
    left: LeftOut,
) -> list[_Group]:
    of_shots = find_shots(root, rule, split, videos, left)
    listed = _each(of_shots, files, found, left)
    if shots == "separate":
        return [(shot.name, shot.cluster, of) for shot, of in zip(of_shots, listed, strict=True)]
    glued: dict[str, list[Listed]] = {}
    for shot, of in zip(of_shots, listed, strict=True):
        glued.setdefault(shot.cluster, []).append(of)
    return [(name, name, Listed.joined(parts)) for name, parts in glued.items()]


def _each(of_shots: list[Shot], files: Files, found: Found, left: LeftOut) -> list[Listed]:
    """Every shot's files; on a network disk nearly all the time is waiting for the listings."""

    def one(shot: Shot) -> tuple[Files, Found, LeftOut, Listed]:
        own = Files(), Found(), LeftOut()
        return *own, list_shot(shot, *own)

    with ThreadPoolExecutor(_LISTERS) as pool:
        parts = list(pool.map(one, of_shots))
    listed = []
    for own_files, own_found, own_left, of in parts:
        listed.append(of.shifted(files.extend(own_files)))
        found.extend(own_found)
        left.merge([own_left])
    return listed


def _stills(
    root: str, rule: Layout, split: Split | None, files: Files, found: Found, left: LeftOut
) -> list[_Group]:
    """Each image that has a map as a video of one frame, matched by its name."""
    images, maps, fixations = stills_of(root, rule, split)
    shared = maps == fixations

    def image(name: str) -> str | None:
        return name_of_still(name) if is_image(name) else None

    def map_of(name: str) -> str | None:
        return None if shared and "fixpts" in name.lower() else image(name)

    def fixations_of(name: str) -> str | None:
        usable = fixation_kind(name) and not (shared and "fixmap" in name.lower())
        return name_of_still(name) if usable else None

    of_images = entries(images, image, left)
    of_maps = entries(maps, map_of, left)
    of_fixations = entries(fixations, fixations_of, left)
    known = [name for name in of_images if name in of_maps]
    for what, names, others in (
        ("image{s} without a map, unused", of_images, of_maps),
        ("map{s} without an image, unused", of_maps, of_images),
        ("fixation file{s} without an image, unused", of_fixations, of_images),
    ):
        lacking = [path for name, (path, _) in names.items() if name not in others]
        found.add(what, lacking[0] if lacking else "", len(lacking))
    without = [name for name in known if name not in of_fixations]
    found.add("map{s} without fixations", str(without[0]) if without else "", len(without))
    groups = []
    for name in sorted(known, key=lambda name: natural(str(name))):
        at = [
            files.add(*of[name]) if name in of else -1 for of in (of_images, of_maps, of_fixations)
        ]
        frame_file, map_file, fixation_file = (np.array([one]) for one in at)
        listed = Listed(frame_file, np.zeros(1, np.int64), map_file, fixation_file)
        groups.append((str(name), str(name), listed))
    return groups
