"""What a search decided, and how far it is: for the sweep, for its log and for people."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bikd_ray.search.state import Key

Reason = Literal["start", "leader", "second", "group", "pair", "confirm", "control"]


@dataclass(frozen=True)
class Ask:
    """A job that should be trained. members: in the order of their ids; one is a control."""

    members: tuple[str, ...]
    seed: int
    reason: Reason

    @property
    def key(self) -> Key:
        return self.members, self.seed


@dataclass(frozen=True)
class Standing:
    """How far the search is for one target; percentage points. leader: the partner that is expected
    to be the best one, trained or not.
    """

    model: str
    leader: str | None
    winner: str | None
    expected_regret: float
    chance_untrained: float  # that an untrained partner is better than the winner by `regret`
    settled: bool


@dataclass(frozen=True)
class Decision:
    """What to train next, the most urgent first, and why.

    over: nothing will be asked any more unless what is under way changes it. All else is for
    people: nothing of it is read again.
    """

    asks: tuple[Ask, ...]
    over: bool
    standings: tuple[Standing, ...] = ()
    share: float = 0.0  # of the map's work, done or under way
    cells: int = 0
    sigma_t: float = float("nan")
    sigma_w: float = float("nan")
    seed_sd: float = float("nan")
    cost_done: float = 0.0
    cost_map: float = 0.0

    @property
    def settled(self) -> int:
        return sum(s.settled for s in self.standings)

    @property
    def expected_regret(self) -> float:
        """The mean over the targets."""
        return float(np.mean([s.expected_regret for s in self.standings or ()] or [np.nan]))

    def __str__(self) -> str:
        """The progress in words; regret is rounded up, since it is read when it is low."""
        share = f"{100 * self.share:.0f}% of the map"
        if np.isnan(self.expected_regret):
            return f"search: first partners, {share}"
        regret = np.ceil(100 * self.expected_regret - 1e-9) / 100
        return (
            f"search: {self.settled} of {len(self.standings)} models settled, "
            f"expected regret {regret:.2f}, {share}"
        )
