"""Run a sweep: Ray up, baselines, then one Tune trial for each job on warm slots.

The store alone decides what is left to do. Tune schedules; nothing is ever restored from its files.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from bikd_ray.sweep import ray_env  # isort: skip  (before Ray)

from ray import tune

from bikd_ray.errors import BikdError, UserError
from bikd_ray.grouping import Wished
from bikd_ray.plan import Cost, Job, ResolvedData, ResolvedModel
from bikd_ray.resolve import kept_selections, not_kept, not_measured, planned, resolve
from bikd_ray.search.decision import Decision
from bikd_ray.search.improve import GroupDecision
from bikd_ray.search.questions import Asked
from bikd_ray.specs import Spec
from bikd_ray.store.compact import compact
from bikd_ray.store.filesystem import store_uri
from bikd_ray.store.lease import Lease
from bikd_ray.store.queries import Store
from bikd_ray.store.write import Writer
from bikd_ray.sweep.baselines import missing_baselines, run_baselines
from bikd_ray.sweep.capacity import GPU_MEMORY, Node, ResourceRequest, shortage
from bikd_ray.sweep.connection import connected, interruptible, terminable
from bikd_ray.sweep.evaluation import EvaluationReport, evaluate_jobs, unmeasured
from bikd_ray.sweep.events import JobRequest
from bikd_ray.sweep.goals import Goal, Strategy, brew
from bikd_ray.sweep.loggers import RunLogger, loggers_of
from bikd_ray.sweep.pairs import missing_pairs, run_pairs
from bikd_ray.sweep.probes import missing_probes, run_probes
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.recorder import LAST, WRITE_PATIENCE, Recorder
from bikd_ray.sweep.resources import (
    ask,
    baseline_needs,
    check_fits,
    check_nodes,
    first_gpu,
    grown,
    job_needs,
    nodes,
    reach,
    uses_gpus,
)
from bikd_ray.sweep.scheduler import JobScheduler
from bikd_ray.sweep.search_strategy import ImproveStrategy, decision_rows
from bikd_ray.sweep.searcher import (
    JobGenerator,
    JobSearcher,
    NewestTrialFirst,
    StopAtInterrupt,
)
from bikd_ray.sweep.strategy import Everything, PendingJob
from bikd_ray.sweep.trial import JobTrial
from bikd_ray.weights import keep_all

__all__ = [
    "EvaluationReport",
    "SweepReport",
    "ray_env",
    "run_baseline_sweep",
    "run_evaluation",
    "run_sweep",
]


@dataclass(frozen=True)
class SweepReport:
    """How a sweep ended, in jobs.

    store: its URI. done: by this run. failed: also those that failed before and were not tried
    again. left: asked for and neither done nor failed, as after Ctrl-C or a spent budget.
    skipped: done before this run, or by another sweep meanwhile.
    """

    store: str
    done: int
    failed: int
    left: int
    skipped: int

    @property
    def complete(self) -> bool:
        """Whether every job that was asked for is done."""
        return not self.failed and not self.left


def run_sweep(
    spec: Spec,
    *,
    store: str | None = None,
    address: str | None = None,
    limit: int | None = None,
    only: str | None = None,
    budget: float | None = None,
    retry_failed: bool = False,
    ship: bool = False,
) -> SweepReport:
    """Run the baselines and all jobs of `spec` that the store lacks.

    store: URI, before the spec's. address: of a running Ray cluster; None takes $RAY_ADDRESS, or
    starts Ray here; a connection that is there already is used. limit: run at most this many jobs.
    only: jobs with this model. budget: GPU-hours (of jobs without GPUs, their hours) that jobs may
    take; none begins that would exceed it. retry_failed: also run jobs that failed before.
    ship: send this package to a cluster that lacks it.

    Raises UserError for a spec that cannot work, before anything is written, and BikdError where
    finished jobs cannot be written.
    """
    writer = Writer(store_uri(store, spec.store))
    reader = Store(writer.fs.uri)
    zoo, data = resolve(spec, reader)
    _take_names(zoo, reader, writer)
    wanted = Goal(spec, zoo, data, reader, only, limit, retry=retry_failed)
    plan, search, todo = wanted.now()
    elsewhere = 0
    with Progress(spec.name) as progress:
        if lacking := not_kept(spec, plan, reader):
            progress.note(lacking)
        for line in not_measured(plan, reader):
            progress.note(line)
        first = _unmeasured(zoo, data, reader)
        grouped = spec.goal == "improve"  # whose jobs are known once all models are measured
        loggers = loggers_of(spec, progress.note) if todo or (first and grouped) else []
        if first or todo:
            with connected(address, spec.zoo, ship=ship) as grows, terminable():
                plan, search, todo = wanted.that_fit(plan, search, todo, progress, grows=grows)
                room = _room(spec, todo, zoo, writer, progress, grows=grows)
                of_one = _baseline(spec, room)
                keep_all(writer.fs, zoo.values())
                splits = _looked_at(data) | ({"train": spec.recipe.augment} if todo else {})
                broken = run_baselines(zoo, data, splits, reader, writer, of_one, progress)
                whole = {n: m for n, m in zoo.items() if m.model_id not in broken}
                run_pairs(whole, data, reader, writer, of_one, progress)
                run_probes(whole, data, reader, writer, of_one, progress)
                if grouped:
                    plan, search, todo = wanted.now(broken)
                    plan, search, todo = wanted.that_fit(plan, search, todo, progress, grows=grows)
                needs = {job.job_id: job_needs(spec.resources, job, room) for job in todo}
                how = (spec.name, writer.fs.uri, kept_selections(spec), spec.similarity == "cca")
                requests = {
                    job.job_id: JobRequest(job, *how, needs[job.job_id], spec.resources)
                    for job in todo
                }
                if requests:
                    if search is None:
                        progress.start_jobs(len(requests), len(plan.done))
                    else:
                        progress.start_search(len(plan.jobs), len(plan.done))
                    elsewhere = _run_jobs(
                        requests, broken, spec, reader, writer, progress, budget, loggers, search
                    )
        if isinstance(search, ImproveStrategy) and spec.improve.soup:
            brew(search, spec, reader, progress)
    left = len(plan.todo) - progress.done - progress.failed - elsewhere
    return SweepReport(
        store=writer.fs.uri,
        done=progress.done,
        failed=progress.failed + len(plan.failed),
        left=left if search is None else search.left(reader),
        skipped=len(plan.done) + elsewhere,
    )


def _take_names(zoo: dict[str, ResolvedModel], reader: Store, writer: Writer) -> None:
    """Store what this spec calls models that the store knows by other names."""
    renamed = reader.renamed({name: model.model_id for name, model in zoo.items()})
    if renamed:
        new = {zoo[name].model_id: name for name in renamed}
        writer.write_names(reader.table("models"), new)


def run_baseline_sweep(
    spec: Spec, *, store: str | None = None, address: str | None = None, ship: bool = False
) -> str:
    """Run only the baselines and pair statistics of `spec`; returns the store's URI.

    store, address, ship: as for `run_sweep`. Raises UserError for a spec that cannot work, and
    BikdError with a line for each model that could not be measured, once the others are stored.
    """
    writer = Writer(store_uri(store, spec.store))
    reader = Store(writer.fs.uri)
    zoo, data = resolve(spec, reader)
    _take_names(zoo, reader, writer)
    if _unmeasured(zoo, data, reader):
        with (
            Progress(spec.name) as progress,
            connected(address, spec.zoo, ship=ship) as grows,
            terminable(),
        ):
            of_one = _baseline(spec, _room(spec, (), zoo, writer, progress, grows=grows))
            keep_all(writer.fs, zoo.values())
            splits = _looked_at(data)
            broken = run_baselines(zoo, data, splits, reader, writer, of_one, progress)
            whole = {n: m for n, m in zoo.items() if m.model_id not in broken}
            run_pairs(whole, data, reader, writer, of_one, progress)
            run_probes(whole, data, reader, writer, of_one, progress)
            if broken:
                raise BikdError("\n".join(broken.values()))
    return writer.fs.uri


def run_evaluation(
    spec: Spec, *, store: str | None = None, address: str | None = None, ship: bool = False
) -> EvaluationReport:
    """Measure the done jobs of `spec` on the sets of `data.eval` that they lack, from their kept
    weights; trains nothing. What is measured is not measured again.

    store, address, ship: as for `run_sweep`. Raises UserError for a spec that cannot work or has no
    such sets.
    """
    writer = Writer(store_uri(store, spec.store))
    reader = Store(writer.fs.uri)
    if not spec.data.eval:
        raise UserError(
            "data.eval: the spec has no sets to measure on; add one, a name to a source"
        )
    zoo, data = resolve(spec, reader)
    plan = planned(spec, zoo, data, reader)
    lacking = unmeasured(plan.done, reader)
    todo = [one for one in lacking if one.kept]
    failed: dict[str, str] = {}
    with Progress(spec.name) as progress:
        if todo:
            with connected(address, spec.zoo, ship=ship) as grows, terminable():
                of_one = _baseline(spec, _room(spec, (), zoo, writer, progress, grows=grows))
                keep_all(writer.fs, zoo.values())
                run_baselines(zoo, data, _looked_at(data), reader, writer, of_one, progress)
                progress.start_jobs(len(todo), len(plan.done) - len(lacking))
                failed = evaluate_jobs(todo, reader, writer, of_one, progress)
            _merge(writer, progress)
    return EvaluationReport(
        store=writer.fs.uri,
        measured=len(todo) - len(failed),
        before=len(plan.done) - len(lacking),
        failed=failed,
        without=tuple(one.job.label for one in lacking if not one.kept),
    )


def _looked_at(data: ResolvedData) -> dict[str, str]:
    """The sets that are only evaluated on, none of them augmented."""
    return dict.fromkeys(("val", *data.eval), "none")


def _merge(writer: Writer, progress: Progress) -> None:
    try:
        compact(writer.fs.uri)
    except BikdError as error:  # what was done is stored
        progress.note(f"{error}; the store's small files stay until bikd store compact")


def _room(
    spec: Spec,
    todo: Collection[Job],
    zoo: Mapping[str, ResolvedModel],
    writer: Writer,
    progress: Progress,
    *,
    grows: bool,
) -> list[Node]:
    """The nodes, once they are seen to be fit for all jobs and baselines, and those to come.

    Raises UserError for what no node can ever hold, before anything is written.
    """
    how = spec.resources
    has = reach(how, grows=grows)
    wanted = {job_needs(how, job, has) for job in todo}
    wanted |= {baseline_needs(how, model.cost, has) for model in zoo.values()}
    for one in wanted:
        check_fits(one, has)
    gpus = uses_gpus(how, has)
    room = check_nodes(writer.fs, gpus=gpus)
    if grows and not gpus and how.gpus_per_job == "auto":
        progress.note(
            "no node has a GPU: training on CPUs; for GPUs that an autoscaler would start, set "
            "resources.autoscaler"
        )
    if absent := [one for one in wanted if shortage(one, room)]:
        most = max(absent, key=lambda one: (one.worker.gpus, one.worker.cpus)).worker
        progress.note(
            f"no node is there yet with {most.cpus:g} CPUs and {most.gpus:g} GPUs; the cluster's "
            "autoscaler is asked for some"
        )
    if not grows:
        return room
    room = grown(how, room)
    return first_gpu(room) if gpus and not any(GPU_MEMORY in node for node in room) else room


def _baseline(spec: Spec, room: Sequence[Node]) -> Callable[[Cost], ResourceRequest]:
    return lambda cost: baseline_needs(spec.resources, cost, room)


def _unmeasured(zoo: dict[str, ResolvedModel], data: ResolvedData, store: Store) -> bool:
    probes = missing_probes(zoo, data, store)  # always: it refuses another set under a known name
    return bool(probes or missing_baselines(zoo, data, store) or missing_pairs(zoo, data, store))


def _run_jobs(
    requests: dict[str, JobRequest],
    broken: dict[str, str],
    spec: Spec,
    store: Store,
    writer: Writer,
    progress: Progress,
    budget: float | None,
    loggers: list[RunLogger],
    search: Strategy | None = None,
) -> int:
    """Run all jobs, as many at a time as a run of Tune takes; returns how many another sweep has
    done.

    broken: model_id to why that model cannot be measured; its jobs fail at once. search: decides
    which of the jobs are run; all without one.
    """
    fs = writer.fs
    lease = Lease(fs, spec.name)
    unable = {i: why for i, request in requests.items() if (why := _unable(request, broken))}
    able = [
        PendingJob(i, o.needs, o.job.flops, early=o.job.objective.alone)
        for i, o in requests.items()
        if i not in unable
    ]
    seconds = None if budget is None else 3600 * budget
    strategy = Everything(able) if search is None else _told(search, able, spec, writer, progress)
    scheduler = JobScheduler(strategy, nodes, store, lease, progress.note, budget=seconds, ask=ask)
    recorder = Recorder(requests, scheduler, writer, progress, loggers)
    for job_id, why in unable.items():
        recorder.fail(requests[job_id], why)
    for logger in loggers:
        logger.requests = requests
    try:
        with interruptible() as interrupted:
            while _something_to_do(scheduler, recorder, interrupted):
                _run_trials(requests, scheduler, recorder, interrupted)
        recorder.settle(WRITE_PATIENCE if scheduler.over else LAST)
    finally:
        ask([])
        lease.end()
        for logger in loggers:
            logger.close()
    if not scheduler.running:
        _merge(writer, progress)
    with contextlib.suppress(BikdError):
        return len(scheduler.done_elsewhere([job.job_id for job in able]))
    return 0


def _told(
    search: Strategy,
    able: Sequence[PendingJob],
    spec: Spec,
    writer: Writer,
    progress: Progress,
) -> Strategy:
    """The search over the jobs that can be begun, which logs and shows what it decides."""

    def told(asked: Asked | Wished, decision: Decision | GroupDecision) -> None:
        with contextlib.suppress(BikdError):  # the log is for people
            half = spec.search.decide_on == "half"
            writer.write_decision(decision_rows(asked, decision, spec.name, half=half))
        label = f"{asked.setting[2]}: " if len(search.asked) > 1 else ""
        progress.decide(f"{label}{decision}", len(decision.asks))

    return replace(search, jobs={job.job_id: job for job in able}, told=told)


def _something_to_do(
    scheduler: JobScheduler, recorder: Recorder, interrupted: threading.Event
) -> bool:
    """Wait until some job can start; False if none ever will, or at Ctrl-C."""
    recorder.look()
    while not (scheduler.over or scheduler.ready or interrupted.is_set()):
        time.sleep(1)
        recorder.look()
    return not (scheduler.over or interrupted.is_set())


def _unable(request: JobRequest, broken: dict[str, str]) -> str | None:
    """Why a job cannot be run: one of its models could not even be measured."""
    return next((broken[m.model_id] for m in request.job.members if m.model_id in broken), None)


def _run_trials(
    requests: dict[str, JobRequest],
    scheduler: JobScheduler,
    recorder: Recorder,
    interrupted: threading.Event,
) -> None:
    """One run of Tune: until no job is left, or none can start for long, or at Ctrl-C."""
    scheduler.resume()
    searcher = JobSearcher(requests, scheduler, recorder.look, interrupted)
    trainable = tune.with_parameters(JobTrial, requests=requests)
    with TemporaryDirectory(prefix="bikd-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, searcher.held),
            tune_config=tune.TuneConfig(
                num_samples=-1,  # until the searcher has finished
                search_alg=JobGenerator(searcher),
                scheduler=NewestTrialFirst(),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                stop=StopAtInterrupt(interrupted, recorder.progress.note),
                callbacks=[recorder, *recorder.loggers],
                # reused actors have no checkpoint of their own; saving one would retire them
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
