"""Which epoch of each learner to keep: the last, and the best by what has been measured."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bikd_ray.metrics import Metric
from bikd_ray.tasks.base import Measured
from bikd_ray.train.evaluate import Evaluation
from bikd_ray.train.member import Member


@dataclass
class BestEpoch:
    """What one learner was at the epoch that a selection picks."""

    epoch: int
    outcome: Measured
    state: dict[str, Tensor] | None = field(repr=False)  # None: another worker's, or not wanted


class BestEpochs:
    """Keeps, for every learner, the epoch that each selection would pick so far.

    The untouched model is epoch 0 and can win; an equal later epoch does not displace an earlier.
    keep: selections whose weights are wanted; those of others are never copied. metric: by which
    epochs are compared.
    """

    def __init__(
        self, members: Sequence[Member | None], keep: Collection[str], metric: Metric
    ) -> None:
        self.members, self.keep, self.metric = members, frozenset(keep), metric
        self.best: dict[str, dict[int, tuple[float, BestEpoch]]] = {}
        self.last: tuple[int, Evaluation] | None = None

    def see(self, epoch: int, val: Evaluation, held: Evaluation | None) -> None:
        self.last = (epoch, val)
        for k in range(len(self.members)):
            scores = {"best_val": self._goodness(val.outcomes[k])}
            if held:
                scores["best_select"] = self._goodness(held.outcomes[k])
            won = {s: score for s, score in scores.items() if self._beats(s, k, score)}
            if won:
                now = self._now(k, wanted=bool(self.keep & won.keys()))
                for selection, score in won.items():
                    chosen = now if selection in self.keep else replace(now, state=None)
                    self.best.setdefault(selection, {})[k] = (score, chosen)

    def _goodness(self, outcome: Measured) -> float:
        return self.metric.sign * outcome.values[self.metric.name]

    def _beats(self, selection: str, member: int, score: float) -> bool:
        held = self.best.get(selection, {}).get(member)
        return held is None or score > held[0]

    def _now(self, k: int, *, wanted: bool) -> BestEpoch:
        assert self.last is not None
        epoch, val = self.last
        member, state = self.members[k], None
        if member is not None and wanted:
            tensors = member.network.state_dict().items()
            state = {name: t.detach().cpu().clone() for name, t in tensors}
        return BestEpoch(epoch, val.outcomes[k], state)

    def chosen(self) -> dict[str, list[BestEpoch]]:
        members = range(len(self.members))
        best = {s: [held[k][1] for k in members] for s, held in self.best.items()}
        last = [self._now(k, wanted="last" in self.keep) for k in members]
        return {"last": last, **best}

    def pack(self) -> dict[str, Any]:
        """The best so far, in what `torch.load(weights_only=True)` reads."""
        return {
            selection: {k: [score, _packed(chosen)] for k, (score, chosen) in held.items()}
            for selection, held in self.best.items()
        }

    def lack(self, packed: dict[str, Any]) -> bool:
        """Whether weights are wanted that are not in what `pack` gave, which did not want them."""
        return any(
            self.members[k] is not None and chosen["state"] is None
            for selection in self.keep & packed.keys()
            for k, (_, chosen) in packed[selection].items()
        )

    def unpack(self, packed: dict[str, Any]) -> None:
        """Take up what `pack` gave, less weights that are not wanted any more."""
        self.best = {
            selection: {
                k: (score, _unpacked(chosen, wanted=selection in self.keep))
                for k, (score, chosen) in held.items()
            }
            for selection, held in packed.items()
        }


def _packed(chosen: BestEpoch) -> dict[str, Any]:
    tensors = {
        part: {name: torch.from_numpy(array) for name, array in arrays.items()}
        for part, arrays in (
            ("statistics", chosen.outcome.statistics),
            ("sums", chosen.outcome.sums),
            ("scores", chosen.outcome.scores),
        )
    }
    outcome = {**tensors, "values": chosen.outcome.values}
    return {"epoch": chosen.epoch, "outcome": outcome, "state": chosen.state}


def _unpacked(packed: dict[str, Any], *, wanted: bool) -> BestEpoch:
    statistics, sums, scores = (
        {name: tensor.numpy() for name, tensor in packed["outcome"][part].items()}
        for part in ("statistics", "sums", "scores")
    )
    outcome = Measured(statistics, scores, packed["outcome"]["values"], sums)
    return BestEpoch(packed["epoch"], outcome, packed["state"] if wanted else None)
