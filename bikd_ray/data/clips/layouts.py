"""Where data sets keep frames, maps and fixations of their videos.

A layout is a row of `LAYOUTS`; what it says of splits holds below the data set's root. Without a
split, the path is the folder of videos itself.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bikd_ray.data.clips.video_file import is_video
from bikd_ray.data.exclusions import LeftOut, is_hidden, listed
from bikd_ray.errors import UserError, choices

FRAMES = ("images", "frames")
MAPS = ("maps", "saliency")
FIXATIONS = ("fixations", "fixation")
"""Names of the folders in a video's own."""

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Shot:
    """Where the parts of one video, or of one shot of it, lie: paths of folders or of a video file.

    fixations: folders of which the first that has any counts.
    """

    name: str
    cluster: str
    frames: str
    maps: str | None
    fixations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """splits: names of the folder of each split, the first that is there counts. videos: where
    frames lie, by video, if not beside the maps. numbers: which videos of a folder that serves
    several splits belong to each. shots: folders `VIDEO_K` are shots of one video. stills: images,
    each a video of one frame, in three folders.
    """

    splits: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "train": ("train", "training", "annotation"),
            "val": ("val", "validation", "testing", "test"),
        }
    )
    videos: str | None = None
    numbers: dict[tuple[str, str], range] = field(default_factory=dict)
    shots: bool = False
    stills: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None = None


LAYOUTS = {
    "general": Layout(),
    "dhf1k": Layout(
        {"train": ("annotation",), "val": ("val", "annotation")},
        videos="video",
        numbers={("train", "annotation"): range(1, 601), ("val", "annotation"): range(601, 701)},
    ),
    "hollywood2": Layout({"train": ("training",), "val": ("testing",)}, shots=True),
    "ucf_sports": Layout({"train": ("training",), "val": ("testing",)}),
    "vinet_v2": Layout({"train": ("annotation", "train", "training"), "val": ("val", "testing")}),
    "salicon": Layout(
        {"train": ("train",), "val": ("val",)}, stills=(("images",), ("maps",), ("fixations",))
    ),
    "mit1003": Layout({}, stills=(("ALLSTIMULI",), ("ALLFIXATIONMAPS",), ("ALLFIXATIONMAPS",))),
    "stills": Layout(stills=((*FRAMES, "stimuli"), MAPS, FIXATIONS)),
}


def folder_of(root: str, layout: Layout, split: Split | None) -> str:
    """The folder of a split's videos. Raises UserError where there is none."""
    if not os.path.isdir(root):
        raise UserError(f"data: {root} is not a folder; give the folder that holds the videos")
    if split is None:
        return root
    names = layout.splits.get(split, ())
    found = next((name for name in names if os.path.isdir(os.path.join(root, name))), None)
    if found is None:
        expected = " or ".join(names) or "nothing: the layout has no splits"
        raise UserError(
            f"data: {root} has no folder of split {split}, which would be {expected}; it has "
            f"{listed(_folders(root, LeftOut())) or 'no folders'}; leave split out if the path is "
            "the folder of videos itself"
        )
    return os.path.join(root, found)


