"""What `bikd plan` and `bikd status` say: counts, costs, and what the val set can resolve.

What needs torch or Ray is imported by the functions that use it: counting jobs needs neither.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

import pyarrow as pa

from bikd_ray.errors import BikdError
from bikd_ray.plan import Job, Pace, Plan, ResolvedData, ResolvedModel
from bikd_ray.specs import Resources, Spec
from bikd_ray.store import Store
from bikd_ray.store.filesystem import StoreFS, store_uri
from bikd_ray.store.lease import at_work
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.write import Writer
from bikd_ray.sweep.capacity import LONG, Node, ResourceRequest, fits
from bikd_ray.sweep.strategy import PendingJob, line

THIS_MACHINE = "this machine"

JOBS = pa.schema(
    [
        ("job_id", pa.string()),
        ("members", pa.list_(pa.string())),
        ("objective", pa.string()),
        ("seed", pa.int64()),
        ("state", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Opened:
    """A spec that is resolved, against its store."""

    zoo: dict[str, ResolvedModel]
    data: ResolvedData
    plan: Plan
    store: Store


def opened_spec(spec: Spec, store: str | None, only: str | None = None) -> Opened:
    """store: need not exist yet. only: with this model. Raises UserError."""
    from bikd_ray.resolve import planned, resolve

    answers = Store(store_uri(store, spec.store)).as_of_now()
    zoo, data = resolve(spec, answers)
    return Opened(zoo, data, planned(spec, zoo, data, answers, only=only), answers)


def open_plan(spec: Spec, store: str | None, only: str | None = None) -> tuple[Plan, Store]:
    """The plan of a spec against its store, which need not exist yet; only: with this model."""
    found = opened_spec(spec, store, only)
    return found.plan, found.store


def job_table(plan: Plan) -> pa.Table:
    """One row for each job of a plan: done, to do or failed."""
    states = (("done", plan.done), ("to do", plan.todo), ("failed", plan.failed))
    rows = [
        {
            "job_id": job.job_id,
            "members": list(job.names),
            "objective": job.objective.label,
            "seed": job.seed,
            "state": state,
            "error": plan.errors.get(job.job_id),
        }
        for state, jobs in states
        for job in jobs
    ]
    return pa.Table.from_pylist(rows, JOBS)


def stored_jobs(store: Store) -> pa.Table:
    """One row for each job that the store knows."""
    jobs = store.table("jobs")
    return jobs.rename_columns({"status": "state"}).select(JOBS.names)


def take_names(plan: Plan | None, store: Store) -> list[str]:
    """Let the store call models as a plan's spec does; the names that it knows them by stay valid.

    Returns a line for each model that is called otherwise now, or was before.
    """
    zoo = {m.name: m.model_id for job in plan.jobs for m in job.members} if plan is not None else {}
    renamed = store.renamed(zoo)
    then = "answers call it so from now on"
    if renamed:
        try:
            new = {zoo[name]: name for name in renamed}
            Writer(store.uri).write_names(store.table("models"), new)
        except BikdError:  # it may only be read
            then = "its answers still do"
    lines = [f"{new} is {old} in the store; {then}" for new, old in renamed.items()]
    return lines + store.former_names(set(zoo.values()) - {zoo[name] for name in renamed})


def grouped(jobs: pa.Table, planned: bool = True) -> pa.Table:
    """Jobs counted by members and objective, a total first. planned: what is left is known."""
    counts: dict[tuple[str, str], Counter[str]] = {("all", ""): Counter()}
    for row in jobs.to_pylist():
        key = (" + ".join(row["members"]), row["objective"])
        counts.setdefault(key, Counter())[row["state"]] += 1
        counts["all", ""][row["state"]] += 1
    rows = [
        {
            "members": members,
            "objective": objective,
            "done": states["done"],
            "to_do": states["to do"] if planned else None,
            "failed": states["failed"],
        }
        for (members, objective), states in sorted(counts.items(), key=_total_first)
    ]
    return pa.Table.from_pylist(rows)


def _total_first(group: tuple[tuple[str, str], Counter[str]]) -> tuple[bool, str, str]:
    (members, objective), _ = group
    return (members, objective) != ("all", ""), members.casefold(), objective


def resources_at(address: str | None, spec: Resources) -> tuple[str, list[Node]]:
    """A running cluster's name and nodes with those that may come, or this machine's.

    Raises BikdError.
    """
    from bikd_ray.sweep.connection import connected
    from bikd_ray.sweep.resources import grown, measured, this_machine

    if address is None:
        return THIS_MACHINE, this_machine()
    with connected(address):
        has = measured(gpus=spec.gpus_per_job == "auto")
    may = grown(spec, has)
    more = f", grown to {len(may)} nodes," if len(may) > len(has) else ""
    return f"the cluster at {address}{more}", may


# What a sweep takes beside its jobs, seconds, on 2 cores: `python tests/benchmarks/sweep.py` on
# several days (LOG.md). They are imports for the most part.
RAY_START = 7.0
TASK_START = 7.0  # of the first baseline: a worker that loads torch
SLOT_START = 12.0  # 9-15


@dataclass(frozen=True)
class Forecast:
    """What a sweep would do: how many jobs it begins, in how many seconds of GPUs (of slots where
    jobs use no GPU), and in how many to its end; at most so many side by side.
    """

    begun: int
    spent: float
    until: float
    abreast: int


def paces_of(plan: Plan, store: Store) -> dict[str, Pace] | None:
    """model_id to seconds, by what the plan's done jobs took for their FLOPs; None without any."""
    took = {r["job_id"]: r["seconds"] for r in store.table("jobs").to_pylist()}
    done = [(job.flops, took[job.job_id]) for job in plan.done if job.job_id in took]
    if not done:
        return None
    rate = sum(seconds for _, seconds in done) / sum(flops for flops, _ in done)
    costs = {m.model_id: m.cost.flops * rate for job in plan.jobs for m in job.members}
    return {model_id: Pace(3 * seconds, seconds) for model_id, seconds in costs.items()}


