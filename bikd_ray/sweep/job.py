"""One job from start to rows, as a worker runs it; plain Python, no Ray."""

import gc
import time
import traceback
from collections.abc import Iterator

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import nn

from bikd_ray import train
from bikd_ray.errors import BikdError
from bikd_ray.plan import Job, ResolvedModel
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.upgrade import VAL
from bikd_ray.sweep.checkpoints import StoredStates
from bikd_ray.sweep.events import (
    EpochEnd,
    Heartbeat,
    JobRequest,
    JobResult,
    Row,
    job_row,
    learner_columns,
    run_columns,
)
from bikd_ray.sweep.further import further_rows
from bikd_ray.sweep.measured_rows import result_rows
from bikd_ray.sweep.probes import probed_rows
from bikd_ray.tasks import task_of
from bikd_ray.train import EpochRow, Fit, fit
from bikd_ray.train.best_epochs import BestEpoch
from bikd_ray.train.fit import LOG_EVERY
from bikd_ray.train.likeness import Likeness
from bikd_ray.train.numerics import out_of_memory, poisoned
from bikd_ray.train.parallel import Workers
from bikd_ray.train.pictures import Pictures
from bikd_ray.vocabulary import CHOSEN_ON_VAL
from bikd_ray.weights import network_of, pack_state

STATE_PATIENCE = 300.0
"""Seconds for which a worker tries again to reach the store before its job is called failed: what
it has computed is worth the wait."""


HEARTBEAT = 10.0
"""Seconds after which a worker says how far it is in a long epoch."""


def run_job(
    request: JobRequest,
    device: torch.device,
    decoders: int = 0,
    rank: int = 0,
    *,
    heartbeat: float = HEARTBEAT,
    log_every: int = LOG_EVERY,
) -> Iterator[EpochEnd | Heartbeat | JobResult]:
    """Train and measure one job: an Epoch after each epoch, a Beat within long ones, an Outcome.

    rank: of this worker among the job's; each yields the same, unless it alone fails.
    heartbeat: seconds. log_every: steps, after which it may say how far it is.
    What is wrong with this job alone (a bad value, a loss that is not finite, memory) ends in a
    failed Outcome. A broken CUDA context is raised, since it would break every later job too.
    """
    start, job = time.monotonic(), request.job
    error, results, curves, likeness, statistics = None, [], [], [], {}
    notes: tuple[str, ...] = ()
    networks: list[nn.Module | None] = []
    workers, micro_batch = _workers(request, rank), None
    used = {"device": device.type, "threads": torch.get_num_threads()}
    used |= {"placement": request.resources.placement, "workers": workers.count}
    try:
        fs = StoreFS.at(request.store, STATE_PATIENCE)
        networks = [
            network_of(member, fs) if workers.has(k) else None
            for k, member in enumerate(job.members)
        ]
        for message in fit(
            job,
            networks,
            device,
            decoders=decoders,
            similarity=request.similarity,
            resources=request.resources,
            workers=workers,
            states=StoredStates(fs, job.job_id, workers),
            beat=heartbeat,
            log_every=log_every,
            keep=request.keep,
            untouched=lambda k: network_of(job.members[k], fs),
        ):
            if isinstance(message, Fit):
                results = _results(request, message, workers)
                statistics = _statistics(job, message) | _pictures(job, message.pictures)
                more, notes = further_rows(request, message, results, device, fs, rank)
                results += more
                if message.pictures.failed:
                    notes = (*notes, f"pictures could not be made ({message.pictures.failed})")
                workers.gather(None)  # all kept weights are there before the first one's rows
                used |= _performance(message, device)
                likeness = [_likeness(job, found) for found in message.likeness]
            elif isinstance(message, train.StepProgress):
                yield Heartbeat(message.epoch - 1 + message.share, job.recipe.epochs)
            else:
                rows = [_curve(job, row) for row in message]
                curves += rows
                yield EpochEnd(message[0].epoch, job.recipe.epochs, rows)
    except Exception as caught:
        if poisoned(caught, device) or (workers.count > 1 and _left_alone(caught)):
            raise
        if out_of_memory(caught):
            micro_batch = _smaller(request, workers)
        short = (
            str(caught) if isinstance(caught, BikdError) else f"{type(caught).__name__}: {caught}"
        )
        error = f"{short}\n\n{traceback.format_exc()}"
        results, likeness, statistics, notes = [], [], {}, ()
    finally:
        networks = []
        if device.type == "cuda":  # the next job of this worker finds the memory free
            gc.collect()
            torch.cuda.empty_cache()
    row = job_row(request, time.monotonic() - start, used, error)
    yield JobResult(row, results, curves, likeness, micro_batch, statistics, notes)


