"""What pooled metrics are on a part of the units, from the tables of what models answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.clustered import ratios_of_parts
from bikd_ray.analysis.scores import Parts
from bikd_ray.analysis.segmentation import MIOU, POOLED, class_iou, metrics_of_parts
from bikd_ray.errors import BikdError
from bikd_ray.metrics import Metric
from bikd_ray.store.read import Reader, pc
from bikd_ray.store.series import ModelSeries, Row


@dataclass(frozen=True)
class Kept:
    """A task's table of untouched models, with that of trained ones.

    metrics: names of those that come from it. of: rows of one model in the order of the samples,
    and parts [T, N], to each metric [T]. classes: such rows of several models to the values of each
    class [models, C], NaN where there is none, and the images of each [C].
    """

    results: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    of: Callable[[pa.Table, np.ndarray], Mapping[str, np.ndarray]]
    classed: str  # the metric that is a mean over classes
    classes: Callable[[Sequence[pa.Table]], tuple[np.ndarray, np.ndarray]]


def _counted(table: pa.Table, parts_TN: np.ndarray) -> Mapping[str, np.ndarray]:
    return metrics_of_parts(*_flat(table), parts_TN)


def _flat(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image [X], class [X] and counts [3, X] of lists."""
    lists = table["classes"].combine_chunks()
    image_X = pc.list_parent_indices(lists).to_numpy()
    counts_3X = np.stack(
        [
            table[name].combine_chunks().flatten().to_numpy()
            for name in ("labelled", "right", "predicted")
        ]
    )
    return image_X, lists.flatten().to_numpy(), counts_3X


def _classes(tables: Sequence[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """IoU [tables, C] and images [C]."""
    flat = [_flat(table) for table in tables]
    classes = max(int(class_X.max(initial=-1)) for _, class_X, _ in flat) + 1
    found = [class_iou(class_X, counts_3X, classes) for _, class_X, counts_3X in flat]
    return np.stack([iou_C for iou_C, _ in found]), found[0][1]


PARTS: dict[str, Kept] = {
    "counts": Kept(
        "result_counts",
        POOLED,
        ("classes", "labelled", "right", "predicted"),
        _counted,
        MIOU,
        _classes,
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


def has_classes(metric: Metric) -> bool:
    """Whether the store knows a metric class by class, from the counts of a task."""
    return any(metric.name == kept.classed for kept in PARTS.values())


def class_values(
    learner: ModelSeries, results: Sequence[Row], controls: Sequence[Row]
) -> list[Row]:
    """What CLASSES says of each class that is there: before, after and without a partner."""
    name = learner.metric.name
    table, kept = next((t, kept) for t, kept in PARTS.items() if name == kept.classed)
    assert learner.reader is not None
    rows = [learner.baseline, *results, *controls]
    known = _read(learner.reader, table, kept, learner, rows)
    if any(job not in known or not len(known[job]) for job in _jobs(rows)):
        raise BikdError(
            f"the counts of {learner.baseline['model']} on these images are no longer in the "
            "store, so its classes are not known"
        )
    value_RC, images_C = kept.classes([known[job] for job in _jobs(rows)])
    before_C, after_C = value_RC[0], value_RC[1 : 1 + len(results)].mean(0)
    alone_C = value_RC[1 + len(results) :].mean(0) - before_C if controls else None
    return [
        {
            "label": int(label),
            "n": int(images_C[label]),
            "before": float(before_C[label]),
            "after": float(after_C[label]),
            "delta": float(after_C[label] - before_C[label]),
            "control_delta": None if alone_C is None else float(alone_C[label]),
        }
        for label in np.flatnonzero(images_C)
    ]


def _jobs(rows: Sequence[Row]) -> list[str | None]:
    """The job of each row; None: of the untouched model, which is the first."""
    return [None, *(row["job_id"] for row in rows[1:])]


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