def paces_at(plan: Plan, tflops: float) -> dict[str, Pace]:
    """model_id to seconds, where a GPU really computes so many TFLOP/s."""
    seconds = {m.model_id: m.cost.flops / (1e12 * tflops) for job in plan.jobs for m in job.members}
    return {model_id: Pace(3 * one, one) for model_id, one in seconds.items()}


def on_gpu() -> tuple[str, list[Node]]:
    """One GPU that no job shares with another, whatever this machine has."""
    return "one such GPU", [{"CPU": 8.0, "GPU": 1.0, "memory": float(2**50)}]


def forecast(
    jobs: Sequence[PendingJob],
    nodes: Sequence[Node],
    budget: float | None = None,
    start: float = 0.0,
    warm: float = LONG,
) -> Forecast:
    """Play a sweep of jobs, whose work is in seconds, on nodes in the order that a sweep has.

    budget: seconds of GPUs, or of slots where jobs use no GPU; nothing begins beyond it. start:
    seconds that a job takes more where no slot of equal needs is free, as one is after a job of at
    most `warm` seconds.
    """
    waiting = deque(line(jobs))
    running: list[tuple[float, int, float, ResourceRequest]] = []  # end, number, since when, needs
    now, spent, begun, abreast = 0.0, 0.0, 0, 0
    free: Counter[ResourceRequest] = Counter()
    while waiting or running:
        while waiting and fits([*(job[3] for job in running), waiting[0].needs], nodes):
            needs, seconds = waiting[0].needs, waiting[0].work
            so_far = spent + sum((now - since) * (n.gpus or 1) for _, _, since, n in running)
            if budget is not None and so_far + seconds * (needs.gpus or 1) > budget:
                waiting.clear()
                break
            waiting.popleft()
            took = seconds if free[needs] else start + seconds
            free[needs] -= bool(free[needs])
            heappush(running, (now + took, begun, now, needs))
            begun, abreast = begun + 1, max(abreast, len(running))
        if not running:
            break
        now, _, since, needs = heappop(running)
        spent += (now - since) * (needs.gpus or 1)
        free[needs] += now - since - start <= warm
    return Forecast(begun, spent, now, abreast)


