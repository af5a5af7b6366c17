"""Labels as a source gives them, integers or names of classes, as integers."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bikd_ray.errors import UserError, choices

Classes = tuple[str, ...]
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


def numbered(
    column: pa.ChunkedArray, name: str, where: str, known: Classes | None
) -> tuple[np.ndarray, Classes | None]:
    """Labels as int64 [N], and the class names if that is what they were.

    Names are looked up in the list `known` (of the train images), else numbered in sorted order;
    text that is integers throughout and names no known class is taken for integers. Raises
    UserError, which says `where`, for gaps, other types and names that `known` lacks.
    """
    if column.null_count:
        raise UserError(f"data: {where} has {column.null_count} rows without a {name}")
    try:
        column = plain(column)
        names = column.unique().to_pylist() if pa.types.is_string(column.type) else []
        if not (known and set(names) <= set(known)) and all(map(_INTEGER.fullmatch, names)):
            column = column.cast(pa.int64()) if names else column
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
    classes = known or tuple(sorted(names))
    if unknown := sorted(set(names) - set(classes)):
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"data: {where} has class {unknown[0]!r}{more}, which the train images lack; "
            f"{choices(unknown[0], classes)}"
        )
    counts = Counter(classes)
    if twice := [name for name in names if counts[name] > 1]:
        raise UserError(
            f"data: {where} has class {twice[0]!r}, the name of {counts[twice[0]]} classes of "
            "train; give labels as integers"
        )
    options = pc.SetLookupOptions(pa.array(classes, column.type))
    labels = pc.call_function("index_in", [column], options)
    return labels.to_numpy().astype(np.int64), classes
