"""A store that grows, as snapshots: the newest that is worked out is shown meanwhile."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from bikd_dashboards.snapshot import Snapshot
from bikd_ray.errors import BikdError
from bikd_ray.store import Store
from bikd_ray.store.upgrade import VAL

WATCHED = ("jobs", "baselines", "pairs")
"""Tables whose rows say that something is new; what was measured later says it by its files."""

REST = 3.0
"""Times as long as a snapshot took until the next one: a large sweep keeps its processors."""
KEPT = 24
"""Drawings that are kept for who comes back to a page."""


class Live:
    """Snapshots of one store and what was drawn of them, worked out beside the threads that ask."""

    def __init__(self, store: Store, metric: str | None = None, eval_set: str = VAL) -> None:
        self.store, self.measure = store, (metric, eval_set)
        self.error = ""
        self._now: tuple[int, Snapshot | None] = (0, None)  # what is shown, and its number
        self._seen: tuple[Any, ...] = ()
        self._later: frozenset[str] = frozenset()
        self._next = 0.0
        self._busy = threading.Lock()
        self._ready = threading.Event()
        self._drawings: dict[Hashable, _Drawing] = {}
        self._drawing = threading.Lock()

    def look(self) -> int:
        """Begin a new snapshot if the store has something new; the number of the newest ready."""
        if time.monotonic() >= self._next and self._busy.acquire(blocking=False):
            threading.Thread(target=self._refresh, daemon=True).start()
        return self._now[0]

    def now(self, wait: float = 0.0) -> tuple[int, Snapshot | None]:
        """The newest snapshot and its number; 0 and None if after so many seconds there is none."""
        self._ready.wait(wait)
        return self._now

    def drawn(self, key: Hashable, draw: Callable[[], Any], wait: float) -> Any:
        """What `draw` made under this key; None while it is at it, after so many seconds."""
        with self._drawing:
            drawing = self._drawings.pop(key, None) or _Drawing(draw)
            self._drawings[key] = drawing  # the last used come last
            while len(self._drawings) > KEPT:
                del self._drawings[next(iter(self._drawings))]
        try:
            return drawing.result(wait)
        except Exception:
            self._drawings.pop(key, None)  # what asks again gets another try
            raise

    def _refresh(self) -> None:
        started = time.monotonic()
        try:
            seen = tuple(self.store.index(name) for name in WATCHED)
            later = self.store.later()
            unchanged = later == self._later and all(map(lambda a, b: a is b, seen, self._seen))
            if unchanged and self._seen and not self.error:
                return
            fresh = Snapshot(self.store, *self.measure)
            fresh.read()
            number, before = self._now
            first = before is None
            if not first:  # whoever looks meanwhile sees the one before
                fresh.prepare()
            self._seen, self._later, self.error = seen, later, ""
            self._now = number + 1, fresh
            self._ready.set()
            if first:
                fresh.prepare()
        except BikdError as error:
            self.error = str(error)
            self._ready.set()
        finally:
            self._next = started + (1 + REST) * (time.monotonic() - started)
            self._busy.release()


class _Drawing:
    """Made in a thread of its own, which ends with the process."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        self._done = threading.Event()
        self._made: Any = None
        self._error: Exception | None = None
        threading.Thread(target=self._make, args=(draw,), daemon=True).start()

    def _make(self, draw: Callable[[], Any]) -> None:
        try:
            self._made = draw()
        except Exception as error:  # told to whoever asks for it
            self._error = error
        self._done.set()

    def result(self, wait: float) -> Any:
        """None if it takes longer than so many seconds."""
        if not self._done.wait(wait):
            return None
        if self._error is not None:
            raise self._error
        return self._made
