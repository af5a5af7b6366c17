"""A task that the package does not know: how much a digit is, with a third as many bins as digits.

A network answers ten numbers, of which it is asked the mean of their softmax. What is right comes
with the pixels: the digit itself, and a list of as many ones, whose sizes differ.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.data.render import rendered
from bikd_ray.metrics import Metric
from bikd_ray.tasks.base import Prediction, Statistics, Task

VALUES = torch.arange(10.0)


def network(width: int) -> nn.Module:
    """Ten numbers for an image of 8 pixels or more, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(width)
        body = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
        return nn.Sequential(body, nn.Flatten(), nn.Linear(9 * width, 10))


class Ordinal(Task):
    """Digits as numbers: models are compared by their distributions over three ranges of them."""

    name = "ordinal"
    metrics = (Metric("mae", "MAE", "digits", higher_is_better=False), Metric("bias", "bias"))
    ragged = ("ones",)

    def render(
        self, images: Any, index: int, views: Sequence[Any], augment: str, seed: int
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """The value, and as many ones."""
        digit = int(images.labels[index])
        target = {"value": np.array(digit, np.float32), "ones": np.ones(digit, np.float32)}
        return rendered(images.image(index), views, augment, seed), target

    def predict(self, output: Any, batch: Any) -> Prediction:
        p_BC = output.float().softmax(-1)
        ranges = [p_BC[:, :3].sum(1), p_BC[:, 3:6].sum(1), p_BC[:, 6:].sum(1)]
        return Prediction(torch.stack(ranges, 1).clamp(min=1e-9).log()[..., None])

    def loss(self, output: Any, prediction: Prediction, batch: Any) -> Tensor:
        ones_B = torch.stack([ones.sum() for ones in batch.target["ones"]])
        assert torch.equal(ones_B, batch.target["value"])
        return (_mean(output) - batch.target["value"]).square() / 10

    def answer(self, output: Any, batch: Any) -> Tensor:
        return _mean(output)

    def ensemble(self, answers: Sequence[Any]) -> Tensor:
        return torch.stack(list(answers)).mean(0)

    def measure(self, answer: Any, batch: Any) -> dict[str, Tensor]:
        return {"error": answer - batch.target["value"]}

    def scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        error_N = statistics["error"]
        return {"mae": np.abs(error_N), "bias": error_N}


def _mean(output: Tensor) -> Tensor:
    return (output.float().softmax(-1) * VALUES).sum(-1)


class Reversed(Ordinal):
    """With a divergence of its own: KL(student || teacher)."""

    name = "reversed"

    def divergence(self, student: Prediction, teacher: Prediction) -> Tensor:  # type: ignore[override]
        mine, other = student.log_prob_BEP, teacher.log_prob_BEP
        return (mine.exp() * (mine - other)).sum((1, 2))


class Unfinished(Task):
    name = "unfinished"

    def predict(self, output: Any, batch: Any) -> Prediction:
        return Prediction(output)


class NotATask:
    pass