def cost_lines(
    spec: Spec,
    plan: Plan,
    paces: Mapping[str, Pace] | None,
    source: str,
    where: tuple[str, Sequence[Node]],
    limit: int | None = None,
    budget: float | None = None,
    store: Store | None = None,
) -> list[str]:
    """What is left to pay, and what the images can show.

    paces: from `source`; None where nothing is known. where: the cluster's name and nodes. limit,
    budget (GPU-hours): as of a sweep. store: what it lacks of baselines and of weights is told
    too. Raises UserError for jobs that no node can hold.
    """
    from bikd_pipelines.resolution import resolution_line
    from bikd_ray.data.cache import size_on_disk
    from bikd_ray.resolve import not_kept, not_measured
    from bikd_ray.sweep.resources import check_fits, job_needs, uses_gpus
    from bikd_ray.tasks import task_of

    todo = plan.todo[:limit]
    lines = [f"{len(plan.todo)} of {len(plan.jobs)} jobs to do, {len(plan.failed)} failed before"]
    needs = [job_needs(spec.resources, job, where[1]) for job in todo]
    for one in set(needs):
        check_fits(one, where[1])
    if paces is None and todo:
        lines.append(
            "no job of this recipe is done here, so its time is not known; --calibrate times a "
            "few steps of each model"
        )
    elif paces is not None and todo:
        pace_of = paces.__getitem__
        ahead = forecast(
            [
                PendingJob(
                    job.job_id, of_job, job.work(lambda m: pace_of(m.model_id)), job.objective.alone
                )
                for job, of_job in zip(todo, needs, strict=True)
            ],
            where[1],
            None if budget is None else 3600 * budget,
            SLOT_START,
            {"auto": LONG, "warm": inf, "fresh": -1.0}[spec.resources.slots],
        )
        ray = RAY_START if where[0] == THIS_MACHINE else 0.0
        before = ray + _baselines(plan, paces, store, max(1, ahead.abreast)) + SLOT_START
        start = f"{_duration(before)} to start, then " if ahead.begun else ""
        unit = "GPU-hours" if uses_gpus(spec.resources, where[1]) else "slot-hours"
        lines.append(
            f"a sweep begins {ahead.begun} of them: {ahead.spent / 3600:.2g} {unit}, {start}"
            f"{_duration(max(0.0, ahead.until - SLOT_START))} on {where[0]} with "
            f"{ahead.abreast} at a time (by {source})"
        )
    if store is not None and (lacking := not_kept(spec, plan, store)):
        lines.append(lacking)
    lines += further_lines(plan)
    if store is not None:
        lines += not_measured(plan, store)
    if plan.jobs:
        data = plan.jobs[0].data
        views = {m.input.view for job in plan.jobs for m in job.members}
        held = round(data.n_train * spec.data.select_fraction)
        train = data.n_train if spec.recipe.augment == "none" else 0
        looked_at = data.n_val + sum(part.n for part in data.eval.values())
        kept_images = train + held + looked_at if task_of(data.task).cacheable else 0
        cached = sum(size_on_disk(kept_images, view) for view in views)
        from bikd_ray.zoo.cost import job_bytes  # loads torch

        recipe, most = spec.recipe, max(plan.jobs, key=job_bytes)
        lines.append(
            f"memory: about {_size(job_bytes(most))} for a job of {' + '.join(most.names)} "
            f"at batch {recipe.batch_size}, the most of any"
        )
        kept = sum(_kept_bytes(spec, job) for job in plan.jobs)
        lines.append(
            f"disk: {_size(kept)} of weights in the store (keep_weights: "
            f"{spec.resources.keep_weights}), {_size(cached)} of decoded images on each node "
            f"(cache: {spec.data.cache}){_remembered(spec, plan)}"
        )
        lines.append(resolution_line(data, store))
    return lines


