"""The tables that pages are made of, as CSV to take away."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv as pacsv

from dashboards.snapshot import Snapshot

FILES: dict[str, Callable[[Snapshot], pa.Table]] = {
    "gains": lambda now: _of_all(now, now.gains),
    "controls": lambda now: _of_all(now, now.controls),
    "pairs": lambda now: now.once(("all pairs",), now.store.pairs),
    "baselines": lambda now: now.baselines,
    "groups": lambda now: _of_all(now, now.groups),
    "teachers": lambda now: _of_all(now, now.teachers),
    "flips": lambda now: now.once(("all flips",), now.store.flips),
    "curves": lambda now: now.once(("all curves",), now.store.curves),
    "jobs": lambda now: now.jobs,
}
"""Name -> the table, as the store answers. Over all selections, or for the last epoch."""

OF_ONE_MODEL: dict[str, Callable[[Snapshot, str], pa.Table]] = {
    "classes": lambda now, model_id: now.classes(model_id, "last"),
}
"""Name -> the table of one model, for the last epoch."""


def _of_all(now: Snapshot, answer: Callable[[str], pa.Table]) -> pa.Table:
    return pa.concat_tables([answer(s) for s in now.selections or ("last",)])


def csv(table: pa.Table) -> str:
    """A table as CSV with a header; lists become text joined with " + ", nulls are empty."""
    columns = [
        pa.array([None if v is None else " + ".join(v) for v in c.to_pylist()], pa.string())
        if pa.types.is_list(c.type)
        else c
        for c in table.columns
    ]
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.table(columns, names=table.column_names), sink)
    return sink.getvalue().to_pybytes().decode()
