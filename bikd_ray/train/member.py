"""One model inside a job: its network, its input, its optimiser, its own random stream."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
    optimizer: Optimizer
    schedule: LRScheduler
    clip_norm: float | None = None
    average: AveragedModel | None = field(default=None, repr=False)

    @classmethod
    def of(cls, member: Member, recipe: Recipe, steps: int) -> "Learner":
        """A member that trains by a recipe for `steps` steps."""
        optimizer, schedule = make_optimizer(member.network, recipe, steps, member.model.name)
        average = None
        if recipe.ema is not None:
            mean = get_ema_multi_avg_fn(recipe.ema)
            average = AveragedModel(member.network, multi_avg_fn=mean, use_buffers=True)
        return cls(member, optimizer, schedule, recipe.clip_norm, average)

    @property
    def measured(self) -> Member:
        """The member that is evaluated and kept: with averaged weights, where there are any."""
        if self.average is None:
            return self.member
        return Member(self.member.model, self.average.module, self.member.device)

    def reseed(self, seed: int, step: int) -> None:
        """Start this step's random stream (dropout, drop-path).

        It depends on the job's seed, the weights and the step, never on the partners: a control
        then sees exactly the noise that its job sees.
        """
        torch.manual_seed(derived_seed(seed, self.member.model.weights_id, step))

    def update(self, scaler: torch.amp.GradScaler) -> None:
        """One optimiser step from the gradients that `scaler` has scaled."""
        if self.clip_norm is not None:
            scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.member.network.parameters(), self.clip_norm)
        scaler.step(self.optimizer)
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.member.network)
