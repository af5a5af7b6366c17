"""Rows of `results` of sets that models are only measured on: at the end of a job, and later from
its kept weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError

from bikd_ray.analysis.bits import unpack
from bikd_ray.errors import BikdError
from bikd_ray.plan import Job, ResolvedData, ResolvedModel
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.read import Reader, pc
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest, Row, learner_columns
from bikd_ray.sweep.measured_rows import result_rows
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Measured, Task
from bikd_ray.vocabulary import CHOSEN_ON_VAL

LACKING = "bikd evaluate measures it from kept weights"


@dataclass(frozen=True)
class Kept:
    """Learner k of a job at a selection, whose weights lie at a path of the store."""

    k: int
    selection: str
    epoch: int
    weights: str


def further_rows(
    request: JobRequest, fitted: Any, results: Sequence[Row], device: Any, fs: StoreFS, rank: int
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a job's learners on all further sets, and a line for each set that could not be
    measured: the job itself is none the worse.

    results: its rows on val. rank: the first worker alone makes rows.
    """
    job, rows, failed = request.job, [], dict(fitted.further.failed)
    if rank:
        return [], ()
    kept = {(row["model_id"], row["selection"]): row["weights"] for row in results}
    for name, by_selection in fitted.further.outcomes.items():
        try:
            before = _untouched(job, name, device, fs)
            made = []
            for selection, outcomes in by_selection.items():
                for k, after in enumerate(outcomes):
                    epoch = fitted.chosen[selection][k].epoch
                    weights = kept[job.members[k].model_id, selection]
                    about = learner_columns(job, k, selection, epoch, weights)
                    made += set_rows(about, job.data, name, before[k], after)
            rows += made
        except (BikdError, RuntimeError, ValueError, OSError) as error:
            failed[name] = str(error).splitlines()[0]
    return rows, tuple(f"not measured on {n} ({why}); {LACKING}" for n, why in failed.items())


def set_rows(
    about: Row, data: ResolvedData, name: str, before: Measured, after: Measured
) -> list[Row]:
    """One learner's rows on a further set. Raises BikdError where the images are not the same."""
    part, task = data.eval[name], task_of(data.task).on(data.eval[name])
    primary = task.metrics[0].name
    was, now = len(before.scores[primary]), len(after.scores[primary])
    if was != now:
        raise BikdError(f"{now} images can be read here, and its baseline is of {was}")
    fair = about["selection"] != CHOSEN_ON_VAL
    of_set = {**about, "eval_set": name, "unit_set_id": part.unit_set_id}
    return [{**of_set, **row} for row in result_rows(task, before, after, fair=fair)]


def _untouched(job: Job, name: str, device: Any, fs: StoreFS) -> list[Measured]:
    """Of each learner, from the store; measured now where it is not there."""
    stored = baselines_on(fs.uri, job.data, name, [m.model_id for m in job.live])
    return [
        stored[m.model_id] if m.model_id in stored else _measured_now(m, job.data, name, device, fs)
        for m in job.live
    ]


def _measured_now(
    model: ResolvedModel, data: ResolvedData, name: str, device: Any, fs: StoreFS
) -> Measured:
    from bikd_ray.train.further import measured_alone
    from bikd_ray.train.member import Member
    from bikd_ray.weights import network_of

    member = Member(model, network_of(model, fs), device)
    return measured_alone(member, data, name, task_of(data.task))


def baselines_on(
    store: str, data: ResolvedData, name: str, model_ids: Sequence[str]
) -> dict[str, Measured]:
    """What the store knows of untouched models on a further set, by model_id."""
    where = (pc.field("data_id") == data.data_id) & (pc.field("eval_set") == name)
    where &= pc.field("model_id").isin(list(model_ids))
    where &= pc.field("unit_set_id") == data.eval[name].unit_set_id
    columns = ["model_id", "metric", "n", "value", "bits", "scores"]
    rows: dict[str, dict[str, Row]] = {}
    for row in Reader(store).table("baselines", columns, where).to_pylist():
        rows.setdefault(row["model_id"], {})[row["metric"]] = row
    task = task_of(data.task)
    wanted = {metric.name for metric in task.metrics}
    return {i: _as_measured(task, of) for i, of in rows.items() if wanted <= of.keys()}


def _as_measured(task: Task, rows: Mapping[str, Row]) -> Measured:
    scores, values = {}, {}
    for metric in task.metrics:
        row = rows[metric.name]
        packed = row["bits"] if metric.binary else row["scores"]
        n = row["n"]
        scores[metric.name] = unpack(packed, n) if metric.binary else np.frombuffer(packed, "<f4")
        values[metric.name] = row["value"]
    return Measured({}, scores, values)


def evaluate_kept(
    job: Job, kept: Sequence[Kept], sets: Sequence[str], needs: ResourceRequest, store: str
) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """A done job's learners on some further sets, from their kept weights: the rows of each set,
    and why others could not be measured. Runs in a Ray task.
    """
    import torch
    from safetensors.torch import load

    from bikd_ray.sweep.device import device_of
    from bikd_ray.train.further import measured_alone
    from bikd_ray.train.member import Member
    from bikd_ray.zoo import rebuild

    torch.set_num_threads(needs.threads)
    device, fs = device_of(needs.gpus), StoreFS.at(store)
    task = task_of(job.data.task).joined(job.members)
    rows: dict[str, list[Row]] = {name: [] for name in sets}
    failed: dict[str, str] = {}
    before = {}
    for one in kept:
        model = job.members[one.k]
        try:
            network = rebuild(model, load(fs.read(one.weights)))
        except (FileNotFoundError, SafetensorError, RuntimeError) as error:
            why = f"its weights {one.weights} cannot be read ({type(error).__name__})"
            return {}, dict.fromkeys(sets, why)
        member = Member(model, network, device)
        for name in sets:
            if name in failed:
                continue
            try:
                if name not in before:
                    before[name] = _untouched(job, name, device, fs)
                after = measured_alone(member, job.data, name, task)
                about = learner_columns(job, one.k, one.selection, one.epoch, one.weights)
                rows[name] += set_rows(about, job.data, name, before[name][one.k], after)
            except BikdError as error:
                failed[name] = str(error).splitlines()[0]
    return {name: found for name, found in rows.items() if name not in failed}, failed
