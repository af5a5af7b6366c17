"""Decoded views on disk: one memory-mapped uint8 array for each (data, view) of a node.

A file is written aside and renamed, so whoever sees it sees all of it.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock

from bikd_ray.cache_dir import cache_root, claim, remove_abandoned, replace_file, usable_cpus
from bikd_ray.data.decode import BadImage
from bikd_ray.data.sources import ImageSet
from bikd_ray.data.views import pixels
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.plan import View

VIEW_VERSION = 2
_CHUNK = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """Decoded images: `arrays[view]` is uint8 [N, 3, size, size].

    `faults` says of each image that does not decode why; its rows hold nothing.
    """

    arrays: dict[View, np.ndarray]
    faults: dict[int, str]

    @cached_property
    def bad(self) -> np.ndarray:
        """int64: the rows without an image."""
        return np.array(sorted(self.faults), np.int64)


def cache_dir(setting: str) -> Path | None:
    """The folder that `data.cache` names: `auto` is the user's cache folder, `none` is none."""
    if setting == "none":
        return None
    return cache_root() / "views" if setting == "auto" else Path(setting)


def size_on_disk(count: int, view: View) -> int:
    """Bytes of `count` decoded images of a view."""
    return count * 3 * view.size**2


def fits(setting: str, wanted: int, share: float) -> bool:
    """Whether `wanted` bytes more may be kept: `auto` takes up to `share` of the free disk."""
    folder = cache_dir(setting)
    if folder is None or setting != "auto":
        return folder is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that is read-only, or none
        return False
    return wanted <= share * shutil.disk_usage(folder).free


def missing_bytes(images: ImageSet, views: Collection[View], folder: Path) -> int:
    """What the views would take that the folder does not hold yet."""
    count, paths = len(images.labels), _paths(images, views, folder)
    return sum(size_on_disk(count, v) for v, path in paths.items() if not _whole(path, count, v))


def _paths(images: ImageSet, views: Collection[View], folder: Path) -> dict[View, Path]:
    return {v: folder / f"{_name(images, astuple(v))}.npy" for v in views}


def _name(images: ImageSet, *what: object) -> str:
    return digest(VIEW_VERSION, images.source_id, *what)


def decoded(
    images: ImageSet, views: Collection[View], folder: Path, *, skip: bool = False
) -> Views:
    """Every image in each view, decoded now where the folder lacks it, once for all such views.

    Raises BadImage for images that do not decode, unless `skip` leaves them out, and BikdError
    where the folder cannot hold them; nothing half-written is left under a final name.
    """
    count = len(images.labels)
    paths = _paths(images, views, folder)
    faults = folder / f"{_name(images, 'bad')}.json"

    def missing() -> dict[View, Path]:
        return {v: path for v, path in paths.items() if not _whole(path, count, v)}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if missing():
            # the jobs of a node start together: one decodes, the others find it done
            with FileLock(folder / f"{images.source_id}.lock"):
                if wanted := missing():
                    _decode_all(images, wanted, faults, skip)
        known = json.loads(faults.read_bytes()) if faults.exists() else {}
    except OSError as error:
        raise BikdError(
            f"cannot keep decoded images under {folder}: {error.strerror or error}; "
            "free some space, or set data.cache to another folder or to none"
        ) from None
    bad = {int(index): why for index, why in known.items()}
    if bad and not skip:
        raise _refused(bad)
    return Views({v: np.load(path, mmap_mode="r") for v, path in paths.items()}, bad)


def _refused(bad: dict[int, str]) -> BadImage:
    first = bad[min(bad)]
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return BadImage(first + more)


def _whole(path: Path, count: int, view: View) -> bool:
    """Whether a cached array is there in full (a torn or foreign file is decoded again)."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == (count, 3, view.size, view.size) and array.dtype == np.uint8


def _decode_all(images: ImageSet, paths: dict[View, Path], faults: Path, skip: bool) -> None:
    count = len(images.labels)
    convert = {view: pixels(view) for view in paths}
    aside: dict[View, Path] = {}
    bad: dict[int, str] = {}
    remove_abandoned(faults.parent)
    try:
        arrays = {}
        for view, path in paths.items():
            if path.exists():
                log.warning("decoding again: %s is damaged", path)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            aside[view] = Path(name)
            shape = (count, 3, view.size, view.size)
            os.fchmod(handle, 0o644)  # the next person on this node uses it too
            os.close(handle)
            arrays[view] = np.lib.format.open_memmap(name, "w+", np.uint8, shape)
            # Claim the disk now: a full one is an error here, and a bus error later in the map.
            with open(name, "r+b") as file:
                claim(file.fileno(), arrays[view].offset, os.path.getsize(name))

        def chunk(start: int) -> None:
            for index in range(start, min(start + _CHUNK, count)):
                try:
                    image = images.image(index)
                except BadImage as error:
                    bad[index] = str(error)
                    continue
                for view, array in arrays.items():
                    array[index] = convert[view](image)

        with ThreadPoolExecutor(usable_cpus()) as pool:  # PIL frees the GIL
            list(pool.map(chunk, range(0, count, _CHUNK)))
        if bad and not skip:
            raise _refused(bad)
        if bad:
            replace_file(faults, json.dumps(bad).encode())
        for view, array in arrays.items():
            array.flush()
            os.replace(aside[view], paths[view])
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
