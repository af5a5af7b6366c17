"""A folder with one sub-folder of images for each class."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from bikd_ray.data.decode import EXTENSIONS, decode
from bikd_ray.data.files import file_stamp, image_stamps
from bikd_ray.data.labels import class_order
from bikd_ray.data.names import Names, array_digest
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

_LISTERS = 16


class FolderImages:
    """`root/CLASS/**/image.jpg`; classes and files in sorted order, links followed.

    Raises UserError for a folder that is missing, unreadable or without images.
    """

    random_access = True

    def __init__(self, root: str) -> None:
        self.root = self.location = root
        if not os.path.isdir(root):
            raise UserError(
                f"data: {root} is not a folder; give the folder that holds one sub-folder a class"
            )
        try:
            with os.scandir(root) as entries:
                found = class_order(e.name for e in entries if e.is_dir() and e.name[0] != ".")
            # on a network disk nearly all the time is waiting for the sizes
            with ThreadPoolExecutor(_LISTERS) as pool:
                listings = list(pool.map(lambda name: _listing(root, name), found))
        except OSError as error:
            raise UserError(f"data: cannot read {error.filename}: {error.strerror}") from None
        self.classes = found
        self.labels = np.repeat(np.arange(len(found)), [len(names) for names, _ in listings])
        if not len(self.labels):
            raise UserError(
                f"data: no images under {root}; expected {root}/CLASS/IMAGE "
                f"with one of {', '.join(sorted(EXTENSIONS))}"
            )
        self.names = Names(name for names, _ in listings for name in names)
        files = np.concatenate([stamps for _, stamps in listings])
        self.stamps = image_stamps(files, np.ones(len(files), np.int64))
        self.nbytes = int(files[:, 1].sum())
        self.source_id = _listing_id(dict(zip(found, listings, strict=True)))

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


def _listing_id(listings: dict[str, tuple[list[str], np.ndarray]]) -> str:
    """Identity of names, sizes and labels, with the classes in the order of text: as stores of
    version 1 have it, whatever the order of labels is now.
    """
    classes = sorted(listings)
    ordered = [listings[name] for name in classes]
    return digest(
        "folder",
        classes,
        Names(name for names, _ in ordered for name in names).digest(),
        array_digest(np.concatenate([stamps[:, 1] for _, stamps in ordered])),
        array_digest(np.repeat(np.arange(len(classes)), [len(names) for names, _ in ordered])),
    )


def _listing(root: str, name: str) -> tuple[list[str], np.ndarray]:
    """Paths under `root` and `file_stamp`s [N, 4] of the images of class `name`."""
    names, stamps = [], []
    for path, status in _walk(os.path.join(root, name), name, frozenset()):
        names.append(path)
        stamps.append(file_stamp(status))
    return names, np.array(stamps, np.int64).reshape(-1, 4)


def _walk(
    folder: str, name: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, os.stat_result]]:
    """Images below a folder in the order of their path's parts; `above` are its ancestors."""
    status = os.stat(folder)
    this = (status.st_dev, status.st_ino)
    if this in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry.path, path, above | {this})
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            yield path, entry.stat()
