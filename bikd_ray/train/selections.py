"""Which epoch of each learner to keep: the last, and the best by what has been measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from bikd_ray.tasks.classification import Outcome
from bikd_ray.train.evaluate import Evaluation
from bikd_ray.train.member import Member


@dataclass
class Chosen:
    """What one learner was at the epoch that a selection picks."""

    epoch: int
    outcome: Outcome
    state: dict[str, Tensor] | None = field(repr=False)  # None where another worker has it


class Selections:
    """Keeps, for every learner, the epoch that each selection would pick so far.

    The untouched model is epoch 0 and can win; an equal later epoch does not displace an earlier.
    """

    def __init__(self, members: Sequence[Member | None]) -> None:
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
        member, state = self.members[k], None
        if member is not None:
            tensors = member.network.state_dict().items()
            state = {name: t.detach().cpu().clone() for name, t in tensors}
        return Chosen(epoch, val.outcomes[k], state)

    def chosen(self) -> dict[str, list[Chosen]]:
        members = range(len(self.members))
        best = {s: [held[k][1] for k in members] for s, held in self.best.items()}
        return {"last": [self._now(k) for k in members], **best}

    def pack(self) -> dict[str, Any]:
        """The best so far, in what `torch.load(weights_only=True)` reads."""
        return {
            selection: {k: [score, _packed(chosen)] for k, (score, chosen) in held.items()}
            for selection, held in self.best.items()
        }

    def unpack(self, packed: dict[str, Any]) -> None:
        """Take up what `pack` gave."""
        self.best = {
            selection: {k: (score, _unpacked(chosen)) for k, (score, chosen) in held.items()}
            for selection, held in packed.items()
        }


def _packed(chosen: Chosen) -> dict[str, Any]:
    outcome = {f.name: torch.from_numpy(getattr(chosen.outcome, f.name)) for f in fields(Outcome)}
    return {"epoch": chosen.epoch, "outcome": outcome, "state": chosen.state}


def _unpacked(packed: dict[str, Any]) -> Chosen:
    outcome = Outcome(**{name: tensor.numpy() for name, tensor in packed["outcome"].items()})
    return Chosen(packed["epoch"], outcome, packed["state"])
