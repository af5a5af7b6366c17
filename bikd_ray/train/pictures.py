"""Small pictures of the samples on which a job has changed its learners' answers most.

They are made at the end of a job, while the models are at hand, so that whoever looks at a store
needs neither the samples nor the weights.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import named
from bikd_ray.errors import BikdError
from bikd_ray.tasks.base import Measured, Task
from bikd_ray.train.evaluate import Evaluation
from bikd_ray.train.member import Member
from bikd_ray.train.numerics import poisoned, tf32
from bikd_ray.train.parallel import Workers

MOST = 3
"""Samples of each learner that got better by the job, and as many that got worse."""

SIDE = 192
"""Pixels of a thumbnail's longer side, about: smaller samples are enlarged by whole factors."""

QUALITY = 80
"""Of WebP; a thumbnail takes 2 to 8 kB."""

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Picture:
    """One sample and what became of learner `member` on it, as encoded images (WebP).

    name: of the sample. value_before, value_after: of the task's `pictured` metric. others: the
    untouched answers of the other members of the job, in their order.
    """

    member: int
    sample: int
    name: str
    value_before: float
    value_after: float
    image: bytes
    truth: bytes
    before: bytes
    after: bytes
    others: tuple[bytes, ...]


@dataclass(frozen=True)
class Pictures:
    """failed: why there are none, which costs a job nothing else."""

    found: tuple[Picture, ...] = ()
    failed: str | None = None


def thumbnail(pixels_HW3: np.ndarray) -> bytes:
    """A uint8 RGB picture as a small WebP."""
    image = Image.fromarray(pixels_HW3)
    longer = max(image.size)
    if longer > SIDE:
        width, height = (max(1, round(side * SIDE / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    elif (factor := SIDE // longer) > 1:
        width, height = (side * factor for side in image.size)
        image = image.resize((width, height), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


def most_changed(
    before_N: np.ndarray, after_N: np.ndarray, sign: int, kin_N: np.ndarray | None = None
) -> np.ndarray:
    """The indices of the MOST samples that got better, the most first, then of as many that got
    worse; sign: -1 where lower is better. Equal changes in their order. kin: of samples of one
    value, one that got better and one that got worse.
    """
    gain_N = np.nan_to_num(sign * (after_N - before_N))
    found = []
    for way in (1, -1):
        order = np.argsort(-way * gain_N, kind="stable")
        order = order[way * gain_N[order] > 0]
        if kin_N is not None:
            order = order[np.sort(np.unique(kin_N[order], return_index=True)[1])]
        found.append(order[:MOST])
    return np.concatenate(found)


@dataclass
class _Wanted:
    """Of one learner: rows of the evaluation, and both values of all of its rows."""

    rows: np.ndarray
    before_N: np.ndarray
    after_N: np.ndarray


@dataclass
class _Drawn:
    """What one worker has: of each sample itself and what is right, and of each member, moment and
    sample its answer.
    """

    samples: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    answers: dict[tuple[int, str, int], bytes] = field(default_factory=dict)


def pictures(
    task: Task,
    trained: Sequence[Member | None],
    members: Sequence[Member | None],
    untouched: Callable[[int], nn.Module],
    loader: Loader,
    before: Evaluation,
    after: Sequence[Measured],
    workers: Workers,
) -> Pictures:
    """Those of every learner of a job after its last epoch.

    trained: the learners as they are measured. members: all of the job, learners first; None: of
    another worker. untouched: a new network with the weights that a learner began with. loader: of
    the samples that were measured, `before` and after. Workers that share models each draw the
    answers of theirs.
    """
    if task.pictured is None:
        return Pictures()
    wanted = [
        _wanted(task, *both, task.pictured.sign)
        for both in zip(before.outcomes[: len(trained)], after, strict=True)
    ]
    mine, why = _Drawn(), None
    if workers.by_models or workers.rank == 0:
        try:
            mine = _draw(task, trained, members, untouched, loader, before.rows, wanted)
        except Exception as error:
            here = next((m for m in members if m is not None), None)
            if here is not None and poisoned(error, here.device):
                raise
            short = str(error) if isinstance(error, BikdError) else f"{error!r}"
            why = short.splitlines()[0]
    told = workers.gather((mine, why))
    if whys := [why for _, why in told if why is not None]:
        return Pictures(failed=whys[0])
    samples = {index: both for drawn, _ in told for index, both in drawn.samples.items()}
    answers = {key: answer for drawn, _ in told for key, answer in drawn.answers.items()}
    found = [
        Picture(
            member=k,
            sample=sample,
            name=named(loader.images, sample).removeprefix("data: "),
            value_before=float(of_k.before_N[row]),
            value_after=float(of_k.after_N[row]),
            image=samples[sample][0],
            truth=samples[sample][1],
            before=answers[k, BEFORE, sample],
            after=answers[k, AFTER, sample],
            others=tuple(answers[i, BEFORE, sample] for i in range(len(members)) if i != k),
        )
        for k, of_k in enumerate(wanted)
        for row, sample in zip(of_k.rows, before.rows[of_k.rows].tolist(), strict=True)
    ]
    return Pictures(tuple(found))


def _wanted(task: Task, before: Measured, after: Measured, sign: int) -> _Wanted:
    was_N, now_N = (task.of_each(found.statistics) for found in (before, after))
    kin_N = before.statistics[task.kin] if task.kin else None
    return _Wanted(most_changed(was_N, now_N, sign, kin_N), was_N, now_N)


def _draw(
    task: Task,
    trained: Sequence[Member | None],
    members: Sequence[Member | None],
    untouched: Callable[[int], nn.Module],
    loader: Loader,
    sample_N: np.ndarray,
    wanted: Sequence[_Wanted],
) -> _Drawn:
    """One network more than was trained is held at a time."""
    drawn = _Drawn()
    of_any = np.unique(np.concatenate([sample_N[of_k.rows] for of_k in wanted]))
    for k, member in enumerate(members):
        if member is None:
            continue
        if k < len(wanted):
            now = trained[k]
            assert now is not None
            _answered(task, now, k, AFTER, loader, sample_N[wanted[k].rows], drawn)
            member = replace(member, network=untouched(k))
        _answered(task, member, k, BEFORE, loader, of_any, drawn)
    return drawn


def _answered(
    task: Task,
    member: Member,
    k: int,
    moment: str,
    loader: Loader,
    samples: np.ndarray,
    drawn: _Drawn,
) -> None:
    """Add a model's answers to some samples."""
    training = member.network.training
    member.network.eval()
    with torch.no_grad(), tf32(False):
        for several in loader.batches(samples, 1):
            for row in range(len(several.index)):
                batch = several.part(slice(row, row + 1))
                sample, right, answer = task.draw(batch, [task.answer(member.output(batch), batch)])
                index = int(batch.index)
                if index not in drawn.samples:
                    drawn.samples[index] = thumbnail(sample), thumbnail(right)
                drawn.answers[k, moment, index] = thumbnail(answer)
    member.network.train(training)
