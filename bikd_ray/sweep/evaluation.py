"""Sets that were added after jobs were done: measured from kept weights, as Ray tasks."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from bikd_ray.plan import Cost, Job
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.write import Writer
from bikd_ray.sweep.baselines import first_of
from bikd_ray.sweep.capacity import CapacityMonitor, ResourceRequest
from bikd_ray.sweep.connection import ours
from bikd_ray.sweep.further import Kept, evaluate_kept
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import task_options

AHEAD = 64
"""Tasks that Ray is given at a time."""


@dataclass(frozen=True)
class Unmeasured:
    """A done job that lacks results on some sets; kept: nothing where no weights are."""

    job: Job
    attempt: str
    kept: tuple[Kept, ...]
    sets: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """How an evaluation ended, in jobs.

    store: its URI. measured: by this run, on every set that they lacked. before: that lacked
    none. failed: job label to why. without: labels of jobs that kept no weights.
    """

    store: str
    measured: int
    before: int
    failed: Mapping[str, str]
    without: tuple[str, ...]


def unmeasured(jobs: Sequence[Job], store: Store) -> list[Unmeasured]:
    """The done jobs of a plan that lack results on a set of theirs.

    What a job was measured on it was measured on whole: at its end, or later at once.
    """
    by_id = {job.job_id: job for job in jobs}
    columns = ["job_id", "attempt", "model_id", "selection", "epoch", "weights", "eval_set"]
    where = pc.field("job_id").isin(sorted(by_id))
    rows = store.table("results", columns, where).group_by(columns).aggregate([])
    have: dict[str, set[str]] = defaultdict(set)
    kept: dict[str, list[Kept]] = defaultdict(list)
    attempts: dict[str, str] = {}
    for row in rows.to_pylist():
        job = by_id[row["job_id"]]
        have[job.job_id].add(row["eval_set"])
        if row["eval_set"] == VAL:
            attempts[job.job_id] = row["attempt"]
            if row["weights"]:
                k = [m.model_id for m in job.live].index(row["model_id"])
                kept[job.job_id].append(Kept(k, row["selection"], row["epoch"], row["weights"]))
    return [
        Unmeasured(job, attempts[i], tuple(sorted(kept[i], key=_order)), sets)
        for i, job in by_id.items()
        if i in attempts and (sets := tuple(n for n in job.data.eval if n not in have[i]))
    ]


def _order(kept: Kept) -> tuple[str, int]:
    return kept.selection, kept.k


def evaluate_jobs(
    wanted: Sequence[Unmeasured],
    store: Store,
    writer: Writer,
    needs: Callable[[Cost], ResourceRequest],
    progress: Progress,
) -> dict[str, str]:
    """Measure done jobs with kept weights on the sets that they lack, and store that set by set.

    Returns why jobs could not be measured on a set, label to error, after the others are stored.
    """
    waiting, failed = list(wanted), dict[str, str]()
    pending: dict[Any, tuple[Unmeasured, ResourceRequest]] = {}
    watch = CapacityMonitor(progress.note)
    task = ray.remote(evaluate_kept)
    while waiting or pending:
        while waiting and len(pending) < AHEAD:
            one = waiting.pop(0)
            share = needs(_largest([m.cost for m in one.job.live]))
            given = (one.job, one.kept, one.sets, share, store.uri)
            pending[task.options(**task_options(share)).remote(*given)] = one, share
        ready = first_of({t: share for t, (_, share) in pending.items()}, watch)
        one, _ = pending.pop(ready)
        job, rows, why = one.job, {}, {}
        try:
            rows, why = ray.get(ready)
        except RayError as error:
            why = dict.fromkeys(one.sets, str(ours(error, "it failed")))
        for name, found in rows.items():
            writer.write_later(job.job_id, one.attempt, name, found)
        said = "; ".join(f"on {name}: {reason}" for name, reason in why.items()) or None
        if said:
            failed[job.label] = said
        progress.finish(job.job_id, job.label, None, said)
    return failed


def _largest(costs: Sequence[Cost]) -> Cost:
    """Of models that are in memory one after the other."""
    return max(costs, key=lambda cost: cost.params + cost.peak)
