"""One optimiser step of K models on one batch.

Suffixes: K members, B samples. Nothing here waits for the device: measurements are added up where
they are, and read by the caller once an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bikd_ray.data.loader import Batch
from bikd_ray.specs import Objective
from bikd_ray.train.member import Learner
from bikd_ray.train.optim import AUTOCAST
from bikd_ray.transfer import JointLoss, joint_loss


@dataclass
class Tally:
    """Sums over the samples of an epoch, on the device."""

    samples: int
    ce_K: Tensor
    divergence_K: Tensor
    taught_K: Tensor  # samples on which member k was the teacher
    first_bad_step: Tensor  # the first step whose loss was not finite, -1 while there is none

    @classmethod
    def zero(cls, members: int, device: torch.device) -> "Tally":
        def zeros() -> Tensor:
            return torch.zeros(members, device=device, dtype=torch.float64)

        return cls(0, zeros(), zeros(), zeros(), torch.tensor(-1, device=device))

    def add(self, loss: JointLoss, step: int) -> None:
        size, members = len(loss.teacher), len(self.ce_K)
        self.samples += size
        self.ce_K += loss.supervised * size
        self.divergence_K += loss.divergence * size
        is_teacher_KB = loss.teacher == torch.arange(members, device=loss.teacher.device)[:, None]
        self.taught_K += is_teacher_KB.sum(1)
        bad = ~loss.total.detach().isfinite() & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)


def train_step(
    learners: Sequence[Learner],
    batch: Batch,
    objective: Objective,
    *,
    seed: int,
    step: int,
    precision: str = "fp32",
) -> JointLoss:
    """Forward every member on its view of the batch, one joint loss, one step for each."""
    device = learners[0].member.device
    dtype = AUTOCAST[precision]
    logits_K = []
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        for learner in learners:
            learner.reseed(seed, step)
            logits_K.append(learner.member.logits(batch))
    loss = joint_loss(
        logits_K,
        batch.labels,
        objective.name,
        temperature=objective.temperature,
        ties=objective.ties,
        detach_teacher=objective.detach_teacher,
    )
    for learner in learners:
        learner.optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    for learner in learners:
        learner.optimizer.step()
        learner.schedule.step()
    return loss
