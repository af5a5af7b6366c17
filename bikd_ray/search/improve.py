"""Which groups are trained for one model, or for all: a pure function of what is known.

A model's groups are nested: it and the first who joins, and the second, … They are trained one
after another with one seed, until a model more makes it worse on the deciding half of the units.
The best of them then gets the seeds that a claim needs, and beside it stand the control and the
best pair of the same seeds. Where all models are wanted each is in one group.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from bikd_ray.analysis.groups import best_size, next_size
from bikd_ray.search.decision import Ask, Reason
from bikd_ray.search.state import Key

K = TypeVar("K")

Members = tuple[str, ...]
"""model_ids in their order, as of a job; one alone is a control."""

Gains = Mapping[Members, Mapping[int, float]]
"""What a model gained on the deciding half: by the members of its job, and its seed."""


@dataclass(frozen=True)
class Wish:
    """What goal `improve` asks of one setting; it stays the same while the sweep goes on.

    setting: data_id, recipe_id, objective, metric. groups: of each model that is to become better,
    the smallest first. nested: they grow; else each has one. jobs: all that may be trained, with
    their work. seeds: in the spec's order. confirm: seeds of the best group. map_work: of
    all pairs and controls with these seeds.
    """

    setting: tuple[str, ...]
    groups: Mapping[str, Sequence[Members]]
    nested: bool
    jobs: Mapping[Key, float]
    seeds: Sequence[int]
    confirm: int = 1
    map_work: float = float("nan")


@dataclass(frozen=True)
class Place:
    """How far it is for one model. best: the group with the largest gain so far, which is `delta`
    on the deciding half. next: the group that is trained or about to be.
    """

    model: str
    best: Members | None
    delta: float
    next: Members | None
    settled: bool


@dataclass(frozen=True)
class GroupDecision:
    """What to train next, and why; see `search.decision.Decision`."""

    asks: tuple[Ask, ...]
    over: bool
    places: tuple[Place, ...]
    share: float
    cost_done: float
    cost_map: float

    @property
    def settled(self) -> int:
        return sum(place.settled for place in self.places)

    def __str__(self) -> str:
        """The progress in words."""
        some = [place.next for place in self.places if place.next]
        sizes = sorted({len(group) for group in some})
        now = f", groups of {' and '.join(map(str, sizes))} now" if sizes else ""
        return (
            f"improve: {self.settled} of {len(self.places)} models settled{now}, "
            f"{100 * self.share:.1f}% of the map"
        )


@dataclass
class _Asking:
    """Asks of one decision: of a job once, of those that may be trained, while there is room."""

    wish: Wish
    over: Collection[Key]
    busy: Collection[Key]
    room: int
    asks: dict[Key, Ask] = field(default_factory=dict)
    waits: bool = False

    def wants(self, members: Members, seed: int, reason: Reason) -> bool:
        """Whether a job is still to come; it is asked for where nobody is at it yet."""
        key = members, seed
        if key in self.over or key not in self.wish.jobs:
            return False
        self.waits = True
        if key not in self.busy and len(self.asks) < self.room:
            self.asks.setdefault(key, Ask(members, seed, reason))
        return True


def decide(
    wish: Wish,
    gains: Mapping[str, Gains],
    busy: Collection[Key],
    over: Collection[Key],
    room: int,
) -> GroupDecision:
    """At most so many jobs (`room`) to train next. Same knowledge, same decision.

    gains: of each model, larger is better. busy: under way, here or elsewhere. over: done, or
    failed and not tried again.
    """
    asking = _Asking(wish, over, busy, room)
    places = [_place(asking, model, gains.get(model, {})) for model in wish.groups]
    done = sum(work for key, work in wish.jobs.items() if key in over or key in busy)
    return GroupDecision(
        tuple(asking.asks.values()),
        not asking.waits,
        tuple(places),
        done / wish.map_work if wish.map_work else 1.0,
        done,
        wish.map_work,
    )


def _place(asking: _Asking, model: str, gains: Gains) -> Place:
    wish, groups = asking.wish, asking.wish.groups[model]
    first = wish.seeds[0]
    known = {group: gains[group] for group in groups if gains.get(group)}
    deltas = {len(group): gain for group, gain in on_shared_seeds(known).items()}
    upcoming = _next(wish, groups, deltas)
    if upcoming is not None and not asking.wants(upcoming, first, "group"):
        upcoming = None  # it failed, or cannot be trained: the groups before it are all there are
    if upcoming is not None:
        asking.wants((model,), first, "control")  # whatever comes of the groups
    size = best_size(deltas)
    best = next((group for group in groups if len(group) == size), None)
    settled = upcoming is None and not (best and _close(asking, model, best, gains))
    delta = deltas[size] if size else float("nan")
    return Place(model, best, delta, upcoming, settled)


def _next(wish: Wish, groups: Sequence[Members], deltas: Mapping[int, float]) -> Members | None:
    """The group to train next, by what those before it gave; None: no more."""
    if not wish.nested:
        return next((group for group in groups if len(group) not in deltas), None)
    size = next_size(deltas, len(groups[-1]) if groups else 1)
    return next((group for group in groups if len(group) == size), None)


def _close(asking: _Asking, model: str, best: Members, gains: Gains) -> bool:
    """Ask for the seeds of the best group, and of what stands beside it; whether some are to come.

    Every job of it is looked at, so that a batch holds them all.
    """
    pair = best_pair(model, gains) if asking.wish.nested else None
    wanted: list[tuple[Members, Reason]] = [(best, "confirm"), ((model,), "control")]
    if pair is not None and pair != best:
        wanted.append((pair, "pair"))
    seeds = asking.wish.seeds[: asking.wish.confirm]
    found = [asking.wants(who, seed, why) for seed in seeds for who, why in wanted]
    return any(found)


def best_pair(model: str, gains: Gains) -> Members | None:
    """Of the pairs that were trained, that in which a model gained most on the deciding half."""
    pairs = {members: gain for members, gain in gains.items() if len(members) == 2 and gain}
    means = on_shared_seeds(pairs)
    return max(sorted(means), key=means.__getitem__) if means else None


def on_shared_seeds(gains: Mapping[K, Mapping[int, float]]) -> dict[K, float]:
    """The mean over the seeds that all have, so that they are compared like with like and no
    further seed of one changes what is chosen; each one's own mean where no seed is in all.
    """
    shared = set.intersection(*(set(seeds) for seeds in gains.values())) if gains else set()
    return {
        one: float(np.mean([gain for seed, gain in seeds.items() if seed in (shared or seeds)]))
        for one, seeds in gains.items()
    }
