"""One Tune trial for each job; the actor that runs it is reused, and with it its slot."""

import threading
from dataclasses import replace
from typing import Any

from ray import tune

from bikd_ray.sweep.messages import Order, Outcome, job_row
from bikd_ray.sweep.slot import Slot, SlotDied

ATTEMPTS = 3
"""How many slots may die under one job before the job is called failed."""

LONG = 600.0
"""Seconds of a job beside which the start of a fresh slot (about 10) does not count."""

IDLE = 10.0
"""Seconds after which a slot without a job gives back its CPUs and GPUs: a job of other needs may
be waiting for them."""


class JobTrial(tune.Trainable):
    """Hands its job to the slot and passes the slot's messages on, one for each step."""

    _slot: Slot | None = None
    _idle: threading.Timer | None = None

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, orders: dict[str, Order], slots: str
    ) -> None:
        self._orders, self._slots = orders, slots
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job into the slot that is already warm."""
        if self._idle is not None:
            self._idle.cancel()
        self._order = self._orders[new_config["job_id"]]
        self._deaths: list[str] = []
        self._begin()
        return True

    def _begin(self) -> None:
        if self._slot is not None and self._slot.needs != self._order.needs:
            self._close()
        if self._slot is None or not self._slot.alive:
            self._slot = Slot(self._order.needs)
        self._slot.put(self._order)

    def step(self) -> dict[str, Any]:
        """The next message of the job; `done` with its Outcome."""
        try:
            assert self._slot is not None
            message = self._slot.next()
        except SlotDied as death:
            return self._after(str(death))
        if isinstance(message, Outcome):
            if message.error and self._order.needs.workers > 1:  # they have ended with it
                self._close()
            if message.micro_batch:
                return self._in_smaller_parts(message.micro_batch)
            self._rest(message.job["seconds"])
        return {"message": message, "done": isinstance(message, Outcome)}

    def _in_smaller_parts(self, micro_batch: int) -> dict[str, Any]:
        """Begin the job again, or where it has saved its state, with fewer images at a time."""
        resources = self._order.resources.model_copy(update={"micro_batch": micro_batch})
        self._order = replace(self._order, resources=resources)
        self._begin()
        return {"message": None, "done": False}

    def _rest(self, seconds: float) -> None:
        """Keep the slot warm for the next job, or give back what it occupies."""
        if self._slots == "fresh" or (self._slots == "auto" and seconds > LONG):
            self._close()
        else:
            self._idle = threading.Timer(IDLE, self._close)
            self._idle.daemon = True
            self._idle.start()

    def _after(self, death: str) -> dict[str, Any]:
        """Start again in a new slot, or fail the job that has cost too many."""
        self._deaths.append(death)
        self._close()
        if len(self._deaths) < ATTEMPTS:
            self._begin()
            return {"message": None, "done": False}
        error = f"its worker died {ATTEMPTS} times; the last time:\n{death}"
        row = job_row(self._order, 0.0, {}, error)
        return {"message": Outcome(row), "done": True}

    def cleanup(self) -> None:
        """Called once, when no job is left for this actor."""
        self._close()

    def _close(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.close()
