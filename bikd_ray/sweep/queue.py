"""The line of jobs as a search algorithm, which Tune asks for a trial whenever it can start one.

A trial gets its job at that moment, so that a job goes to the cluster as it is then, and not to
one that another sweep has begun meanwhile.
"""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search.basic_variant import BasicVariantGenerator

from bikd_ray.sweep.line import Line


class JobQueue(BasicVariantGenerator):
    """Its experiment is a grid of tickets; whoever holds one gets the next job of the line."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line: Any = line
        self._ticket: Trial | None = None

    def next_trial(self) -> Trial | None:
        """A trial with its job, or None if none can start now."""
        if self._ticket is None:
            self._ticket = super().next_trial()
        if self._ticket is None or (job_id := self._line.take()) is None:
            return None
        trial, self._ticket = self._ticket, None
        trial.config["job_id"] = job_id
        return trial

    def is_finished(self) -> bool:
        return self._line.over or super().is_finished()

    def __getstate__(self) -> dict[str, Any]:  # Tune pickles it, and nothing is ever restored
        return {}

    def save_to_dir(self, dirpath: str, session_str: str) -> None:
        """Nothing: the store says what is left."""
