"""A whole job: K models, R epochs, one row for each member and epoch as they come."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isnan, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.data import open_split
from bikd_ray.data.loader import SHARES, Loader
from bikd_ray.data.resolve import Subset, split_train
from bikd_ray.errors import BikdError
from bikd_ray.identity import derived_seed
from bikd_ray.plan import Job
from bikd_ray.tasks.classification import Outcome
from bikd_ray.train.evaluate import Evaluation, evaluate
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.similarity import cca
from bikd_ray.train.step import Tally, train_step
from bikd_ray.transfer import OBJECTIVES


class NonFiniteLoss(BikdError):
    """A loss became NaN or infinite; says whose, at which step and learning rate."""


@dataclass(frozen=True)
class EpochRow:
    """One learner after one epoch; epoch 0 is the untouched model, with no training columns.

    The case shares and the teacher share are of the training samples, and None where no sample
    has one teacher.
    """

    member: int
    epoch: int
    top1: float
    select_top1: float | None = None
    train_top1: float | None = None
    train_loss: float | None = None
    ce: float | None = None
    kl: float | None = None
    teacher_share: float | None = None
    case1: float | None = None
    case2: float | None = None
    case3: float | None = None
    case4: float | None = None


@dataclass
class Chosen:
    """What one learner was at the epoch that a selection picks."""

    epoch: int
    outcome: Outcome
    state: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Likeness:
    """CCA of two members' pre-logits features on val; None where it cannot be told."""

    members: tuple[int, int]
    before: float | None
    after: float | None


@dataclass
class Fit:
    """A finished job: before, and for each selection what every learner became."""

    before: Evaluation  # of all members, learners first
    chosen: dict[str, list[Chosen]]  # selection -> one for each learner
    ensemble_top1_after: float  # percent, of all members after the last epoch
    likeness: list[Likeness]


