"""Which sweeps are at work on a store, and at which jobs: how two of them share the work.

A lease is a small file under `_work/leases/` that its sweep renews; one that is not renewed is
nobody's, and neither is one whose process is gone from this machine. Leases only save repeated
work: what is done is decided by the tables alone, and a store that fails them fails no sweep.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from bikd_ray.errors import BikdError
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.write import new_attempt

FOLDER = "_work/leases"
RENEW = 20.0  # seconds
EXPIRES = 120.0  # seconds


@dataclass(frozen=True)
class About:
    """What a sweep says of itself beside its jobs."""

    left: int | None = None  # jobs that it has still to end
    eta: float | None = None  # seconds to its end
    ended: frozenset[str] = frozenset()  # jobs that were done or failed moments ago


@dataclass(frozen=True)
class RunningSweep:
    """What a sweep that is at work says of itself; what a newer version says more is left out."""

    name: str
    host: str
    pid: int
    jobs: frozenset[str]  # job_ids that run now
    about: About = About()

    @property
    def ended(self) -> frozenset[str]:
        """Jobs that were done or failed moments ago."""
        return self.about.ended


_SWEEP = TypeAdapter(RunningSweep)


class Lease:
    """One sweep's own file, and a view of the others'. Times are those of the files' server."""

    def __init__(self, fs: StoreFS, name: str) -> None:
        self.fs = fs
        self.path = f"{FOLDER}/{new_attempt()}.json"
        self._about = {"name": name, "host": socket.gethostname(), "pid": os.getpid()}
        self._said: tuple[frozenset[str], dict[str, Any]] = (frozenset(), {})
        self._seen: list[tuple[str, RunningSweep]] = []
        self._renewed = 0.0

    def say(self, jobs: frozenset[str], **about: Any) -> None:
        """Tell the others at which jobs this sweep is; written if it is news or time."""
        said = (jobs, about)
        if said[0] != self._said[0] or time.monotonic() - self._renewed > RENEW:
            content = {**self._about, "jobs": sorted(jobs), "about": about}
            with contextlib.suppress(BikdError):  # it is said next time
                self.fs.write(self.path, json.dumps(content).encode())
                self._said, self._renewed = said, time.monotonic()

    def others(self) -> list[tuple[str, RunningSweep]]:
        """(path, sweep) of every other sweep that is alive, when the store last told."""
        with contextlib.suppress(BikdError):
            self._seen = [(path, s) for path, s in at_work(self.fs) if path != self._mine]
        return self._seen

    def precedes(self, path: str) -> bool:
        """Whether this lease is older than the one at `path`: of two that want a job, it has it."""
        return self._mine < path

    @property
    def _mine(self) -> str:
        return self.fs.path(self.path)

    def end(self) -> None:
        """Give up the lease, and take away what dead sweeps have left."""
        with contextlib.suppress(BikdError):
            held = {path for path, s in _fresh(self.fs) if s is None or not _gone(s)}
            for path in self.fs.listing(FOLDER, ".json").keys() - (held - {self._mine}):
                self.fs.delete(path)


def at_work(fs: StoreFS) -> list[tuple[str, RunningSweep]]:
    """(path, sweep) of all sweeps that are alive, the oldest first."""
    return [(path, sweep) for path, sweep in _fresh(fs) if sweep and not _gone(sweep)]


def _fresh(fs: StoreFS) -> list[tuple[str, RunningSweep | None]]:
    """Every lease that has not expired, the oldest first; None for one that cannot be read.

    The newest file tells the server's time; a lone file is measured by this machine's clock.
    """
    files = fs.listing(FOLDER, ".json")
    if not files:
        return []
    now = max(time.time_ns(), *(changed for _, changed in files.values()))
    fresh = [path for path, (_, changed) in files.items() if (now - changed) / 1e9 < EXPIRES]
    return [(path, _read(fs, path)) for path in fresh]


def _read(fs: StoreFS, path: str) -> RunningSweep | None:
    try:
        return _SWEEP.validate_json(fs.read_path(path))
    except (FileNotFoundError, ValueError):  # it ended, or is no lease that we know
        return None


def _gone(sweep: RunningSweep) -> bool:
    """Whether its process is known to have ended: it ran on this machine."""
    if sweep.host != socket.gethostname():
        return False
    try:
        os.kill(sweep.pid, 0)
    except OSError as error:  # that of another person is refused, not missing
        return isinstance(error, ProcessLookupError)
    return False
