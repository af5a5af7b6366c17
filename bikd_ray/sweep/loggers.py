"""Jobs as runs in TensorBoard, MLflow and Weights & Biases, as they train.

The store has everything; this is for those who watch their runs there. Each logger writes from a
thread of its own: one that fails or hangs costs its own output and never the sweep.
"""

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from bikd_ray.errors import UserError
from bikd_ray.specs import Logger, Spec
from bikd_ray.store.upgrade import VAL
from bikd_ray.sweep.events import EpochEnd, JobRequest, JobResult, Row
from bikd_ray.tasks import task_of

EPOCH = ("score", "select_score", "train_score", "train_loss", "loss", "kl", "teacher_share")
END = ("before", "after", "delta", "delta_low", "delta_high", "recovered")
"""Columns of `curves` and `results` that become metrics, each after its model's name."""

CLOSE_PATIENCE = 30.0
"""Seconds that the end of a sweep waits for what is still to be sent."""

Metrics = dict[str, float]


class LoggedRun(Protocol):
    """One job in a logger."""

    def log(self, metrics: Metrics, epoch: int) -> None: ...

    def end(self, metrics: Metrics, error: str | None) -> None: ...


def loggers_of(spec: Spec, note: Callable[[str], None]) -> list["RunLogger"]:
    """The spec's loggers, ready. Raises UserError for one whose package is not installed."""
    for logger in spec.loggers:
        try:
            import_module(KINDS[logger.name][0])
        except ImportError:
            raise UserError(
                f"loggers: {logger.name} needs a package that is not installed; "
                f'pip install "bikd-ray[{logger.name}]"'
            ) from None
    return [RunLogger(logger, KINDS[logger.name][1], note) for logger in spec.loggers]


class RunLogger(tune.Callback):
    """Passes what Tune's trials report to one logger, through a queue."""

    def __init__(self, logger: Logger, open_run: Any, note: Callable[[str], None]) -> None:
        self.logger, self._open, self._note = logger, open_run, note
        self.requests: dict[str, JobRequest] = {}
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._runs: dict[str, LoggedRun] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:  # Tune pickles its callbacks
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        request = self.requests[trial.config["job_id"]]
        self._queue.put(lambda: self._begin(request))

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        job_id, message = trial.config["job_id"], result.get("message")
        if isinstance(message, EpochEnd):
            primary = task_of(self.requests[job_id].job.data.task).metrics[0].name
            metrics = metrics_of(message.rows, EPOCH, primary)
            self._queue.put(lambda: self._runs[job_id].log(metrics, message.epoch))
        elif isinstance(message, JobResult):
            metrics = results_of(row for row in message.results if row["selection"] == "last")
            self._queue.put(lambda: self._runs.pop(job_id).end(metrics, message.error))

    def fail(self, job_id: str, error: str) -> None:
        """A job has failed that has no outcome of its own."""
        self._queue.put(lambda: self._end(job_id, error))

    def _end(self, job_id: str, error: str) -> None:
        if job_id in self._runs:  # not if it could not even begin
            self._runs.pop(job_id).end({}, error)

    def _begin(self, request: JobRequest) -> None:
        """Open the job's run, or go on with it where another trial has died under it."""
        if request.job.job_id not in self._runs:
            self._runs[request.job.job_id] = self._open(self.logger, request)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except Exception as error:
                reason = str(error).strip().splitlines() or [""]
                self._note(
                    f"{self.logger.name} stopped: {type(error).__name__}: {reason[0]}; the sweep "
                    "goes on without it"
                )
                return

    def close(self) -> None:
        """Send what is left, for a while; jobs that were cut off end as failed."""
        self._queue.put(self._cut_off)
        self._queue.put(None)
        self._thread.join(timeout=CLOSE_PATIENCE)
        if self._thread.is_alive():
            self._note(f"{self.logger.name} did not take all that there was to log")

    def _cut_off(self) -> None:
        for run in self._runs.values():
            run.end({}, "interrupted")


