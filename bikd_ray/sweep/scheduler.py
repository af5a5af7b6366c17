"""Hands out jobs as the cluster, the budget and other sweeps allow; no Ray in here."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from bikd_ray.errors import BikdError
from bikd_ray.store.lease import Lease
from bikd_ray.store.queries import Store
from bikd_ray.sweep.capacity import CapacityMonitor, Node, ResourceRequest, fits
from bikd_ray.sweep.strategy import PendingJob, Running, Strategy

POLL_SECONDS = 3.0
"""Seconds between two looks at the cluster and at the other sweeps."""

ENDED_SECONDS = 12.0
"""Seconds for which a sweep announces that a job has ended: longer than POLL_SECONDS, so that every
other sweep on the store sees it."""

GIVE_WAY_SECONDS = 0.3
"""Seconds in which the younger of two sweeps that want a job at once has given way."""

ASK_SECONDS = 60.0
"""Seconds after which an autoscaler is asked again: another command on the cluster may have taken
the request back."""

MOST_PATIENCE = 10.0
"""Seconds after which a strategy that thinks long is asked again at the latest."""

IDLE_SECONDS = 10.0
"""Seconds without a job after which a sweep gives back what its idle slots occupy."""


@dataclass
class JobScheduler:
    """Hands out the jobs that a strategy proposes, in its order.

    A job is handed out when the cluster, as it is now, has room for it beside those that run.
    One that another sweep is at waits; the strategy drops it once that has done it.
    A cluster that has lost the nodes that a job needs is waited for, and `note` is told.
    """

    strategy: Strategy
    nodes: Callable[[], Sequence[Node]]
    store: Store
    lease: Lease
    note: Callable[[str], None]
    budget: float | None = None  # seconds of GPUs, or of slots where jobs use no GPU
    ask: Callable[[Sequence[ResourceRequest]], None] = lambda needs: (
        None
    )  # for room for all that is left
    waiting: list[PendingJob] = field(default_factory=list)
    running: dict[str, PendingJob] = field(default_factory=dict)
    stopped: bool = False
    held: bool = False  # nothing is handed out for now

    def __post_init__(self) -> None:
        self._spent, self._measured = 0.0, (0.0, 0.0)
        self._began: dict[str, float] = {}
        self._looked = float("-inf")
        self._rested = time.monotonic()  # when a job last ran
        self._asking = True  # the strategy, at the next look
        self._exhausted = False  # it has nothing more to propose
        self._ended_since = False  # a job has, since the strategy was asked
        self._asked_strategy = float("-inf")  # when
        self._took = 0.0  # seconds that it thought
        self._handed_out: set[str] = set()  # all jobs that were begun here
        self._again: set[str] = set()  # those whose trials died, which come first
        self._ended: dict[str, float] = {}  # jobs of ours, and when
        self._room: Sequence[Node] = ()
        self._others: set[str] = set()
        self._watch = CapacityMonitor(self.note)
        self._asked, self._asked_at = 0, float("-inf")

    def resume(self) -> None:
        """Jobs are about to be taken again: from now on counts how long none could be."""
        self.look()
        self._rested = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether nothing will be handed out any more, unless a trial that runs dies."""
        return self.stopped or (self._exhausted and not self.waiting)

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
        """The next job; None if none can start now."""
        self.look()
        if self._run_out or self._learned:
            self._propose()
        jobs = [] if self.stopped or self.held else list(self.waiting)
        if jobs:
            self._hear()
        for job in jobs:
            if job.job_id in self._others:
                continue
            if not self._affordable(job) or not self._has_room(job.needs):
                return None  # smaller ones that overtake would keep a large one waiting for ever
            self.running[job.job_id] = job
            self._say()
            if self._taken(job.job_id):
                del self.running[job.job_id]
                self._say()
                self._hear()
                continue
            self.waiting.remove(job)
            self._handed_out.add(job.job_id)
            self._again.discard(job.job_id)
            self._began[job.job_id] = time.monotonic()
            if not self.waiting:
                self._propose()
            return job.job_id
        return None

    def release(self, job_id: str, seconds: float) -> None:
        """A job that was taken is over, done or failed, after so many seconds of its own."""
        job = self.running.pop(job_id, None)
        if job is not None:
            self._ended[job_id] = time.monotonic()
            self._spend(job)
            self._measured = (self._measured[0] + seconds, self._measured[1] + job.work)
            self._ended_since = True

    def put_back(self, job_id: str) -> None:
        """A job that was taken, and whose trial died, is the first in line again."""
        job = self.running.pop(job_id, None)
        if job is not None:
            self._spend(job)
            self._handed_out.remove(job_id)
            self._again.add(job_id)
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

    def expected(self, job: PendingJob) -> float:
        """Seconds that a job will take, as those before it did; 0 before the first one is over."""
        spent, done = self._measured
        return spent / done * job.work if done else 0.0

    def done_elsewhere(self, jobs: Collection[str]) -> set[str]:
        """Which of some jobs are stored as done and were not begun here."""
        others = set(jobs) - self._handed_out
        return others & self.store.done() if others else set()

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
        expected = self.expected(job) * (job.needs.gpus or 1)
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
        sweeps = [sweep for _, sweep in self.lease.others()]
        ended = {i for sweep in sweeps for i in sweep.ended}
        others = ended.union(*(sweep.jobs for sweep in sweeps))
        news = self._others - others or any(job.job_id in ended for job in self.waiting)
        self._others = others
        if news or self._asking or self._run_out or self._learned:
            self._propose()
        left = self._needed()
        self._watch.look(left, self._room)
        self._say()
        again = left and self._looked - self._asked_at > ASK_SECONDS
        if len(left) != self._asked or again:  # no node is kept that only waits for the end
            self._asked, self._asked_at = len(left), self._looked
            self.ask(left)

    @property
    def _run_out(self) -> bool:
        """Whether all that was proposed has begun, and a job that has ended may bring more."""
        return not self.waiting and self._ended_since and not self._exhausted

    @property
    def _learned(self) -> bool:
        """Whether a job has ended that may change what the strategy wants, and asking it again
        would not take most of the time.
        """
        since = time.monotonic() - self._asked_strategy
        pause = max(self.strategy.patience, min(self._took, MOST_PATIENCE))
        return self._ended_since and since >= pause and not self._exhausted

    def _propose(self) -> None:
        """Ask the strategy what should wait; if it cannot tell, again at the next look."""
        running = Running(here=self._handed_out, elsewhere=self._others)
        began = time.monotonic()
        try:
            proposed = self.strategy.propose(self.store, running, self._free)
        except BikdError:
            self._asking = True
            return
        self._asking, self._ended_since = False, False
        self._asked_strategy = time.monotonic()
        self._took = self._asked_strategy - began
        self._exhausted = proposed is None or not (proposed or self.running or self._others)
        self.waiting = sorted(proposed or (), key=lambda job: job.job_id not in self._again)

    def _free(self, needs: ResourceRequest) -> int:
        """How many jobs of such a need could begin now."""
        running, count = [job.needs for job in self.running.values()], 0
        while fits([*running, *[needs] * (count + 1)], self._room):
            count += 1
        return count

    def _needed(self) -> list[ResourceRequest]:
        """Of the jobs that run, and of those that may still begin."""
        to_come = [] if self.stopped else self.waiting
        return [job.needs for job in (*self.running.values(), *to_come)]

    def _taken(self, job_id: str) -> bool:
        """Whether another sweep began the same job a moment before, or an older one at once.

        A younger one gives way as soon as it sees this sweep's word; one that had looked around
        before that is at the job.
        """
        rivals = self._rivals(job_id)
        if rivals and all(self.lease.precedes(path) for path in rivals):
            time.sleep(GIVE_WAY_SECONDS)
            rivals = self._rivals(job_id)
        return bool(rivals)

    def _hear(self) -> None:
        """What other sweeps have begun since the last look."""
        for _, sweep in self.lease.others():
            self._others |= sweep.jobs | sweep.ended

    def _rivals(self, job_id: str) -> list[str]:
        """The leases of other sweeps that are, or have just been, at a job."""
        others = self.lease.others()
        return [path for path, sweep in others if job_id in sweep.jobs | sweep.ended]