def find_shots(
    root: str, layout: Layout, split: Split | None, videos: str | None, left: LeftOut
) -> list[Shot]:
    """Every video, or shot of one, in natural order. videos: a folder that holds the frames of each
    video, as a folder or a file of its name, where they do not lie beside the maps.

    Raises UserError for folders that are missing or without a video.
    """
    folder = folder_of(root, layout, split)
    kept = layout.numbers.get((split or "", os.path.basename(folder)))
    names = [
        name
        for name in _folders(folder, left)
        if kept is None or (name.isdigit() and int(name) in kept)
    ]
    beside = os.path.join(root, layout.videos) if layout.videos else None
    elsewhere = _elsewhere(videos or (beside if beside and os.path.isdir(beside) else None))
    found, without = [], []
    for name in names:
        own = os.path.join(folder, name)
        frames = _frames(own, left) or elsewhere.get(name) or elsewhere.get(name.lstrip("0"))
        if frames is None:
            without.append(own)
            continue
        cut = re.fullmatch(r"(.+)_\d+", name) if layout.shots else None
        fixations = [os.path.join(own, one) for one in FIXATIONS]
        fixations += [os.path.join(one, "maps") for one in fixations] + [own]
        present = tuple(one for one in fixations if os.path.isdir(one))
        cluster = cut[1] if cut else name
        found.append(Shot(name, cluster, frames, _first(own, MAPS), present))
    if without:
        left.counts[NO_FRAMES] += len(without)
        left.first.setdefault(NO_FRAMES, without[0])
    if not found:
        raise UserError(
            f"data: no video under {folder}; expected {folder}/VIDEO/ with frames in "
            f"{' or '.join(f'{name}/' for name in FRAMES)} or one video file, and maps in "
            f"{' or '.join(f'{name}/' for name in MAPS)}"
        )
    return found


NO_FRAMES = "folder{s} without frames"


def stills_of(root: str, layout: Layout, split: Split | None) -> tuple[str, str, str | None]:
    """The folders of images, maps and fixations. Raises UserError where one is missing."""
    assert layout.stills is not None
    if not os.path.isdir(root):
        raise UserError(f"data: {root} is not a folder; give the folder that holds images and maps")
    if split and not layout.splits:
        raise UserError(f"data: {root}: this layout has no splits; leave split out")
    inner = layout.splits[split] if split else ()
    found: list[str | None] = []
    for names in layout.stills:
        of_split = [f"{name}/{one}" for name in names for one in inner]
        of_split += [f"{one}/{name}" for name in names for one in inner]
        found.append(_first(root, [*of_split, *names]))
    images, maps, fixations = found
    for what, path, names in (
        ("images", images, layout.stills[0]),
        ("maps", maps, layout.stills[1]),
    ):
        if path is None:
            raise UserError(f"data: {root} has no folder of {what}; expected {' or '.join(names)}")
    assert images is not None
    assert maps is not None
    return images, maps, fixations


def layout_named(name: str) -> Layout:
    """A row of LAYOUTS. Raises UserError with the choices."""
    if name not in LAYOUTS:
        raise UserError(f"data: unknown layout {name!r}; {choices(name, LAYOUTS)}")
    return LAYOUTS[name]


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which `a_2` comes before `a_10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _folders(folder: str, left: LeftOut) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                left.hidden(entry.name)
            elif entry.is_dir():
                names.append(entry.name)
    return sorted(names, key=natural)


def _first(folder: str, names: Sequence[str]) -> str | None:
    paths = (os.path.join(folder, name) for name in names)
    return next((path for path in paths if os.path.isdir(path)), None)


def _frames(folder: str, left: LeftOut) -> str | None:
    """The folder of a video's frames, or its one video file."""
    files = sorted(name for name in os.listdir(folder) if is_video(name) and not is_hidden(name))
    if images := _first(folder, FRAMES):
        for name in files:
            left.add("video file{s} beside a folder of frames", os.path.join(folder, name))
        return images
    if len(files) > 1:
        raise UserError(f"data: {folder} has {len(files)} video files, {listed(files)}; keep one")
    return os.path.join(folder, files[0]) if files else None


def _elsewhere(folder: str | None) -> dict[str, str]:
    """Where the frames of each video lie, by its name, and without leading zeros."""
    if folder is None:
        return {}
    if not os.path.isdir(folder):
        raise UserError(
            f"data: {folder} is not a folder; give the folder with the frames of videos"
        )
    found: dict[str, str] = {}
    for name in sorted(os.listdir(folder), key=natural):
        path, stem = os.path.join(folder, name), os.path.splitext(name)[0]
        if is_hidden(name) or not (is_video(name) or os.path.isdir(path)):
            continue
        found[stem if is_video(name) else name] = _first(path, FRAMES) or path
    return {key.lstrip("0"): path for key, path in found.items()} | found
