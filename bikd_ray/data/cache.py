"""Decoded views on disk: one memory-mapped uint8 array for each (data, view) of a node, and the
targets that a task renders beside them.

A file is written aside and renamed, so whoever sees it sees all of it.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
from filelock import FileLock

from bikd_ray.cache_dir import cache_root, claim, remove_abandoned, replace_file, usable_cpus
from bikd_ray.data.decode import BadImage
from bikd_ray.data.render import render
from bikd_ray.data.sampled import spread
from bikd_ray.data.sources import ImageSet
from bikd_ray.data.targets import Target, Targets, TargetsWriter
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.plan import View
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Task

VIEW_VERSION = 2
_CHUNK = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """Decoded images: `arrays[view]` is uint8 [N, 3, …, size, size].

    `faults` says of each image that does not decode why; its rows hold nothing. `targets`: where
    the task renders them; else a sample's label is its target.
    """

    arrays: dict[View, np.ndarray]
    faults: dict[int, str]
    targets: Targets | None = None

    @cached_property
    def bad(self) -> np.ndarray:
        """int64: the rows without an image."""
        return np.array(sorted(self.faults), np.int64)


def cache_dir(setting: str, kind: str = "views") -> Path | None:
    """The folder that `data.cache` names: `auto` is the user's cache folder, `none` is none.

    kind: what is kept; `frozen`: of `resources.frozen_cache`.
    """
    if setting == "none":
        return None
    return cache_root() / kind if setting == "auto" else Path(setting)


def size_on_disk(count: int, view: View) -> int:
    """Bytes of `count` decoded images of a view."""
    return count * prod(view.shape)


def fits(setting: str, wanted: int, share: float, kind: str = "views", held: int = 0) -> bool:
    """Whether `wanted` bytes more may be kept: `auto` takes up to `share` of the free disk. held:
    bytes that are kept already, which count as free and as wanted.
    """
    folder = cache_dir(setting, kind)
    if folder is None or setting != "auto":
        return folder is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that is read-only, or none
        return False
    return held + wanted <= share * (held + shutil.disk_usage(folder).free)


def missing_bytes(
    images: ImageSet, views: Collection[View], folder: Path, task: Task
) -> int | None:
    """What the views would take that the folder does not hold yet; None where samples differ in
    size, so that no array can hold them.
    """
    count, paths = len(images.labels), _paths(images, views, folder, task)
    missing = [view for view, path in paths.items() if not _whole(path, count, view, task)]
    if not task.rendering:
        return sum(size_on_disk(count, view) for view in missing)
    targets = _targets(_targets_path(images, folder, task))
    if targets is not None and not missing:
        return 0
    if task.alike is not None and _differ(images, list(views), task):
        return None
    pixels, target = _first(images, list(views), task)
    of_views = dict(zip(views, pixels, strict=True))
    beside = [] if targets is not None else list((target or {}).values())
    return count * sum(array.nbytes for array in [*(of_views[v] for v in missing), *beside])


def _differ(images: ImageSet, views: Sequence[View], task: Task) -> bool:
    """Whether all samples could have pixels of one shape, by a few of them."""
    shapes = set()
    for index in spread(len(images.labels)):
        with contextlib.suppress(BadImage):
            shapes.add(tuple(array.shape for array in render(task, images, index, views)[0]))
        if len(shapes) > 1:
            return True
    return False


def _first(
    images: ImageSet, views: Sequence[View], task: Task
) -> tuple[list[np.ndarray], Target | None]:
    """The first sample that decodes. Raises BadImage where none does."""
    count = len(images.labels)
    for index in range(count):
        try:
            return render(task, images, index, views)
        except BadImage:
            if index == count - 1:
                raise
    raise AssertionError("an image set holds an image")


def _paths(images: ImageSet, views: Collection[View], folder: Path, task: Task) -> dict[View, Path]:
    own = [task.rendering] if task.rendering else []
    return {v: folder / f"{_name(images, astuple(v), *own)}.npy" for v in views}


def _targets_path(images: ImageSet, folder: Path, task: Task) -> Path:
    return folder / f"{_name(images, 'targets', task.rendering)}.json"


def _targets(path: Path) -> Targets | None:
    """Kept targets, if they are there in full (torn ones are rendered again)."""
    try:
        return Targets(path)
    except (OSError, ValueError, EOFError):
        return None


def _name(images: ImageSet, *what: object) -> str:
    return digest(VIEW_VERSION, images.source_id, *what)


def decoded(
    images: ImageSet,
    views: Collection[View],
    folder: Path,
    *,
    skip: bool = False,
    task: Task | None = None,
) -> Views:
    """Every image in each view, decoded now where the folder lacks it, once for all such views.

    task: what renders them, and their targets. Raises BadImage for images that do not decode,
    unless `skip` leaves them out, and BikdError where the folder cannot hold them; nothing
    half-written is left under a final name.
    """
    count, task = len(images.labels), task or task_of()
    paths = _paths(images, views, folder, task)
    own = [task.rendering] if task.rendering else []
    faults = folder / f"{_name(images, 'bad', *own)}.json"
    beside = _targets_path(images, folder, task) if own else None

    def missing() -> dict[View, Path]:
        if beside and _targets(beside) is None:
            return paths
        return {v: path for v, path in paths.items() if not _whole(path, count, v, task)}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if missing():
            # the jobs of a node start together: one decodes, the others find it done
            with FileLock(folder / f"{images.source_id}.lock"):
                if wanted := missing():
                    _decode_all(images, wanted, faults, skip, task, beside)
        known = json.loads(faults.read_bytes()) if faults.exists() else {}
        targets = Targets(beside) if beside else None
    except OSError as error:
        raise BikdError(
            f"cannot keep decoded images under {folder}: {error.strerror or error}; "
            "free some space, or set data.cache to another folder or to none"
        ) from None
    bad = {int(index): why for index, why in known.items()}
    if bad and not skip:
        raise _refused(bad)
    return Views({v: np.load(path, mmap_mode="r") for v, path in paths.items()}, bad, targets)


def _refused(bad: dict[int, str]) -> BadImage:
    first = bad[min(bad)]
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return BadImage(first + more)


def _whole(path: Path, count: int, view: View, task: Task) -> bool:
    """Whether a cached array is there in full (a torn or foreign file is decoded again)."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    if task.rendering:
        return array.ndim >= 4 and array.shape[:2] == (count, 3) and array.dtype == np.uint8
    return array.shape == (count, *view.shape) and array.dtype == np.uint8


