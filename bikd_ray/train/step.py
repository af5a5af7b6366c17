"""One optimiser step of K models on one batch, and what it says of the lesson.

Suffixes: S sources (K learners, then frozen ones), B samples, E events, P positions. Nothing here
waits for the device: measurements are added up where they are, and read by the caller at its log
points.

The loss is cut from the networks at two places: what models are compared by, and each model's own
loss. Its gradient is taken there for all models at once, and each network then passes its own on.
So the models may live on several workers, or see the batch in several parts, and the loss is the
same.
"""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bikd_ray.data.loader import Batch
from bikd_ray.identity import derived_seed
from bikd_ray.specs import Objective
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Prediction, Task
from bikd_ray.train.frozen import Answering, Cut, Remembered, cut_of, frozen_cut
from bikd_ray.train.member import Learner
from bikd_ray.train.numerics import AUTOCAST, out_of_memory, tf32
from bikd_ray.train.parallel import ALONE, Workers
from bikd_ray.transfer import OBJECTIVES, JointLoss, compete_by, transfer_loss

CASES = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepOutput:
    """What a step measured on the samples of this worker that count."""

    samples: int
    supervised_K: Tensor | None  # sum over samples of the own losses; None: no target, no loss
    divergence_K: Tensor  # sum over samples of T^2 * divergence from the teachers
    weights: tuple[float, float]  # of the two in the loss
    teacher_B: Tensor  # int64: index of the source, -1 for none or several
    right_SB: Tensor | None  # bool; None where nothing says who is right
    failed_K: Tensor  # bool: what the model itself gave is not finite
    micro_batch: int | None = None  # samples that fitted into memory at a time; None: the batch


@dataclass
class EpochSums:
    """Sums over the samples of an epoch, on the device; NaN of what nobody could say."""

    samples: int
    own_K: Tensor
    divergence_K: Tensor
    loss_K: Tensor
    right_K: Tensor
    taught_K: Tensor  # samples on which member k was the teacher
    one_teacher: Tensor  # samples with one teacher
    cases_K4: Tensor  # samples on which it was the student, by who of the two was right
    first_bad_K: Tensor  # the first step at which k's loss was not finite, -1 while there is none

    @classmethod
    def zero(cls, members: int, device: torch.device) -> "EpochSums":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(members, *shape, device=device, dtype=torch.float64)

        never = torch.full((members,), -1, device=device)
        one_teacher = torch.zeros((), device=device, dtype=torch.float64)
        own, divergence, loss, right, taught = (zeros() for _ in range(5))
        cases = zeros(CASES)
        return cls(0, own, divergence, loss, right, taught, one_teacher, cases, never)

    def add(self, lesson: StepOutput, step: int) -> None:
        members, (supervision, divergence) = len(self.own_K), lesson.weights
        self.samples += lesson.samples
        self.divergence_K += lesson.divergence_K
        loss_K = divergence * lesson.divergence_K
        if lesson.supervised_K is None:
            self.own_K += torch.nan
        else:
            self.own_K += lesson.supervised_K
            loss_K = loss_K + supervision * lesson.supervised_K
        self.loss_K += loss_K
        teacher_B, right_SB = lesson.teacher_B, lesson.right_SB
        self.one_teacher += (teacher_B >= 0).sum()
        is_teacher_KB = teacher_B == torch.arange(members, device=teacher_B.device)[:, None]
        self.taught_K += is_teacher_KB.sum(1)
        if right_SB is None:
            self.right_K += torch.nan
            self.cases_K4 += torch.nan
        else:
            self.right_K += right_SB[:members].sum(1)
            self.cases_K4 += _cases(teacher_B, right_SB, is_teacher_KB)
        # a teacher that fails spoils its students' losses too: it alone is to blame
        failed_K = lesson.failed_K
        bad_K = torch.where(failed_K.any(), failed_K, ~loss_K.isfinite())
        self.first_bad_K = torch.where(bad_K & (self.first_bad_K < 0), step, self.first_bad_K)

    def over(self, workers: Workers) -> "EpochSums":
        """The sums over the workers that share the samples; waits for them."""
        if not workers.by_samples:
            return self
        found: list[EpochSums] = workers.gather_shares(self.to("cpu"))
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


