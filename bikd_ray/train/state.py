"""What a run has become by a step: saved in mid-run, it goes on from there bit for bit.

Random streams are not in it, since every step begins its own (`Learner.reseed`), nor is what the
untouched models answered, since a run that goes on measures them again.
"""

import io
import logging
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch

from bikd_ray.train.best_epochs import BestEpochs
from bikd_ray.train.member import Learner
from bikd_ray.train.step import EpochSums

FORMAT = 3

log = logging.getLogger(__name__)


class States(Protocol):
    """Where the states of one job are kept; a state is written whole or not at all."""

    def steps(self) -> list[int]:
        """The steps whose state can be read by this worker."""
        ...

    def read(self, step: int) -> bytes: ...

    def write(self, step: int, content: bytes) -> None:
        """Keep a state."""
        ...

    def forget(self, before: int) -> None:
        """Take away states of earlier steps."""
        ...


@dataclass
class Position:
    """Where in a run a state was taken: after `step` steps, `batch` of them in `epoch`."""

    step: int = 0
    epoch: int = 1
    batch: int = 0
    micro_batch: int | None = None
    seconds: float = 0.0  # of training so far


def pack(
    at: Position,
    learners: Sequence[Learner | None],
    tally: EpochSums,
    selections: BestEpochs,
    rows: list[list[dict[str, Any]]],
) -> bytes:
    """A run as bytes that `torch.load(weights_only=True)` reads."""
    content = {
        "format": FORMAT,
        "at": asdict(at),
        "learners": [learner and learner.state() for learner in learners],
        "tally": {f.name: getattr(tally, f.name) for f in fields(EpochSums)},
        "selections": selections.pack(),
        "rows": rows,
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def unpack(
    content: bytes, learners: Sequence[Learner | None], selections: BestEpochs
) -> tuple[Position, EpochSums, list[list[dict[str, Any]]]] | None:
    """Put learners and selections back to a state; None, and nothing changed, if it is damaged or
    lacks weights of earlier epochs that are wanted now.
    """
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        log.warning("a saved state is damaged (%s); not used", type(error).__name__)
        return None
    if found["format"] != FORMAT:
        return None
    if selections.lack(found["selections"]):
        log.warning("a saved state lacks weights that are now to be kept; not used")
        return None
    for learner, state in zip(learners, found["learners"], strict=True):
        if learner is not None:
            learner.restore(state)
    selections.unpack(found["selections"])
    return Position(**found["at"]), EpochSums(**found["tally"]), found["rows"]
