"""One model inside a job: its network, its input, its optimiser, its own random stream."""

import copy
import random
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bikd_ray.data.loader import Batch
from bikd_ray.data.views import Normalise
from bikd_ray.identity import derived_seed
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Recipe
from bikd_ray.train.optim import make_optimizer
from bikd_ray.zoo import logits_of


@dataclass
class Member:
    """A resolved model that lives on a device."""

    model: ResolvedModel
    network: nn.Module
    device: torch.device

    def __post_init__(self) -> None:
        self.network.to(self.device)
        self.normalise = Normalise(self.model.input, self.device)

    def logits(self, batch: Batch) -> Tensor:
        """[B, C] for the member's own view of the batch."""
        images = self.normalise(batch.views[self.model.input.view])
        return logits_of(self.network(images), self.model.name)


@dataclass
class Learner:
    """A member with what trains it."""

    member: Member
    recipe: Recipe
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: GradScaler
    average: nn.Module | None = field(repr=False)

    @classmethod
    def of(cls, member: Member, recipe: Recipe, steps: int) -> "Learner":
        """A member that trains by a recipe for `steps` steps."""
        optimizer, schedule = make_optimizer(member.network, recipe, steps, member.model.name)
        scaler = GradScaler(member.device.type, enabled=recipe.precision == "fp16")
        average = copy.deepcopy(member.network) if recipe.ema is not None else None
        return cls(member, recipe, optimizer, schedule, scaler, average)

    @property
    def measured(self) -> Member:
        """The member that is evaluated and kept: with averaged weights, where there are any."""
        if self.average is None:
            return self.member
        return Member(self.member.model, self.average, self.member.device)

    def is_finite(self) -> bool:
        """Whether all trainable weights are numbers; waits for the device."""
        trained = [p for p in self.member.network.parameters() if p.requires_grad]
        return bool(torch.stack([p.isfinite().all() for p in trained]).all())

    def reseed(self, seed: int, step: int) -> None:
        """Start this step's random stream (dropout, drop-path), whichever library draws from it.

        It depends on the job's seed, the weights and the step, never on the partners: a control
        then sees exactly the noise that its job sees.
        """
        stream = derived_seed(seed, self.member.model.weights_id, step)
        torch.manual_seed(stream)
        random.seed(stream)
        np.random.seed(stream % 2**32)

    def logits(self, batch: Batch) -> Tensor:
        """[B, C]; under fp16 their gradient comes back scaled.

        Each learner has a scale of its own: a partner whose gradient overflows then changes
        nothing, as a control asks for.
        """
        logits = self.member.logits(batch)
        if self.scaler.is_enabled():
            logits = logits.float()  # in fp16 the gradient would be rounded before it is scaled
            logits.register_hook(self.scaler.scale)
        return logits

    def update(self) -> None:
        """One optimiser step from the gradients that the loss has left."""
        if self.recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.member.network.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None and self.recipe.ema is not None:
            _follow(self.average, self.member.network, self.recipe.ema)


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move each weight and running statistic: average = decay * average + (1 - decay) * value.

    Integers are copied: counters and indices have no mean.
    """
    means = chain(average.parameters(), average.buffers())
    values = chain(network.parameters(), network.buffers())
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
