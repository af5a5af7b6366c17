"""What the command, its slots and their workers say to each other; loads neither torch nor Ray."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from bikd_ray.identity import RESULT_VERSION, canonical
from bikd_ray.plan import Job
from bikd_ray.specs import Resources
from bikd_ray.sweep.capacity import ResourceRequest

Row = dict[str, Any]


@dataclass(frozen=True)
class JobRequest:
    """A job and what to do around it."""

    job: Job
    sweep: str
    store: str
    keep: tuple[str, ...] = ()  # selections whose weights to keep
    similarity: bool = True
    needs: ResourceRequest = field(default=ResourceRequest(1, 0))
    resources: Resources = field(default=Resources())


@dataclass(frozen=True)
class EpochEnd:
    """Epoch `epoch` of `epochs` is over; its rows of `curves`."""

    epoch: int
    epochs: int
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life in a long epoch: so many of `epochs` are over."""

    epoch: float
    epochs: int


@dataclass(frozen=True)
class Placed:
    """A slot of several workers has begun: Ray's placement group, and the nodes that it is on."""

    group: Any
    node_ids: frozenset[str]


@dataclass(frozen=True)
class JobResult:
    """The end of a job, done or failed, as the rows to store."""

    job: Row
    results: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)
    similarities: list[Row] = field(default_factory=list)
    micro_batch: int | None = None  # with which to try again, where memory ran out
    statistics: dict[str, pa.Table] = field(default_factory=dict)  # of answers, by table
    notes: tuple[str, ...] = ()  # what a person should know, a line each

    @property
    def error(self) -> str | None:
        return self.job["error"]


def job_row(request: JobRequest, seconds: float, resources: Row, error: str | None) -> Row:
    """The row of `jobs` for one attempt."""
    job = request.job
    return {
        **run_columns(job),
        "sweep": request.sweep,
        "members": list(job.names),
        "member_ids": [m.model_id for m in job.members],
        "recipe": canonical(job.recipe.model_dump()),
        "data": canonical(job.data.data.model_dump(exclude={"cache", "eval"})),
        "status": "failed" if error else "done",
        "error": error,
        "seconds": seconds,
        "resources": canonical(resources),
        "result_version": RESULT_VERSION,
    }


def run_columns(job: Job) -> Row:
    """What every row about a job says of it."""
    return {
        "job_id": job.job_id,
        "data_id": job.data.data_id,
        "objective": job.objective.label,
        "seed": job.seed,
        "recipe_id": job.recipe_id,
    }


def learner_columns(job: Job, k: int, selection: str, epoch: int, weights: str | None) -> Row:
    """What every row of `results` says of learner k at a selection; weights: path in the store."""
    member, mates = job.members[k], [m for i, m in enumerate(job.members) if i != k]
    return {
        **run_columns(job),
        "model": member.name,
        "model_id": member.model_id,
        "weights_id": member.weights_id,
        "partners": [m.name for m in mates],
        "partner_ids": [m.model_id for m in mates],
        "role": job.role,
        "selection": selection,
        "epoch": epoch,
        "weights": weights,
    }
