"""The scheduler as a search algorithm, which Tune asks for a trial whenever it can start one.

A trial gets its job at that moment, so that a job goes to the cluster as it is then, and not to
one that another sweep has begun meanwhile. docs/adr/0003-searcher.md says why it is this one.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune import PlacementGroupFactory, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from bikd_ray.sweep.capacity import DRIVER_MEMORY, LONG, ResourceRequest
from bikd_ray.sweep.events import JobRequest
from bikd_ray.sweep.scheduler import JobScheduler

MOST_TRIALS = 2000
"""Jobs that one run of Tune is given: it rewrites its state of all of them again and again."""


def placement_group(needs: ResourceRequest, slot: str = "") -> PlacementGroupFactory:
    """What Tune reserves for a job's trial. That is all that its one worker occupies: the trial's
    own process. Of several workers it is the memory of the trial and no CPU, so that a job never
    holds one thing while it waits for another.

    A trial takes over an actor that was started for an equal request; `slot`, the name of one of
    its own, makes it equal to none.
    """
    held = needs.bundle if needs.workers == 1 else {}
    apart = {"name": slot} if slot else {}
    return PlacementGroupFactory([{**held, "memory": DRIVER_MEMORY}], **apart)


def _holding(
    needs: Sequence[ResourceRequest],
) -> Callable[[dict[str, Any]], PlacementGroupFactory]:
    """Tune unpickles it anew for each trial: with all requests in it, that took longer than all
    else in a sweep of thousands of jobs.
    """
    return lambda config: placement_group(needs[config["needs"]], config["slot"])


class JobSearcher(Searcher):
    """Suggests the scheduler's next job: {"job_id": …, "needs": number of what it needs, "slot":
    name of a slot of its own, or ""}. held: the placement group of such a config.

    look: called first whenever a job is asked for. While no trial runs, Tune asks again and again
    until it gets one, for minutes; Ctrl-C must then end the asking, and so must a scheduler that
    has long had nothing to hand out, since an idle actor keeps the resources it occupies.
    """

    def __init__(
        self,
        requests: dict[str, JobRequest],
        scheduler: JobScheduler,
        look: Callable[[], None],
        interrupted: threading.Event,
    ) -> None:
        super().__init__()
        self._requests, self._scheduler, self._look = requests, scheduler, look
        self._interrupted = interrupted
        self._suggested = 0
        self._needs = [*dict.fromkeys(request.needs for request in requests.values())]
        self.held = _holding(self._needs)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next job's config, or None if none can start now."""
        self._look()
        if (job_id := self._scheduler.take()) is None:
            return None
        self._suggested += 1
        needs = self._needs.index(self._requests[job_id].needs)
        slot = trial_id if self._fresh(job_id) else ""
        return {"job_id": job_id, "needs": needs, "slot": slot}

    def _fresh(self, job_id: str) -> bool:
        """Whether a job gets a slot of its own, as far as its length can be told before."""
        slots = self._requests[job_id].resources.slots
        long = self._scheduler.expected(self._scheduler.running[job_id]) > LONG
        return slots == "fresh" or (slots == "auto" and long)

    @property
    def finished(self) -> bool:
        """Whether no job will be suggested now; a trial that dies may change that."""
        scheduler, full = self._scheduler, self._suggested >= MOST_TRIALS
        return scheduler.over or scheduler.idle or full or self._interrupted.is_set()

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """Nothing: the recorder has told the scheduler."""

    def __getstate__(self) -> dict[str, Any]:  # Tune pickles it, and nothing is ever restored
        return {}


class JobGenerator(SearchGenerator):
    """Makes trials of what a JobSearcher suggests, and asks it anew whether it has finished.

    Tune's own keeps a searcher's FINISHED for good. Idle slots could then be given back only if a
    job whose worker dies later waited for all others, or be kept until the longest job has ended.
    """

    searcher: JobSearcher

    def is_finished(self) -> bool:
        return super().is_finished() or self.searcher.finished

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save_to_dir(self, dirpath: str, session_str: str) -> None:
        """Nothing: the store says what is left."""


class StopAtInterrupt(Stopper):
    """Ends all trials at Ctrl-C; note tells the person, once."""

    def __init__(self, interrupted: threading.Event, note: Callable[[str], None]) -> None:
        self._interrupted, self._note = interrupted, note
        self._noted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._interrupted.is_set() and not self._noted:
            self._noted = True
            self._note("stopping; Ctrl-C again ends at once")
        return self._interrupted.is_set()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class NewestTrialFirst(FIFOScheduler):
    """Of the trials that wait for an actor the newest takes one that is warm and free.

    The oldest would: it would give up its own, which is still being started. Where jobs are shorter
    than that start, a cluster that grows or has lost a slot would stay as it is for ever.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        newest = reversed(tune_controller.get_trials())
        return next((trial for trial in newest if trial.status == Trial.PENDING), None)
