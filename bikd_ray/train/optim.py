"""Optimisers and schedules by name: tables, so that a new one is a new row."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bikd_ray.specs import Recipe

OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], tuple[str, ...]]] = {
    "adam": (Adam, ()),
    "adamw": (AdamW, ()),
    "sgd": (SGD, ("momentum",)),
}
"""The optimiser, and what else of the recipe it takes."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
    "poly": lambda done: (1 - done) ** 0.9,
}
"""From the share of the run after the warm-up that is done to a factor on the learning rate."""


def make_optimizer(
    network: nn.Module, recipe: Recipe, steps: int, name: str = ""
) -> tuple[Optimizer, LambdaLR]:
    """The recipe's optimiser for a network, and its schedule over `steps` steps.

    name: the model's, to look its own learning rate up.
    """
    make, takes = OPTIMIZERS[recipe.optimizer]
    own: dict[str, Any] = {field: getattr(recipe, field) for field in takes}
    optimizer = make(
        [p for p in network.parameters() if p.requires_grad],
        lr=recipe.lrs.get(name, recipe.lr),
        weight_decay=recipe.weight_decay,
        fused=True,
        **own,
    )
    return optimizer, LambdaLR(optimizer, _factor(recipe, steps))


def _factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Step (from 0) to the factor: a linear warm-up from 0, then the schedule to its end."""
    warm = round(recipe.warmup_epochs / recipe.epochs * steps)
    shape = SCHEDULES[recipe.schedule]

    def factor(step: int) -> float:
        if step < warm:
            return step / warm
        return shape(min(1.0, (step - warm) / max(1, steps - warm)))

    return factor
