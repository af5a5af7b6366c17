"""Which jobs of a sweep come next, decided from the store alone; neither Ray nor torch in here.

A strategy has no memory and occupies nothing: what is stored is all that it knows. The scheduler
that asks it keeps the cluster's capacity, the budget and the leases.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from bikd_ray.store.queries import Store
from bikd_ray.sweep.capacity import ResourceRequest


@dataclass(frozen=True)
class PendingJob:
    """A job in line: what it occupies, and how much work it is in relation to others.

    early: before all that is not; a control, without which no other job's gain says anything.
    """

    job_id: str
    needs: ResourceRequest
    work: float
    early: bool = False


@dataclass(frozen=True)
class Running:
    """Ids of jobs that need no proposal, or are about to be known, whatever the store says."""

    here: Collection[str]  # begun by this sweep; they run, or have ended and may not be stored yet
    elsewhere: Collection[str]  # other sweeps are at them, or were a moment ago


def line(jobs: Iterable[PendingJob]) -> list[PendingJob]:
    """The early ones first; of each kind the largest needs and then the longest, so that the end
    is short.
    """

    def place(job: PendingJob) -> tuple[bool, float, float, float]:
        return not job.early, -job.needs.gpus, -job.needs.cpus, -job.work

    return sorted(jobs, key=place)


class Strategy(Protocol):
    """Chooses the jobs that should wait now.

    patience: seconds after which it wants to be asked again where a job has ended since, although
    some that it proposed still wait; 0: before every job, as long as it thinks no longer than jobs
    take.
    """

    @property
    def patience(self) -> float: ...

    def propose(
        self, store: Store, running: Running, free: Callable[[ResourceRequest], int]
    ) -> Sequence[PendingJob] | None:
        """The jobs to begin next, the first one first; they replace those proposed before.

        None: no job will come any more beside those that run. An empty sequence: none until one
        of those, or one elsewhere, has ended. free: how many jobs of such a need could begin now.
        It is asked at the start, when all that it proposed has begun, when a job has ended after
        that (while others wait, after its `patience`), and when other sweeps have done something.
        Raises BikdError where the store cannot be read; it is asked again then.
        """
        ...


@dataclass(frozen=True)
class Everything:
    """All jobs that are missing, in `line`. Jobs that other sweeps are at are among them, since
    they may still become ours.
    """

    jobs: Sequence[PendingJob]
    patience: float = inf

    def propose(
        self, store: Store, running: Running, free: Callable[[ResourceRequest], int]
    ) -> Sequence[PendingJob] | None:
        over = store.done() | set(running.here)
        return line(job for job in self.jobs if job.job_id not in over) or None
