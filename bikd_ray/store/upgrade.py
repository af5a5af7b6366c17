"""Version 1 of the tables, read as version 2; and its names of columns, for SQL written for them.

Version 1 had one row for a result, with columns for classification's four metrics; version 2 has a
row for each metric. Files of both lie beside each other in a store that is gone on with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

from bikd_ray.store.schema import KEYS, ROW, SCHEMAS
from bikd_ray.tasks.classification_metrics import ECE, NLL, TOP1, TOP5

pc: Any = pyarrow.compute  # most of its functions are made at import, where no checker sees them

VAL = "val"
"""The set that version 1 measured on."""


@dataclass(frozen=True)
class _Change:
    """How a table was. renamed: new name to old. metrics: of each metric, where its columns were;
    first: those of the first one, top-1, that had their names already.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, str]] = field(default_factory=dict)
    first: Sequence[str] = ()


_CHANGES: dict[str, _Change] = {
    "baselines": _Change(
        {"eval_set": "split", "unit_set_id": "sample_set_id"},
        {
            TOP1.name: {"value": "top1", "published": "published_top1", "bits": "correct"},
            TOP5.name: {"value": "top5"},
            NLL.name: {"value": "nll"},
            ECE.name: {"value": "ece"},
        },
    ),
    "predictions": _Change({"eval_set": "split"}),
    "pairs": _Change(
        {"eval_set": "split"},
        {
            TOP1.name: {
                "score_a": "top1_a",
                "score_b": "top1_b",
                "ensemble": "ensemble_top1",
                "oracle": "oracle_top1",
                "correlation": "phi",
            }
        },
        first=[*SCHEMAS["pairs"].names[SCHEMAS["pairs"].names.index("n11") :]],
    ),
    "results": _Change(
        {"unit_set_id": "sample_set_id"},
        {
            TOP1.name: {
                "before": "top1_before",
                "after": "top1_after",
                "delta": "delta_top1",
                "ensemble_before": "ensemble_top1_before",
                "ensemble_after": "ensemble_top1_after",
                "bits": "correct",
            },
            NLL.name: {"after": "nll_after"},
            ECE.name: {"after": "ece_after"},
        },
        first=(
            *("delta_low", "delta_high", "p_value", "gained", "lost", "recovered"),
            "error_overlap_after",
            *(f"case{c}_after" for c in (1, 2, 3, 4)),
        ),
    ),
    "curves": _Change(
        {
            "score": "top1",
            "select_score": "select_top1",
            "train_score": "train_top1",
            "loss": "ce",
        }
    ),
}

CHANGED = frozenset(_CHANGES)
"""Tables whose rows version 1 had otherwise."""


def old_name(table: str, column: str) -> str:
    """What version 1 called a column that all rows of a table have."""
    change = _CHANGES.get(table)
    return column if change is None else change.renamed.get(column, column)


def upgraded(name: str, old: pa.Table) -> pa.Table:
    """Rows of a table as version 1 wrote them, as version 2 has them: metric by metric, those of
    each in the same order.
    """
    change, schema = _CHANGES[name], SCHEMAS[name]
    measured = {*change.first, *(new for own in change.metrics.values() for new in own)}
    common = {f.name: change.renamed.get(f.name, f.name) for f in schema if f.name not in measured}
    if not change.metrics:
        return _table(old, schema, common, {"eval_set": VAL})
    parts = []
    for number, (metric, own) in enumerate(change.metrics.items()):
        first = {c: c for c in change.first} if number == 0 else {}
        rows = _table(old, schema, common | first | own, {"eval_set": VAL, "metric": metric})
        value = next(iter(own))  # where an older bikd did not measure it, there is no row
        parts.append(rows if number == 0 else rows.filter(pc.is_valid(rows[value])))
    return pa.concat_tables(parts)


def _table(
    old: pa.Table, schema: pa.Schema, sources: Mapping[str, str | None], constants: dict[str, str]
) -> pa.Table:
    """sources: the old column of each new one. constants: of columns that have none."""

    def column(kind: pa.Field) -> pa.Array | pa.ChunkedArray:
        was = sources.get(kind.name)
        if was in old.column_names:
            return old[was].cast(kind.type)
        return pa.repeat(pa.scalar(constants.get(kind.name), kind.type), len(old))

    return pa.Table.from_arrays([column(kind) for kind in schema], schema=schema)


# -- the old names ---------------------------------------------------------------------


def with_old_names(name: str, rows: pa.Table) -> pa.Table:
    """The same with the columns that version 1 had and version 2 has not, so that what was written
    for them stays true: rows of top-1 have them filled, others null. For one version.

    rows: a whole table, since one old row is made of several new ones.
    """
    change = _CHANGES.get(name)
    if change is None:
        return rows
    for new, was in change.renamed.items():
        if was not in rows.column_names:
            rows = rows.append_column(was, rows[new])
    if not change.metrics:
        return rows
    is_first = pc.equal(rows["metric"], next(iter(change.metrics)))
    key = [c for c in (*KEYS[name], *ROW.get(name, ())) if c != "metric"]
    keys = _keys(rows, key)
    for metric, own in change.metrics.items():
        of_metric = pc.equal(rows["metric"], metric)
        theirs = rows.filter(of_metric)
        at = pc.index_in(keys, value_set=_keys(theirs, key))
        for new, was in own.items():
            if was not in rows.column_names:
                value = theirs[new].combine_chunks().take(at)
                nothing = pa.scalar(None, value.type)
                rows = rows.append_column(was, pc.if_else(is_first, value, nothing))
    return rows


def _keys(rows: pa.Table, names: Sequence[str]) -> pa.Array:
    texts = [rows[name].cast(pa.string()) for name in names]
    return pc.binary_join_element_wise(*texts, "-").combine_chunks()
