"""One model inside a job: its network, its input, its optimiser, its own random stream."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bikd_ray.data.loader import Batch
from bikd_ray.data.views import Normalise
from bikd_ray.identity import derived_seed
from bikd_ray.plan import ResolvedModel
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

    def reseed(self, seed: int, step: int) -> None:
        """Start this step's random stream (dropout, drop-path).

        It depends on the job's seed, the weights and the step, never on the partners: a control
        then sees exactly the noise that its job sees.
        """
        torch.manual_seed(derived_seed(seed, self.member.model.weights_id, step))