def fit(
    job: Job,
    networks: Sequence[nn.Module],
    device: torch.device,
    *,
    workers: int = 0,
    similarity: bool = True,
) -> Iterator[list[EpochRow] | Fit]:
    """Train the live members among `networks` (one for each member of the job).

    Yields a list of EpochRow, one for each learner, for epoch 0, 1, … and at the end one Fit.
    similarity: compare the members' features too. Raises NonFiniteLoss.
    """
    recipe = job.recipe
    members = [Member(m, net, device) for m, net in zip(job.members, networks, strict=True)]
    train, val, held, rows = _loaders(job, members, device, workers)
    batches = max(1, -(-(len(rows) - 1) // recipe.batch_size))  # a lone last sample makes none
    steps = recipe.epochs * batches
    frozen = _frozen(job, members)
    learners = [Learner.of(member, recipe, steps) for member in members[: len(job.live)]]
    measured = [learner.measured for learner in learners]
    teachers = members[len(learners) :]
    similarity = similarity and len(members) > 1

    before = after = evaluate(members, val, features=similarity)
    select = evaluate(measured, held) if held else None
    selections = _Selections(measured)
    selections.see(0, before, select)
    yield _rows(0, len(learners), before, select)

    step = 0
    for epoch in range(1, recipe.epochs + 1):
        for learner in learners:
            learner.member.network.train()
        tally = Tally.zero(len(learners), device)
        order = np.random.default_rng(derived_seed(job.seed, "order", epoch)).permutation(rows)
        for batch in train.batches(order, recipe.batch_size, epoch):
            lesson = train_step(
                learners,
                batch,
                job.objective,
                seed=job.seed,
                step=step,
                frozen=frozen,
                precision=recipe.precision,
            )
            tally.add(lesson, step)
            step += 1
        _refuse_bad(tally, learners, job, epoch, step - 1)
        last = epoch == recipe.epochs
        after = evaluate(
            [*measured, *teachers] if last else measured, val, features=similarity and last
        )
        select = evaluate(measured, held) if held else None
        selections.see(epoch, after, select)
        yield _rows(epoch, len(learners), after, select, tally)
    likeness = list(_likeness(before, after, device)) if similarity else []
    yield Fit(before, selections.chosen(), after.ensemble_top1, likeness)


def _refuse_bad(
    tally: Tally, learners: Sequence[Learner], job: Job, epoch: int, last_step: int
) -> None:
    """Raise NonFiniteLoss for a loss of the epoch, or what its last step made of the weights."""
    bad = [(step, k, "loss") for k, step in enumerate(tally.first_bad_K.tolist()) if step >= 0]
    if not bad:
        bad = [(last_step, k, "weights") for k, one in enumerate(learners) if not one.is_finite()]
    if bad:
        step, k, what = min(bad)
        name, recipe = job.members[k].name, job.recipe
        setting = f"recipe.lrs.{name}" if name in recipe.lrs else "recipe.lr"
        raise NonFiniteLoss(
            f"the {what} of {name} became NaN or infinite at step {step} (epoch {epoch}) "
            f"with lr {recipe.lrs.get(name, recipe.lr):g}; try a lower {setting}"
        )


def _frozen(job: Job, members: Sequence[Member]) -> list[Member]:
    """The sources that do not learn, in the order of `joint_loss`: the first learner as it is now,
    where the objective compares with it, then the teachers.
    """
    start = []
    if OBJECTIVES[job.objective.name].old_self:
        first = members[0]
        start = [Member(first.model, copy.deepcopy(first.network), first.device)]
    frozen = [*start, *members[len(job.live) :]]
    for source in frozen:
        source.network.eval()
    return frozen


def _likeness(before: Evaluation, after: Evaluation, device: torch.device) -> Iterator[Likeness]:
    for a, b in combinations(range(len(before.features)), 2):
        found = []
        for x, y in ((e.features[a], e.features[b]) for e in (before, after)):
            value = nan if x is None or y is None else cca(x.to(device), y.to(device))
            found.append(None if isnan(value) else value)
        yield Likeness((a, b), *found)


def _loaders(
    job: Job, members: Sequence[Member], device: torch.device, workers: int
) -> tuple[Loader, Loader, Loader | None, np.ndarray]:
    """(train, val, held-out part of train or None, rows of train to learn from)."""
    data, views = job.data.data, [m.model.input.view for m in members]
    how: dict[str, Any] = {
        "cache": data.cache,
        "workers": workers,
        "skip": data.on_bad_image == "skip",
    }
    images = open_split(job.data, "train")
    rows, select = split_train(
        images.labels,
        select_fraction=data.select_fraction,
        train_fraction=job.recipe.train_fraction,
    )
    train = Loader(images, views, device, augment=job.recipe.augment, seed=job.seed, **how)
    val = Loader(open_split(job.data, "val"), views, device, share=SHARES["val"], **how)
    held = Loader(Subset(images, select), views, device, **how) if len(select) else None
    return train, val, held, rows


def _rows(
    epoch: int,
    learners: int,
    val: Evaluation,
    held: Evaluation | None,
    tally: Tally | None = None,
) -> list[EpochRow]:
    rows = []
    for k in range(learners):
        select = held.outcomes[k].top1 if held else None
        lessons = _lessons(tally, k) if tally else {}
        rows.append(EpochRow(k, epoch, val.outcomes[k].top1, select, **lessons))
    return rows


def _lessons(tally: Tally, k: int) -> dict[str, float | None]:
    """The training columns of learner k."""
    taught = float(tally.taught_K.sum() + tally.cases_K4.sum()) > 0
    cases = (tally.cases_K4[k] / tally.samples).tolist()
    return {
        "train_top1": 100 * float(tally.right_K[k]) / tally.samples,
        "train_loss": float(tally.loss_K[k]) / tally.samples,
        "ce": float(tally.ce_K[k]) / tally.samples,
        "kl": float(tally.divergence_K[k]) / tally.samples,
        "teacher_share": float(tally.taught_K[k]) / tally.samples if taught else None,
        **{f"case{c}": share if taught else None for c, share in enumerate(cases, 1)},
    }


class _Selections:
    """Keeps, for every member, the epoch that each selection would pick so far.

    The untouched model is epoch 0 and can win; an equal later epoch does not displace an earlier.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.best: dict[str, dict[int, tuple[float, Chosen]]] = {}
        self.last: tuple[int, Evaluation] | None = None

    def see(self, epoch: int, val: Evaluation, held: Evaluation | None) -> None:
        self.last = (epoch, val)
        for k in range(len(self.members)):
            scores = {"best_val": val.outcomes[k].top1}
            if held:
                scores["best_select"] = held.outcomes[k].top1
            won = {s: score for s, score in scores.items() if self._beats(s, k, score)}
            if won:
                chosen = self._now(k)
                for selection, score in won.items():
                    self.best.setdefault(selection, {})[k] = (score, chosen)

    def _beats(self, selection: str, member: int, score: float) -> bool:
        held = self.best.get(selection, {}).get(member)
        return held is None or score > held[0]

    def _now(self, k: int) -> Chosen:
        assert self.last is not None
        epoch, val = self.last
        result = val.outcomes[k]
        tensors = self.members[k].network.state_dict().items()
        state = {name: t.detach().cpu().clone() for name, t in tensors}
        return Chosen(epoch, result, state)

    def chosen(self) -> dict[str, list[Chosen]]:
        members = range(len(self.members))
        best = {s: [held[k][1] for k in members] for s, held in self.best.items()}
        return {"last": [self._now(k) for k in members], **best}
