"""One Tune trial for each job; the actor that runs it is reused, and with it its slot."""

from dataclasses import replace
from typing import Any

from ray import tune

from bikd_ray.sweep.events import JobRequest, JobResult
from bikd_ray.sweep.slot import Slot


class JobTrial(tune.Trainable):
    """Hands its job to the slot and passes the slot's messages on, one for each step.

    A slot that has died is raised: the trial ends with it, and its job goes back into the line.
    """

    _slot: Slot | None = None

    def setup(self, config: dict[str, Any], *, requests: dict[str, JobRequest]) -> None:  # type: ignore[override]
        self._orders = requests
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job into the slot that is already warm."""
        self._order = self._orders[new_config["job_id"]]
        self._begin()
        return True

    def _begin(self) -> None:
        if self._slot is not None and self._slot.needs != self._order.needs:
            self.cleanup()
        if self._slot is None:
            self._slot = Slot(self._order.needs)
        self._slot.put(self._order)

    def step(self) -> dict[str, Any]:
        """The next message of the job; `done` with its Outcome."""
        assert self._slot is not None
        message = self._slot.next()
        if isinstance(message, JobResult):
            if message.error and self._order.needs.workers > 1:  # they have ended with it
                self.cleanup()
            if message.micro_batch:
                return self._in_smaller_parts(message.micro_batch)
        return {"message": message, "done": isinstance(message, JobResult)}

    def _in_smaller_parts(self, micro_batch: int) -> dict[str, Any]:
        """Begin the job again, or where it has saved its state, with fewer images at a time."""
        resources = self._order.resources.model_copy(update={"micro_batch": micro_batch})
        self._order = replace(self._order, resources=resources)
        self._begin()
        return {"message": None, "done": False}

    def cleanup(self) -> None:
        """Called when no job is left for this actor."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.close()