def _shapes(images: ImageSet, views: Sequence[View], task: Task) -> list[tuple[int, ...]]:
    """Of each view's pixels."""
    if not task.rendering:
        return [view.shape for view in views]
    return [array.shape for array in _first(images, views, task)[0]]


def _decode_all(
    images: ImageSet,
    paths: dict[View, Path],
    faults: Path,
    skip: bool,
    task: Task,
    beside: Path | None,
) -> None:
    count, views = len(images.labels), list(paths)
    writer = TargetsWriter(beside, count) if beside else None
    aside: dict[View, Path] = {}
    bad: dict[int, str] = {}
    remove_abandoned(faults.parent)
    try:
        arrays = {}
        of_one = dict(zip(views, _shapes(images, views, task), strict=True))
        for view, path in paths.items():
            if path.exists():
                log.warning("decoding again: %s is damaged", path)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            aside[view] = Path(name)
            shape = (count, *of_one[view])
            os.fchmod(handle, 0o644)  # the next person on this node uses it too
            os.close(handle)
            arrays[view] = np.lib.format.open_memmap(name, "w+", np.uint8, shape)
            # Claim the disk now: a full one is an error here, and a bus error later in the map.
            with open(name, "r+b") as file:
                claim(file.fileno(), arrays[view].offset, os.path.getsize(name))

        def chunk(start: int) -> None:
            for index in range(start, min(start + _CHUNK, count)):
                try:
                    pixels, target = render(task, images, index, views)
                except BadImage as error:
                    bad[index] = str(error)
                    continue
                for view, found in zip(views, pixels, strict=True):
                    if found.shape != arrays[view].shape[1:]:
                        raise BikdError(
                            f"images differ in size (sample {index} has another than the first); "
                            "set data.cache: none"
                        )
                    arrays[view][index] = found
                if writer and target:
                    writer.add(index, target)

        with ThreadPoolExecutor(usable_cpus()) as pool:  # PIL frees the GIL
            list(pool.map(chunk, range(0, count, _CHUNK)))
        if bad and not skip:
            raise _refused(bad)
        if bad:
            replace_file(faults, json.dumps(bad).encode())
        for view, array in arrays.items():
            array.flush()
            os.replace(aside[view], paths[view])
        if writer:
            writer.keep()
    finally:
        if writer:
            writer.close()
        for path in aside.values():
            path.unlink(missing_ok=True)
