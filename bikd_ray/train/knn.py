"""What a backbone is worth elsewhere: nearest neighbours vote by its pre-logits features.

Suffixes: M images that vote, N that are asked about, D features, C classes, k votes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bikd_ray.data.loader import DISK_FRACTIONS, Loader
from bikd_ray.data.probes import SPLITS, open_probe
from bikd_ray.errors import BikdError
from bikd_ray.metrics import KNN
from bikd_ray.plan import ResolvedData, ResolvedProbe
from bikd_ray.tasks.base import Measured
from bikd_ray.train.evaluate import EVAL_BATCH
from bikd_ray.train.member import Member
from bikd_ray.train.numerics import out_of_memory, tf32
from bikd_ray.train.similarity import FeatureTap

AT_ONCE = 1 << 24
"""Similarities that are held at a time."""

Answers = list[Measured | None]
"""Of each member; None of one that another worker has, or without features."""


def votes(
    train_MD: Tensor,
    labels_M: Tensor,
    val_ND: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    at_once: int = AT_ONCE,
) -> Tensor:
    """int64 [N]: the class that each image's k nearest images vote for.

    Nearness s is the cosine; a vote weighs exp(s / temperature), and the class with the most
    weight wins, the lowest of equals (Wu et al., CVPR 2018; the evaluation of Caron et al., ICCV
    2021). Exact: every pair is compared, as many at a time as `at_once` says. Of fewer than k
    images all vote.
    """
    bank_MD = normalize(train_MD, dim=1)
    rows, k = max(1, at_once // len(bank_MD)), min(k, len(bank_MD))
    found = []
    for part_PD in val_ND.split(rows):
        near = (normalize(part_PD, dim=1) @ bank_MD.mT).topk(k, dim=1)
        s_Pk = near.values.double()
        # less the nearest, no temperature over- or underflows, and all weights keep their ratio
        weight_Pk = ((s_Pk - s_Pk[:, :1]) / temperature).exp()
        sums_PC = weight_Pk.new_zeros(len(part_PD), classes)
        found.append(sums_PC.scatter_add_(1, labels_M[near.indices], weight_Pk).argmax(1))
    return torch.cat(found)


@dataclass(frozen=True)
class KNNProbe:
    """A probe at work: its images, as some models see them."""

    probe: ResolvedProbe
    train: Loader
    val: Loader

    @classmethod
    def of(
        cls,
        probe: ResolvedProbe,
        data: ResolvedData,
        members: Sequence[Member | None],
        device: torch.device,
        decoders: int = 0,
    ) -> "KNNProbe":
        """members: all that will be asked; data: says how images are kept and what of bad ones."""
        views = [member.model.input.view for member in members if member is not None]
        train, val = (
            Loader(
                open_probe(probe, split),
                views,
                device,
                cache=data.data.cache,
                disk_fraction=DISK_FRACTIONS["val"],
                workers=decoders,
                skip=data.data.on_bad_image == "skip",
            )
            for split in SPLITS
        )
        return cls(probe, train, val)

    def answers(self, members: Sequence[Member | None], batch_size: int = EVAL_BATCH) -> Answers:
        """KNN of each member. Raises BikdError for features that are no finite numbers."""
        bank, asked = (_features(members, part, batch_size) for part in (self.train, self.val))
        found: Answers = []
        for member, train_MD, val_ND in zip(
            members, bank.of_members, asked.of_members, strict=True
        ):
            if member is None or train_MD is None or val_ND is None:
                found.append(None)
                continue
            if not (train_MD.isfinite().all() and val_ND.isfinite().all()):
                raise BikdError(
                    f"{member.model.name} has features that are NaN or infinite on images of the "
                    f"probe {self.probe.name}"
                )
            with tf32(False):
                voted_N = votes(
                    train_MD.to(member.device),
                    torch.from_numpy(self.train.images.labels[bank.rows]).to(member.device),
                    val_ND.to(member.device),
                    self.probe.num_classes,
                    self.probe.probe.k,
                    self.probe.probe.temperature,
                )
            right_N = voted_N.cpu().numpy() == self.val.images.labels[asked.rows]
            scores, value = {KNN.name: right_N}, 100 * float(right_N.mean())
            found.append(Measured({}, scores, {KNN.name: value}))
        return found


@dataclass(frozen=True)
class _Features:
    rows: np.ndarray  # the images that decode
    of_members: list[Tensor | None]  # float32 [N, D]


def _features(members: Sequence[Member | None], loader: Loader, batch_size: int) -> _Features:
    """What the classifiers of all members read, in one pass over the images, in eval mode.

    Where memory runs out, fewer images are taken at a time.
    """
    here = [member for member in members if member is not None]
    modes = [member.network.training for member in here]
    taps = {id(member): FeatureTap(member.network) for member in here}
    rows: list[Tensor] = []
    try:
        with torch.no_grad(), tf32(False):
            for member in here:
                member.network.eval()
                taps[id(member)].__enter__()
            for batch in loader.batches(np.arange(len(loader)), batch_size):
                for member in here:
                    member.output(batch)
                rows.append(batch.index)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or batch_size == 1:
            raise
    else:
        if here and not rows:
            raise BikdError(f"none of the {len(loader)} images of a probe can be read")
        found = [None if m is None else taps[id(m)].features_ND for m in members]
        return _Features(torch.cat(rows).numpy() if rows else np.empty(0, np.int64), found)
    finally:
        for member, mode in zip(here, modes, strict=True):
            taps[id(member)].__exit__()
            member.network.train(mode)
    return _features(members, loader, batch_size // 2)
