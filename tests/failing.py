"""Zoo factories that go wrong in the ways that sweeps meet."""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from tests.conftest import net


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


def bad_gradient() -> torch.nn.Module:
    return BadGradient()


class DiesOnce(torch.nn.Module):
    """Kills the first worker that trains it."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.net, self.marker = net(width=7), Path(marker)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = len(x) > 3  # fewer are only a measurement of its memory
        if self.training and batch and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)


def dies_once(marker: str) -> torch.nn.Module:
    return DiesOnce(marker)
