"""Which jobs a search trains next: a pure function of what it knows.

First every target gets a few partners (a circulant partial diallel: Kempthorne & Curnow 1961).
Then each batch takes the pairs that are likeliest to be somebody's best or second best (top-two
sampling: Russo 2016, averaged over the draws), until every target's leader is expected to lose
little. Last the winners get what a claim needs. Suffixes: N models, S seeds, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bikd_ray.analysis.ranking import Ranking, chances_better, ranked
from bikd_ray.analysis.twoway import TwoWay, fitted
from bikd_ray.search.decision import Ask, Decision, Reason, Standing
from bikd_ray.search.start import missing_start
from bikd_ray.search.state import State

FEWEST_CELLS = 8
"""Gains that the model needs; before that there is only the start."""

SEED_AGAIN = 0.3
"""What a further seed of a trained pair is worth against a first one, divided by its seeds."""

UNTRAINED_LEADER = 10.0
"""What is added to the score of a leader that has no result yet: nothing goes before it."""

MANY_MODELS = 15
"""From so many on a winner gets a second seed, where the rules leave it open."""


@dataclass(frozen=True)
class Belief:
    """What the model says of a state."""

    fit: TwoWay
    u_DNN: np.ndarray  # -inf for what is no partner in the map
    ranking: Ranking
    winner_N: np.ndarray  # the trained partner with the largest mean; -1: none
    chance_untrained_N: np.ndarray  # that an untrained one is better by more than `regret`


@dataclass
class _Batch:
    """Jobs that are being chosen: what has begun, with them, and what they leave to spend."""

    state: State
    room: int
    left: float
    begun_NNS: np.ndarray
    asks: list[Ask] = field(default_factory=list)

    @classmethod
    def within_share(cls, state: State, room: int) -> "_Batch":
        left = state.rules.share * state.map_work - state.spent
        return cls(state, room, left, state.begun_NNS.copy())

    def next_seed(self, i: int, j: int) -> int:
        """The first seed of a job that may be begun, in the spec's order; -1: none."""
        free = self.state.open_NNS[i, j] & ~self.begun_NNS[i, j]
        return int(np.argmax(free)) if free.any() else -1

    def take(self, i: int, j: int, seed: int, reason: Reason, spend: bool = True) -> bool:
        """Whether a job could be added: while there is room, and it can be afforded."""
        work = self.state.work_NN[i, j]
        if len(self.asks) >= self.room or (spend and work > self.left):
            return False
        self.begun_NNS[[i, j], [j, i], seed] = True
        self.left -= work
        members = (self.state.models[m] for m in sorted({i, j}))
        self.asks.append(Ask(tuple(members), self.state.seeds[seed], reason))
        return True


def decide(state: State, room: int) -> Decision:
    """At most so many jobs (`room`) to train next. Same state, same decision."""
    asks = start_jobs(state, room)
    belief = believe(state) if len(state.cells) >= FEWEST_CELLS else None
    if belief is not None and not asks:
        asks = next_jobs(state, belief, room) or closing_jobs(state, belief.winner_N, room)
    of_map = state.open_NNS & state.busy_NNS
    over = room > 0 and not asks and not of_map.any()
    return _decision(state, belief, tuple(asks), over)


def believe(state: State) -> Belief:
    """The model of all cells, and draws of it that depend on nothing but what is done."""
    fit = fitted(state.cells, len(state.models), state.used_features_FNN)
    u_DNN = fit.draws(state.seed(), state.rules.draws)[1]
    u_DNN = np.where(state.partner_NN, u_DNN, -np.inf)
    mean_NN = np.where(state.partner_NN, fit.effect_NN, -np.inf)
    ranking = ranked(u_DNN, mean_NN)
    mine_NN = state.trained_NN & state.partner_NN
    some_N = mine_NN.any(1)
    winner_N = np.where(mine_NN, mean_NN, -np.inf).argmax(1)
    untrained_NN = state.partner_NN & ~state.trained_NN
    chances_N = chances_better(u_DNN, winner_N, untrained_NN, by=state.rules.regret)
    chances_N = np.where(some_N, chances_N, untrained_NN.any(1))
    return Belief(fit, u_DNN, ranking, np.where(some_N, winner_N, -1), chances_N)


def start_jobs(state: State, room: int) -> list[Ask]:
    """Those of the start, whatever the share: without them nothing can be chosen."""
    batch = _Batch.within_share(state, room)
    for i, j in missing_start(state):
        batch.take(i, j, batch.next_seed(i, j), "start", spend=False)
    return batch.asks


def active(state: State, ranking: Ranking) -> np.ndarray:
    """Booleans [N]: targets that are not settled. One whose leader is under way waits for it."""
    models = np.arange(len(state.models))
    untrained_N = ~state.begun_NNS[models, ranking.leader_N].any(1)
    unsettled_N = (ranking.regret_N > state.rules.regret) | untrained_N
    return unsettled_N & state.target_N & state.partner_NN.any(1)


