"""Labels as a source gives them, integers or names of classes, as integers."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bikd_ray.data.labels import Names, class_order
from bikd_ray.errors import UserError

_INTEGER = re.compile(r"-?[0-9]+")


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of labels as int64 or string, whatever its encoding; of other types as it is."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind) and kind != pa.int64():
        return column.cast(pa.int64())
    return column


def are_lists(kind: pa.DataType) -> bool:
    """Whether a column's type is lists: several right labels of each image, or none."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in tests)


def numbered(column: pa.ChunkedArray, name: str, where: str) -> tuple[np.ndarray, Names | None]:
    """Labels as int64 [N], and the class names in label order if that is what they were.

    Of lists [N, M], filled up with -1. Text that is integers throughout is taken for integers.
    Raises UserError, which says `where`, for gaps and other types.
    """
    if column.null_count:
        raise UserError(f"data: {where} has {column.null_count} rows without a {name}")
    if are_lists(column.type):
        return _filled(column, name, where)
    try:
        column = plain(column)
        names = column.unique().to_pylist() if pa.types.is_string(column.type) else []
        if names and all(map(_INTEGER.fullmatch, names)):
            column = column.cast(pa.int64())
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data: {name} in {where} is not of 64-bit integers or UTF-8 text ({reason})"
        ) from None
    if pa.types.is_integer(column.type):
        return column.to_numpy().astype(np.int64), None
    if not pa.types.is_string(column.type):
        raise UserError(
            f"data: {name} in {where} is {column.type}; it must be an integer, or a class's name"
        )
    classes = class_order(names)
    options = pc.SetLookupOptions(pa.array(classes, column.type))
    return pc.call_function("index_in", [column], options).to_numpy().astype(np.int64), classes


def _filled(column: pa.ChunkedArray, name: str, where: str) -> tuple[np.ndarray, Names | None]:
    counts_N = pc.call_function("list_value_length", [column]).to_numpy().astype(np.int64)
    inside = pa.chunked_array(pc.call_function("list_flatten", [column]))
    if not len(inside):
        raise UserError(f"data: {where} has no {name} at all: every list is empty")
    values, classes = numbered(inside, name, where)
    labels = np.full((len(counts_N), int(counts_N.max())), -1, np.int64)
    labels[np.arange(labels.shape[1]) < counts_N[:, None]] = values
    return labels, classes
