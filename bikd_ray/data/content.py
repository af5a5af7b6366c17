"""Which images these are: a hash of every image's bytes, computed once and remembered.

Two sets are the same where the same bytes with the same labels come in the same order, whatever
their names, folders or containers. To read a large set again at each command would take hours, so
the hashes are kept in the user's cache beside what the file system says of each file (inode, size,
times of modification and of change); an image is read again only where that has changed.
"""

import contextlib
import hashlib
import io
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from bikd_ray.cache_dir import cache_root, replace_file
from bikd_ray.data.decode import BadImage
from bikd_ray.data.names import array_digest
from bikd_ray.data.sources import EncodedFiles, EncodedImages, ImageSet
from bikd_ray.identity import digest

CONTENT_VERSION = 2
"""1 was a hash of names and sizes."""

HASH_BYTES = 16

SETTLED = 2 * 10**9
"""Nanoseconds that a file must have been left alone before its hash is remembered: a later write
within one tick of the file system's clock would not show in its times."""

_KEPT = np.dtype([("stamp", np.int64, 5), ("hash", np.uint8, HASH_BYTES)])
"""What is remembered of an image."""

AT_ONCE = 50_000
"""Images after which what has been read is remembered."""

_TOLD = 2**30
"""Bytes to read from which a person is told why nothing seems to happen."""
_CHUNK, _CHUNK_IN_ORDER = 256, 8
"""Images that one thread hashes at a time: few where a row group is read for each, so that all
threads are in the same two or three."""

log = logging.getLogger(__name__)


@runtime_checkable
class Identified(Protocol):
    """An image set that knows its own identity, such as one of several files a sample."""

    def content_id(self) -> str: ...

    def spot_check(self) -> str: ...


def content_id(images: ImageSet, hashes: np.ndarray | None = None) -> str:
    """Identity of labelled images: 16 hex digits over each image's bytes and label, in order.

    hashes: their `content_hashes`, where they are at hand. Images that no file holds (the bundled
    digits) have an identity of their own. Raises UserError where a file cannot be read.
    """
    if isinstance(images, Identified):
        return images.content_id()
    if not isinstance(images, EncodedImages):
        return images.source_id
    hashes = content_hashes(images) if hashes is None else hashes
    of_all = hashlib.sha256(hashes.tobytes()).hexdigest()
    meaning = getattr(images, "meaning", None)  # what the values of masks stand for
    more = [] if meaning is None else [meaning]
    return digest("images", CONTENT_VERSION, of_all, array_digest(images.labels), *more)


def content_hashes(images: EncodedFiles, settled_ns: int = SETTLED) -> np.ndarray:
    """uint8 [N, 16]: a hash of each image's bytes, read only where it is not remembered.

    settled_ns: how long a file must have been left alone for its hash to be remembered.
    """
    path = cache_root() / "content" / f"{digest(CONTENT_VERSION, images.location)}.npy"
    stamps = np.ascontiguousarray(images.stamps, dtype=np.int64)
    hashes, known = _recall(path, stamps)
    unknown = np.flatnonzero(~known)
    if len(unknown):
        started = time.time_ns()
        size = images.nbytes * len(unknown) / len(stamps)
        if size > _TOLD:
            log.warning(
                "reading %d files of %s (%.1f GB) once, to know them again",
                len(unknown),
                images.location,
                size / 1e9,
            )
        settled = stamps[:, 2:4].max(axis=1, initial=0) < started - settled_ns
        for first in range(0, len(unknown), AT_ONCE):  # what was read stays known after Ctrl-C
            rows = unknown[first : first + AT_ONCE]
            hashes[rows] = _hashed(images, rows)
            known[rows] = settled[rows]
            _remember(path, stamps[known], hashes[known])
    return hashes


def spot_check(images: ImageSet) -> str:
    """Identity of a few images, evenly spaced: told in moments whether a node has another copy.

    Equal names and sizes are seen elsewhere; this sees a copy that was processed as a whole.
    """
    if isinstance(images, Identified):
        return images.spot_check()
    if not isinstance(images, EncodedImages):
        return images.source_id
    return file_spot_check(images, len(images.labels))


def file_spot_check(files: EncodedFiles, count: int) -> str:
    """The same of `count` files of any kind."""
    few = np.unique(np.linspace(0, count - 1, 8 if files.random_access else 2).astype(int))
    return digest([_hash(files, int(index)).hex() for index in few])


def _hashed(images: EncodedFiles, rows: np.ndarray) -> np.ndarray:
    """uint8 [len(rows), 16]."""
    size = _CHUNK if images.random_access else _CHUNK_IN_ORDER

    def chunk(start: int) -> bytes:
        return b"".join(_hash(images, int(index)) for index in rows[start : start + size])

    # more threads than cores: on a network disk nearly all the time is waiting
    with ThreadPoolExecutor(min(32, 8 * (os.cpu_count() or 1))) as pool:
        parts = list(pool.map(chunk, range(0, len(rows), size)))
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(rows), HASH_BYTES)


def _hash(images: EncodedFiles, index: int) -> bytes:
    try:
        content = images.encoded(index)
    except BadImage:  # nothing is there; the decoder will say so
        content = b""
    return hashlib.blake2b(content, digest_size=HASH_BYTES).digest()


def _recall(path: Path, stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes [N, 16], and which of them [N] are known from before."""
    hashes = np.zeros((len(stamps), HASH_BYTES), np.uint8)
    known = np.zeros(len(stamps), bool)
    with contextlib.suppress(OSError, ValueError, EOFError):  # none, or damaged
        kept = np.load(path, allow_pickle=False)
        if getattr(kept, "dtype", None) != _KEPT:
            raise ValueError(path)
        before, values = kept["stamp"], kept["hash"]
        if np.array_equal(before, stamps):  # nothing has changed, and rows are where they were
            return values, ~known
        at = {row.tobytes(): i for i, row in enumerate(before)}
        found = np.array([at.get(row.tobytes(), -1) for row in stamps], np.int64)
        known = found >= 0
        hashes[known] = values[found[known]]
    return hashes, known


def _remember(path: Path, stamps: np.ndarray, hashes: np.ndarray) -> None:
    kept = np.zeros(len(stamps), _KEPT)
    kept["stamp"], kept["hash"] = stamps, hashes
    stream = io.BytesIO()
    np.save(stream, kept)
    with contextlib.suppress(OSError):  # a home that cannot be written: read again next time
        replace_file(path, stream.getbuffer())
