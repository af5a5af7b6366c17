"""The files behind a path of a spec: local or in an object store."""

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs

from bikd_ray.data.exclusions import LeftOut, below, is_hidden
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


PARQUET = ".parquet"


def expand(
    uri: str, suffix: str, kind: str, left: LeftOut
) -> tuple[pafs.FileSystem, list[str], np.ndarray]:
    """The files behind a file, directory, glob, brace range or several of them joined by `::`.

    A directory stands for the files below it that end in `suffix`; globs and directories give
    sorted files, braces keep their order. Returns the file system, the paths in it, and their
    `file_stamp`s, int64 [files, 4]; `left` counts what is passed over. Raises UserError where
    there is nothing.
    """
    infos: list[pafs.FileInfo] = []
    filesystem: pafs.FileSystem | None = None
    for part in uri.split("::"):
        try:
            place, path = locate(part)
            if filesystem is not None and place != filesystem:
                raise UserError(f"data: {uri} joins two file systems; give files of one of them")
            filesystem = place
            found = _matching(place, braces(path), suffix, left)
        except FileNotFoundError as error:
            raise UserError(
                f"data: {error if '{' in part else part} does not exist; "
                f"give a {kind} file, folder or glob"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"data: cannot open {part}: {str(error).splitlines()[0]}") from None
        if not found:
            raise UserError(f"data: no {kind} file matches {part}")
        infos += found
    assert filesystem is not None  # str.split gives at least one part
    stamps = np.array([_stamp(filesystem, info) for info in infos], np.int64)
    return filesystem, [info.path for info in infos], stamps


def file_stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """(inode, bytes, time of modification, time of change; ns): what a write cannot leave as it is.

    Copying and archiving tools restore the time of modification, but not that of change.
    """
    inode = (status.st_ino + 2**63) % 2**64 - 2**63  # unsigned, and it may use all 64 bits
    return inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stamp(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> tuple[int, int, int, int]:
    """As `file_stamp`; object stores have neither inodes nor times of change."""
    if is_local(filesystem):
        return file_stamp(os.stat(info.path))
    return int(digest(info.path)[:15], 16), info.size or 0, info.mtime_ns or 0, 0


def image_stamps(files: np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 [N, 5]: the stamp of the file that holds each image, and the image's place in it.

    files: int64 [F, 4]. counts: images in each file.
    """
    places = [np.arange(count) for count in counts]
    return np.column_stack(
        [np.repeat(files, counts, axis=0), np.concatenate([*places, np.empty(0, np.int64)])]
    ).astype(np.int64)


def braces(pattern: str) -> list[str]:
    """Every text that a pattern with `{000..012}` and `{a,b}` stands for, in order.

    >>> braces("a-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last, listed = found.groups()
    if listed is None:
        width = len(first) if first[0] == "0" else 0
        inner = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    else:
        inner = listed.split(",")
    head, tails = pattern[: found.start()], braces(pattern[found.end() :])
    return [head + text + tail for text in inner for tail in tails]


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path in it. Raises OSError and ValueError."""
    if "://" in uri:  # braces are no part of a URI, but may be quoted in it
        return pafs.FileSystem.from_uri(uri.replace("{", "%7B").replace("}", "%7D"))
    return pafs.LocalFileSystem(), str(Path(uri).absolute())


def _matching(
    filesystem: pafs.FileSystem, paths: list[str], suffix: str, left: LeftOut
) -> list[pafs.FileInfo]:
    infos: list[pafs.FileInfo] = []
    plain = [path for path in paths if not any(c in path for c in "*?[")]
    known = dict(zip(plain, filesystem.get_file_info(plain), strict=True))
    for path in paths:
        if path not in known:
            folder = re.split(r"[*?[]", path)[0].rpartition("/")[0]
            found = [f for f in _below(filesystem, folder) if fnmatch(f.path, path)]
            infos += _seen(found, path, suffix, left)
        elif known[path].type == pafs.FileType.NotFound:
            raise FileNotFoundError(path)
        elif known[path].type == pafs.FileType.Directory:
            found = _seen(_below(filesystem, path), path, suffix, left)
            infos += [f for f in found if f.path.endswith(suffix)]
            for other in found:
                if not other.path.endswith(suffix):
                    left.other(other.path)
        else:
            infos.append(known[path])
    return infos


def _seen(
    found: list[pafs.FileInfo], pattern: str, suffix: str, left: LeftOut
) -> list[pafs.FileInfo]:
    """The files that are not hidden, sorted; hidden ones with the suffix are counted."""
    seen = []
    for info in sorted(found, key=lambda info: info.path):
        parts = below(pattern, info.path)
        if not any(is_hidden(part, underscores=suffix == PARQUET) for part in parts):
            seen.append(info)
        elif info.path.endswith(suffix):
            left.hidden(info.path)
    return seen


def _below(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    listing = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return [info for info in listing if info.is_file]


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether a read at any place costs little: local and mounted disks, not object stores."""
    return isinstance(filesystem, pafs.LocalFileSystem)
