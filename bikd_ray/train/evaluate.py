"""All members over one pass of the images, in eval mode and float32."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from bikd_ray.data.loader import Loader
from bikd_ray.errors import BikdError
from bikd_ray.tasks.classification import Outcome, outcome
from bikd_ray.train.member import Member
from bikd_ray.train.numerics import tf32
from bikd_ray.train.similarity import FeatureTap

EVAL_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """One outcome for each member, and how often their mean softmax is right."""

    outcomes: tuple[Outcome, ...]
    ensemble_top1: float  # percent
    rows: np.ndarray  # the samples that were measured: all that decode
    features: tuple[Tensor | None, ...] = ()  # float32 [N, D] of each member, where asked for


def evaluate(members: Sequence[Member], loader: Loader, *, features: bool = False) -> Evaluation:
    """Measure every member on every image, decoded once; and read its pre-logits features.

    Raises BikdError where a model answers NaN.
    """
    rows = np.arange(len(loader.labels))
    taps = [FeatureTap(member.network) for member in members] if features else []
    parts: list[list[Outcome]] = [[] for _ in members]
    seen: list[np.ndarray] = []
    ensemble_right = 0
    modes = [member.network.training for member in members]
    for member in members:
        member.network.eval()
    with ExitStack() as stack:
        stack.enter_context(
            torch.no_grad()
        )  # not inference_mode: what a network caches here trains
        stack.enter_context(tf32(False))
        for tap in taps:
            stack.enter_context(tap)
        for batch in loader.batches(rows, EVAL_BATCH):
            logits_K = [member.logits(batch).float() for member in members]
            for part, logits in zip(parts, logits_K, strict=True):
                part.append(outcome(logits, batch.labels))
            mean = torch.stack([z.softmax(-1) for z in logits_K]).mean(0)
            seen.append(batch.index.numpy())
            ensemble_right += int((mean.argmax(-1) == batch.labels).sum())
    for member, mode in zip(members, modes, strict=True):
        member.network.train(mode)
    if not seen:
        raise BikdError(f"none of the {len(rows)} images to evaluate on can be read")
    rows = np.concatenate(seen)
    outcomes = tuple(_joined(part) for part in parts)
    for member, result in zip(members, outcomes, strict=True):
        bad = np.flatnonzero(np.isnan(result.nll_N))
        if len(bad):
            raise BikdError(
                f"{member.model.name} answers NaN on {len(bad)} of {len(rows)} images, "
                f"first on sample {rows[bad[0]]}"
            )
    read = tuple(tap.features_ND for tap in taps)
    return Evaluation(outcomes, 100 * ensemble_right / len(rows), rows, read)


def _joined(parts: list[Outcome]) -> Outcome:
    return Outcome(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Outcome)))