def _workers(request: JobRequest, rank: int) -> Workers:
    """As `rank` sees them; a job of a single worker is alone whatever its placement."""
    count, by_models = request.needs.workers, request.resources.placement == "one_model_per_worker"
    models = min(count, len(request.job.members)) if by_models else 1
    return Workers(models, count // models, rank)


def _smaller(request: JobRequest, workers: Workers) -> int | None:
    """With how many images at a time a job that ran out of memory can try again."""
    held = request.resources.micro_batch
    if held == "auto":
        held = -(-request.job.recipe.batch_size // workers.shares)
    return (held + 1) // 2 if held > 1 else None


def _performance(fitted: Fit, device: torch.device) -> Row:
    """How fast it trained and what it took."""
    found: Row = {"images_per_s": fitted.images_per_s, "micro_batch": fitted.micro_batch}
    if device.type == "cuda":
        found["peak_memory"] = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    return found


def _left_alone(error: Exception) -> bool:
    """Whether another worker of the job is gone: that is no fault of the job."""
    lost = ("gloo", "Connection closed by peer", "Connection reset", "Broken pipe")
    return isinstance(error, dist.DistError) or any(text in str(error) for text in lost)


def _curve(job: Job, row: EpochRow) -> Row:
    member = job.members[row.member]
    measured = {k: v for k, v in vars(row).items() if k != "member"}
    return {**run_columns(job), **_identity(member), **measured}


def _identity(member: ResolvedModel) -> Row:
    return {
        "model": member.name,
        "model_id": member.model_id,
        "weights_id": member.weights_id,
    }


def _results(request: JobRequest, fitted: Fit, workers: Workers) -> list[Row]:
    rows = []
    for selection, members in fitted.chosen.items():
        for k, chosen in enumerate(members):
            kept = selection in request.keep
            weights = _keep_weights(request, k, selection, chosen, workers) if kept else None
            own = _result(request, fitted, k, selection, chosen, weights)
            rows += own + probed_rows(fitted.probed, k, own[0])
    return rows


def _statistics(job: Job, fitted: Fit) -> dict[str, pa.Table]:
    """What the task keeps of the learners' answers at the epochs of all selections, by table."""
    task = task_of(job.data.task)
    if task.results_table is None:
        return {}
    parts = []
    for selection, members in fitted.chosen.items():
        for k, chosen in enumerate(members):
            kept = {"sample": fitted.before.rows, **task.columns(chosen.outcome.statistics)}
            of_one = {
                "model_id": job.members[k].model_id,
                "selection": selection,
                "eval_set": VAL,
            }
            table = pa.table(kept)
            for name, value in of_one.items():
                table = table.append_column(name, pa.repeat(value, len(table)))
            parts.append(table)
    return {task.results_table: pa.concat_tables(parts)}


def _pictures(job: Job, drawn: Pictures) -> dict[str, pa.Table]:
    """Rows of the table of that name."""
    metric = task_of(job.data.task).pictured
    if metric is None or not drawn.found:
        return {}
    rows = [
        {
            **{name: value for name, value in vars(one).items() if name != "member"},
            "model_id": job.members[one.member].model_id,
            "metric": metric.name,
        }
        for one in drawn.found
    ]
    return {"pictures": pa.Table.from_pylist(rows)}


def _likeness(job: Job, found: Likeness) -> Row:
    a, b = (job.members[i] for i in found.members)
    return {
        **run_columns(job),
        "model_a": a.name,
        "model_b": b.name,
        "model_id_a": a.model_id,
        "model_id_b": b.model_id,
        "cca_before": found.before,
        "cca_after": found.after,
        "top": found.top_before,
        "top_after": found.top_after,
        "ridge": 0.0,
        "n": job.data.n_val,
    }


def _result(
    request: JobRequest, fitted: Fit, k: int, selection: str, chosen: BestEpoch, weights: str | None
) -> list[Row]:
    """A learner's rows at the epoch of a selection, one for each metric."""
    job, task = request.job, task_of(request.job.data.task)
    learned = [one.outcome for one in fitted.chosen[selection]]
    ensembles = {}
    if len(job.members) > 1 and fitted.before.ensemble:
        ensembles["before"] = fitted.before.ensemble
        if selection == "last":
            ensembles["after"] = fitted.ensemble_after
    about = {
        **learner_columns(job, k, selection, chosen.epoch, weights),
        "eval_set": VAL,
        "unit_set_id": job.data.unit_set_id,
    }
    measured = result_rows(
        task,
        fitted.before.outcomes[k],
        chosen.outcome,
        fair=selection != CHOSEN_ON_VAL,
        ensembles=ensembles,
        members=[*learned, *fitted.before.outcomes[len(learned) :]],
    )
    return [{**about, **row} for row in measured]


def _keep_weights(
    request: JobRequest, k: int, selection: str, chosen: BestEpoch, workers: Workers
) -> str:
    """Have a member's selected weights written as safetensors in the store; their path there."""
    member = request.job.members[k]
    relative = f"weights/{request.job.job_id}/{member.model_id}-{selection}.safetensors"
    about = {"model": member.name, "epoch": str(chosen.epoch), "job_id": request.job.job_id}
    if chosen.state is not None and workers.share == 0:
        StoreFS.at(request.store, STATE_PATIENCE).write(relative, pack_state(chosen.state, about))
    return relative
