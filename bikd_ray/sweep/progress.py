"""What a person sees while a sweep runs: one live display on a terminal, plain lines elsewhere."""

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


@dataclass
class Progress:
    """The state of a sweep and its display on standard error.

    Use as a context manager. A terminal gets one display that is redrawn; a file, a pipe or a
    Ray job gets a line for each phase and each finished job.
    """

    name: str
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    phase: str = "starting"
    total: int = 0
    done: int = 0
    failed: int = 0
    eta: float | None = None
    last_error: str | None = None
    running: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._console = Console(file=self.stream, highlight=False)
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def enter(self, phase: str) -> None:
        """A new phase, such as 'baselines'."""
        self.phase = phase
        self._line(f"{phase} …")

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._console.print(Text(text, style="dim"))
        else:
            self._line(text)

    def start_jobs(self, total: int, skipped: int) -> None:
        self.total = total
        there = f", {skipped} already in the store" if skipped else ""
        self.enter(f"{total} jobs to do{there}")
        self.phase = "jobs"

    def begin(self, job_id: str, label: str) -> None:
        self.running[job_id] = label

    def advance(self, job_id: str, label: str, epoch: float, epochs: int) -> None:
        self.running[job_id] = f"{label} · epoch {round(epoch, 1):g}/{epochs}"

    def finish(
        self,
        job_id: str,
        label: str,
        seconds: float,
        error: str | None,
        eta: float | None = None,
    ) -> None:
        """A job is over and stored; eta: seconds to the end of all."""
        self.running.pop(job_id, None)
        self.eta = eta if self.left > 1 else None
        if error is None:
            self.done += 1
            self._line(f"{self._count()} {label} · {seconds:.1f} s")
        else:
            self.failed += 1
            self.last_error = f"{label}: {error.splitlines()[0]}"
            self._line(f"{self._count()} FAILED {self.last_error}")

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed

    def _count(self) -> str:
        eta = f", {_clock(self.eta)} left" if self.eta else ""
        return f"[{self.done + self.failed}/{self.total}{eta}]"

    def _line(self, text: str) -> None:
        if not self._live:
            print(f"bikd {_clock(time.monotonic() - self._started)} {text}", file=self.stream)
            self.stream.flush()

    def _render(self) -> Group:
        grid = Table.grid(padding=(0, 2))
        elapsed = _clock(time.monotonic() - self._started)
        if not self.total:
            return Group(Text.assemble((self.name, "bold"), f"  {self.phase} …  {elapsed}"))
        over = self.done + self.failed
        grid.add_row(
            Text(self.name, style="bold"),
            ProgressBar(total=self.total, completed=over, width=28),
            Text(f"{self.done} done", style="green"),
            Text(f"{self.failed} failed", style="bold red" if self.failed else "dim"),
            Text(f"{self.left} left"),
            Text(elapsed),
            Text(f"ETA {_clock(self.eta)}" if self.eta else "", style="dim"),
        )
        lines = [Text(f"  {label}", style="dim") for label in list(self.running.values())[:6]]
        if len(self.running) > 6:
            lines.append(Text(f"  … {len(self.running) - 6} more running", style="dim"))
        if self.last_error:
            lines.append(Text(f"  last error  {self.last_error}", style="red", no_wrap=True))
        return Group(grid, *lines)


def _clock(seconds: float | None) -> str:
    whole = int(seconds or 0)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
