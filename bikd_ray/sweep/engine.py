"""Run a sweep: Ray up, baselines, then one Tune trial for each job on warm slots.

The store alone decides what is left to do. Tune schedules; nothing is ever restored from its files.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bikd_ray.sweep import quiet  # isort: skip  (before Ray)

import ray
from ray import tune

from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import Job, ResolvedData, ResolvedModel
from bikd_ray.resolve import planned, resolve
from bikd_ray.specs import Spec
from bikd_ray.store.place import store_uri
from bikd_ray.store.queries import Store
from bikd_ray.store.write import Writer, new_attempt
from bikd_ray.sweep.baselines import missing_baselines, run_baselines
from bikd_ray.sweep.messages import Epoch, Order, Outcome, job_row
from bikd_ray.sweep.pairs import missing_pairs, run_pairs
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import DRIVER_MEMORY, check_shared, needs_of, nodes, slots
from bikd_ray.sweep.slot import Needs
from bikd_ray.sweep.trial import JobTrial
from bikd_ray.weights import keep_all

__all__ = ["SweepReport", "quiet", "run_baseline_sweep", "run_sweep"]


@dataclass(frozen=True)
class SweepReport:
    """How a sweep ended. `left` jobs were asked for and are neither done nor failed."""

    store: str
    done: int
    failed: int
    left: int
    skipped: int  # done before this run

    @property
    def complete(self) -> bool:
        return not self.failed and not self.left


def run_sweep(
    spec: Spec,
    *,
    store: str | None = None,
    address: str | None = None,
    limit: int | None = None,
    only: str | None = None,
    retry_failed: bool = False,
) -> SweepReport:
    """Run the baselines and all jobs of `spec` that the store lacks.

    store: URI, before the spec's. address: of a running Ray cluster; None takes $RAY_ADDRESS, or
    starts Ray here; a connection that is there already is used. limit: at most so many jobs.
    only: jobs with this model. retry_failed: also run jobs that failed before.

    Raises UserError for a spec that cannot work, before anything is written.
    """
    writer = Writer(store_uri(store, spec.store))
    zoo, data = resolve(spec)
    if only is not None and only not in zoo:
        raise UserError(f"--only {only!r} is not in the zoo; choose from {', '.join(zoo)}")
    reader = Store(writer.place.uri)
    plan = planned(spec, zoo, data, reader, retry_failed=retry_failed)
    asked = [job for job in plan.todo if only is None or only in job.names]
    failed = [job for job in plan.failed if only is None or only in job.names]
    todo = asked[:limit]
    with Progress(spec.name) as progress:
        if todo or _unmeasured(zoo, data, reader):
            with _ray(address), _terminable():
                needs = needs_of(spec.resources, nodes())
                check_shared(writer.place)
                keep_all(writer.place, zoo.values())
                splits = {"val": "none"} | ({"train": spec.recipe.augment} if todo else {})
                run_baselines(zoo, data, splits, reader, writer, needs, progress)
                run_pairs(zoo, data, reader, writer, needs, progress)
                keep = _keep(spec)
                where = (spec.name, writer.place.uri, keep, spec.similarity == "cca")
                orders = {job.job_id: Order(job, *where) for job in todo}
                if orders:
                    progress.start_jobs(len(orders), len(plan.done))
                    _run_jobs(orders, needs, writer, progress)
    return SweepReport(
        store=writer.place.uri,
        done=progress.done,
        failed=progress.failed + len(failed),
        left=len(asked) - progress.done - progress.failed,
        skipped=len(plan.done),
    )


def run_baseline_sweep(spec: Spec, *, store: str | None = None, address: str | None = None) -> str:
    """Run only the baselines and pair statistics of `spec`; returns the store's URI."""
    writer = Writer(store_uri(store, spec.store))
    zoo, data = resolve(spec)
    reader = Store(writer.place.uri)
    if _unmeasured(zoo, data, reader):
        with Progress(spec.name) as progress, _ray(address), _terminable():
            needs = needs_of(spec.resources, nodes())
            check_shared(writer.place)
            keep_all(writer.place, zoo.values())
            run_baselines(zoo, data, {"val": "none"}, reader, writer, needs, progress)
            run_pairs(zoo, data, reader, writer, needs, progress)
    return writer.place.uri


def _unmeasured(zoo: dict[str, ResolvedModel], data: ResolvedData, store: Store) -> bool:
    return bool(missing_baselines(zoo, data, store) or missing_pairs(zoo, data, store))


def _keep(spec: Spec) -> tuple[str, ...]:
    policy = spec.resources.keep_weights
    if policy == "none":
        return ()
    return (spec.selection,) if policy == "best" else ("last", "best_val", "best_select")


class _Commit(tune.Callback):
    """In the command's process: stores what a trial has finished, and moves the display."""

    def __init__(self, orders: dict[str, Order], writer: Writer, progress: Progress) -> None:
        self._live: Any = (orders, writer, progress)

    def __getstate__(self) -> dict[str, Any]:  # Tune pickles its callbacks
        return {"_live": None}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        orders, _, progress = self._live
        order = orders[trial.config["job_id"]]
        progress.begin(order.job.job_id, order.job.label)

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        orders, _, progress = self._live
        job, message = orders[trial.config["job_id"]].job, result.get("message")
        if isinstance(message, Epoch):
            progress.advance(job.job_id, job.label, message.epoch, message.epochs)
        elif isinstance(message, Outcome):
            self._store(job, message)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial that Tune has given up on, such as one whose node went away too often."""
        order = self._live[0][trial.config["job_id"]]
        reason = getattr(trial, "error_file", None)
        text = Path(reason).read_text() if reason and Path(reason).exists() else "its trial died"
        row = job_row(order, 0.0, {}, f"the trial failed outside the job\n\n{text}")
        self._store(order.job, Outcome(row))

    def _store(self, job: Job, outcome: Outcome) -> None:
        _, writer, progress = self._live
        writer.commit_job(outcome.job, outcome.results, outcome.curves, outcome.similarities)
        progress.finish(job.job_id, job.label, outcome.job["seconds"], outcome.error)


def _run_jobs(orders: dict[str, Order], needs: Needs, writer: Writer, progress: Progress) -> None:
    width = min(len(orders), slots(needs, nodes()))
    place, work = writer.place, f"_work/{new_attempt()}"
    scratch = f"{place.uri}/{work}"  # every node reaches the store
    try:
        trainable = tune.with_parameters(
            JobTrial, orders=orders, needs=needs, storage=f"{scratch}/train"
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"memory": DRIVER_MEMORY}),
            param_space={"job_id": tune.grid_search(list(orders))},
            tune_config=tune.TuneConfig(max_concurrent_trials=width, reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=[_Commit(orders, writer, progress)],
                failure_config=tune.FailureConfig(max_failures=2),
                # reused actors have no checkpoint of their own; saving one would retire them
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    finally:
        place.remove(work)


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A connection to Ray for the length of the block; one that is there already is used."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=address or os.environ.get("RAY_ADDRESS") or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BikdError(f"cannot reach Ray at {address or 'this machine'}: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does: what is finished is stored, the rest is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
