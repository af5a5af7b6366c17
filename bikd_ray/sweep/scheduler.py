"""The jobs that are waiting, in the order in which they are handed out; no Ray in here."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bikd_ray.errors import BikdError
from bikd_ray.store.lease import Lease
from bikd_ray.store.queries import Store
from bikd_ray.sweep.capacity import CapacityMonitor, Node, ResourceRequest, fits

POLL_SECONDS = 3.0
"""Seconds between two looks at the cluster and at the other sweeps."""

ENDED_SECONDS = 12.0
"""Seconds for which a sweep announces that a job has ended: longer than POLL_SECONDS, so that every
other sweep on the store sees it."""

IDLE_SECONDS = 10.0
"""Seconds without a job after which a sweep gives back what its idle slots occupy."""


@dataclass(frozen=True)
class PendingJob:
    """A job in line: what it occupies, and how much work it is in relation to others."""

    job_id: str
    needs: ResourceRequest
    work: float


@dataclass
class JobScheduler:
    """Hands out jobs: the largest needs first and then the longest, so that the end is short.

    A job is handed out when the cluster, as it is now, has room for it beside those that run.
    One that another sweep is at waits; it is dropped once that has done it.
    A cluster that has lost the nodes that a job needs is waited for, and `note` is told.
    """

    waiting: list[PendingJob]
    nodes: Callable[[], Sequence[Node]]
    store: Store
    lease: Lease
    note: Callable[[str], None]
    budget: float | None = None  # seconds of GPUs, or of slots where jobs use no GPU
    ask: Callable[[Sequence[ResourceRequest]], None] = lambda needs: (
        None
    )  # for room for all that is left
    running: dict[str, PendingJob] = field(default_factory=dict)
    window: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)  # done by other sweeps meanwhile
    stopped: bool = False
    held: bool = False  # nothing is handed out for now

    def __post_init__(self) -> None:
        self.waiting.sort(key=lambda w: (-w.needs.gpus, -w.needs.cpus, -w.work))
        self._spent, self._measured = 0.0, (0.0, 0.0)
        self._began: dict[str, float] = {}
        self._looked = float("-inf")
        self._rested = time.monotonic()  # when a job last ran
        self._caught_up = False  # others may have been at work since these jobs were chosen
        self._ended: dict[str, float] = {}  # jobs of ours, and when
        self._room: Sequence[Node] = ()
        self._others: set[str] = set()
        self._watch = CapacityMonitor(self.note)
        self._asked = 0

    def open(self, count: int) -> list[str]:
        """Choose at most so many jobs as the window from which `take` takes; returns them."""
        self.look()
        free = [job for job in self.waiting if job.job_id not in self._others]
        self.window = {job.job_id for job in (free or self.waiting)[:count]}
        self._rested = time.monotonic()
        return sorted(self.window)

    @property
    def over(self) -> bool:
        """Whether nothing of the window will be handed out any more."""
        if self.stopped:
            return True
        inside = [job for job in self.waiting if job.job_id in self.window]
        if any(job.job_id not in self._others for job in inside):
            return False
        elsewhere = any(job.job_id not in self._others for job in self.waiting)
        return not inside or elsewhere  # outside the window there is something better to do

    @property
    def idle(self) -> bool:
        """Whether no job has run for long, or could have."""
        if self.running:
            self._rested = time.monotonic()
        return time.monotonic() - self._rested > IDLE_SECONDS

    @property
    def ready(self) -> bool:
        """Whether some job can start now, as far as the last look tells."""
        free = [job for job in self.waiting if job.job_id not in self._others]
        return bool(free) and not self.held and self._has_room(free[0].needs)

    def take(self) -> str | None:
        """The next job of the window; None if none can start now."""
        self.look()
        jobs = [] if self.stopped or self.held else list(self.waiting)
        for _, sweep in self.lease.others() if jobs else []:  # what was begun since that look
            self._others |= sweep.jobs | sweep.ended
        for job in jobs:
            if job.job_id in self._others or job.job_id not in self.window:
                continue
            if not self._affordable(job) or not self._has_room(job.needs):
                return None  # smaller ones that overtake would keep a large one waiting for ever
            self.running[job.job_id] = job
            self._say()
            if self._taken(job.job_id):
                del self.running[job.job_id]
                continue
            self.waiting.remove(job)
            self._began[job.job_id] = time.monotonic()
            return job.job_id
        return None

    def release(self, job_id: str, seconds: float) -> None:
        """A job that was taken is over, done or failed, after so many seconds of its own."""
        job = self.running.pop(job_id, None)
        if job is not None:
            self._ended[job_id] = time.monotonic()
            self._spend(job)
            self._measured = (self._measured[0] + seconds, self._measured[1] + job.work)

    def put_back(self, job_id: str) -> None:
        """A job that was taken, and whose trial died, is the first in line again."""
        job = self.running.pop(job_id, None)
        if job is not None:
            self._spend(job)
            self.waiting.insert(0, job)

    def _spend(self, job: PendingJob) -> None:
        """What it has occupied its slot for, with the start of that."""
        took = time.monotonic() - self._began.pop(job.job_id)
        self._spent += took * (job.needs.gpus or 1)

    def stop(self) -> None:
        """Hand out nothing more; what runs may end."""
        self.stopped = True

    @property
    def eta(self) -> float | None:
        """Seconds to the end if work goes on at its rate; None before the first job is over."""
        spent, done = self._measured
        if not done:
            return None
        left = sum(job.work for job in (*self.waiting, *self.running.values()))
        began = sum(time.monotonic() - then for then in self._began.values())
        return max(0.0, spent / done * left - began) / max(1, len(self.running))

    def _say(self) -> None:
        left = len(self.waiting) + len(self.running)
        since = time.monotonic() - ENDED_SECONDS
        self._ended = {job_id: at for job_id, at in self._ended.items() if at > since}
        self.lease.say(frozenset(self.running), left=left, eta=self.eta, ended=[*self._ended])

    def _affordable(self, job: PendingJob) -> bool:
        if self.budget is None:
            return True
        now = time.monotonic()
        running = sum((now - self._began[i]) * (j.needs.gpus or 1) for i, j in self.running.items())
        spent, done = self._measured
        expected = spent / done * job.work * (job.needs.gpus or 1) if done else 0.0
        if self._spent + running + expected > self.budget:
            self.stop()
        return not self.stopped

    def _has_room(self, needs: ResourceRequest) -> bool:
        return fits([*(job.needs for job in self.running.values()), needs], self._room)

    def look(self) -> None:
        """See what has changed on the cluster and among the other sweeps, if it is time to."""
        if time.monotonic() - self._looked < POLL_SECONDS:
            return
        self._looked = time.monotonic()
        self._room = self.nodes()
        left = self._needed()
        self._watch.look(left, self._room)
        self._say()
        if len(left) != self._asked:  # an autoscaler keeps no node that only waits for the end
            self._asked = len(left)
            self.ask(left)
        sweeps = [sweep for _, sweep in self.lease.others()]
        ended = {i for sweep in sweeps for i in sweep.ended}
        others = ended.union(*(sweep.jobs for sweep in sweeps))
        news = self._others - others or any(job.job_id in ended for job in self.waiting)
        if news or not self._caught_up:
            try:
                done = self.store.done()
            except BikdError:  # asked again at the next look
                return
            found = {job.job_id for job in self.waiting} & done
            self.elsewhere |= found
            self.waiting = [job for job in self.waiting if job.job_id not in found]
            self._caught_up = True
        self._others = others

    def _needed(self) -> list[ResourceRequest]:
        """Of the jobs that run, and of those that may still begin."""
        to_come = [] if self.stopped else self.waiting
        return [job.needs for job in (*self.running.values(), *to_come)]

    def _taken(self, job_id: str) -> bool:
        """Whether an older sweep began the same job at the same moment."""
        for path, sweep in self.lease.others():
            if job_id in sweep.jobs and not self.lease.precedes(path):
                self._others.add(job_id)
                return True
        return False