def _cases(teacher_B: Tensor, right_SB: Tensor, is_teacher_KB: Tensor) -> Tensor:
    """int64 [K, 4]: for each student the samples with 1 both right, 2 only the teacher, 3 none,
    4 only the student (Jain et al. 2025, whose case 2 counts the fourth too). Samples without one
    teacher are in none.
    """
    is_student_KB = ~is_teacher_KB & (teacher_B >= 0)
    teacher_right_B = right_SB.gather(0, teacher_B.clamp(min=0)[None])[0]
    student_right_KB = right_SB[: len(is_teacher_KB)]
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

    frozen: sources that do not learn, in eval mode or as they are remembered, in the order that
    the objective takes them.
    """

    learners: Sequence[Learner | None]
    objective: Objective
    seed: int
    frozen: Sequence[Answering | None] = ()
    precision: str = "fp32"
    workers: Workers = ALONE
    task: Task = field(default_factory=task_of)

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
        held = min(micro_batch or len(batch.index), len(batch.index))
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
        counted = torch.tensor(whole, dtype=torch.float64, device=batch.device)
        whole = workers.sum(counted) / workers.shares
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
    held = -(-batch.planned // workers.shares) if workers.by_samples else len(batch.index)
    count = -(-held // (micro_batch or held))
    if count == 1:
        yield batch
        return
    for rows in torch.arange(len(batch.index)).tensor_split(count):
        if len(rows):
            yield batch.part(slice(int(rows[0]), int(rows[-1]) + 1))
        elif workers.by_samples:  # the others wait for it
            yield replace(batch.part(slice(1)), counted=0)


def _lesson(
    sources: Sources, part: Batch, step: int, number: int, share: Tensor | float
) -> StepOutput:
    """Add the gradient of one part, which is a share of the batch, to every network here."""
    learners, objective, workers = sources.learners, sources.objective, sources.workers
    stream = (number, workers.share) if number or workers.share else ()
    part = replace(part, draw=derived_seed("draw", sources.seed, step))
    device, dtype = part.device, AUTOCAST[sources.precision]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        output_S: list[Any] = []
        for learner in learners:
            if learner is not None:
                learner.reseed(sources.seed, step, *stream)
            output_S.append(None if learner is None else learner.output(part))
    cut_S = [
        None if model is None else cut_of(sources.task, output, part)
        for model, output in zip(learners, output_S, strict=True)
    ]
    cut_S += [None if model is None else _told(sources, model, part) for model in sources.frozen]
    valid_BP = next(cut.prediction.valid_BP for cut in cut_S if cut is not None)
    seen_S = workers.exchange(
        [cut and cut.prediction.log_prob_BEP for cut in cut_S], sources.owners
    )
    lost_S = workers.exchange([cut and cut.loss_B for cut in cut_S], sources.owners)
    prediction_S = [Prediction(log_prob_BEP, valid_BP) for log_prob_BEP in seen_S]
    loss, confidence_SB, gradients_K = _joint(
        sources.task, objective, prediction_S, lost_S, len(learners), part
    )
    for learner, cut, gradients in zip(learners, cut_S, gradients_K, strict=False):
        if learner is not None and cut is not None:
            roots = (cut.prediction.log_prob_BEP, cut.loss_B)
            learner.backward(roots, [None if g is None else g * share for g in gradients])
    known = part.target is not None
    right = [sources.task.right(p, part) if known else None for p in prediction_S]
    judged = [right_B for right_B in right if right_B is not None]
    return StepOutput(
        part.counted,
        loss.supervised * part.counted if known else None,
        loss.divergence * part.counted,
        loss.weights,
        loss.teacher[: part.counted],
        torch.stack(judged)[:, : part.counted] if len(judged) == len(right) else None,
        ~(loss.supervised if known else confidence_SB[: len(learners)].sum(1)).isfinite(),
    )


def _told(sources: Sources, model: Answering, part: Batch) -> Cut:
    """Of a source that does not learn."""
    if isinstance(model, Remembered):
        return model.cut(part)
    return frozen_cut(model, part, sources.task, sources.precision)


Gradients = tuple[Tensor | None, Tensor | None]


def _joint(
    task: Task,
    objective: Objective,
    prediction_S: Sequence[Prediction],
    loss_S: Sequence[Tensor],
    live: int,
    part: Batch,
) -> tuple[JointLoss, Tensor, list[Gradients]]:
    """The loss of all models, by what they competed [S, B], and the gradient by what each learner
    answers and loses. Without a target they compete by how certain they are.
    """
    by_label = (
        part.target is not None and compete_by(objective.name, objective.confidence) == "label"
    )
    confidence = [
        task.confidence(prediction, loss_B, part) if by_label else task.certainty(prediction)
        for prediction, loss_B in zip(prediction_S, loss_S, strict=True)
    ]
    confidence_SB = torch.stack(confidence)
    log_probs = [prediction.log_prob_BEP for prediction in prediction_S]
    leaves = [*log_probs[:live], *loss_S[:live]]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = transfer_loss(
        torch.stack(log_probs),
        torch.stack(tuple(loss_S[:live])),
        confidence_SB,
        objective.name,
        valid_BP=prediction_S[0].valid_BP,
        temperature=objective.temperature,
        ties=objective.ties,
        detach_teacher=objective.detach_teacher,
        kd_weight=objective.kd_weight,
        mask=objective.mask,
        ce_weight=objective.ce_weight,
        kl_weight=objective.kl_weight,
        divergence=task.divergence and partial(_own, task, prediction_S[0].valid_BP),
    )
    gradient = torch.autograd.grad(loss.total, leaves, allow_unused=True)
    return loss, confidence_SB, list(zip(gradient[:live], gradient[live:], strict=True))


def _own(task: Task, valid_BP: Tensor | None, student_BEP: Tensor, teacher_BEP: Tensor) -> Tensor:
    """The task's divergence [B]."""
    assert task.divergence is not None
    return task.divergence(Prediction(student_BEP, valid_BP), Prediction(teacher_BEP, valid_BP))


def _together(lessons: Sequence[StepOutput]) -> StepOutput:
    """The lesson of a batch from those of its parts."""
    first, *rest = lessons
    if not rest:
        return first
    right = [lesson.right_SB for lesson in lessons if lesson.right_SB is not None]
    own = [lesson.supervised_K for lesson in lessons if lesson.supervised_K is not None]
    return StepOutput(
        sum(lesson.samples for lesson in lessons),
        torch.stack(own).sum(0) if own else None,
        torch.stack([lesson.divergence_K for lesson in lessons]).sum(0),
        first.weights,
        torch.cat([lesson.teacher_B for lesson in lessons]),
        torch.cat(right, dim=1) if right else None,
        torch.stack([lesson.failed_K for lesson in lessons]).any(0),
    )
