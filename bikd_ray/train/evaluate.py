"""All members over one pass of the samples, in eval mode and float32."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bikd_ray.data.loader import Batch, Loader
from bikd_ray.data.sources import named
from bikd_ray.errors import BikdError
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Answer, Measured, Statistics, Task, measured
from bikd_ray.train.frozen import Answering, Remembered
from bikd_ray.train.member import Member, measuring
from bikd_ray.train.numerics import out_of_memory
from bikd_ray.train.parallel import ALONE, Workers
from bikd_ray.train.similarity import FeatureTap

EVAL_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """What each member answers, and what their mean distribution does."""

    outcomes: tuple[Measured, ...]
    ensemble: Measured | None  # of all members; None where it was not asked for
    rows: np.ndarray  # the samples that were measured: all that decode
    features: tuple[Tensor | None, ...] = ()  # float32 [N, D] of each member, where asked for


def evaluate(
    members: Sequence[Answering | None],
    loader: Loader,
    *,
    task: Task | None = None,
    features: bool = False,
    ensemble: bool = True,
    workers: Workers = ALONE,
    batch_size: int = EVAL_BATCH,
) -> Evaluation:
    """Measure every member on every sample, decoded once; and read its pre-logits features.

    members: those of the job in their order, None for one of another worker; of those remembered,
    what they said is read back. Every worker gets the whole evaluation. task: the default one where
    None. Where memory runs out, fewer samples are taken at a time. Raises BikdError where a model
    answers NaN or infinite numbers.
    """
    task, batch_size = task or task_of(), loader.at_most(batch_size)
    try:
        mine = _at_once(members, loader, task, features, ensemble, workers, batch_size)
    except (RuntimeError, MemoryError) as error:
        # several workers exchange what they have of every batch: none can begin again alone
        if not out_of_memory(error) or batch_size == 1 or workers.count > 1:
            raise
        smaller = batch_size // 2
    else:
        return _whole(members, mine, loader, task, workers)
    return evaluate(
        members, loader, task=task, features=features, ensemble=ensemble, batch_size=smaller
    )


@dataclass
class _Seen:
    """What one worker has measured: samples [M], statistics and features of each member.

    None: of a member that another worker has. The last of the statistics are the ensemble's.
    """

    rows: np.ndarray
    statistics: list[Statistics | None]
    features: list[Tensor | None]


def _at_once(
    members: Sequence[Answering | None],
    loader: Loader,
    task: Task,
    features: bool,
    ensemble: bool,
    workers: Workers,
    batch_size: int,
) -> _Seen:
    asked = [member if isinstance(member, Member) else None for member in members]
    taps = [FeatureTap(member.network) if features and member else None for member in asked]
    with measuring(filter(None, asked)), ExitStack() as stack:
        for tap in filter(None, taps):
            stack.enter_context(tap)
        together = ensemble and len(members) > 1
        mine = _measure(members, loader, task, together, workers, batch_size)
    mine.features = [tap.features_ND if tap else None for tap in taps]
    if features:
        for k, member in enumerate(members):
            if isinstance(member, Remembered):
                mine.features[k] = member.features(mine.rows)
    if ensemble and len(members) == 1:
        mine.statistics[-1] = mine.statistics[0]
    return mine


def _measure(
    members: Sequence[Answering | None],
    loader: Loader,
    task: Task,
    together: bool,
    workers: Workers,
    batch_size: int,
) -> _Seen:
    seen: list[Tensor] = []
    rows = workers.shard(np.arange(len(loader)))
    parts = [_Kept(len(rows)) for _ in range(len(members) + 1)]
    for batch in loader.batches(rows, batch_size):
        answers = [_answer(member, batch, task) for member in members]
        measured_here = [None if a is None else task.measure(a, batch) for a in answers]
        if together:
            of_all = workers.exchange(answers, range(len(members)))
            measured_here.append(task.measure(task.ensemble(of_all), batch))
        for part, statistics in zip(parts, measured_here, strict=False):
            if statistics is not None:
                part.add(statistics)
        seen.append(batch.index)
    # what a batch says stays on the device until here: nothing waits between batches
    found = torch.cat(seen).numpy() if seen else rows[:0]
    return _Seen(found, [part.on_host() for part in parts], [])


def _answer(member: Answering | None, batch: Batch, task: Task) -> Answer | None:
    if isinstance(member, Remembered):
        return member.answer(batch)
    return None if member is None else task.answer(member.output(batch), batch)


def evaluate_pairs(
    members: Sequence[Member],
    pairs: Sequence[tuple[int, int]],
    loader: Loader,
    task: Task,
    batch_size: int = EVAL_BATCH,
) -> tuple[list[Measured], list[Measured]]:
    """Measure every member, and the ensemble of each pair of them, in one pass over the samples.

    The statistics of an ensemble also say what its members have in common.
    Where memory runs out, fewer samples are taken at a time.
    """
    batch_size = loader.at_most(batch_size)
    parts = [_Kept(len(loader)) for _ in range(len(members) + len(pairs))]
    try:
        with measuring(members):
            for batch in loader.batches(np.arange(len(loader)), batch_size):
                answers = [task.answer(member.output(batch), batch) for member in members]
                alike = [*[{}] * len(members), *task.agreements(answers, pairs, batch)]
                both = (task.ensemble([answers[a], answers[b]]) for a, b in pairs)
                for part, answer, more in zip(parts, chain(answers, both), alike, strict=True):
                    part.add({**task.measure(answer, batch), **more})
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or batch_size == 1:
            raise
    else:
        found = [part.on_host() for part in parts]
        if None in found:
            raise BikdError(f"none of the {len(loader)} images to evaluate on can be read")
        done = [measured(task, statistics) for statistics in found if statistics is not None]
        return done[: len(members)], done[len(members) :]
    return evaluate_pairs(members, pairs, loader, task, batch_size // 2)


@dataclass
class _Kept:
    """Statistics of up to so many samples on their device, in one tensor each from the start.

    Small tensors that stay, made between large ones that go, would keep the memory of the large.
    """

    most: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, statistics: dict[str, Tensor]) -> None:
        """Those of the next samples."""
        end = self.count
        for name, part in statistics.items():
            if name not in self.tensors:
                self.tensors[name] = part.new_empty((self.most, *part.shape[1:]))
            end = self.count + len(part)
            self.tensors[name][self.count : end] = part
        self.count = end

    def on_host(self) -> Statistics | None:
        """None where no sample came."""
        if not self.count:
            return None
        return {name: kept[: self.count].cpu().numpy() for name, kept in self.tensors.items()}


def _whole(
    members: Sequence[Answering | None],
    mine: _Seen,
    loader: Loader,
    task: Task,
    workers: Workers,
) -> Evaluation:
    """The evaluation from those of all workers."""
    names = [member and member.model.name for member in members]
    everyone: list[tuple[list[str | None], _Seen]] = workers.gather((names, mine))
    names = [_known(of_k) for of_k in zip(*(names for names, _ in everyone), strict=True)]
    seen = [one for _, one in everyone]
    shares = [_of_one_share(seen[c :: workers.shares]) for c in range(workers.shares)]
    shares = [share for share in shares if len(share.rows)]
    if not shares:
        raise BikdError(f"none of the {len(loader)} images to evaluate on can be read")
    rows = np.concatenate([share.rows for share in shares])
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    statistics = [
        _joined(of_k, order) for of_k in zip(*(s.statistics for s in shares), strict=True)
    ]
    features = [_stacked(of_k, order) for of_k in zip(*(s.features for s in shares), strict=True)]
    *of_members, of_all = statistics
    for name, own in zip(names, of_members, strict=True):
        assert own is not None
        _refuse_not_finite(name, own, rows, loader)
    outcomes = tuple(measured(task, own) for own in of_members if own is not None)
    together = None
    if of_all is not None:
        together = outcomes[0] if len(outcomes) == 1 else measured(task, of_all)
    return Evaluation(outcomes, together, rows, tuple(features))


def _refuse_not_finite(name: str, own: Statistics, rows: np.ndarray, loader: Loader) -> None:
    bad_N = np.zeros(len(rows), bool)
    for array in own.values():
        if array.dtype.kind == "f":
            bad_N |= ~np.isfinite(array).reshape(len(rows), -1).all(1)
    bad = np.flatnonzero(bad_N)
    if len(bad):
        raise BikdError(
            f"{name} answers NaN or infinite numbers on {len(bad)} of {len(rows)} images, "
            f"first on {named(loader.images, int(rows[bad[0]])).removeprefix('data: ')}"
        )


def _of_one_share(seen: Sequence[_Seen]) -> _Seen:
    """What workers that have seen the same samples know together."""
    return _Seen(
        seen[0].rows,
        [_known(of_k) for of_k in zip(*(one.statistics for one in seen), strict=True)],
        [_known(of_k) for of_k in zip(*(one.features for one in seen), strict=True)],
    )


def _joined(parts: Sequence[Statistics | None], order: np.ndarray) -> Statistics | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return {name: np.concatenate([part[name] for part in known])[order] for name in known[0]}


def _stacked(features: Sequence[Tensor | None], order: np.ndarray) -> Tensor | None:
    known = [f for f in features if f is not None]
    return torch.cat(known)[torch.from_numpy(order)] if len(known) == len(features) else None


def _known(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)
