"""A folder with one sub-folder of images for each class, or with a file of labels."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bikd_ray.data.decode import SHOWN_EXTENSIONS, decode
from bikd_ray.data.label_file import read_labels
from bikd_ray.data.left_out import LeftOut, is_hidden, is_image, listed
from bikd_ray.data.names import Names, array_digest
from bikd_ray.data.naming import Classes
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

_LISTERS = 16


class FolderImages:
    """`root/CLASS/**/image.jpg`; classes and files in sorted order, links followed.

    With `labels`, a file of `label_file`, the images are all those below root, and the names of
    classes are looked up in `known`. Raises UserError for a folder that is missing, unreadable or
    without images.
    """

    random_access = True

    def __init__(self, root: str, labels: str | None = None, known: Classes | None = None) -> None:
        self.root, self.files = root, (os.path.realpath(root),)
        if not os.path.isdir(root):
            raise UserError(
                f"data: {root} is not a folder; give the folder that holds one sub-folder a class"
            )
        left = LeftOut()
        try:
            found = [""] if labels else _class_folders(root, left)
            # on a network disk nearly all the time is waiting for the sizes
            with ThreadPoolExecutor(_LISTERS) as pool:
                listings = list(pool.map(lambda name: _listing(root, name, labels), found))
        except OSError as error:
            raise UserError(f"data: cannot read {error.filename}: {error.strerror}") from None
        left.merge(listing.left for listing in listings)
        names = [name for listing in listings for name in listing.names]
        if not names:
            hint = "; where a file has the labels, set labels: FILE" if _LOOSE in left.first else ""
            raise UserError(
                f"data: no images under {root}; expected {root}/CLASS/IMAGE "
                f"with one of {SHOWN_EXTENSIONS}{hint}"
            )
        self.names = Names(names)
        if labels:
            self.labels, self.classes, notes = read_labels(labels, names, known)
        else:
            counts = [len(listing.names) for listing in listings]
            self.labels, self.classes = np.repeat(np.arange(len(found)), counts), tuple(found)
            notes = _odd_classes(found, counts, left)
        self.notes = left.notes + notes
        sizes = np.concatenate([listing.sizes for listing in listings])
        self.nbytes = int(sizes.sum())
        self.source_id = digest(
            "folder",
            self.classes,
            self.names.digest(),
            array_digest(sizes),
            array_digest(self.labels),
        )
        times = np.concatenate([listing.times for listing in listings])
        self.stamp = digest(array_digest(times))

    def where(self, index: int) -> str:
        return f"data: {os.path.join(self.root, self.names[index])}"

    def encoded(self, index: int) -> bytes:
        path = os.path.join(self.root, self.names[index])
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"data: cannot read {path}: {error.strerror}") from None

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))


_LOOSE = "image{s} in no class folder"


def _class_folders(root: str, left: LeftOut) -> list[str]:
    """The sub-folders of `root`, sorted; the rest that lies there is counted in `left`."""
    found = []
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_hidden(entry.name):
                left.hidden(entry.name)
            elif entry.is_dir():
                found.append(entry.name)
            elif is_image(entry.name):
                left.add(_LOOSE, entry.name)
            else:
                left.other(entry.name)
    return found


def _odd_classes(found: list[str], counts: list[int], left: LeftOut) -> tuple[str, ...]:
    """What a person should know of the class folders."""
    notes = []
    if empty := [name for name, count in zip(found, counts, strict=True) if not count]:
        notes.append(f"no image in class folder{'s' * (len(empty) > 1)} {listed(empty)}")
    if len(found) == 1:
        file = next((first for kind, first in left.first.items() if kind != _LOOSE), "a file")
        notes.append(
            f"all images are of one class, the folder {found[0]!r}; if {file} has their labels, "
            "set labels: to it"
        )
    return tuple(notes)


@dataclass(frozen=True)
class _Listing:
    """Paths under the root, sizes in bytes and times of change of the images of one class."""

    names: list[str]
    sizes: np.ndarray
    times: np.ndarray
    left: LeftOut


def _listing(root: str, name: str, labels: str | None) -> _Listing:
    names, sizes, times, left = [], [], [], LeftOut()
    for path, status in _walk(os.path.join(root, name), name, frozenset(), left, labels):
        names.append(path)
        sizes.append(status.st_size)
        times.append(status.st_mtime_ns)
    return _Listing(names, np.array(sizes, np.int64), np.array(times, np.int64), left)


def _walk(
    folder: str, name: str, above: frozenset[tuple[int, int]], left: LeftOut, labels: str | None
) -> Iterator[tuple[str, os.stat_result]]:
    """Images below a folder in the order of their path's parts; `above` are its ancestors."""
    status = os.stat(folder)
    this = (status.st_dev, status.st_ino)
    if this in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = f"{name}/{entry.name}" if name else entry.name
        if is_hidden(entry.name):
            left.hidden(path)
        elif entry.is_dir():
            yield from _walk(entry.path, path, above | {this}, left, labels)
        elif is_image(entry.name):
            yield path, entry.stat()
        elif not labels or os.path.realpath(entry.path) != os.path.realpath(labels):
            left.other(path)
