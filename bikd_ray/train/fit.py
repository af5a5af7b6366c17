"""A whole job: K models, R epochs, one row for each member and epoch as they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
from bikd_ray.train.evaluate import Evaluation, evaluate
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.optim import make_optimizer
from bikd_ray.train.step import Tally, train_step


class NonFiniteLoss(BikdError):
    """The loss became NaN or infinite; says at which step and learning rate."""


@dataclass(frozen=True)
class EpochRow:
    """One member after one epoch; epoch 0 is the untouched model, with no training columns."""

    member: int
    epoch: int
    top1: float
    select_top1: float | None = None
    train_loss: float | None = None
    ce: float | None = None
    kl: float | None = None
    teacher_share: float | None = None


@dataclass
class Chosen:
    """What one member was at the epoch that a selection picks."""

    epoch: int
    top1: float
    correct_N: np.ndarray
    state: dict[str, Tensor] = field(repr=False)


@dataclass
class Fit:
    """A finished job: before, and for each selection what every member became."""

    before: Evaluation
    chosen: dict[str, list[Chosen]]  # selection -> one for each member


def fit(
    job: Job, networks: Sequence[nn.Module], device: torch.device, *, workers: int = 0
) -> Iterator[list[EpochRow] | Fit]:
    """Train `networks` (one for each member of the job) and yield the rows of every epoch.

    Yields a list of K EpochRow for epoch 0, 1, … and at the end one Fit. Raises NonFiniteLoss.
    """
    recipe = job.recipe
    members = [Member(m, net, device) for m, net in zip(job.members, networks, strict=True)]
    train, val, held, rows = _loaders(job, members, device, workers)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    learners = [Learner(m, *make_optimizer(m.network.parameters(), recipe, steps)) for m in members]

    before = evaluate(members, val)
    select = evaluate(members, held) if held else None
    selections = _Selections(members)
    selections.see(0, before, select)
    yield _rows(0, before, select)

    step = 0
    for epoch in range(1, recipe.epochs + 1):
        for member in members:
            member.network.train()
        tally = Tally.zero(len(members), device)
        order = np.random.default_rng(derived_seed(job.seed, "order", epoch)).permutation(rows)
        for batch in train.batches(order, recipe.batch_size, epoch):
            loss = train_step(
                learners,
                batch,
                job.objective,
                seed=job.seed,
                step=step,
                precision=recipe.precision,
            )
            tally.add(loss, step)
            step += 1
        bad = int(tally.first_bad_step)
        if bad >= 0:
            raise NonFiniteLoss(
                f"the loss became NaN or infinite at step {bad} (epoch {epoch}) "
                f"with lr {recipe.lr:g}; try a lower recipe.lr"
            )
        after = evaluate(members, val)
        select = evaluate(members, held) if held else None
        selections.see(epoch, after, select)
        yield _rows(epoch, after, select, tally)
    yield Fit(before, selections.chosen())


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
    epoch: int, val: Evaluation, held: Evaluation | None, tally: Tally | None = None
) -> list[EpochRow]:
    rows = []
    for k, result in enumerate(val.outcomes):
        select = held.outcomes[k].top1 if held else None
        if tally is None:
            rows.append(EpochRow(k, epoch, result.top1, select))
            continue
        ce, kl, taught = (
            float(sums[k]) / tally.samples
            for sums in (tally.ce_K, tally.divergence_K, tally.taught_K)
        )
        rows.append(EpochRow(k, epoch, result.top1, select, ce + kl, ce, kl, taught))
    return rows


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
        return Chosen(epoch, result.top1, result.correct_N, state)

    def chosen(self) -> dict[str, list[Chosen]]:
        members = range(len(self.members))
        best = {s: [held[k][1] for k in members] for s, held in self.best.items()}
        return {"last": [self._now(k) for k in members], **best}
