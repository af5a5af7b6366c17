"""What pooled metrics are on a part of the units, from the tables of what models answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.clustered import ratios_of_parts
from bikd_ray.analysis.scores import Parts
from bikd_ray.analysis.segmentation import POOLED, metrics_of_parts
from bikd_ray.store.read import Reader, pc
from bikd_ray.store.series import ModelSeries, Row


@dataclass(frozen=True)
class Kept:
    """A task's table of untouched models, with that of trained ones.

    metrics: names of those that come from it. of: rows of one model in the order of the samples,
    and parts [T, N], to each metric [T].
    """

    results: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    of: Callable[[pa.Table, np.ndarray], Mapping[str, np.ndarray]]


def _counted(table: pa.Table, parts_TN: np.ndarray) -> Mapping[str, np.ndarray]:
    lists = table["classes"].combine_chunks()
    image_X = pc.list_parent_indices(lists).to_numpy()
    counts_3X = np.stack(
        [
            table[name].combine_chunks().flatten().to_numpy()
            for name in ("labelled", "right", "predicted")
        ]
    )
    return metrics_of_parts(image_X, lists.flatten().to_numpy(), counts_3X, parts_TN)


PARTS: dict[str, Kept] = {
    "counts": Kept(
        "result_counts", POOLED, ("classes", "labelled", "right", "predicted"), _counted
    ),
}
"""By the table of untouched models."""


def parts_of(learner: ModelSeries, rows: Sequence[Row]) -> Parts | None:
    """What a pooled metric is on parts of the units, for each row: the learner's baseline, then
    results. None where no table says it; NaN for rows of which the store keeps nothing.
    """
    sums = [row["sums"] for row in rows if row.get("sums") is not None]
    if sums and len(sums) == len(rows):  # a ratio of sums brings them with it
        return ratios_of_parts(sums, learner.n)
    name, reader = learner.metric.name, learner.reader
    found = ((t, kept) for t, kept in PARTS.items() if name in kept.metrics)
    table, kept = next(found, (None, None))
    if table is None or kept is None or reader is None or not learner.metric.pooled:
        return None
    known: dict[str | None, pa.Table] = {}

    def metric(parts_TN: np.ndarray) -> np.ndarray:
        if not known:
            known.update(_read(reader, table, kept, learner, rows))
        values = np.full((len(parts_TN), len(rows)), np.nan)
        for column, row in enumerate(rows):
            of_one = known.get(row.get("job_id") if column else None)
            if of_one is not None and len(of_one) == learner.n:
                values[:, column] = kept.of(of_one, parts_TN)[name]
        return values

    return metric


def _read(
    reader: Reader, table: str, kept: Kept, learner: ModelSeries, rows: Sequence[Row]
) -> dict[str | None, pa.Table]:
    """The rows of each job, and those of the untouched model under None, by sample."""
    mine = (pc.field("model_id") == learner.model_id) & (pc.field("eval_set") == learner.eval_set)
    columns = ["sample", *kept.columns]
    before = reader.table(table, columns, mine & (pc.field("data_id") == learner.data_id))
    found: dict[str | None, pa.Table] = {None: before.sort_by("sample")}
    jobs = [row["job_id"] for row in rows[1:]]
    mine &= (pc.field("selection") == learner.selection) & pc.field("job_id").isin(jobs)
    after = reader.table(kept.results, [*columns, "job_id"], mine).sort_by(
        [("job_id", "ascending"), ("sample", "ascending")]
    )
    job_R = after["job_id"].to_numpy(zero_copy_only=False)
    names, firsts = np.unique(job_R, return_index=True)
    for name, first, end in zip(names, firsts, [*firsts[1:], len(job_R)], strict=True):
        found[str(name)] = after.slice(first, end - first)
    return found
