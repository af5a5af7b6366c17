"""In the command's process: what a trial has finished goes into the store and on the display."""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from bikd_ray.errors import BikdError
from bikd_ray.plan import Job
from bikd_ray.store.write import Writer, new_attempt
from bikd_ray.sweep.checkpoints import folder_of
from bikd_ray.sweep.events import EpochEnd, Heartbeat, JobRequest, JobResult, Placed, job_row
from bikd_ray.sweep.loggers import RunLogger
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.reserved import Reserved
from bikd_ray.sweep.scheduler import JobScheduler

WRITE_PATIENCE = 300.0
"""Seconds for which a store that cannot be written is tried again once nothing runs any more."""

AGAIN = 2.0
"""Seconds between two tries while others train on."""

LAST = 5.0
"""Seconds of trying where a person has stopped the sweep."""


TRIALS = 3
"""How many trials may die under one job before the job is called failed."""


class Recorder(tune.Callback):
    """Stores each outcome as it comes.

    What cannot be written is kept and tried again; until then nothing new begins.
    """

    def __init__(
        self,
        requests: dict[str, JobRequest],
        scheduler: JobScheduler,
        writer: Writer,
        progress: Progress,
        loggers: Sequence[RunLogger] = (),
    ) -> None:
        self.requests, self.scheduler, self.writer, self.progress = (
            requests,
            scheduler,
            writer,
            progress,
        )
        self.loggers = loggers
        self.unwritten: list[tuple[Job, JobResult, str]] = []
        self._died: Counter[str] = Counter()  # trials, of each job
        self._reserved = Reserved()
        self._failing, self._next = 0.0, 0.0  # since when, and when to try again

    def __getstate__(self) -> dict[str, Any]:  # Tune pickles its callbacks
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """The display shows the job."""
        request = self.requests[trial.config["job_id"]]
        self.progress.begin(request.job.job_id, request.job.label)

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
    ) -> None:
        """An epoch moves the display; an outcome is stored."""
        request, message = self.requests[trial.config["job_id"]], result.get("message")
        job = request.job
        if isinstance(message, Placed):
            self._reserved.see(message)
        elif isinstance(message, EpochEnd | Heartbeat):
            self.progress.advance(job.job_id, job.label, message.epoch, message.epochs)
        elif isinstance(message, JobResult):
            self._over(job, message)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial that died, such as one whose node went away: its job goes back into the line."""
        request = self.requests[trial.config["job_id"]]
        self._died[request.job.job_id] += 1
        reason = getattr(trial, "error_file", None)
        text = Path(reason).read_text() if reason and Path(reason).exists() else "it died"
        if self._died[request.job.job_id] < TRIALS:
            self.scheduler.put_back(request.job.job_id)
            self.progress.lose(request.job.job_id, request.job.label, text.strip().splitlines()[-1])
            return
        self.fail(request, f"its worker died {TRIALS} times; the last time:\n{text}")

    def fail(self, request: JobRequest, error: str) -> None:
        """Store a job as failed that has no outcome of its own."""
        for logger in self.loggers:
            logger.fail(request.job.job_id, error)
        self._over(request.job, JobResult(job_row(request, 0.0, {}, error)))

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """A turn of Tune is over; there is none while it waits for a job."""
        self.look()

    def look(self) -> None:
        """See what has changed around the sweep, and try again what could not be written."""
        self.scheduler.look()
        self._reserved.look()
        if self.unwritten and time.monotonic() > self._next:
            self._try()

    def _over(self, job: Job, outcome: JobResult) -> None:
        self.scheduler.release(job.job_id, outcome.job["seconds"])
        self.unwritten.append((job, outcome, new_attempt()))
        self._try()

    def _try(self) -> None:
        held, now = self.scheduler.held, time.monotonic()
        try:
            self._write()
        except BikdError as error:
            self.scheduler.held = True
            if not held:
                self._failing = now
                self.progress.note(f"{error}; nothing new begins until it can be written")
            if not self.scheduler.running and now - self._failing > WRITE_PATIENCE:
                self.scheduler.stop()
            self._next = time.monotonic() + AGAIN
        else:
            self.scheduler.held = False
            if held:
                self.progress.note("the store can be written again")

    def _write(self) -> None:
        while self.unwritten:
            job, outcome, attempt = self.unwritten[0]
            self.writer.commit_job(
                outcome.job,
                outcome.results,
                outcome.curves,
                outcome.similarities,
                attempt,
                outcome.statistics,
            )
            self.unwritten.pop(0)
            with contextlib.suppress(BikdError):  # what is left of it takes up space only
                if self.writer.fs.exists(folder_of(job.job_id)):
                    self.writer.fs.remove(folder_of(job.job_id))
            for note in outcome.notes:
                self.progress.note(f"{job.label}: {note}")
            seconds, eta = outcome.job["seconds"], self.scheduler.eta
            self.progress.finish(job.job_id, job.label, seconds, outcome.error, eta)

    def settle(self, patience: float) -> None:
        """Write what could not be written so far. Raises BikdError if it still cannot."""
        again = Retrying(
            retry=retry_if_exception_type(BikdError),
            wait=wait_exponential(multiplier=0.5, max=10),
            stop=stop_after_delay(patience),
            reraise=True,
        )
        try:
            again(self._write)
        except BikdError as error:
            raise BikdError(
                f"{error}; {len(self.unwritten)} finished jobs are lost by it and will be done "
                "again by the next bikd sweep"
            ) from None
