"""The line of jobs as a search algorithm, which Tune asks for a trial whenever it can start one.

A trial gets its job at that moment, so that a job goes to the cluster as it is then, and not to
one that another sweep has begun meanwhile.
"""

import signal
from collections.abc import Callable
from typing import Any

from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from bikd_ray.sweep.capacity import DRIVER_MEMORY, ResourceRequest
from bikd_ray.sweep.scheduler import JobScheduler


def placement_group(needs: ResourceRequest, **apart: str) -> PlacementGroupFactory:
    """What Tune reserves for a job's trial. That is all that its one worker occupies: the trial's
    own process. Of several workers it is the memory of the trial and no CPU, so that a job never
    holds one thing while it waits for another.

    A trial takes over an actor that was started for an equal request.
    """
    held = needs.bundle if needs.workers == 1 else {}
    return PlacementGroupFactory([{**held, "memory": DRIVER_MEMORY}], **apart)


def retire(trial: Trial, needs: ResourceRequest) -> None:
    """See to it that no other trial takes over the actor of this one."""
    trial.placement_group_factory = placement_group(needs, name=trial.trial_id)


class JobSearcher(BasicVariantGenerator):
    """Its experiment is a grid of tickets; a trial with a ticket gets the scheduler's next job.

    look: called first whenever a job is asked for. While no trial runs, Tune asks again and again
    until it gets one, for minutes; Ctrl-C must then end the asking, and so must a scheduler that
    has long had nothing to hand out, since an idle actor keeps the resources it occupies.
    """

    def __init__(self, scheduler: JobScheduler, look: Callable[[], None]) -> None:
        super().__init__()
        self._scheduler: Any = scheduler
        self._look: Any = look
        self._ticket: Trial | None = None
        self._handler: Any = None  # Tune's, of Ctrl-C

    def next_trial(self) -> Trial | None:
        """A trial with its job, or None if none can start now."""
        self._handler = self._handler or signal.getsignal(signal.SIGINT)
        self._look()
        if self._ticket is None:
            self._ticket = super().next_trial()
        if self._ticket is None or (job_id := self._scheduler.take()) is None:
            return None
        trial, self._ticket = self._ticket, None
        trial.config["job_id"] = job_id
        return trial

    def is_finished(self) -> bool:
        ended = self._scheduler.over or self._scheduler.idle or self._interrupted
        return ended or super().is_finished()

    @property
    def _interrupted(self) -> bool:
        """Whether Tune, told to end, has put back the handler that was there before its own."""
        return bool(self._handler) and signal.getsignal(signal.SIGINT) is not self._handler

    def __getstate__(self) -> dict[str, Any]:  # Tune pickles it, and nothing is ever restored
        return {}

    def save_to_dir(self, dirpath: str, session_str: str) -> None:
        """Nothing: the store says what is left."""


class NewestTrialFirst(FIFOScheduler):
    """Of the trials that wait for an actor the newest takes one that is warm and free.

    The oldest would: it would give up its own, which is still being started. Where jobs are shorter
    than that start, a cluster that grows or has lost a slot would stay as it is for ever.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        newest = reversed(tune_controller.get_trials())
        return next((trial for trial in newest if trial.status == Trial.PENDING), None)
