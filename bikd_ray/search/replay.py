"""A search over jobs whose results are known already: those of a stored map, or of a drawn world.

Every job is a function of its pair and seed, so a search over a table of all results is the search
itself without the training. Suffixes: N models, S seeds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bikd_ray.analysis.twoway import TwoWay, fitted
from bikd_ray.search.choose import decide
from bikd_ray.search.decision import Decision
from bikd_ray.search.state import State

REPLAYS, SECONDS, ROUNDS = 20, 4.0, 8
"""Of a forecast: so many at most, in about so much time, with so many batches after the start."""


FORECAST_DRAWS = 100
"""For each decision of a forecast: its batches are rough, too."""


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to take: the middle 80% of the replays.

    jobs: of the map that will be done at the end, those included that are done now. regret: of the
    winners against the truly best partners, percentage points, mean over the targets.
    """

    jobs: tuple[int, int]
    share: tuple[float, float]
    regret: tuple[float, float]
    map_jobs: int
    replays: int

    def __str__(self) -> str:
        jobs = _from_to([f"{jobs:,}" for jobs in self.jobs])
        share = _from_to([f"{100 * share:.0f}" for share in self.share])
        regret = _from_to([f"{regret:.2f}" for regret in self.regret])
        return (
            f"best_partner: about {jobs} of the map's {self.map_jobs:,} jobs, {share}% of its "
            f"work; expected regret {regret}"
        )


def _from_to(ends: Sequence[str]) -> str:
    return "–".join(dict.fromkeys(ends))


def searched(
    state: State, results_NNS: np.ndarray, room: int | None = None
) -> Iterator[tuple[State, Decision]]:
    """Each state of a search and what was decided then; of the last one nothing is asked.

    results_NNS: the gain of every job, on the deciding half, as `State.gain_NNS`. room: of a batch;
    by default ROUNDS batches use up the share.
    """
    at = {model: i for i, model in enumerate(state.models)}
    seed_at = {seed: s for s, seed in enumerate(state.seeds)}
    room = room or batch_size(state)
    while True:
        decision = decide(state, room)
        yield state, decision
        if not decision.asks:
            return
        gain_NNS = state.gain_NNS.copy()
        for ask in decision.asks:
            i, j = at[ask.members[0]], at[ask.members[-1]]
            s = seed_at[ask.seed]
            gain_NNS[[i, j], [j, i], s] = results_NNS[[i, j], [j, i], s]
        state = replace(state, gain_NNS=gain_NNS)


def batch_size(state: State) -> int:
    """Jobs of a batch, of which ROUNDS and the start make up the share."""
    jobs = int(np.triu(state.open_NNS.any(2), 1).sum()) * int(state.open_NNS.any((0, 1)).sum())
    start = state.rules.start * int(state.target_N.sum()) / 2
    return max(1, round((state.rules.share * jobs - start) / ROUNDS))


def winners(state: State, decision: Decision) -> np.ndarray:
    """[N] of partners; -1 where a model is no target, or has none."""
    at = {model: i for i, model in enumerate(state.models)}
    found = np.full(len(state.models), -1)
    for standing in decision.standings:
        if standing.winner is not None:
            found[at[standing.model]] = at[standing.winner]
    return found


def regret(truth_NN: np.ndarray, winner_N: np.ndarray, partner_NN: np.ndarray) -> np.ndarray:
    """[targets with a winner]: what each winner gains less than the best partner in truth."""
    there = np.flatnonzero(winner_N >= 0)
    best = np.where(partner_NN, truth_NN, -np.inf)[there].max(1)
    return best - truth_NN[there, winner_N[there]]


def lost_to_map(
    decided_NNS: np.ndarray, reported_NNS: np.ndarray, winner_N: np.ndarray, partner_NN: np.ndarray
) -> np.ndarray:
    """[targets with a winner]: what the whole map's choice gains more than the search's winner.

    Both have chosen on the deciding half, the map by the means of all its results there
    (decided_NNS), and are measured on the reporting half (reported_NNS): unbiased, and negative
    where the map chose worse.
    """
    there = np.flatnonzero(winner_N >= 0)
    by_map_N = np.where(partner_NN, np.nanmean(_off(decided_NNS), 2), -np.inf).argmax(1)
    reported_NN = np.nanmean(_off(reported_NNS), 2)
    return reported_NN[there, by_map_N[there]] - reported_NN[there, winner_N[there]]


def _off(results_NNS: np.ndarray) -> np.ndarray:
    """0 for models with themselves, which have no partner's result."""
    return np.where(np.eye(len(results_NNS), dtype=bool)[..., None], 0.0, results_NNS)


def forecast(
    state: State, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
) -> Forecast:
    """Replays on worlds drawn from what is believed now, the prior in an empty store.

    As many as the time allows, one at least; each is the same whenever it is made.
    """
    fit = fitted(state.cells, len(state.models), state.used_features_FNN)
    room = 2 * batch_size(state)
    rough = replace(state, rules=replace(state.rules, draws=FORECAST_DRAWS))
    if not decide(state, room).asks:
        rough = state  # a search that is over stays so
    began = clock()
    ends = []
    for number in range(REPLAYS):
        if number and (clock() - began) * (number + 1) / number > seconds:
            break
        rng = np.random.default_rng(state.seed("forecast", number))
        truth_NN, results_NNS = drawn(state, fit, rng)
        *_, (last, decision) = searched(rough, results_NNS, room)
        lost = regret(truth_NN, winners(last, decision), last.partner_NN)
        done = int(np.triu((last.done_NNS & last.open_NNS).transpose(2, 0, 1)).sum())
        ends.append((done, decision.share, lost.mean() if len(lost) else np.nan))
    low, high = np.quantile(np.array(ends), (0.1, 0.9), axis=0)
    jobs = int(np.triu(state.open_NNS.transpose(2, 0, 1)).sum())
    return Forecast(
        (round(low[0]), round(high[0])), (low[1], high[1]), (low[2], high[2]), jobs, len(ends)
    )


def drawn(state: State, fit: TwoWay, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """True gains [N, N] and all results [N, N, S], as likely as what is known allows.

    What is done stays as it is. A cell's image luck is drawn given its residual.
    """
    seed = int(rng.integers(2**62))
    a_1N, u_1NN = fit.draws(seed, 1)
    truth_NN = fit.centre + a_1N[0][:, None] + u_1NN[0]
    known_NNS = ~np.isnan(state.gain_NNS)
    seed_var = state.seed_variance[0]
    seeds_NN = known_NNS.sum(2)
    mean_NN = np.where(known_NNS, state.gain_NNS, 0).sum(2) / np.maximum(1, seeds_NN)
    image_NN = np.broadcast_to(state.cell_var_N[:, None], truth_NN.shape)
    with np.errstate(divide="ignore"):
        precision_NN = 1 / image_NN + seeds_NN / seed_var
    share_NN = seeds_NN / seed_var / precision_NN
    luck_NN = share_NN * (mean_NN - truth_NN)
    luck_NN = luck_NN + rng.standard_normal(truth_NN.shape) / np.sqrt(precision_NN)
    noise_NNS = rng.standard_normal(state.gain_NNS.shape) * np.sqrt(seed_var)
    results_NNS = (truth_NN + luck_NN)[..., None] + noise_NNS
    return truth_NN, np.where(known_NNS, state.gain_NNS, results_NNS)
