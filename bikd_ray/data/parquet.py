"""HF-style Parquet: images and labels as columns."""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bikd_ray.data.decode import BadImage, decode
from bikd_ray.data.exclusions import LeftOut
from bikd_ray.data.files import PARQUET, expand, image_stamps
from bikd_ray.data.label_values import numbered, plain
from bikd_ray.data.labels import NO_LABEL, Names
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

_OPENERS = 16
_OPEN_FILES = 64
_KEPT_GROUPS = 4 + (os.cpu_count() or 1)  # threads that decode in order are each at another


class ParquetImages:
    """A column of images (struct with bytes, or binary) and one of labels, in file order.

    Labels are integers, or names of classes; where no column has them, they stand in the path as
    `label=K`. label: None where there are none. A single image costs a read of its whole row group:
    read in order, or make an encoded copy. Raises UserError for files that are missing, damaged
    or of other columns.
    """

    random_access = False

    def __init__(self, uri: str, image: str = "image", label: str | None = "label") -> None:
        self.location, self.column, self._label, left = uri, image, label, LeftOut()
        _refuse_saved(uri)
        self.filesystem, self.paths, stamps = expand(uri, PARQUET, "Parquet", left)
        self.notes = left.notes
        with ThreadPoolExecutor(_OPENERS) as pool:  # an object store answers slowly, but at once
            files = list(pool.map(self._described, self.paths))
        self.labels, self.classes = self._numbered(files)
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

    def _described(self, path: str) -> "_File":
        file = self._parquet(path)
        with _readable(path):  # what a damaged footer says may be no text
            return self._describe(path, file)

    def _describe(self, path: str, file: pq.ParquetFile) -> "_File":
        schema, label = file.schema_arrow, self._label
        value = None if label is None or label in schema.names else _partition(path, label)
        wanted = {"image": self.column}
        if label is not None and value is None:
            wanted["label"] = label
        _require(schema, wanted, path)
        kind = schema.field(self.column).type
        if not _holds_bytes(kind):
            raise UserError(
                f"data: {self.column} in {path} is {kind}; it must be binary, or a struct with "
                "bytes: images must be embedded in the file"
            )
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        if label is None:
            labels = pa.chunked_array([pa.repeat(NO_LABEL, file.metadata.num_rows)])
        elif value is None:
            labels = _column(file, label, range(len(groups)), path)
        else:
            labels = pa.chunked_array([pa.repeat(value, file.metadata.num_rows)])
        return _File(
            labels,
            [group.num_rows for group in groups],
            [_chunk_sizes(group) for group in groups],
            sum(_image_bytes(group, self.column) for group in groups),
            _class_names(file, label),
        )

    def _numbered(self, files: list["_File"]) -> tuple[np.ndarray, Names | None]:
        """The labels of all files, and the names of the classes."""
        for path, file in zip(self.paths, files, strict=True):
            if file.labels.null_count:  # it names the file
                numbered(file.labels, str(self._label), path)
            if file.classes != files[0].classes:
                raise UserError(
                    f"data: {path} and {self.paths[0]} have other names of classes; give files of "
                    "one data set"
                )
        kinds = {pa.types.is_string(plain(file.labels.slice(0, 0)).type) for file in files}
        if len(kinds) > 1:
            raise UserError(
                f"data: {self._label} holds integers in some files and text in others, such as "
                f"{self.paths[0]}; write them alike"
            )
        if kinds == {True}:
            chunks = [chunk for file in files for chunk in plain(file.labels).chunks]
            column = pa.chunked_array(chunks, pa.string())
            labels, classes = numbered(column, str(self._label), self.paths[0])
            return labels, classes or files[0].classes
        named = zip(self.paths, files, strict=True)
        parts = [numbered(file.labels, str(self._label), path)[0] for path, file in named]
        return np.concatenate(parts), files[0].classes

    def _parquet(self, path: str) -> pq.ParquetFile:
        with _readable(path):
            return pq.ParquetFile(path, filesystem=self.filesystem)

    def _open(self) -> None:
        """What a process keeps: files, and the row groups that it read last."""
        files = lru_cache(maxsize=_OPEN_FILES)(self._parquet)

        def group(number: int) -> pa.ChunkedArray:
            file, at = self._groups[number]
            path = self.paths[file]
            return _column(files(path), self.column, [at], f"{path}, row group {at}")

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

    labels: pa.ChunkedArray  # as they are stored
    rows: list[int]  # of each row group
    footer: list[list[int]]
    nbytes: int
    classes: Names | None


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data: {path} is not a readable Parquet file ({reason})") from None


def _column(
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


def _require(schema: pa.Schema, wanted: dict[str, str], path: str) -> None:
    """Raises UserError, with what to set, where the schema lacks a column (field: its name)."""
    missing = {field: name for field, name in wanted.items() if name not in schema.names}
    fits = {"image": _holds_bytes, "label": _holds_labels}
    fixes = []
    for field in missing:
        others = [name for name in schema.names if fits[field](schema.field(name).type)]
        which = f"one of {', '.join(others)}" if len(others) > 1 else "".join(others)
        fixes.append(f"{field}: {which or 'none fits'}")
    if missing:
        names = " and ".join(map(repr, missing.values()))
        raise UserError(
            f"data: {path} has no column {names}, only {', '.join(schema.names)}; set beside path "
            f"{' and '.join(fixes)}"
        )


def _partition(path: str, column: str) -> str | None:
    """What a folder `column=VALUE` of a path says, the innermost if there are several.

    Raises UserError for the folder of rows that have none.
    """
    for part in reversed(path.split("/")[:-1]):
        name, sign, value = part.partition("=")
        if sign and unquote(name) == column:
            if value == "__HIVE_DEFAULT_PARTITION__":
                raise UserError(
                    f"data: {path} lies in {part}, where Hive puts rows without a {column}; remove "
                    "it, or give them one"
                )
            return unquote(value)
    return None


def _refuse_saved(uri: str) -> None:
    """Raises UserError for a folder that `save_to_disk` of HF datasets wrote: it is Arrow."""
    for name, more in (("dataset_dict.json", ", split: NAME"), ("state.json", "")):
        if os.path.isfile(os.path.join(uri, name)):
            raise UserError(
                f"data: {uri} was written by save_to_disk and holds Arrow files, not Parquet; "
                f"give {{source: timm, name: 'hfds/{uri}'{more}}}"
            )


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is binary, or a struct with binary `bytes`."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    test = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in test)


def _holds_labels(kind: pa.DataType) -> bool:
    """Whether a column's type is integer or text."""
    if pa.types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    test = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string,
            pa.types.is_string_view)  # fmt: skip
    return any(is_kind(kind) for is_kind in test)


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


def _class_names(file: pq.ParquetFile, label: str | None) -> Names | None:
    """Class names from the metadata that HF datasets leave in the schema, if they are there."""
    try:
        info = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        return tuple(info["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None
