"""What every model was before any training: a row a model, a column a metric."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from bikd_pipelines.layout import Column, Row
from bikd_ray.formatting import NONE, digits_of, number, signed
from bikd_ray.metrics import Metric
from bikd_ray.store import Store
from bikd_ray.store.read import pc

_KEY = ("data_id", "model_id", "eval_set")


def measured(store: Store) -> pa.Table:
    """One row for each model, data set and evaluation set, the best first: columns `model`, one
    for each metric by its name, `published` (of the primary one, where known), and what the rows
    have in common.
    """
    columns = ["model", *_KEY, "weights_id", "metric", "value", "published", "n", "seconds"]
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for found in store.table("baselines", columns).to_pylist():
        row = rows.setdefault(tuple(found[name] for name in _KEY), {**found, "published": None})
        row[found["metric"]] = found["value"]
        for name in ("published", "seconds"):
            row[name] = found[name] if row[name] is None else row[name]
    metrics = of_store(store.metrics)
    order = ["model", *metrics, "published", "n", "seconds", *_KEY, "weights_id"]
    numbers = {*metrics, "published", "seconds"}
    kinds = {name: pa.float64() if name in numbers else pa.string() for name in order}
    schema = pa.schema([*(kinds | {"n": pa.int64()}).items()])

    def rank(row: Row) -> tuple:
        first = store.metrics[row["data_id"]][0]
        value = row.get(first.name)
        best = float("inf") if value is None else -first.sign * value
        return row["data_id"], row["eval_set"] != "val", row["eval_set"], best, row["model"]

    return pa.Table.from_pylist(sorted(rows.values(), key=rank), schema)


def of_store(metrics: Mapping[str, Sequence[Metric]]) -> dict[str, Metric]:
    """Every metric of some data sets by its name, the primary ones first."""
    placed = [(i, metric) for found in metrics.values() for i, metric in enumerate(found)]
    return {metric.name: metric for _, metric in sorted(placed, key=lambda one: one[0])}


def view(metrics: Mapping[str, Sequence[Metric]], table: pa.Table) -> list[Column]:
    """What people see of `measured`: no column for what was never measured."""
    every = of_store(metrics)
    primary = {data_id: found[0] for data_id, found in metrics.items()}

    def value(metric: Metric) -> Callable[[Row], str]:
        return lambda row: number(row[metric.name], digits_of(metric.unit))

    def published(row: Row) -> str:
        metric, known = primary[row["data_id"]], row["published"]
        if known is None or row[metric.name] is None:
            return NONE
        digits = digits_of(metric.unit)
        return f"{known:.{digits}f} ({signed(row[metric.name] - known, digits)})"

    first = {metric.name for metric in primary.values()}
    there = [m for m in every.values() if len(table) > table[m.name].null_count]
    shown = [
        Column(
            f"{metric.title}, {metric.unit}" if metric.unit else metric.title,
            value(metric),
            0 if metric.name in first else 2 + i,
        )
        for i, metric in enumerate(there)
    ]
    known = Column("published", published, 1)
    any_known = bool(len(table)) and pc.any(pc.is_valid(table["published"])).as_py()
    return [
        Column("model", lambda row: row["model"], words=True, head=True),
        *shown[: len(first)],
        *([known] if any_known else []),
        *shown[len(first) :],
        Column("n", lambda row: f"{row['n']:,}", same=True),
        Column("seconds", lambda row: number(row["seconds"], 1), 9),
        Column("on", lambda row: row["eval_set"], same=True, words=True),
        Column("data", lambda row: row["data_id"][:6], same=True, words=True),
    ]
