"""Zoo factories that go wrong in the ways that sweeps meet."""

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.conftest import net
from tests.faults import TRIAL, below


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * float("inf")


class BadGradient(torch.nn.Module):
    """Right in evaluation, and with infinite gradients in training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(width=7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Infinite.apply(self.net(x))  # type: ignore[return-value]


class Trap(torch.nn.Module):
    """Springs, as its kinds say how, on the first batch that it trains on; with a marker, once."""

    def __init__(self, marker: str | None = None) -> None:
        super().__init__()
        self.net, self.marker = net(width=7), Path(marker) if marker else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = len(x) > 3  # fewer are only a measurement of its memory
        if self.training and batch and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            self.spring()
        return self.net(x)

    def spring(self) -> None:
        """What goes wrong."""


class Dies(Trap):
    """Kills the worker that trains it."""

    def spring(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KillsTrial(Trap):
    """Kills the trial's actor, of which there is one."""

    def spring(self) -> None:
        (trial,) = below(os.getppid(), *TRIAL)
        os.kill(trial, signal.SIGKILL)
        time.sleep(60)


class Signs(Trap):
    """Writes down which process trains it."""

    def spring(self) -> None:
        assert self.marker
        with self.marker.with_suffix(".txt").open("a") as diary:
            diary.write(f"{os.getpid()}\n")
        self.marker.unlink()


class Leaves(Trap):
    """Ends the worker's loop by what no job may catch, as a broken CUDA context does."""

    def spring(self) -> None:
        raise SystemExit("the device is lost")


class Hungry(Trap):
    """Asks for more memory than its process may have."""

    def spring(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**36, limits[1]))
        try:
            torch.empty(2**37, dtype=torch.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)


class Moves(torch.nn.Module):
    """Fails on its way to the device, as CUDA does."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.net, self.error = net(width=7), error

    def to(self, *args: Any, **kwargs: Any) -> Any:
        full = "out of memory" in self.error
        raise (torch.OutOfMemoryError if full else RuntimeError)(self.error)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def bad_gradient() -> torch.nn.Module:
    return BadGradient()


def dies(marker: str | None = None) -> torch.nn.Module:
    return Dies(marker)


def signs(marker: str) -> torch.nn.Module:
    return Signs(marker)


def kills_trial(marker: str) -> torch.nn.Module:
    return KillsTrial(marker)


def leaves(marker: str) -> torch.nn.Module:
    return Leaves(marker)


def hungry() -> torch.nn.Module:
    return Hungry()


def broken(after: str | None = None) -> torch.nn.Module:
    """Cannot be built on a worker, or not after it has been built there once."""
    if Path(sys.argv[0]).name == "default_worker.py":
        if after is None or Path(after).exists():
            raise OSError("no licence for the weights on this node")
        Path(after).touch()
    return net(width=7)


class DiesAt(torch.nn.Module):
    """Kills the first worker at a step; each line of the diary is the last step of a life."""

    def __init__(self, diary: str, step: int) -> None:
        super().__init__()
        self.net, self.diary, self.step, self.trained = net(width=7), Path(diary), step, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 3:  # fewer are only a measurement of its memory
            self.trained += 1
            before = self.diary.read_text().split() if self.diary.exists() else []
            if not before and self.trained == self.step:
                self.diary.write_text(f"{self.trained}\n")
                os.kill(os.getpid(), signal.SIGKILL)
            if before:
                self.diary.write_text(f"{before[0]}\n{self.trained}\n")
        return self.net(x)


def dies_at(diary: str, step: int) -> torch.nn.Module:
    return DiesAt(diary, step)
