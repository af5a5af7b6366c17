"""A table's values as JSON and CSV can have them."""

import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa

from bikd_ray.errors import UserError

BYTES_SHOWN = 16
"""Of packed bits in a table for people; json and csv have all of them."""


def finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def column_values(name: str, column: pa.ChunkedArray, most: int | None = None) -> list[Any]:
    """A column's values in the types that JSON has; most: bytes that are shown of each."""
    try:
        if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
            column = column.cast(pa.string())  # Python's own have no nanoseconds
            if any(t and t.startswith("<") for t in column.to_pylist()):
                raise OverflowError("value out of range")
        return [_plain(value, most) for value in column.to_pylist()]
    except (pa.ArrowException, LookupError, OverflowError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"column {name!r} of type {column.type} cannot be shown ({reason}); cast it to varchar"
        ) from None


def _plain(value: Any, most: int | None = None) -> Any:
    """Bytes as hex digits, maps as objects, intervals and dates as ISO 8601 has them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        cut = most is not None and len(value) > most
        return f"{value[:most].hex()}… ({len(value):,} bytes)" if cut else value.hex()
    if isinstance(value, dict):
        return {k: _plain(v, most) for k, v in value.items()}
    if isinstance(value, pa.MonthDayNano):
        months, days, nanoseconds = value
        return f"P{months}M{days}DT{Decimal(nanoseconds).scaleb(-9).normalize():f}S"
    if isinstance(value, list | tuple):
        inner = [_plain(v, most) for v in value]
        keys = [v[0] for v in value] if value and all(type(v) is tuple for v in value) else []
        is_map = keys and all(isinstance(k, str) for k in keys) and len(set(keys)) == len(keys)
        return dict(inner) if is_map else inner  # Arrow gives a map as its pairs
    if isinstance(value, Decimal):
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(repr(number)) == value else str(value)
    return str(value)


def _is_flat(kind: pa.DataType) -> bool:
    """Whether Arrow writes it to CSV as text of its own."""
    plain = ("null", "boolean", "integer", "floating", "string", "large_string", "decimal")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in plain)


def flat(table: pa.Table) -> pa.Table:
    """Nested values as JSON text and bytes as hex digits, since CSV has neither."""
    columns = [
        column
        if _is_flat(column.type)
        else pa.array([as_text(v) for v in column_values(name, column)], pa.string())
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def as_text(value: Any) -> str | None:
    """A value as one text; lists and objects as JSON."""
    if isinstance(value, dict | list):
        return json.dumps(finite(value), ensure_ascii=False)
    return None if value is None else str(value)
