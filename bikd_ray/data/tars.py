"""Images inside tar files, read at their offsets; classes as timm's `ReaderImageInTar` has them."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import inf
from typing import IO, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image

from bikd_ray.data.decode import SHOWN_EXTENSIONS, decode
from bikd_ray.data.exclusions import LeftOut, is_hidden, is_image
from bikd_ray.data.files import expand, is_local
from bikd_ray.data.labels import NO_LABEL, class_order
from bikd_ray.data.names import Names, array_digest
from bikd_ray.errors import UserError
from bikd_ray.identity import digest
from bikd_ray.specs import TimmData, labelled

_INDEXERS = 16
_OPEN_TARS = 128
_ZEROS = bytes(tarfile.BLOCKSIZE)

T = TypeVar("T")


class TarMember(NamedTuple):
    """One file in a tar: `size` bytes from `offset` of tar number `tar`."""

    name: str
    tar: int
    offset: int
    size: int


class OpenTar(NamedTuple):
    """Tar number `number` of `total`, open to be indexed; `left` counts what is passed over."""

    stream: IO[bytes]
    path: str
    number: int
    total: int
    left: LeftOut


class Tars(NamedTuple):
    """The tars that a location names, indexed; stamps [tars, …] change when a tar does."""

    location: str
    filesystem: pafs.FileSystem
    paths: list[str]
    stamps: np.ndarray
    notes: tuple[str, ...]


class TarImages:
    """Labelled members of tar files, in the order given; each process opens its own files."""

    def __init__(
        self,
        tars: Tars,
        members: Sequence[TarMember],
        labels: Sequence[int],
        classes: tuple[str, ...] | None,
    ) -> None:
        self.location, self.filesystem, self.paths, stamps, self.notes = tars
        self.classes = classes
        self.random_access = is_local(self.filesystem)
        self.labels = np.array(labels, np.int64)
        self.names = Names(member.name for member in members)
        self._tars = np.array([member.tar for member in members], np.int32)
        self._offsets = np.array([member.offset for member in members], np.int64)
        self._sizes = np.array([member.size for member in members], np.int64)
        self.nbytes = int(self._sizes.sum())
        self.stamps = np.column_stack([stamps[self._tars], self._offsets])
        self.source_id = digest(
            "tar", self.names.digest(), array_digest(self._sizes), array_digest(self.labels)
        )
        self._open()

    def where(self, index: int) -> str:
        return f"data: {self.paths[self._tars[index]]}, member {self.names[index]}"

    def encoded(self, index: int) -> bytes:
        size, offset = int(self._sizes[index]), int(self._offsets[index])
        try:
            content = self._file(int(self._tars[index])).read_at(size, offset)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.where(index)} cannot be read ({reason})") from None
        if len(content) < size:
            raise UserError(f"{self.where(index)} is cut short; copy the tar file again")
        return content

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def _open(self) -> None:
        def file(number: int) -> pa.NativeFile:
            return self.filesystem.open_input_file(self.paths[number])

        self._file = lru_cache(maxsize=_OPEN_TARS)(file)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_file"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


def open_tar(filesystem: pafs.FileSystem, path: str) -> IO[bytes]:
    """A tar file to index. Raises UserError.

    Headers are 512 bytes between images: a disk seeks from one to the next, and an object store
    sends both in long runs.
    """
    try:
        file = filesystem.open_input_file(path)
    except OSError as error:
        raise UserError(f"data: cannot open {path}: {str(error).splitlines()[0]}") from None
    return io.BufferedReader(file, 4096 if is_local(filesystem) else 1 << 20)  # type: ignore[arg-type]


def scan(
    stream: IO[bytes], path: str, left: LeftOut, end: float = inf
) -> Iterator[tarfile.TarInfo]:
    """The files in the tar that starts where `stream` is and ends before `end`.

    `offset_data` counts from the start of the stream. The caller may move it meanwhile. Links are
    counted as left out: what they point to is elsewhere in the tar, or not in it. Raises
    UserError where the tar is damaged or cut short, which tarfile alone takes for its end.
    """
    last = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while info := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if info.isfile():
                    last = info.name
                    yield info
                elif not info.isdir():
                    left.add("link{s} or special file{s} of a tar", info.name)
            stream.seek(tar.offset)
            if tar.offset < end and stream.read(tarfile.BLOCKSIZE) == _ZEROS:
                return
            reason = "no end of archive"
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        reason = str(error)
    after = f" after member {last}" if last else ", or compressed"
    raise UserError(
        f"data: {path} is damaged or cut short{after} ({reason}); "
        "give an uncompressed tar file, or copy it again"
    )


def index_tars(uri: str, find: Callable[[OpenTar], Iterable[T]]) -> tuple[Tars, list[T]]:
    """What `find` finds in each tar of a location, several read at once, in the tars' order.

    Raises UserError for tars that are missing.
    """
    left = LeftOut()
    filesystem, paths, stamps = expand(uri, ".tar", "tar", left)
    parts = [LeftOut() for _ in paths]

    def indexed(number: int) -> list[T]:
        path = paths[number]
        with open_tar(filesystem, path) as stream:
            return list(find(OpenTar(stream, path, number, len(paths), parts[number])))

    with ThreadPoolExecutor(_INDEXERS) as pool:
        found = [one for part in pool.map(indexed, range(len(paths))) for one in part]
    return Tars(uri, filesystem, paths, stamps, left.merge(parts).notes), found


def class_folders(source: TimmData) -> TarImages:
    """Tars of `CLASS/image.jpg`, or of one inner tar for each class.

    Classes, labels and order are those of timm's `ReaderImageInTar`: the innermost folder or tar
    is the class; classes are in natural order, and so are the images over all of them. Without
    labels images may lie anywhere. Raises UserError for tars that are missing, damaged or without
    images.
    """
    known = labelled(source)

    def images(tar: OpenTar) -> list[_Image]:
        name = os.path.splitext(os.path.basename(tar.path))[0] if tar.total > 1 else ""
        found = _images(tar.stream, tar.path, tar.number, name, tar.left)
        if known and (loose := next((image for image in found if not image.label), None)):
            raise UserError(f"data: {tar.path}, member {loose.path} lies in no class folder")
        return found

    from timm.utils.misc import natural_key

    tars, found = index_tars(str(source.path), images)
    if not found:
        raise UserError(
            f"data: no images in {tars.location}; expected members CLASS/IMAGE with one of "
            f"{SHOWN_EXTENSIONS}"
        )
    found.sort(key=lambda image: natural_key(image.path))
    members = [image.member for image in found]
    if not known:
        return TarImages(tars, members, [NO_LABEL] * len(found), None)
    classes = class_order(image.label for image in found)
    index = {name: label for label, name in enumerate(classes)}
    labels = [index[image.label] for image in found]
    return TarImages(tars, members, labels, classes)


class _Image(NamedTuple):
    member: TarMember
    path: str  # in the innermost tar
    label: str  # nothing where it lies in no folder


def _images(
    stream: IO[bytes], path: str, number: int, folder: str, left: LeftOut, end: float = inf
) -> list[_Image]:
    """The images of a tar, those of its inner tars first; `folder` stands above its members."""
    inner, own = [], []
    for info in scan(stream, path, left, end):
        stem, extension = os.path.splitext(os.path.basename(info.name))
        if any(map(is_hidden, info.name.split("/"))):
            left.hidden(info.name)
        elif extension.lower() == ".tar":
            stream.seek(info.offset_data)
            where, last = f"{path}, member {info.name}", info.offset_data + info.size
            inner += _images(stream, where, number, f"{folder}/{stem}", left, last)
        elif is_image(info.name):
            label = os.path.join(folder, os.path.dirname(info.name)).strip("/").split("/")[-1]
            label = "" if label == "." else label
            name = "/".join(part for part in (folder.strip("/"), info.name) if part)
            own.append(
                _Image(TarMember(name, number, info.offset_data, info.size), info.name, label)
            )
        else:
            left.other(info.name)
    return inner + own
