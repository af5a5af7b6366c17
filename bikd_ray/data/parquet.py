"""HF-style Parquet: images and labels as columns."""

import json
import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bikd_ray.data.decode import BadImage, decode
from bikd_ray.data.files import expand, image_stamps
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

_OPENERS = 16
_OPEN_FILES = 64
_KEPT_GROUPS = 4 + (os.cpu_count() or 1)  # threads that decode in order are each at another


class ParquetImages:
    """Columns `image` (struct with bytes, or binary) and `label` (integer), in file order.

    A single image costs a read of its whole row group: read in order, or make an encoded copy.
    Raises UserError for files that are missing, damaged or of other columns.
    """

    random_access = False

    def __init__(self, uri: str) -> None:
        self.location = uri
        self.filesystem, self.paths, stamps = expand(uri, ".parquet", "Parquet")
        with ThreadPoolExecutor(_OPENERS) as pool:  # an object store answers slowly, but at once
            files = list(pool.map(self._describe, self.paths))
        self.classes = files[0].classes
        self.labels = np.concatenate([file.labels for file in files])
        if not len(self.labels):
            raise UserError(f"data: {uri} holds no rows; give files with at least one image")
        self.nbytes = sum(file.nbytes for file in files)
        self.stamps = image_stamps(stamps, [len(file.labels) for file in files])
        self._groups = [(n, g) for n, file in enumerate(files) for g in range(len(file.rows))]
        self._starts = np.cumsum([0, *(rows for file in files for rows in file.rows)])
        self._firsts = np.cumsum([0, *(len(file.labels) for file in files)])
        footers = [file.footer for file in files]
        self.source_id = digest("parquet", footers, digest(self.labels.tolist()))
        self._open()

    def where(self, index: int) -> str:
        number = bisect_right(self._firsts, index) - 1
        return f"data: {self.paths[number]}, row {index - int(self._firsts[number])}"

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

    def _describe(self, path: str) -> "_File":
        file = self._parquet(path)
        names = file.schema_arrow.names
        for column in ("image", "label"):
            if column not in names:
                raise UserError(
                    f"data: {path} has no column {column!r}, only {', '.join(names)}; "
                    "expected image (struct with bytes, or binary) and label (integer)"
                )
        kind = file.schema_arrow.field("image").type
        if not _holds_bytes(kind):
            raise UserError(
                f"data: image in {path} is {kind}; it must be binary, or a struct with bytes: "
                "images must be embedded in the file"
            )
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        labels = _column(file, "label", range(len(groups)), path)
        return _File(
            integer_labels(labels, "label", path),
            [group.num_rows for group in groups],
            [_chunk_sizes(group) for group in groups],
            sum(_image_bytes(group) for group in groups),
            _class_names(file),
        )

    def _parquet(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, filesystem=self.filesystem)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"data: {path} is not a readable Parquet file ({reason})") from None

    def _open(self) -> None:
        """What a process keeps: files, and the row groups that it read last."""
        files = lru_cache(maxsize=_OPEN_FILES)(self._parquet)

        def group(number: int) -> pa.ChunkedArray:
            file, at = self._groups[number]
            path = self.paths[file]
            return _column(files(path), "image", [at], f"{path}, row group {at}")

        self._group = lru_cache(maxsize=_KEPT_GROUPS)(group)
        self._reading = Lock()

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_group", "_reading")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()


@dataclass(frozen=True)
class _File:
    """What opening one file tells."""

    labels: np.ndarray  # int64 [rows of the file]
    rows: list[int]  # of each row group
    footer: list[list[int]]
    nbytes: int
    classes: tuple[str, ...] | None


def integer_labels(column: pa.ChunkedArray, name: str, where: str) -> np.ndarray:
    """A column as int64. Raises UserError for gaps and for anything but integers."""
    if column.null_count:
        raise UserError(f"data: {where} has {column.null_count} rows without a {name}")
    if not pa.types.is_integer(column.type):
        raise UserError(f"data: {name} in {where} is {column.type}; it must be an integer")
    return column.to_numpy().astype(np.int64)


def _column(
    file: pq.ParquetFile, name: str, groups: list[int] | range, where: str
) -> pa.ChunkedArray:
    """A column of some row groups. Raises UserError if it is damaged."""
    try:
        return file.read_row_groups(groups, columns=[name]).column(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(" :")
        raise UserError(
            f"data: {name} in {where} cannot be read ({reason}); copy the file again"
        ) from None


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is binary, or a struct with binary `bytes`."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _chunk_sizes(group: pq.RowGroupMetaData) -> list[int]:
    """Rows and column sizes: equal for equal content, readable without the content."""
    columns = (group.column(i) for i in range(group.num_columns))
    return [group.num_rows, *(column.total_compressed_size for column in columns)]


def _image_bytes(group: pq.RowGroupMetaData) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema in ("image", "image.bytes")
    )


def _class_names(file: pq.ParquetFile) -> tuple[str, ...] | None:
    """Class names from the metadata that HF datasets leave in the schema, if they are there."""
    try:
        info = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        return tuple(info["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None
