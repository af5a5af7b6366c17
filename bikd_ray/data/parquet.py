"""HF-style Parquet: images and labels as columns."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.data.exclusions import LeftOut
from bikd_ray.data.label_values import are_lists, numbered, plain
from bikd_ray.data.labels import NO_LABEL, Names
from bikd_ray.data.parquet_column import (
    Groups,
    ParquetColumn,
    ParquetFiles,
    groups_of,
    holds_bytes,
    read_column,
)
from bikd_ray.errors import UserError
from bikd_ray.identity import digest


class ParquetImages(ParquetColumn):
    """A column of images (struct with bytes, or binary) and one of labels, in file order.

    Labels are integers, or names of classes; where no column has them, they stand in the path as
    `label=K`. label: None where there are none. Raises UserError for files that are missing,
    damaged or of other columns.
    """

    def __init__(self, uri: str, image: str = "image", label: str | None = "label") -> None:
        left = LeftOut()
        files = ParquetFiles.at(uri, left)
        self.notes = left.notes
        found = files.each(lambda path, file: _described(path, file, image, label))
        self.labels, self.classes = _numbered(files, found, label)
        if not len(self.labels):
            raise UserError(f"data: {uri} holds no rows; give files with at least one image")
        super().__init__(files, image, [file.groups for file in found])
        footers = [file.groups.sizes for file in found]
        self.source_id = digest("parquet", footers, digest(self.labels.tolist()))


@dataclass(frozen=True)
class _File:
    """What opening one file tells."""

    labels: pa.ChunkedArray  # as they are stored
    groups: Groups
    classes: Names | None


def _described(path: str, file: pq.ParquetFile, image: str, label: str | None) -> _File:
    schema = file.schema_arrow
    value = None if label is None or label in schema.names else _partition(path, label)
    wanted = {"image": image}
    if label is not None and value is None:
        wanted["label"] = label
    _require(schema, wanted, path)
    groups = groups_of(path, file, image)
    if label is None:
        labels = pa.chunked_array([pa.repeat(NO_LABEL, file.metadata.num_rows)])
    elif value is None:
        labels = read_column(file, label, range(len(groups.rows)), path)
    else:
        labels = pa.chunked_array([pa.repeat(value, file.metadata.num_rows)])
    return _File(labels, groups, _class_names(file, label))


def _numbered(
    at: ParquetFiles, files: list[_File], label: str | None
) -> tuple[np.ndarray, Names | None]:
    """The labels of all files, and the names of the classes."""
    if label is None:
        return np.full(sum(len(file.labels) for file in files), NO_LABEL), None
    for path, file in zip(at.paths, files, strict=True):
        if file.labels.null_count:  # it names the file
            numbered(file.labels, label, path)
        if file.classes != files[0].classes:
            raise UserError(
                f"data: {path} and {at.paths[0]} have other names of classes; give files of "
                "one data set"
            )
    lists = {file.labels.type for file in files if are_lists(file.labels.type)}
    kinds: set[Any] = {pa.types.is_string(plain(file.labels.slice(0, 0)).type) for file in files}
    if lists:
        kinds = {file.labels.type for file in files}
    if len(kinds) > 1:
        raise UserError(
            f"data: {label} holds {'lists' if lists else 'integers'} in some files and "
            f"{'single labels' if lists else 'text'} in others, such as {at.paths[0]}; write them "
            "alike"
        )
    if lists:
        column = pa.chunked_array([chunk for file in files for chunk in file.labels.chunks])
        labels, classes = numbered(column, label, at.paths[0])
        return labels, classes or files[0].classes
    if kinds == {True}:
        chunks = [chunk for file in files for chunk in plain(file.labels).chunks]
        column = pa.chunked_array(chunks, pa.string())
        labels, classes = numbered(column, label, at.paths[0])
        return labels, classes or files[0].classes
    named = zip(at.paths, files, strict=True)
    parts = [numbered(file.labels, label, path)[0] for path, file in named]
    return np.concatenate(parts), files[0].classes


def _require(schema: pa.Schema, wanted: dict[str, str], path: str) -> None:
    """Raises UserError, with what to set, where the schema lacks a column (field: its name)."""
    missing = {field: name for field, name in wanted.items() if name not in schema.names}
    fits = {"image": holds_bytes, "label": _holds_labels}
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


def _holds_labels(kind: pa.DataType) -> bool:
    """Whether a column's type is integer or text, or lists of these."""
    if pa.types.is_dictionary(kind) or are_lists(kind):
        return _holds_labels(kind.value_type)
    test = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string,
            pa.types.is_string_view)  # fmt: skip
    return any(is_kind(kind) for is_kind in test)


def _class_names(file: pq.ParquetFile, label: str | None) -> Names | None:
    """Class names from the metadata that HF datasets leave in the schema, if they are there."""
    try:
        info = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        feature = info["info"]["features"][label]
        return tuple(feature.get("feature", feature)["names"])  # of lists, of what is in them
    except (KeyError, TypeError, ValueError):
        return None
