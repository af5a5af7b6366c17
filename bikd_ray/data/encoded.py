"""A local copy of encoded images, from which any one of them is a slice of mapped memory.

The file is N + 1 offsets (int64) and then the content of the N image files end to end. It is
written aside and renamed, so whoever sees it sees all of it.
"""

import contextlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from bikd_ray.cache_dir import remove_abandoned
from bikd_ray.data.decode import BadImage, decode
from bikd_ray.data.sources import EncodedImages
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest

COPY_VERSION = 1
_READERS = 32


class EncodedCopy:
    """The images of another set, read from the copy at `path`. Raises ValueError if it is torn."""

    random_access = True

    def __init__(self, images: EncodedImages, path: Path) -> None:
        self.images, self.path = images, path
        self.labels, self.classes = images.labels, images.classes
        self.source_id, self.location = images.source_id, images.location
        self.stamps = images.stamps
        self.nbytes, self.notes = images.nbytes, images.notes
        count = len(images.labels)
        self._content = np.memmap(path, np.uint8, "r")
        if len(self._content) < 8 * (count + 1):
            raise ValueError(f"{path} is cut short")
        self._starts = self._content[: 8 * (count + 1)].view(np.int64)
        ends = (self._starts[0], self._starts[-1])
        if ends != (8 * (count + 1), len(self._content)) or (np.diff(self._starts) < 0).any():
            raise ValueError(f"{path} is not a copy of {count} images")

    def where(self, index: int) -> str:
        return self.images.where(index)

    def encoded(self, index: int) -> bytes:
        content = self._content[self._starts[index] : self._starts[index + 1]].tobytes()
        return content or self.images.encoded(index)  # nothing was there: it says why

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def __reduce__(self) -> tuple:
        return EncodedCopy, (self.images, self.path)  # mapped memory does not pickle


def encoded_copy(images: EncodedImages, folder: Path) -> EncodedCopy:
    """The copy of `images` in `folder`, written now if it is not there: once for each node.

    Raises BikdError where the folder cannot hold it (`images.nbytes` is what it takes); nothing
    half-written is left behind.
    """
    name = digest(COPY_VERSION, images.source_id)
    path = folder / f"{name}.images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, ValueError):
            return EncodedCopy(images, path)
        with FileLock(folder / f"{name}.lock"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                return EncodedCopy(images, path)  # another process wrote it meanwhile
            _write(images, path)
        return EncodedCopy(images, path)
    except OSError as error:
        raise BikdError(
            f"cannot keep a copy of the images under {folder}: {error.strerror or error}; "
            "free some space, or set data.cache to another folder or to none"
        ) from None


def _write(images: EncodedImages, path: Path) -> None:
    remove_abandoned(path.parent)
    count = len(images.labels)
    starts = np.zeros(count + 1, np.int64)
    starts[0] = starts.nbytes

    def content(index: int) -> bytes:
        try:
            return images.encoded(index)
        except BadImage:
            return b""

    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file, ThreadPoolExecutor(_READERS) as pool:
            os.fchmod(file.fileno(), 0o644)  # the next person on this node uses it too
            file.write(starts.tobytes())
            for first in range(0, count, _READERS):  # close together: a row group is read once
                part = range(first, min(first + _READERS, count))
                for index, found in zip(part, pool.map(content, part), strict=True):
                    file.write(found)
                    starts[index + 1] = starts[index] + len(found)
            file.seek(0)
            file.write(starts.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)
