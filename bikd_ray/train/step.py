"""One optimiser step of K models on one batch, and what it says of the lesson.

Suffixes: S sources (K learners, then frozen ones), B samples, C classes. Nothing here waits for the
device: measurements are added up where they are, and read by the caller at its log points.

The loss is cut from the networks at the logits: its gradient is taken there for all models at once,
and each network then passes its own on. So the models may live on several workers, or see the
batch in several parts, and the loss is the same.
"""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from bikd_ray.data.loader import Batch
from bikd_ray.specs import Objective
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.numerics import AUTOCAST, out_of_memory, tf32
from bikd_ray.train.parallel import ALONE, Workers
from bikd_ray.transfer import OBJECTIVES, joint_loss

CASES = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepOutput:
    """What a step measured on the samples of this worker that count."""

    samples: int
    supervised_K: Tensor  # sum over samples of the cross-entropy
    divergence_K: Tensor  # sum over samples of T^2 * KL from the teachers
    weights: tuple[float, float]  # of the two in the loss
    teacher_B: Tensor  # int64: index of the source, -1 for none or several
    right_SB: Tensor  # bool
    micro_batch: int | None = None  # samples that fitted into memory at a time; None: the batch


@dataclass
class EpochSums:
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
    def zero(cls, members: int, device: torch.device) -> "EpochSums":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(members, *shape, device=device, dtype=torch.float64)

        never = torch.full((members,), -1, device=device)
        return cls(0, zeros(), zeros(), zeros(), zeros(), zeros(), zeros(CASES), never)

    def add(self, lesson: StepOutput, step: int) -> None:
        members, (supervision, divergence) = len(self.ce_K), lesson.weights
        self.samples += lesson.samples
        self.ce_K += lesson.supervised_K
        self.divergence_K += lesson.divergence_K
        loss_K = supervision * lesson.supervised_K + divergence * lesson.divergence_K
        self.loss_K += loss_K
        self.right_K += lesson.right_SB[:members].sum(1)
        teacher_B = lesson.teacher_B
        is_teacher_KB = teacher_B == torch.arange(members, device=teacher_B.device)[:, None]
        self.taught_K += is_teacher_KB.sum(1)
        self.cases_K4 += _cases(lesson, is_teacher_KB)
        # a teacher that fails spoils its students' losses too: it alone is to blame
        failed_K = ~lesson.supervised_K.isfinite()
        bad_K = torch.where(failed_K.any(), failed_K, ~loss_K.isfinite())
        self.first_bad_K = torch.where(bad_K & (self.first_bad_K < 0), step, self.first_bad_K)

    def over(self, workers: Workers) -> "EpochSums":
        """The sums over all workers, which share the samples; waits for them."""
        if not workers.by_samples:
            return self
        found: list[EpochSums] = workers.gather(self.to("cpu"))
        names = [f.name for f in fields(EpochSums) if f.name not in ("samples", "first_bad_K")]
        sums = {name: torch.stack([getattr(t, name) for t in found]).sum(0) for name in names}
        first_bad = torch.stack([tally.first_bad_K for tally in found])
        never = torch.iinfo(first_bad.dtype).max
        first = first_bad.where(first_bad >= 0, never).amin(0)
        sums["first_bad_K"] = first.where(first < never, -1)
        return EpochSums(sum(tally.samples for tally in found), **sums)

    def to(self, device: torch.device | str) -> "EpochSums":
        tensors = {f.name: getattr(self, f.name) for f in fields(EpochSums) if f.name != "samples"}
        return EpochSums(self.samples, **{name: t.to(device) for name, t in tensors.items()})


def _cases(lesson: StepOutput, is_teacher_KB: Tensor) -> Tensor:
    """int64 [K, 4]: for each student the samples with 1 both right, 2 only the teacher, 3 none,
    4 only the student (Jain et al. 2025, whose case 2 counts the fourth too). Samples without one
    teacher are in none.
    """
    teacher_B = lesson.teacher_B
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


@dataclass(frozen=True)
class Sources:
    """All models in the loss of a job; None stands for one that another worker has.

    frozen: sources that do not learn, in eval mode, in the order that the objective takes them.
    """

    learners: Sequence[Learner | None]
    objective: Objective
    seed: int
    frozen: Sequence[Member | None] = ()
    precision: str = "fp32"
    workers: Workers = ALONE

    @property
    def here(self) -> list[Learner]:
        """The learners of this worker."""
        return [learner for learner in self.learners if learner is not None]

    @property
    def owners(self) -> list[int]:
        """The member of the job whose worker has source s: a learner's old self is beside it."""
        live, old = len(self.learners), int(OBJECTIVES[self.objective.name].old_self)
        return [*range(live), *[0] * old, *range(live, live + len(self.frozen) - old)]