def metrics_of(rows: Iterable[Row], columns: Iterable[str], primary: str) -> Metrics:
    """'MODEL/column' to value, for the columns that have one; scores go by the name of the
    primary metric, as in `ViT/miou` and `ViT/train_miou`.
    """
    names = {name: name.replace("score", primary) for name in columns}
    return {
        f"{row['model']}/{shown}": float(row[name])
        for row in rows
        for name, shown in names.items()
        if row.get(name) is not None
    }


def results_of(rows: Iterable[Row]) -> Metrics:
    """'MODEL/METRIC_column' of rows of `results`, or 'MODEL/SET/METRIC_column' of other sets."""
    found: Metrics = {}
    for row in rows:
        where = "" if row["eval_set"] == VAL else f"{row['eval_set']}/"
        found |= {
            f"{row['model']}/{where}{row['metric']}_{name}": float(row[name])
            for name in END
            if row.get(name) is not None
        }
    return found


def config_of(request: JobRequest) -> dict[str, Any]:
    """What a run was asked for."""
    job = request.job
    return {
        "members": " + ".join(job.names),
        "objective": job.objective.label,
        "seed": job.seed,
        "job_id": job.job_id,
        **job.recipe.model_dump(exclude={"lrs"}),
    }


def _named(request: JobRequest) -> str:
    return f"{request.job.label} · {request.job.job_id[:6]}"


class TensorBoardRun:
    """A folder of event files."""

    def __init__(self, logger: Logger, request: JobRequest) -> None:
        from tensorboardX import SummaryWriter

        name = re.sub(r"[^\w.+=-]+", "_", _named(request))
        self._writer = SummaryWriter(str(Path(logger.dir, request.sweep, name)))
        self._config = {k: v if v is not None else "none" for k, v in config_of(request).items()}

    def log(self, metrics: Metrics, epoch: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def end(self, metrics: Metrics, error: str | None) -> None:
        from tensorboardX.summary import hparams

        if error:
            self._writer.add_text("error", error)
        assert self._writer.file_writer is not None
        for summary in hparams(self._config, metrics):
            self._writer.file_writer.add_summary(summary)
        self.log(metrics, 0)
        self._writer.close()


class MLflowRun:
    """A run of the experiment; several are open at once, so it goes by the client."""

    def __init__(self, logger: Logger, request: JobRequest) -> None:
        mlflow = import_module("mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table it makes
        self._client = mlflow.MlflowClient(tracking_uri=logger.tracking_uri)
        name = logger.experiment or request.sweep
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=_named(request))
        self._id = run.info.run_id
        for key, value in config_of(request).items():
            self._client.log_param(self._id, key, value)

    def log(self, metrics: Metrics, epoch: int) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, re.sub(r"[^\w. /-]", "_", name), value, step=epoch)

    def end(self, metrics: Metrics, error: str | None) -> None:
        self.log(metrics, 0)
        if error:
            self._client.set_tag(self._id, "error", error.splitlines()[0])
        self._client.set_terminated(self._id, "FAILED" if error else "FINISHED")


class WandbRun:
    """A run of the project, grouped by the sweep."""

    def __init__(self, logger: Logger, request: JobRequest) -> None:
        wandb = import_module("wandb")
        if logger.dir:  # which it would only grumble about
            Path(logger.dir).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=logger.project or "bikd",
            group=request.sweep,
            name=_named(request),
            config=config_of(request),
            dir=logger.dir,
            mode=logger.mode,
            reinit="create_new",  # several are open at once
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, metrics: Metrics, epoch: int) -> None:
        self._run.log({**metrics, "epoch": epoch})

    def end(self, metrics: Metrics, error: str | None) -> None:
        self._run.summary.update(metrics)
        if error:
            self._run.summary["error"] = error.splitlines()[0]
        self._run.finish(exit_code=1 if error else 0)


KINDS: dict[str, tuple[str, Callable[[Logger, JobRequest], LoggedRun]]] = {
    "tensorboard": ("tensorboardX", TensorBoardRun),
    "mlflow": ("mlflow", MLflowRun),
    "wandb": ("wandb", WandbRun),
}
"""Each logger's package, and how it opens a run."""
