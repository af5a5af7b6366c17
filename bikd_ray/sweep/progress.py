"""What a person sees while a sweep runs: one live display on a terminal, plain lines elsewhere."""

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
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
    running: dict[str, tuple[str, str]] = field(default_factory=dict)  # what, and how far

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
            self._live.transient = not self.total  # a phase that is over is nothing to keep
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
        self.running[job_id] = (label, "starting")

    def advance(self, job_id: str, label: str, epoch: float, epochs: int) -> None:
        self.running[job_id] = (label, f"epoch {round(epoch, 1):g}/{epochs}")

    def lose(self, job_id: str, label: str, why: str) -> None:
        """A job's worker has died; the job waits for another one."""
        self.running.pop(job_id, None)
        self.note(f"{label}: its worker died ({why}); it is begun again")

    def finish(
        self,
        job_id: str,
        label: str,
        seconds: float | None,
        error: str | None,
        eta: float | None = None,
    ) -> None:
        """A job is over and stored; eta: seconds to the end of all."""
        self.running.pop(job_id, None)
        self.eta = eta if self.left > 1 else None
        if error is None:
            self.done += 1
            took = "" if seconds is None else f" · {seconds:.1f} s"
            self._line(f"{self._count()} {label}{took}")
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
        elapsed = _clock(time.monotonic() - self._started)
        if not self.total:
            return Group(Text.assemble((self.name, "bold"), f"  {self.phase} …  {elapsed}"))
        counts = Text.assemble(
            (f"{self.done} done  ", "green"),
            (f"{self.failed} failed  ", "bold red" if self.failed else "dim"),
            f"{self.left} left  {elapsed}",
            (f"  ETA {_clock(self.eta)}" if self.eta else "", "dim"),
        )
        bar = ProgressBar(total=self.total, completed=self.done + self.failed, width=28)
        side = [bar, counts] if self._console.width > 80 else [counts]
        lines: list[RenderableType] = [_row(Text(self.name, style="bold"), *side)]
        for label, epoch in list(self.running.values())[:6]:
            lines.append(_row(Text(f"  {label}", style="dim"), Text(epoch, style="dim")))
        if len(self.running) > 6:
            lines.append(Text(f"  … {len(self.running) - 6} more running", style="dim"))
        if self.last_error:
            lines.append(_row(Text(f"  last error  {self.last_error}", style="red")))
        return Group(*lines)


def _row(first: Text, *others: RenderableType) -> Table:
    """One line of the display; what does not fit is left out of the first cell."""
    first.no_wrap, first.overflow = True, "ellipsis"
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    for _ in others:
        grid.add_column(no_wrap=True)
    grid.add_row(first, *others)
    return grid


def _clock(seconds: float | None) -> str:
    whole = int(seconds or 0)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
