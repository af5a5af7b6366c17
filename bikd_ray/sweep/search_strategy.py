"""Searches for best partners and for groups as strategies of a sweep: all that they know stands in
the store.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, Generic, Protocol, TypeVar

from bikd_ray.grouping import Wished, gains_of
from bikd_ray.plan import Job
from bikd_ray.search.choose import decide
from bikd_ray.search.decision import Ask, Decision
from bikd_ray.search.improve import GroupDecision
from bikd_ray.search.improve import decide as decide_groups
from bikd_ray.search.questions import Asked
from bikd_ray.search.state import Key, State, state_of
from bikd_ray.store.features import Features, earned
from bikd_ray.store.queries import Store
from bikd_ray.store.sightings import Sightings, units
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.strategy import PendingJob, Running

NOTHING = Running(here=(), elsewhere=())
"""Of a store at which nobody works."""


class Wanted(Protocol):
    """What is asked of one setting, and the jobs that it is about."""

    @property
    def setting(self) -> tuple[str, ...]: ...
    @property
    def jobs(self) -> Mapping[Key, Job]: ...
    @property
    def names(self) -> Mapping[str, str]: ...


class Decided(Protocol):
    """What to train next, the most urgent first; its text is for people."""

    @property
    def asks(self) -> tuple[Ask, ...]: ...
    @property
    def over(self) -> bool: ...


W = TypeVar("W", bound=Wanted)
Told = Callable[[Any, Any], None]


@dataclass(frozen=True)
class AskingStrategy(ABC, Generic[W]):
    """Proposes what is asked for by decisions about what is stored, in turns, and then `rest`.

    asked: what is wanted. jobs: those that this sweep may begin, by their ids. rest: jobs of the
    spec about which nobody decides. limit: of jobs that are begun here. retry: jobs that failed
    before are tried again. told: hears of every decision.
    """

    asked: Sequence[W]
    jobs: Mapping[str, PendingJob]
    rest: Sequence[PendingJob] = field(default=(), kw_only=True)
    limit: int | None = field(default=None, kw_only=True)
    retry: bool = field(default=False, kw_only=True)
    told: Told = field(default=lambda asked, decision: None, kw_only=True)
    patience: float = field(default=0.0, kw_only=True)

    def propose(
        self, store: Store, running: Running, free: Callable[[ResourceRequest], int]
    ) -> Sequence[PendingJob] | None:
        again = self.jobs.keys() - set(running.here) if self.retry else set()
        failed = store.failures().keys() - again
        over = store.done() | failed
        active = set(running.here) - over
        largest = max((job.needs for job in self.jobs.values()), key=_size, default=None)
        slots = len(active) + (free(largest) if largest else 0)
        decided = [
            (asked, self.decision(asked, running, failed, over, 2 * max(1, slots)))
            for asked in self.asked
        ]
        ids = dict.fromkeys(
            chain(
                _in_turns([_ids(asked, decision) for asked, decision in decided]),
                (job.job_id for job in self.rest),
            )
        )
        begun = over | set(running.here)
        wanted = [self.jobs[i] for i in ids if i in self.jobs and i not in begun]
        for asked, decision in decided:
            self.told(asked, decision)
        if self.limit is not None:
            wanted = wanted[: max(0, self.limit - len(running.here))]
            if not wanted:
                return None
        waits = active or any(not decision.over for _, decision in decided)
        return wanted or (() if waits else None)

    @abstractmethod
    def decision(
        self,
        asked: W,
        running: Running,
        failed: Collection[str],
        over: Collection[str],
        room: int,
    ) -> Decided:
        """What is asked for next. over: ids of jobs that are done or failed."""

    def left(self, store: Store) -> int:
        """Jobs that it would begin if it went on now; 0 if it is over."""
        failed = store.failures()
        over = store.done() | set(failed)
        ids = {
            i
            for asked in self.asked
            for i in _ids(asked, self.decision(asked, NOTHING, failed, over, 2))
        }
        return len((ids | {job.job_id for job in self.rest}) - over)


@dataclass(frozen=True)
class SearchStrategy(AskingStrategy[Asked]):
    """Searches for best partners. sightings: of the store that it is asked about. features: of the
    pairs of a question before training; they count once they have earned it.
    """

    sightings: Sightings
    features: Callable[[Asked], Features] = lambda asked: {}

    def decision(
        self,
        asked: Asked,
        running: Running,
        failed: Collection[str],
        over: Collection[str],
        room: int,
    ) -> Decision:
        state = state_now(asked, self.sightings, running, failed, over)
        return decide(earned(state, self.features(asked)), room)


@dataclass(frozen=True)
class ImproveStrategy(AskingStrategy[Wished]):
    """Trains groups. selection: whose results. half: whether one half of the units decides."""

    store: Store
    selection: str = "last"
    half: bool = True

    def decision(
        self,
        asked: Wished,
        running: Running,
        failed: Collection[str],
        over: Collection[str],
        room: int,
    ) -> GroupDecision:
        wish, jobs = asked.wish, asked.jobs
        gains = gains_of(self.store, wish.setting, wish.groups, self.selection, self.half or None)
        busy = {*running.here, *running.elsewhere} - {*over}
        return decide_groups(
            wish,
            gains,
            {key for key, job in jobs.items() if job.job_id in busy},
            {key for key, job in jobs.items() if job.job_id in over},
            room,
        )


def state_now(
    asked: Asked,
    sightings: Sightings,
    running: Running = NOTHING,
    failed: Collection[str] = (),
    over: Collection[str] = (),
) -> State:
    """What a store says of a question. over: ids of jobs that are done or failed."""
    question, keys = asked.question, asked.keys
    learned = sightings.of(question.setting)
    seen = [row for one in learned.values() for row in one.seen]
    data = next(iter(asked.jobs.values())).data
    images = units(learned.values(), data.n_val)
    busy = (set(running.here) | set(running.elsewhere)) - set(over)
    # a done job of which nothing can be said is not tried again either
    there = {frozenset(filter(None, (row.learner, row.partner))) | {row.seed} for row in seen}
    silent = {
        i
        for i in sightings.done_jobs(question.setting)
        if i in keys and frozenset(keys[i][0]) | {keys[i][1]} not in there
    }
    return state_of(
        question,
        seen,
        {model: one.image_var for model, one in learned.items()},
        images // 2 if sightings.deciding else images,
        [keys[i] for i in busy if i in keys],
        [keys[i] for i in {*failed, *silent} if i in keys],
    )


def decision_rows(
    asked: Asked | Wished, decision: Decision | GroupDecision, sweep: str, *, half: bool = True
) -> list[dict[str, Any]]:
    """Rows of the table `decisions`, one for each target. half: of the units decides."""
    data_id, recipe_id, objective, metric = asked.setting
    about = {
        "sweep": sweep,
        "at": time.time(),
        "objective": objective,
        "metric": metric,
        "recipe_id": recipe_id,
        "data_id": data_id,
        "decide_on": "half" if half else "all",
        "cost_done": decision.cost_done,
        "cost_map": decision.cost_map,
    }
    rows = _group_rows(decision) if isinstance(decision, GroupDecision) else _rows(asked, decision)
    return [{**about, **row, **_asks(asked, decision, row["model_id"])} for row in rows]


def _asks(asked: Wanted, decision: Decided, model: str) -> dict[str, Any]:
    mine = [ask for ask in decision.asks if model in ask.members]
    return {
        "model": asked.names[model],
        "job_ids": [asked.jobs[ask.key].job_id for ask in mine],
        "reasons": [ask.reason for ask in mine],
    }


def _rows(asked: Asked | Wished, decision: Decision) -> Iterator[dict[str, Any]]:
    assert isinstance(asked, Asked)
    for standing in decision.standings:
        yield {
            "goal": "best_partner",
            "regret": asked.question.rules.regret,
            "cells": decision.cells,
            "sigma_t": _known(decision.sigma_t),
            "sigma_w": _known(decision.sigma_w),
            "seed_sd": _known(decision.seed_sd),
            "model_id": standing.model,
            "leader_id": standing.leader,
            "winner_id": standing.winner,
            "expected_regret": _known(standing.expected_regret),
            "chance_untrained": _known(standing.chance_untrained),
            "settled": standing.settled,
        }


def _group_rows(decision: GroupDecision) -> Iterator[dict[str, Any]]:
    for place in decision.places:
        yield {
            "goal": "improve",
            "model_id": place.model,
            "settled": place.settled,
            "group_ids": list(place.best or ()),
            "next_ids": list(place.next or ()),
            "delta": _known(place.delta),
        }


def _known(value: float) -> float | None:
    return None if value != value else value


def _ids(asked: Wanted, decision: Decided) -> list[str]:
    return [asked.jobs[ask.key].job_id for ask in decision.asks]


def _in_turns(lists: Iterable[Sequence[str]]) -> Iterator[str]:
    return (one for some in zip_longest(*lists) for one in some if one is not None)


def _size(needs: ResourceRequest) -> tuple[float, float]:
    return needs.gpus, needs.cpus
