"""One Tune trial for each job; the actor that runs it is reused, and with it its slot."""

from typing import Any

from ray import tune

from bikd_ray.sweep.messages import Order, Outcome, job_row
from bikd_ray.sweep.slot import Needs, Slot, SlotDied

ATTEMPTS = 3
"""How many slots may die under one job before the job is called failed."""


class JobTrial(tune.Trainable):
    """Hands its job to the slot and passes the slot's messages on, one for each step."""

    _slot: Slot | None = None

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, orders: dict[str, Order], needs: Needs, storage: str
    ) -> None:
        self._orders, self._needs, self._scratch = orders, needs, storage
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job into the slot that is already warm."""
        self._order = self._orders[new_config["job_id"]]
        self._deaths: list[str] = []
        self._begin()
        return True

    def _begin(self) -> None:
        if self._slot is None or not self._slot.alive:
            self._slot = Slot(self._needs, self._scratch)
        self._slot.put(self._order)

    def step(self) -> dict[str, Any]:
        """The next message of the job; `done` with its Outcome."""
        try:
            assert self._slot is not None
            message = self._slot.next()
        except SlotDied as death:
            return self._after(str(death))
        return {"message": message, "done": isinstance(message, Outcome)}

    def _after(self, death: str) -> dict[str, Any]:
        """Start again in a new slot, or fail the job that has cost too many."""
        self._deaths.append(death)
        if self._slot is not None:
            self._slot.close()
            self._slot = None
        if len(self._deaths) < ATTEMPTS:
            self._begin()
            return {"message": None, "done": False}
        error = f"its worker died {ATTEMPTS} times; the last time:\n{death}"
        row = job_row(self._order, 0.0, {}, error)
        return {"message": Outcome(row), "done": True}

    def cleanup(self) -> None:
        """Called once, when no job is left for this actor."""
        if self._slot is not None:
            self._slot.close()
