"""What the val set can resolve: how small a Δ of one job can be and still be told."""

from collections.abc import Iterator
from itertools import combinations
from typing import TypeVar

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.scores import Scores
from bikd_ray.analysis.significance import contrast, resolvable
from bikd_ray.formatting import count, difference_unit, digits_of
from bikd_ray.metrics import Metric
from bikd_ray.plan import ResolvedData
from bikd_ray.store import Store
from bikd_ray.store.read import pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.tasks import task_of

T = TypeVar("T")

SHOWN = 2
"""Metrics of a task, the primary one first, of which a plan speaks."""

MOST = 200
"""Results, or pairs of models, of which the median is taken: of more evenly spaced ones."""


def resolution_line(data: ResolvedData, store: Store | None) -> str:
    """The smallest Δ of one job that the val set tells, in a line.

    Of a binary metric it follows from how many units change sides. How much the scores of others
    change is read from the store: from done jobs, else from how models differ before any, which is
    more.
    """
    metrics = task_of(data.task).metrics
    if metrics[0].binary:
        low, high = (resolvable(data.n_val, share) for share in (0.02, 0.04))
        return (
            f"{data.n_val} val {metrics[0].units} resolve ±{low:.2f} pp of one job's Δ with 95% "
            f"if 2% of them change sides, ±{high:.2f} pp if 4% do"
        )
    kept = [metric for metric in metrics if not metric.binary][:SHOWN]
    known = [(metric, *_known(metric, data, store)) for metric in kept] if store else []
    told = [(metric, half, n, by) for metric, half, n, by in known if half is not None]
    if not told:
        return (
            "what difference the val set resolves depends on how much scores vary between its "
            f"{metrics[0].units}: bikd baseline, then plan again, tells it"
        )
    shown = " and ".join(_shown(half, metric) for metric, half, _, _ in told)
    metric, _, units, by = told[0]
    return f"{units} val {metric.units} resolve {shown} of one job's Δ with 95% (by {by})"


def _shown(half: float, metric: Metric) -> str:
    """Such as: ±0.42 pp mIoU."""
    number = f"±{half:.{digits_of(metric.unit)}f}"
    return " ".join(filter(None, (number, difference_unit(metric.unit), metric.title)))


def _known(metric: Metric, data: ResolvedData, store: Store) -> tuple[float | None, int, str]:
    """The median half-width of a Δ's 95% interval, of how many units, and from what."""
    where = (pc.field("data_id") == data.data_id) & (pc.field("metric") == metric.name)
    where &= pc.field("eval_set") == VAL
    columns = ["model_id", "n", "scores"]
    before = store.table("baselines", columns, where).to_pylist()
    own = {row["model_id"]: row for row in before}
    where &= (pc.field("selection") == "last") & pc.field("model_id").isin(_texts([*own]))
    jobs = store.table("results", ["job_id"], where)["job_id"].unique().sort().to_pylist()
    where &= pc.field("job_id").isin(_texts(_some(jobs)))
    after = store.table("results", columns, where).to_pylist()
    changes = [(own[row["model_id"]], row) for row in after]
    by = count(len(changes), "result")
    if not changes:
        changes = _some(list(combinations(before, 2)))
        by = "how models differ before any training"
    widths = [*_half_widths(metric, changes)]
    return (float(np.median(widths)) if widths else None), before[0]["n"] if before else 0, by


def _texts(values: list[str]) -> pa.Array:
    """With their type, where there are none too."""
    return pa.array(values, pa.string())


def _some(every: list[T]) -> list[T]:
    """MOST of them at most, spread over the whole list."""
    return every[:: -(-len(every) // MOST)] if every else every


def _half_widths(metric: Metric, changes: list[tuple[dict, dict]]) -> Iterator[float]:
    for first, second in changes:
        scores = Scores.of([first, second], first["n"], metric)
        interval = contrast(scores, np.array([[-1.0, 1.0]]))
        half = (float(interval.high) - float(interval.low)) / 2
        if np.isfinite(half):
            yield half
