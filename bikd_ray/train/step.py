"""One optimiser step of K models on one batch, and what it says of the lesson.

Suffixes: S sources (K learners, then frozen ones), B samples. Nothing here waits for the device:
measurements are added up where they are, and read by the caller once an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bikd_ray.data.loader import Batch
from bikd_ray.specs import Objective
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.numerics import AUTOCAST, tf32
from bikd_ray.transfer import JointLoss, joint_loss

CASES = 4


@dataclass(frozen=True)
class Lesson:
    """A step's loss, and which sources were right on which samples."""

    loss: JointLoss
    right_SB: Tensor  # bool


@dataclass
class Tally:
    """Sums over the samples of an epoch, on the device."""

    samples: int
    ce_K: Tensor
    divergence_K: Tensor
    loss_K: Tensor
    right_K: Tensor
    taught_K: Tensor  # samples on which member k was the teacher
    cases_K4: Tensor  # samples on which it was the student, by who of the two was right
    first_bad_K: Tensor  # the first step at which k's loss was not finite, -1 while there is none

    @classmethod
    def zero(cls, members: int, device: torch.device) -> "Tally":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(members, *shape, device=device, dtype=torch.float64)

        never = torch.full((members,), -1, device=device)
        return cls(0, zeros(), zeros(), zeros(), zeros(), zeros(), zeros(CASES), never)

    def add(self, lesson: Lesson, step: int) -> None:
        loss, members = lesson.loss, len(self.ce_K)
        size, (supervision, divergence) = len(loss.teacher), loss.weights
        self.samples += size
        self.ce_K += loss.supervised * size
        self.divergence_K += loss.divergence * size
        loss_K = supervision * loss.supervised + divergence * loss.divergence
        self.loss_K += loss_K * size
        self.right_K += lesson.right_SB[:members].sum(1)
        is_teacher_KB = loss.teacher == torch.arange(members, device=loss.teacher.device)[:, None]
        self.taught_K += is_teacher_KB.sum(1)
        self.cases_K4 += _cases(lesson, is_teacher_KB)
        # a teacher that fails spoils its students' losses too: it alone is to blame
        failed_K = ~loss.supervised.isfinite()
        bad_K = torch.where(failed_K.any(), failed_K, ~loss_K.isfinite())
        self.first_bad_K = torch.where(bad_K & (self.first_bad_K < 0), step, self.first_bad_K)


def _cases(lesson: Lesson, is_teacher_KB: Tensor) -> Tensor:
    """int64 [K, 4]: for each student the samples with 1 both right, 2 only the teacher, 3 none,
    4 only the student (Jain et al. 2025, whose case 2 counts the fourth too). Samples without one
    teacher are in none.
    """
    teacher_B = lesson.loss.teacher
    is_student_KB = ~is_teacher_KB & (teacher_B >= 0)
    teacher_right_B = lesson.right_SB.gather(0, teacher_B.clamp(min=0)[None])[0]
    student_right_KB = lesson.right_SB[: len(is_teacher_KB)]
    cases = (
        student_right_KB & teacher_right_B,
        ~student_right_KB & teacher_right_B,
        ~student_right_KB & ~teacher_right_B,
        student_right_KB & ~teacher_right_B,
    )
    return torch.stack([(case & is_student_KB).sum(1) for case in cases], dim=1)


def train_step(
    learners: Sequence[Learner],
    batch: Batch,
    objective: Objective,
    *,
    seed: int,
    step: int,
    frozen: Sequence[Member] = (),
    precision: str = "fp32",
) -> Lesson:
    """Forward every source on its view of the batch, one joint loss, one step for each learner.

    frozen: sources that do not learn, in eval mode, in the order that the objective takes them.
    """
    device, dtype = learners[0].member.device, AUTOCAST[precision]
    with tf32(precision == "tf32"):
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            logits_K = []
            for learner in learners:
                learner.reseed(seed, step)
                logits_K.append(learner.logits(batch))
            with torch.no_grad():
                logits_F = [source.logits(batch) for source in frozen]
        loss = joint_loss(
            logits_K,
            batch.labels,
            objective.name,
            temperature=objective.temperature,
            ties=objective.ties,
            detach_teacher=objective.detach_teacher,
            frozen=logits_F or None,
            kd_weight=objective.kd_weight,
            mask=objective.mask,
            ce_weight=objective.ce_weight,
            kl_weight=objective.kl_weight,
        )
        for learner in learners:
            learner.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        for learner in learners:
            learner.update()
    right = [z.detach().argmax(-1) == batch.labels for z in (*logits_K, *logits_F)]
    return Lesson(loss, torch.stack(right))
