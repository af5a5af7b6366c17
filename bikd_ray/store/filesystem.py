"""A folder of files on a local disk or an object store, through pyarrow's filesystems."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from bikd_ray.cache_dir import remove_abandoned, replace_file
from bikd_ray.errors import BikdError, UserError
from bikd_ray.paths import expanded


def store_uri(given: str | None = None, of_spec: str | None = None) -> str:
    """The store that was given, else the spec's (which is read already), else $BIKD_STORE, else
    ./bikd-store. Raises UserError for one that cannot be expanded.
    """
    for name, uri in (("store", given), ("$BIKD_STORE", os.environ.get("BIKD_STORE"))):
        if uri:
            try:
                return expanded(uri)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from None
        if of_spec:
            return of_spec
    return "./bikd-store"


GCS_PATIENCE = 30
"""Seconds that Google's client tries to reach its store, each time; a URI may say another number
of them, as in gs://bucket/bikd?retry_limit_seconds=300.
"""

Listing = dict[str, tuple[int, int]]
"""Full path -> (bytes, when it was written, nanoseconds), which tells one content from another."""


@dataclass(frozen=True)
class StoreFS:
    """Its methods raise BikdError where the disk or the network fails, in one line.

    Each tries again for `patience` seconds before that.
    """

    uri: str
    filesystem: pafs.FileSystem
    root: str
    patience: float = 0.0

    @classmethod
    def at(cls, uri: str, patience: float = 0.0) -> "StoreFS":
        """The place a URI names; a plain path is local. Raises UserError for an unknown scheme.

        A query says how an object store is reached, such as
        s3://bucket/bikd?endpoint_override=host:9000&scheme=http.
        """
        if "://" not in uri:
            uri = str(Path(uri).expanduser().absolute())
            return cls(uri, pafs.LocalFileSystem(), uri, patience)
        try:
            filesystem, root = pafs.FileSystem.from_uri(_with_limits(uri))
        except (OSError, ValueError) as error:
            raise UserError(
                f"store {uri!r} cannot be opened ({_why(error)}); give a folder, s3://… or gs://…"
            ) from None
        if not root.strip("/") and not isinstance(filesystem, pafs.LocalFileSystem):
            raise UserError(f"store {uri!r} has no bucket; give s3://BUCKET/… or gs://BUCKET/…")
        return cls(uri, filesystem, root, patience)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, relative: str) -> str:
        return f"{self.root}/{relative}"

    def write(self, relative: str, content: bytes | memoryview) -> None:
        """Put a whole file there or nothing: aside and renamed locally, one PUT elsewhere."""
        path = self.path(relative)
        with _told(f"cannot write {path}", missing=True):
            _again(self.patience)(self._write, path, content)

    def _write(self, path: str, content: bytes | memoryview) -> None:
        if not self.is_local:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        replace_file(Path(path), content)

    def read(self, relative: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""
        return self.read_path(self.path(relative))

    def read_path(self, path: str) -> bytes:
        """A whole file, given by its full path. Raises FileNotFoundError."""
        with _told(f"cannot read {path}"):
            return _again(self.patience)(self._read, path)

    def _read(self, path: str) -> bytes:
        if self.is_local:
            return Path(path).read_bytes()
        try:
            with self.filesystem.open_input_stream(path) as stream:
                return stream.read()
        except OSError:
            if self.filesystem.get_file_info(path).type == pafs.FileType.NotFound:
                raise FileNotFoundError(path) from None  # it went once it was open
            raise

    def remove(self, relative: str) -> None:
        """Take away a folder, if it is there, and its parent if nothing else is in it."""
        with _told(f"cannot delete {self.path(relative)}"):
            _again(self.patience)(self._remove, relative)

    def _remove(self, relative: str) -> None:
        self.filesystem.delete_dir_contents(self.path(relative), missing_dir_ok=True)
        for folder in (relative, relative.rpartition("/")[0]):
            inside = pafs.FileSelector(self.path(folder), allow_not_found=True)
            if folder and self.exists(folder) and not self.filesystem.get_file_info(inside):
                self.filesystem.delete_dir(self.path(folder))

    def listing(self, folder: str, suffix: str, *, recursive: bool = False) -> Listing:
        """The finished files of a folder that end so, in sorted order; none if it is not there."""
        where = self.path(folder)
        with _told(f"cannot list {where}"):
            if self.is_local and not recursive:
                return _again(self.patience)(_local_listing, where, suffix)
            selector = pafs.FileSelector(where, allow_not_found=True, recursive=recursive)
            infos = _again(self.patience)(self.filesystem.get_file_info, selector)
            found = [i for i in infos if i.is_file]
        named = (i for i in found if i.path.endswith(suffix) and not i.base_name.startswith("."))
        return {i.path: (i.size, i.mtime_ns) for i in sorted(named, key=lambda i: i.path)}

    def names(self, folder: str, suffix: str) -> set[str]:
        """The full paths of `listing`, without asking a local disk about every file."""
        if not self.is_local:
            return set(self.listing(folder, suffix))
        with _told(f"cannot list {self.path(folder)}"):
            found = _again(self.patience)(_local_listed, self.path(folder), suffix)
            return {entry.path for entry in found}

    def delete(self, path: str) -> None:
        """Take away one file, given by its full path; it may be gone already."""
        with _told(f"cannot delete {path}"), contextlib.suppress(FileNotFoundError):
            _again(self.patience)(self.filesystem.delete_file, path)

    def sweep_up(self, folder: str) -> None:
        """Remove what killed writers have half written in it; an object store has none."""
        if self.is_local:
            remove_abandoned(Path(self.path(folder)), "**/.*.tmp")

    def exists(self, relative: str) -> bool:
        return self._type(self.path(relative)) != pafs.FileType.NotFound

    def is_folder(self) -> bool:
        return self._type(self.root) == pafs.FileType.Directory

    def _type(self, path: str) -> pafs.FileType:
        with _told(f"cannot read {path}"):
            return _again(self.patience)(self.filesystem.get_file_info, path).type


def _local_files(folder: str, suffix: str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffix) and entry.name[0] != "." and entry.is_file():
                yield entry


def _local_listed(folder: str, suffix: str) -> list[os.DirEntry[str]]:
    return list(_local_files(folder, suffix))


def _local_listing(folder: str, suffix: str) -> Listing:
    """As `StoreFS.listing`, in half the time that pyarrow takes."""
    found = {}
    for entry in _local_files(folder, suffix):
        with contextlib.suppress(FileNotFoundError):  # it has gone since
            stat = entry.stat()
            found[entry.path] = stat.st_size, stat.st_mtime_ns
    return dict(sorted(found.items()))


@contextlib.contextmanager
def _told(what: str, *, missing: bool = False) -> Iterator[None]:
    """missing: a file or folder that is not there is told too, not raised."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not missing:
            raise
        raise BikdError(f"{what}: {_why(error)}") from None


def _again(seconds: float) -> Retrying:
    """Calls again for so long what the disk or the network fails."""
    return Retrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        ),
        wait=wait_exponential(multiplier=0.5, max=10),
        stop=stop_after_delay(seconds),
        reraise=True,
    )


def _why(error: Exception) -> str:
    """One line, without the number that an object store gives each request."""
    said = getattr(error, "strerror", None) or str(error)
    return said.splitlines()[0].partition(" (Request ID:")[0]


def _with_limits(uri: str) -> str:
    """By S3 a small file is one request, not the three of a multipart upload; and Google's client
    gives up where nobody answers: by itself it tries for 15 minutes.
    """
    scheme = uri.partition("://")[0]
    more = "allow_delayed_open=true" if scheme == "s3" else f"retry_limit_seconds={GCS_PATIENCE}"
    if scheme not in ("s3", "gs", "gcs") or more.partition("=")[0] in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{more}"
