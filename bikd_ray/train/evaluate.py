"""All members over one pass of the images, in eval mode and float32."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bikd_ray.data.loader import Loader
from bikd_ray.data.resolve import named
from bikd_ray.errors import BikdError
from bikd_ray.tasks.classification import Measurement, measure
from bikd_ray.train.member import Member
from bikd_ray.train.numerics import out_of_memory, tf32
from bikd_ray.train.parallel import ALONE, Workers
from bikd_ray.train.similarity import FeatureTap

EVAL_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """One outcome for each member, and how often their mean softmax is right."""

    outcomes: tuple[Measurement, ...]
    ensemble_top1: float  # percent
    rows: np.ndarray  # the samples that were measured: all that decode
    features: tuple[Tensor | None, ...] = ()  # float32 [N, D] of each member, where asked for


def evaluate(
    members: Sequence[Member | None],
    loader: Loader,
    *,
    features: bool = False,
    workers: Workers = ALONE,
    batch_size: int = EVAL_BATCH,
) -> Evaluation:
    """Measure every member on every image, decoded once; and read its pre-logits features.

    members: those of the job in their order, None for one of another worker. Every worker gets the
    whole evaluation. Where memory runs out, fewer images are taken at a time. Raises BikdError
    where a model answers NaN or infinite logits.
    """
    try:
        mine = _at_once(members, loader, features, workers, batch_size)
    except (RuntimeError, MemoryError) as error:
        # several workers exchange what they have of every batch: none can begin again alone
        if not out_of_memory(error) or batch_size == 1 or workers.count > 1:
            raise
        smaller = batch_size // 2
    else:
        return _whole(members, mine, loader, workers)
    return evaluate(members, loader, features=features, batch_size=smaller)


@dataclass
class _Measured:
    """What one worker has seen: samples [M], a field of `Outcome` for each member, features."""

    rows: np.ndarray
    outcomes: list[Measurement]
    ensemble_right: np.ndarray  # bool [M]
    features: list[Tensor | None]


def _at_once(
    members: Sequence[Member | None],
    loader: Loader,
    features: bool,
    workers: Workers,
    batch_size: int,
) -> _Measured:
    here = [member for member in members if member is not None]
    taps = [FeatureTap(m.network) if features and m else None for m in members]
    modes = [member.network.training for member in here]
    for member in here:
        member.network.eval()
    try:
        with ExitStack() as stack:
            # not inference_mode: what a network caches here trains
            stack.enter_context(torch.no_grad())
            stack.enter_context(tf32(False))
            for tap in filter(None, taps):
                stack.enter_context(tap)
            mine = _measure(members, loader, workers, batch_size)
    finally:
        for member, mode in zip(here, modes, strict=True):
            member.network.train(mode)
    mine.features = [tap.features_ND if tap else None for tap in taps]
    return mine


def _measure(
    members: Sequence[Member | None], loader: Loader, workers: Workers, batch_size: int
) -> _Measured:
    seen: list[Tensor] = []
    right: list[Tensor] = []
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in members]
    rows = workers.shard(np.arange(len(loader.labels)))
    for batch in loader.batches(rows, batch_size):
        logits_K = [None if m is None else m.logits(batch) for m in members]
        cut_K = workers.exchange(logits_K, range(len(members)))
        cut_K = [logits.float() for logits in cut_K]
        for part, logits in zip(parts, cut_K, strict=True):
            part.append(measure(logits, batch.labels))
        mean = torch.stack([z.softmax(-1) for z in cut_K]).mean(0)
        right.append(mean.argmax(-1) == batch.labels)
        seen.append(batch.index)
    if not seen:
        return _Measured(rows[:0], [], np.zeros(0, bool), [])
    # what a batch says stays on the device until here: nothing waits between batches
    outcomes = [
        Measurement(*(torch.cat(column).cpu().numpy() for column in zip(*part, strict=True)))
        for part in parts
    ]
    return _Measured(torch.cat(seen).numpy(), outcomes, torch.cat(right).cpu().numpy(), [])


def _whole(
    members: Sequence[Member | None], mine: _Measured, loader: Loader, workers: Workers
) -> Evaluation:
    """The evaluation from those of all workers."""
    names = [member and member.model.name for member in members]
    read: Sequence[Tensor | None] = mine.features
    found = [mine]
    if workers.by_samples:
        found = [part for part in workers.gather(mine) if len(part.rows)]
    elif workers.by_models:
        everyone = workers.gather((names, mine.features))
        names, read = (
            [_known(of_k) for of_k in zip(*told, strict=True)]
            for told in zip(*everyone, strict=True)
        )
    if not found or not len(found[0].rows):
        raise BikdError(f"none of the {len(loader.labels)} images to evaluate on can be read")
    rows = np.concatenate([part.rows for part in found])
    order = np.argsort(rows, kind="stable")
    outcomes = tuple(
        _joined([part.outcomes[k] for part in found], order) for k in range(len(members))
    )
    if workers.by_samples:
        of_k = [[part.features[k] for part in found] for k in range(len(members))]
        read = [_stacked(features, order) for features in of_k]
    right = np.concatenate([part.ensemble_right for part in found])
    rows = rows[order]
    for k, result in enumerate(outcomes):
        bad = np.flatnonzero(~np.isfinite(result.nll_N))
        if len(bad):
            raise BikdError(
                f"{names[k]} answers NaN or infinite logits on {len(bad)} of {len(rows)} images, "
                f"first on {named(loader.images, int(rows[bad[0]])).removeprefix('data: ')}"
            )
    return Evaluation(outcomes, 100 * float(right.mean()), rows, tuple(read))


def _joined(parts: Sequence[Measurement], order: np.ndarray) -> Measurement:
    if len(parts) == 1:
        return parts[0]
    columns = ([getattr(part, f.name) for part in parts] for f in fields(Measurement))
    return Measurement(*(np.concatenate(column)[order] for column in columns))


def _stacked(features: Sequence[Tensor | None], order: np.ndarray) -> Tensor | None:
    known = [f for f in features if f is not None]
    return torch.cat(known)[torch.from_numpy(order)] if len(known) == len(features) else None


def _known(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)
