"""Encoded images in one column of Parquet files."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from PIL import Image

from bikd_ray.data.decode import BadImage, decode
from bikd_ray.data.exclusions import LeftOut
from bikd_ray.data.files import PARQUET, expand, image_stamps
from bikd_ray.errors import UserError

_OPENERS = 16
_OPEN_FILES = 64
_KEPT_GROUPS = 4 + (os.cpu_count() or 1)  # threads that decode in order are each at another
_Told = TypeVar("_Told")


@dataclass(frozen=True)
class ParquetFiles:
    """Files of a spec's path in their order, and their `file_stamp`s, int64 [files, 4]."""

    uri: str
    filesystem: pafs.FileSystem
    paths: Sequence[str]
    stamps: np.ndarray

    @classmethod
    def at(cls, uri: str, left: LeftOut) -> "ParquetFiles":
        """What `expand` finds. Raises UserError where there is nothing."""
        _refuse_saved(uri)
        return cls(uri, *expand(uri, PARQUET, "Parquet", left))

    def each(self, described: Callable[[str, pq.ParquetFile], _Told]) -> list[_Told]:
        """What `described` says of each (path, file). Raises UserError for a damaged one."""

        def one(path: str) -> _Told:
            file = self.open(path)
            with _readable(path):  # what a damaged footer says may be no text
                return described(path, file)

        with ThreadPoolExecutor(_OPENERS) as pool:  # an object store answers slowly, but at once
            return list(pool.map(one, self.paths))

    def open(self, path: str) -> pq.ParquetFile:
        with _readable(path):
            return pq.ParquetFile(path, filesystem=self.filesystem)


@dataclass(frozen=True)
class Groups:
    """What the footer of one file says of a column."""

    rows: list[int]
    """Of each row group."""
    sizes: list[list[int]]
    """Of each row group, its rows and column sizes: equal for equal content."""
    nbytes: int
    """Of the column."""


class ParquetColumn:
    """N encoded images, a struct with bytes or binary, in file order.

    A single image costs a read of its whole row group: read in order, or make an encoded copy.
    """

    random_access = False

    def __init__(self, files: ParquetFiles, column: str, groups: Sequence[Groups]) -> None:
        self.files, self.column = files, column
        self.location = f"{files.uri}, column {column}"
        counts = [sum(of_file.rows) for of_file in groups]
        self.nbytes = sum(of_file.nbytes for of_file in groups)
        self.stamps = image_stamps(files.stamps, counts)
        self._groups = [
            (n, g) for n, of_file in enumerate(groups) for g in range(len(of_file.rows))
        ]
        self._starts = np.cumsum([0, *(rows for of_file in groups for rows in of_file.rows)])
        self._firsts = np.cumsum([0, *counts])
        self._open()

    def where(self, index: int) -> str:
        number = bisect_right(self._firsts, index) - 1
        return f"data: {self.files.paths[number]}, row {index - int(self._firsts[number])}"

    def encoded(self, index: int) -> bytes:
        group = bisect_right(self._starts, index) - 1
        with self._reading:  # threads that need one row group read it once
            column = self._group(group)
        value = column[index - int(self._starts[group])].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise BadImage.at(self.where(index), "no image bytes: images must be embedded")
        return content

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))

    def _open(self) -> None:
        """What a process keeps: files, and the row groups that it read last."""
        files = lru_cache(maxsize=_OPEN_FILES)(self.files.open)

        def group(number: int) -> pa.ChunkedArray:
            file, at = self._groups[number]
            path = self.files.paths[file]
            return read_column(files(path), self.column, [at], f"{path}, row group {at}")

        self._group = lru_cache(maxsize=_KEPT_GROUPS)(group)
        self._reading = Lock()

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_group", "_reading")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


def groups_of(path: str, file: pq.ParquetFile, column: str) -> Groups:
    """Raises UserError where the column, which must be there, does not hold images."""
    kind = file.schema_arrow.field(column).type
    if not holds_bytes(kind):
        raise UserError(
            f"data: {column} in {path} is {kind}; it must be binary, or a struct with "
            "bytes: images must be embedded in the file"
        )
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    return Groups(
        [group.num_rows for group in groups],
        [_chunk_sizes(group) for group in groups],
        sum(_image_bytes(group, column) for group in groups),
    )


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data: {path} is not a readable Parquet file ({reason})") from None


def read_column(
    file: pq.ParquetFile, name: str, groups: list[int] | range, where: str
) -> pa.ChunkedArray:
    """A column of some row groups. Raises UserError if it is damaged."""
    try:
        column = file.read_row_groups(groups, columns=[name]).column(name)
        rows = sum(file.metadata.row_group(group).num_rows for group in groups)
        if len(column) != rows:
            raise ValueError(f"{len(column)} values in {rows} rows")
        return column
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0].rstrip(" :")
        raise UserError(
            f"data: {name} in {where} cannot be read ({reason}); copy the file again"
        ) from None


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is binary, or a struct with binary `bytes`."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and holds_bytes(kind.field(at).type)
    if pa.types.is_dictionary(kind):
        return holds_bytes(kind.value_type)
    test = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in test)


def _refuse_saved(uri: str) -> None:
    """Raises UserError for a folder that `save_to_disk` of HF datasets wrote: it is Arrow."""
    for name, more in (("dataset_dict.json", ", split: NAME"), ("state.json", "")):
        if os.path.isfile(os.path.join(uri, name)):
            raise UserError(
                f"data: {uri} was written by save_to_disk and holds Arrow files, not Parquet; "
                f"give {{source: timm, name: 'hfds/{uri}'{more}}}"
            )


def _chunk_sizes(group: pq.RowGroupMetaData) -> list[int]:
    """Rows and column sizes: equal for equal content, readable without the content."""
    columns = (group.column(i) for i in range(group.num_columns))
    return [group.num_rows, *(column.total_compressed_size for column in columns)]


def _image_bytes(group: pq.RowGroupMetaData, name: str) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema in (name, f"{name}.bytes")
    )
