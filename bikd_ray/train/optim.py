"""Optimisers and schedules by name: tables, so that a new one is a new row."""

from collections.abc import Callable, Iterable
from math import cos, pi

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bikd_ray.specs import Recipe

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": lambda params, **kw: SGD(params, momentum=0.9, **kw),
}

SCHEDULES: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
}
"""From the share of the run that is done to a factor on the learning rate; applied each step."""


def make_optimizer(
    parameters: Iterable[nn.Parameter], recipe: Recipe, steps: int
) -> tuple[Optimizer, LambdaLR]:
    """The recipe's optimiser over `parameters`, and its schedule over `steps` steps."""
    trainable = [p for p in parameters if p.requires_grad]
    optimizer = OPTIMIZERS[recipe.optimizer](
        trainable, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    factor = SCHEDULES[recipe.schedule]
    return optimizer, LambdaLR(optimizer, lambda step: factor(min(1.0, step / max(1, steps))))


AUTOCAST: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
