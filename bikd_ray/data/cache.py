"""Decoded views on disk: one memory-mapped uint8 array for each (data, view) of a node.

A file is written aside and renamed, so whoever sees it sees all of it.
"""

import os
import shutil
import tempfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import numpy as np
from filelock import FileLock

from bikd_ray.data.sources import ImageSet
from bikd_ray.data.views import pixels
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.plan import View

VIEW_VERSION = 1
_CHUNK = 256


def cache_dir(setting: str) -> Path | None:
    """The folder that `data.cache` names: `auto` is the user's cache folder, `none` is none."""
    if setting == "none":
        return None
    if setting != "auto":
        return Path(setting)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "bikd_ray" / "views"


def size_on_disk(count: int, view: View) -> int:
    """Bytes of `count` decoded images of a view."""
    return count * 3 * view.size**2


def fits(setting: str, images: ImageSet, views: Collection[View]) -> bool:
    """Whether views may be kept: `auto` leaves half of the free disk alone.

    Views that are there already take no more of it.
    """
    folder = cache_dir(setting)
    if folder is None:
        return False
    if setting != "auto":
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that is read-only, or none
        return False
    count, paths = len(images.labels), _paths(images, views, folder)
    wanted = sum(size_on_disk(count, v) for v, path in paths.items() if not _whole(path, count, v))
    return wanted < shutil.disk_usage(folder).free / 2


def _paths(images: ImageSet, views: Collection[View], folder: Path) -> dict[View, Path]:
    return {v: folder / f"{digest(VIEW_VERSION, images.source_id, astuple(v))}.npy" for v in views}


def decoded(images: ImageSet, views: Collection[View], folder: Path) -> dict[View, np.ndarray]:
    """uint8 [N, 3, size, size] for each view, decoded now where the folder lacks it.

    Each image is decoded once for all missing views. Raises UserError for a corrupt image and
    BikdError where the folder cannot hold them; nothing half-written is left behind under a
    final name.
    """
    count = len(images.labels)
    paths = _paths(images, views, folder)

    def missing() -> dict[View, Path]:
        return {v: path for v, path in paths.items() if not _whole(path, count, v)}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if missing():
            # the jobs of a node start together: one decodes, the others find it done
            with FileLock(folder / f"{images.source_id}.lock"):
                if wanted := missing():
                    _decode_all(images, wanted)
    except OSError as error:
        raise BikdError(
            f"cannot keep decoded images under {folder}: {error.strerror or error}; "
            "free some space, or set data.cache to another folder or to none"
        ) from None
    return {v: np.load(path, mmap_mode="r") for v, path in paths.items()}


def _whole(path: Path, count: int, view: View) -> bool:
    """Whether a cached array is there in full (a torn or foreign file is decoded again)."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == (count, 3, view.size, view.size) and array.dtype == np.uint8


def _decode_all(images: ImageSet, paths: dict[View, Path]) -> None:
    count = len(images.labels)
    convert = {view: pixels(view) for view in paths}
    aside: dict[View, Path] = {}
    try:
        arrays = {}
        for view, path in paths.items():
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            aside[view] = Path(name)
            shape = (count, 3, view.size, view.size)
            os.fchmod(handle, 0o644)  # the next person on this node uses it too
            os.close(handle)
            arrays[view] = np.lib.format.open_memmap(name, "w+", np.uint8, shape)
            # Claim the disk now: a full one is an error here, and a bus error later in the map.
            with open(name, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(name))

        def chunk(start: int) -> None:
            for index in range(start, min(start + _CHUNK, count)):
                image = images.image(index)
                for view, array in arrays.items():
                    array[index] = convert[view](image)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # PIL frees the GIL
            list(pool.map(chunk, range(0, count, _CHUNK)))
        for view, array in arrays.items():
            array.flush()
            os.replace(aside[view], paths[view])
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