def promise(state: State, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    """[N, N] and [N, N], symmetric: what a seed of a pair promises for its work by its chances, and
    how many unsettled models it leads.

    By its chances: the sum over both models i, if unsettled, of (P(j first) + P(j second)) / 2,
    divided by the pair's work in relation to the others'.
    """
    unsettled_N = active(state, ranking)[:, None]
    relative_NN = np.where(state.partner_NN, state.work_NN, np.inf)
    relative_NN = relative_NN / state.work_NN[np.triu(state.partner_NN)].mean()
    chance_NN = (ranking.first_NN + ranking.second_NN) / 2 * unsettled_N
    leads_NN = unsettled_N & (ranking.leader_N[:, None] == np.arange(len(unsettled_N)))
    return (chance_NN + chance_NN.T) / relative_NN, (leads_NN + 0 + leads_NN.T) / relative_NN


def score(chance: np.ndarray, leads: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """What the next seed of a pair promises: a first one of a leader before everything else."""
    again = SEED_AGAIN / np.maximum(1, seeds)
    return np.where(seeds > 0, chance * again, chance + UNTRAINED_LEADER * leads)


def next_jobs(state: State, belief: Belief, room: int) -> list[Ask]:
    """The best pairs, one at a time, as long as the share has room for closing the search after
    them; of one model only a few in a batch.
    """
    pairs = np.nonzero(np.triu(state.partner_NN))
    if not len(pairs[0]):
        return []
    batch, leader_N = _Batch.within_share(state, room), belief.ranking.leader_N
    candidate_N = np.where(belief.winner_N >= 0, belief.winner_N, leader_N)
    batch.left -= closing_work(state, candidate_N)
    most = 2 * -(-2 * batch.room // len(state.models)) + 2
    of_model_N = np.zeros(len(state.models), int)
    i_P, j_P = pairs
    chance_P, leads_P = (x_NN[pairs] for x_NN in promise(state, belief.ranking))
    work_P, seeds_P = state.work_NN[pairs], batch.begun_NNS[pairs].sum(1)
    left_P = (state.open_NNS & ~batch.begun_NNS)[pairs].sum(1)
    while len(batch.asks) < batch.room:
        may_P = (left_P > 0) & (work_P <= batch.left)
        may_P &= (of_model_N[i_P] < most) & (of_model_N[j_P] < most)
        score_P = score(chance_P, leads_P, seeds_P) * may_P
        best = int(np.argmax(score_P))
        if not score_P[best] > 0:
            break
        i, j = int(i_P[best]), int(j_P[best])
        leads = leader_N[i] == j or leader_N[j] == i
        batch.take(i, j, batch.next_seed(i, j), "leader" if leads else "second")
        if seeds_P[best]:  # its winner would need another control of both
            batch.left -= state.work_NN[i, i] + state.work_NN[j, j]
        seeds_P[best] += 1
        left_P[best] -= 1
        of_model_N[[i, j]] += 1
    return batch.asks


def closing_jobs(state: State, winner_N: np.ndarray, room: int) -> list[Ask]:
    """The controls of the winners' seeds, then further seeds of the winners with theirs.

    Controls are asked for whatever the share: a gain without one is no claim. `next_jobs` has left
    room for them, unless another partner has won since.
    """
    return _close(_Batch.within_share(state, room), winner_N)


def _close(batch: _Batch, winner_N: np.ndarray) -> list[Ask]:
    pairs = _winners(batch.state, winner_N)
    models = int(batch.state.partner_NN.any(1).sum())
    seeds = confirmed_seeds(batch.state.rules.confirm, models)
    _add_controls(batch, pairs)
    for i, j in pairs:
        while batch.begun_NNS[i, j].sum() < seeds:
            seed = batch.next_seed(i, j)
            if seed < 0 or not batch.take(i, j, seed, "confirm"):
                break
    _add_controls(batch, pairs)
    return batch.asks


def _add_controls(batch: _Batch, pairs: Sequence[tuple[int, int]]) -> None:
    for i, j in pairs:
        wanted_S = batch.begun_NNS[i, j] & batch.state.open_NNS[i, i] & ~batch.begun_NNS[i, i]
        for seed in np.flatnonzero(wanted_S):
            batch.take(i, i, int(seed), "control", spend=False)


def closing_work(state: State, winner_N: np.ndarray) -> float:
    """The work of `closing_jobs` if these were the winners, each with a seed at least."""
    begun = state.begun_NNS.copy()
    for i, j in _winners(state, winner_N):
        if not begun[i, j].any():
            begun[[i, j], [j, i], int(np.argmax(state.open_NNS[i, j]))] = True
    batch = _Batch(state, begun.size, state.map_work, begun)
    _close(batch, winner_N)
    return state.map_work - batch.left


def confirmed_seeds(given: int | None, models: int) -> int:
    """How many seeds a winner should have; None: 2 where there are many models, else 1."""
    return given if given is not None else 2 if models >= MANY_MODELS else 1


def _winners(state: State, winner_N: np.ndarray) -> Sequence[tuple[int, int]]:
    return [(int(i), int(winner_N[i])) for i in np.flatnonzero(state.target_N & (winner_N >= 0))]


def _decision(state: State, belief: Belief | None, asks: tuple[Ask, ...], over: bool) -> Decision:
    share = state.spent / state.map_work if state.map_work else 1.0
    known = {"cost_done": state.spent, "cost_map": state.map_work, "cells": len(state.cells)}
    if belief is None:
        nothing = tuple(
            Standing(state.models[i], None, None, np.nan, np.nan, False)
            for i in np.flatnonzero(state.target_N)
        )
        return Decision(asks, over, nothing, share, **known)
    unsettled_N = active(state, belief.ranking)
    standings = tuple(
        Standing(
            state.models[i],
            state.models[belief.ranking.leader_N[i]] if state.partner_NN[i].any() else None,
            state.models[belief.winner_N[i]] if belief.winner_N[i] >= 0 else None,
            float(belief.ranking.regret_N[i]),
            float(belief.chance_untrained_N[i]),
            not unsettled_N[i],
        )
        for i in np.flatnonzero(state.target_N)
    )
    sigma_t, sigma_w = belief.fit.sigmas
    return Decision(
        asks,
        over,
        standings,
        share,
        **known,
        sigma_t=sigma_t,
        sigma_w=sigma_w,
        seed_sd=state.seed_variance[0] ** 0.5,
    )