def train_step(
    sources: Sources, batch: Batch, step: int, micro_batch: int | None = None
) -> StepOutput:
    """Forward every source on its view of the batch, one joint loss, one step for each learner.

    micro_batch: samples at a time; the gradients of the parts are added up to that of the batch
    (batch normalisation and random masks see the parts). A worker alone that runs out of memory
    halves it and begins the step again, with the buffers (running statistics) as they were.
    """
    while True:
        held = min(micro_batch or len(batch.labels), len(batch.labels))
        if again := sources.workers.count == 1 and held > 1:
            for learner in sources.here:
                learner.note_buffers()
        try:
            lesson = _gradients(sources, batch, step, micro_batch)
            break
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not again:
                raise
        micro_batch = (held + 1) // 2
        log.warning("out of memory with %d images at a time; going on with %d", held, micro_batch)
        _free(sources.here)
        for learner in sources.here:
            learner.restore_buffers()
    for learner in sources.here:
        learner.update()
    return replace(lesson, micro_batch=micro_batch)


def _free(learners: Sequence[Learner]) -> None:
    for learner in learners:
        learner.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _gradients(sources: Sources, batch: Batch, step: int, micro_batch: int | None) -> StepOutput:
    """Leave the batch's gradient in every network that is here."""
    for learner in sources.here:
        learner.optimizer.zero_grad(set_to_none=True)
    workers, lessons = sources.workers, []
    whole = batch.counted
    if workers.by_samples:  # the workers' gradients will be averaged, not added up
        counted = torch.tensor(whole, dtype=torch.float64, device=batch.labels.device)
        whole = workers.sum(counted) / workers.count
    parts = list(_parts(batch, workers, micro_batch))
    for number, part in enumerate(parts):
        with ExitStack() as stack, tf32(sources.precision == "tf32"):
            if number < len(parts) - 1:
                for learner in sources.here:
                    stack.enter_context(learner.no_sync())
            lessons.append(_lesson(sources, part, step, number, part.counted / whole))
    return _together(lessons)


def _parts(batch: Batch, workers: Workers, micro_batch: int | None) -> Iterator[Batch]:
    """The batch in parts of `micro_batch` samples at most, as many on every worker."""
    held = -(-batch.planned // workers.count) if workers.by_samples else len(batch.labels)
    count = -(-held // (micro_batch or held))
    if count == 1:
        yield batch
        return
    for rows in torch.arange(len(batch.labels)).tensor_split(count):
        if len(rows):
            yield batch.part(slice(int(rows[0]), int(rows[-1]) + 1))
        elif workers.by_samples:  # the others wait for it
            yield replace(batch.part(slice(1)), counted=0)


def _lesson(
    sources: Sources, part: Batch, step: int, number: int, share: Tensor | float
) -> StepOutput:
    """Add the gradient of one part, which is a share of the batch, to every network here."""
    learners, objective, workers = sources.learners, sources.objective, sources.workers
    rank = workers.rank if workers.by_samples else 0
    stream = (number, rank) if number or rank else ()
    device, dtype = part.labels.device, AUTOCAST[sources.precision]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        logits_S: list[Tensor | None] = []
        for learner in learners:
            if learner is not None:
                learner.reseed(sources.seed, step, *stream)
            logits_S.append(None if learner is None else learner.logits(part))
        with torch.no_grad():
            logits_S += [None if m is None else m.logits(part) for m in sources.frozen]
    cut_S = workers.exchange(logits_S, sources.owners)
    leaf_K, frozen_F = cut_S[: len(learners)], cut_S[len(learners) :]
    loss = joint_loss(
        [leaf.requires_grad_() for leaf in leaf_K],
        part.labels,
        objective.name,
        temperature=objective.temperature,
        ties=objective.ties,
        detach_teacher=objective.detach_teacher,
        frozen=frozen_F or None,
        kd_weight=objective.kd_weight,
        mask=objective.mask,
        ce_weight=objective.ce_weight,
        kl_weight=objective.kl_weight,
    )
    gradient_K = torch.autograd.grad(loss.total, leaf_K)
    for learner, logits, gradient in zip(learners, logits_S, gradient_K, strict=False):
        if learner is not None and logits is not None:
            learner.backward(logits, gradient * share)
    right = [z.detach().argmax(-1) == part.labels for z in cut_S]
    return StepOutput(
        part.counted,
        loss.supervised * part.counted,
        loss.divergence * part.counted,
        loss.weights,
        loss.teacher[: part.counted],
        torch.stack(right)[:, : part.counted],
    )


def _together(lessons: Sequence[StepOutput]) -> StepOutput:
    """The lesson of a batch from those of its parts."""
    first, *rest = lessons
    if not rest:
        return first
    return StepOutput(
        sum(lesson.samples for lesson in lessons),
        torch.stack([lesson.supervised_K for lesson in lessons]).sum(0),
        torch.stack([lesson.divergence_K for lesson in lessons]).sum(0),
        first.weights,
        torch.cat([lesson.teacher_B for lesson in lessons]),
        torch.cat([lesson.right_SB for lesson in lessons], dim=1),
    )
