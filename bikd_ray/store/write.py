"""The only door through which tables are written; the command's own process holds it.

A file is serialised in memory and appears whole or not at all. The jobs file of a job is written
last and commits its results and curves; the baselines file commits its predictions.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.identity import digest
from bikd_ray.metrics import Metric
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.schema import LATER, SCHEMAS
from bikd_ray.vocabulary import CONTROL

Row = Mapping[str, Any]


def new_attempt() -> str:
    """A name for one writing: milliseconds since 1970 in hex, then chance; sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(4)}"


class Writer:
    """Appends whole files to a store."""

    def __init__(self, uri: str) -> None:
        self.fs = StoreFS.at(uri)

    def commit_job(
        self,
        job: Row,
        results: Sequence[Row],
        curves: Sequence[Row],
        similarities: Sequence[Row] = (),
        attempt: str | None = None,
        statistics: Mapping[str, pa.Table] | None = None,
    ) -> None:
        """Store one attempt of a job: its other rows first, the jobs row as the commit.

        statistics: of what its models answer, by table.

        attempt: its name, for one that is written again because its first writing failed.
        """
        attempt = attempt or new_attempt()
        name = f"{job['job_id']}-{attempt}"
        rows = {"results": results, "curves": curves, "similarities": similarities}
        shared = {"job_id": job["job_id"], "data_id": job["data_id"]}
        for table, of_answers in (statistics or {}).items():
            self._put(table, name, of_answers, attempt, shared)
        for table, found in rows.items():
            if found:
                self._put(table, name, found, attempt)
        self._put("jobs", name, [job], attempt)

    def write_later(self, job_id: str, attempt: str, eval_set: str, rows: Sequence[Row]) -> None:
        """Store what a committed attempt of a job is on a set, measured after it: all at once.

        Written again it replaces what was there.
        """
        self._put("results", f"{job_id}-{attempt}{LATER}{eval_set}", rows, attempt)

    def commit_baseline(
        self,
        baseline: Sequence[Row],
        model: Row,
        statistics: pa.Table | None = None,
        table: str = "predictions",
    ) -> None:
        """Store one model's baseline on one evaluation set: the model and the statistics of its
        answers first, the baseline last.

        baseline: a row for each metric. statistics: rows of `table`, less what they all share.
        """
        attempt, first = new_attempt(), baseline[0]
        name = digest("baseline", first["model_id"], first["data_id"], first["eval_set"])
        self._put("models", name, [model], attempt)
        if statistics is not None:
            keys = ("model", "model_id", "weights_id", "eval_set", "data_id")
            self._put(table, name, statistics, attempt, {key: first[key] for key in keys})
        self._put("baselines", name, baseline, attempt)

    def write_metrics(
        self,
        data_id: str,
        task: str,
        metrics: Sequence[Metric],
        control: str = CONTROL,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Store what is measured on a data set, the primary metric first, what net Δ is against
        (CONTROL, or UNTOUCHED), and the names of its classes.
        """
        same = {"task": task, "data_id": data_id, "control": control, "classes": classes}
        rows = [
            {**vars(metric), "metric": metric.name, "position": i, **same}
            for i, metric in enumerate(metrics)
        ]
        self._put("metrics", digest("metrics", data_id), rows, new_attempt())

    def write_names(self, models: pa.Table, names: Mapping[str, str]) -> None:
        """Store new names (by model_id) of models of the table `models`."""
        rows = [
            {**row, "model": names[row["model_id"]]}
            for row in models.to_pylist()
            if row["model_id"] in names
        ]
        attempt = new_attempt()
        self._put("models", digest("names", attempt), rows, attempt)

    def write_decision(self, rows: Sequence[Row]) -> None:
        """Add what a search decided to the log of decisions, a row for each target."""
        attempt = new_attempt()
        name = digest("decision", attempt)
        self._put("decisions", name, [{**row, "decision_id": name} for row in rows], attempt)

    def write_pairs(self, rows: Sequence[Row]) -> None:
        """Store the statistics of pairs of one data set, as one file."""
        if rows:
            pairs = sorted(sorted((r["model_id_a"], r["model_id_b"])) for r in rows)
            self._put("pairs", digest("pairs", rows[0]["data_id"], pairs), rows, new_attempt())

    def _put(
        self,
        table: str,
        name: str,
        rows: Sequence[Row] | pa.Table,
        attempt: str,
        same: Row | None = None,
    ) -> None:
        schema = SCHEMAS[table]
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pylist(list(rows), schema)
        constant = {**(same or {}), "attempt": attempt}
        columns = [
            pa.repeat(pa.scalar(constant[f.name], f.type), len(rows))
            if f.name in constant
            else rows[f.name].cast(f.type)
            for f in schema
        ]
        content = pa.Table.from_arrays(columns, schema=schema)
        self.fs.write(f"{table}/{name}.parquet", serialised(content))


PLAIN = 256 << 10
"""Bytes up to which a table is written as it is. Dictionaries, statistics and compression save
nothing in a few rows, and would cost each reader a third more time."""


def serialised(table: pa.Table, group_bytes: int = 64 << 20) -> memoryview:
    """A table as a Parquet file, with row groups of about so many bytes before compression."""
    rows = max(1, len(table) * group_bytes // max(1, table.nbytes))
    sink, worth = pa.BufferOutputStream(), table.nbytes > PLAIN
    pq.write_table(
        table,
        sink,
        compression="zstd" if worth else "none",
        use_dictionary=worth,
        write_statistics=worth,
        row_group_size=rows,
    )
    return memoryview(sink.getvalue())