def _baselines(plan: Plan, paces: Mapping[str, Pace], store: Store | None, abreast: int) -> float:
    """Seconds that the baselines take which the store lacks, so many at a time."""
    from bikd_ray.sweep.baselines import missing_baselines

    zoo = {m.name: m for job in plan.jobs for m in job.members}
    data = plan.jobs[0].data
    missing = missing_baselines(zoo, data, store) if store else []
    counts = {VAL: data.n_val} | {name: part.n for name, part in data.eval.items()}
    looks = [counts[on] * paces[m.model_id].forward for m, on in missing if m.model_id in paces]
    return TASK_START + sum(looks) / abreast if missing else 0.0


def further_lines(plan: Plan) -> list[str]:
    """A line about the sets on which models are only measured, where there are any."""
    data = plan.jobs[0].data if plan.jobs else None
    sets = [
        f"{name} ({part.n:,} images"
        + (f", {len(part.kept):,} of {data.num_classes:,} classes)" if part.kept else ")")
        for name, part in (data.eval.items() if data else ())
        if data
    ]
    return [f"also measured on {', '.join(sets)}"] if sets else []


def sweep_lines(store: str) -> list[str]:
    """The sweeps that are at work on a store now, from whichever machine."""
    lines = []
    for _, sweep in at_work(StoreFS.at(store)):
        eta, left = sweep.about.eta, sweep.about.left
        until = f", about {eta / 60:.0f} min to go" if eta is not None else ""
        lines.append(
            f"sweep {sweep.name} is at work on {sweep.host} (process {sweep.pid}): "
            f"{len(sweep.jobs)} jobs run, {'?' if left is None else left} left{until}"
        )
    return lines


def drift_lines(baselines: pa.Table) -> list[str]:
    """A warning for each model that is not as accurate here as its makers published."""
    from bikd_ray.zoo.published import WARN_BEYOND

    return [
        f"{row['model']}: {row['metric']} {row['value']:.3f} %, published {row['published']:.3f} % "
        f"at the same input: {row['value'] - row['published']:+.3f} pp. Compare the images, the "
        "order of their classes and the versions of timm and Pillow before you sweep"
        for row in baselines.to_pylist()
        if row["published"] is not None and abs(row["value"] - row["published"]) > WARN_BEYOND
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def _kept_bytes(spec: Spec, job: Job) -> int:
    selections = 2 + bool(spec.data.select_fraction)
    copies = {"none": 0, "best": 1, "all": selections}[spec.resources.keep_weights]
    return copies * 4 * sum(m.cost.params for m in job.members)


def _remembered(spec: Spec, plan: Plan) -> str:
    """What each node keeps of what models that do not change say of the images."""
    from bikd_ray.tasks import task_of
    from bikd_ray.train.frozen import kept_bytes
    from bikd_ray.transfer import OBJECTIVES

    data = plan.jobs[0].data
    shape = task_of(data.task).kept_shape(data)
    setting = spec.resources.frozen_cache
    if shape is None or setting == "none":
        return ""
    models = {model.model_id: model for job in plan.jobs for model in job.members}
    size = sum(kept_bytes(shape, data.n_val, m.cost.features or 0) for m in models.values())
    said = [f"{_size(size)} of what {len(models)} models say of val before they are trained"]
    of_jobs = [
        [*job.live[: OBJECTIVES[job.objective.name].old_self], *job.teachers] for job in plan.jobs
    ]
    frozen = {model.model_id for sources in of_jobs for model in sources}
    if frozen and spec.recipe.augment == "none":
        rows = data.n_train * (1 - spec.data.select_fraction) * spec.recipe.train_fraction
        size = len(frozen) * kept_bytes(shape, round(rows))
        said.append(f"{_size(size)} of what {len(frozen)} frozen ones say of train")
    return f", {', '.join(said)} (frozen_cache: {setting})"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
