"""A store that grows, as snapshots: the newest that is worked out is shown meanwhile."""

import threading
from typing import Any

from bikd_ray.errors import BikdError
from bikd_ray.store import Store
from dashboards.snapshot import Snapshot

WATCHED = ("jobs", "baselines", "pairs")
"""Tables whose files say that something is new."""


class Live:
    """Snapshots of one store, worked out beside the threads that ask."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.number = 0  # of the snapshot that is shown; 0 before the first
        self.error = ""
        self._now: Snapshot | None = None
        self._seen: tuple[Any, ...] = ()
        self._busy = threading.Lock()
        self._ready = threading.Event()

    def look(self) -> int:
        """Begin a new snapshot if the store has something new; the number of the newest ready."""
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._refresh, daemon=True).start()
        return self.number

    def now(self, wait: float = 0.0) -> Snapshot | None:
        """The newest snapshot; None if after so many seconds there is none yet."""
        self._ready.wait(wait)
        return self._now

    def _refresh(self) -> None:
        try:
            # a reader gives out the same object for as long as nothing has changed
            seen = tuple(self.store.reader.committed(name) for name in WATCHED)
            unchanged = len(seen) == len(self._seen) and all(
                map(lambda a, b: a is b, seen, self._seen)
            )
            if unchanged and not self.error:
                return
            fresh = Snapshot(self.store)
            if fresh.settings:
                first = fresh.settings[0].selection
                fresh.gains(first)
                fresh.controls(first)
            self._seen, self._now, self.error = seen, fresh, ""
            self.number += 1
            self._ready.set()
        except BikdError as error:
            self.error = str(error)
            self._ready.set()
        finally:
            self._busy.release()
