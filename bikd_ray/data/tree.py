"""Encoded images below one folder, each in a file of its own."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from stat import S_ISREG

import numpy as np
from PIL import Image

from bikd_ray.data.decode import decode
from bikd_ray.data.exclusions import LeftOut, is_hidden, is_image
from bikd_ray.data.files import file_stamp, image_stamps
from bikd_ray.data.names import Names
from bikd_ray.errors import UserError


class TreeFiles:
    """N files below `root`, by their paths under it and their `file_stamp`s, int64 [N, 4]."""

    random_access = True

    def __init__(self, root: str, names: Iterable[str], files: np.ndarray) -> None:
        self.root = self.location = root
        self.names = Names(names)
        self.stamps = image_stamps(files, np.ones(len(files), np.int64))
        self.nbytes = int(files[:, 1].sum())

    def path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def where(self, index: int) -> str:
        return f"data: {self.path(index)}"

    def encoded(self, index: int) -> bytes:
        path = self.path(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"data: cannot read {path}: {error.strerror}") from None

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))


@dataclass(frozen=True)
class Listing:
    """Paths under the root and `file_stamp`s [N, 4] of images; `left` was passed over."""

    names: list[str]
    stamps: np.ndarray
    left: LeftOut


def list_images(root: str, name: str = "", apart: str | None = None) -> Listing:
    """The images below `root/name`, links followed; `apart` is a file that is none of them and is
    not said to be left out. Raises OSError.
    """
    names, stamps, left = [], [], LeftOut()
    for path, status in _walk(os.path.join(root, name), name, frozenset(), left, apart):
        names.append(path)
        stamps.append(file_stamp(status))
    return Listing(names, np.array(stamps, np.int64).reshape(-1, 4), left)


def _walk(
    folder: str, name: str, above: frozenset[tuple[int, int]], left: LeftOut, apart: str | None
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
            yield from _walk(entry.path, path, above | {this}, left, apart)
        elif is_image(entry.name):
            status = entry.stat()
            if S_ISREG(status.st_mode):
                yield path, status
            else:  # to open a pipe waits for its writer
                left.add("special file{s}", path)
        elif not apart or os.path.realpath(entry.path) != os.path.realpath(apart):
            left.other(path)
