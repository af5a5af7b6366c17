"""The tables that pages are made of, as CSV to take away."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pacsv

from bikd_dashboards.snapshot import Snapshot
from bikd_ray.store.answer_schemas import FLIPS


@dataclass(frozen=True)
class File:
    """table: what the store answers, over all selections or for the last epoch. least: rows that
    it has at least, known without working it out.
    """

    table: Callable[[Snapshot], pa.Table]
    least: Callable[[Snapshot], int]


def _of_all(now: Snapshot, answer: Callable[[str], pa.Table]) -> pa.Table:
    return pa.concat_tables([answer(s) for s in now.selections or ("last",)])


def _few(_: Snapshot) -> int:
    return 0


def _of_models(now: Snapshot) -> int:
    return len(now.baselines)


def _of_gains(now: Snapshot) -> int:
    return len(now.gains("last"))


def _flips(now: Snapshot) -> pa.Table:
    return now.store.flips(**now.measure) if now.any_binary else FLIPS.empty_table()


FILES: dict[str, File] = {
    "gains": File(lambda now: _of_all(now, now.gains), _of_gains),
    "controls": File(lambda now: _of_all(now, now.controls), _few),
    "pairs": File(
        lambda now: now.once(("all pairs",), lambda: now.store.pairs(**now.measure)),
        lambda now: max(len(now.pairs), _of_gains(now) // 2),
    ),
    "baselines": File(lambda now: now.baselines, _of_models),
    "groups": File(lambda now: _of_all(now, now.groups), _few),
    "teachers": File(lambda now: _of_all(now, now.teachers), _few),
    "flips": File(lambda now: now.once(("all flips",), lambda: _flips(now)), _of_gains),
    "curves": File(lambda now: now.once(("all curves",), now.store.curves), _of_gains),
    "jobs": File(lambda now: now.runs, lambda now: len(now.jobs)),
}
"""By name."""

OF_ONE_MODEL: dict[str, Callable[[Snapshot, str], pa.Table]] = {
    "classes": lambda now, model_id: now.classes(model_id, "last"),
}
"""Name -> the table of one model, for the last epoch."""


def of_model(name: str, model: str) -> str:
    """The name of a file of `OF_ONE_MODEL`."""
    return f"{name} of {model}.csv".replace("/", "_")


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
