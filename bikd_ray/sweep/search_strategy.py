"""A search for best partners as a strategy of a sweep: all that it knows stands in the store."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from bikd_ray.search.choose import decide
from bikd_ray.search.decision import Decision
from bikd_ray.search.questions import Asked
from bikd_ray.search.state import State, state_of
from bikd_ray.store.features import Features, earned
from bikd_ray.store.queries import Store
from bikd_ray.store.sightings import Sightings, units
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.strategy import PendingJob, Running

NOTHING = Running(here=(), elsewhere=())
"""Of a store at which nobody works."""

Told = Callable[[Asked, Decision], None]


@dataclass(frozen=True)
class SearchStrategy:
    """Proposes what the searches of a spec ask for, in turns, and then `rest`.

    asked: the questions. jobs: those that this sweep may begin, by their ids. sightings: of the
    store that it is asked about. rest: jobs of the spec about which no search decides. limit: of
    jobs that are begun here. retry: jobs that failed before are tried again. features: of the
    pairs of a question before training; they count once they have earned it. told: hears of every
    decision.
    """

    asked: Sequence[Asked]
    jobs: Mapping[str, PendingJob]
    sightings: Sightings
    rest: Sequence[PendingJob] = ()
    limit: int | None = None
    retry: bool = False
    features: Callable[[Asked], Features] = lambda asked: {}
    told: Told = lambda asked, decision: None
    patience: float = 10.0

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

    def decision(
        self,
        asked: Asked,
        running: Running,
        failed: Collection[str],
        over: Collection[str],
        room: int,
    ) -> Decision:
        """What a search asks for next. over: ids of jobs that are done or failed."""
        state = state_now(asked, self.sightings, running, failed, over)
        return decide(earned(state, self.features(asked)), room)

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
    asked: Asked, decision: Decision, sweep: str, *, half: bool = True
) -> list[dict[str, Any]]:
    """Rows of the table `decisions`, one for each target. half: of the units decides."""
    data_id, recipe_id, objective, metric = asked.question.setting
    about = {
        "sweep": sweep,
        "at": time.time(),
        "objective": objective,
        "metric": metric,
        "recipe_id": recipe_id,
        "data_id": data_id,
        "regret": asked.question.rules.regret,
        "decide_on": "half" if half else "all",
        "cells": decision.cells,
        "cost_done": decision.cost_done,
        "cost_map": decision.cost_map,
        "sigma_t": _known(decision.sigma_t),
        "sigma_w": _known(decision.sigma_w),
        "seed_sd": _known(decision.seed_sd),
    }
    rows = []
    for standing in decision.standings:
        mine = [ask for ask in decision.asks if standing.model in ask.members]
        rows.append(
            {
                **about,
                "model": asked.names[standing.model],
                "model_id": standing.model,
                "leader_id": standing.leader,
                "winner_id": standing.winner,
                "expected_regret": _known(standing.expected_regret),
                "chance_untrained": _known(standing.chance_untrained),
                "settled": standing.settled,
                "job_ids": [asked.jobs[ask.key].job_id for ask in mine],
                "reasons": [ask.reason for ask in mine],
            }
        )
    return rows


def _known(value: float) -> float | None:
    return None if value != value else value


def _ids(asked: Asked, decision: Decision) -> list[str]:
    return [asked.jobs[ask.key].job_id for ask in decision.asks]


def _in_turns(lists: Iterable[Sequence[str]]) -> Iterator[str]:
    return (one for some in zip_longest(*lists) for one in some if one is not None)


def _size(needs: ResourceRequest) -> tuple[float, float]:
    return needs.gpus, needs.cpus
