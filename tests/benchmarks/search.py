"""What a search for best partners costs and finds, on drawn zoos whose truth is known.

python tests/benchmarks/search.py [ZOOS OF 10] [ZOOS OF 30]

A zoo is N models. Its gains, in percentage points, are

    gain[i, j, s] = learns[i] + teaches[j] + own[i, j] + luck[i] + cell[i, j] + seed[i, j, s]

learns ~ N(0, 0.415²). `teaches` and `own` have a variance of 0.085² together, half of it each; a
part of 0.3 of `own` is the same for (i, j) and (j, i). `luck` (0.065) and `cell` (0.039) are what
50,000 images do by chance; on one half of them they are larger by the root of 2, and independent of
the other half's. `seed` has a standard deviation that is drawn for each learner (lognormal, median
0.020, cut at 0.004 and 0.08); a fifth of its variance is shared by all partners of a seed.

Regret is what the winner's true gain lacks of the best partner's. Costs are shares of the map of
three seeds without controls. `set`: how often the returned set holds the true best one, and its
mean size: of maps and of half B the set of `best_set`, which speaks of trained partners; of
searches that decide by all images the model's. `Δ`: how often the winner's 95% interval covers.
`+ claims` adds controls and, of 30 models, a second seed of every winner; its costs are shares of
the map with controls. `+ useless feature` knows a number of each pair that is drawn at random.
The figures of a design study are in brackets; ± is one standard error over zoos. A `!` marks what
differs from the study by more than three standard errors of the difference.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from bikd_ray.analysis.prediction import standardised
from bikd_ray.analysis.significance import Estimates, best_set
from bikd_ray.search.answers import credible_set, with_pooled_seeds
from bikd_ray.search.choose import believe
from bikd_ray.search.replay import regret, searched
from bikd_ray.search.state import Question, Rules, State, pooled_variance, state_of

IMAGES, SEEDS = 50_000, 3
LEARNS, PARTNER, TEACHER_SHARE, SYMMETRIC = 0.415, 0.085, 0.5, 0.3
LUCK, CELL, SEED_MEDIAN, SEED_SPREAD, SEED_SHARED = 0.065, 0.039, 0.020, 0.6, 0.2

ALL, A, B = range(3)  # images: all, the deciding half, the reporting half

STUDY = {  # strategy: N: cost %, mean regret, share within 0.05, P(best), Δ covers
    "map, 3 seeds": {10: (100, 0.013, 0.90, 0.66, 0.93), 30: (100, 0.018, 0.84, 0.58, 0.94)},
    "map, 1 seed": {10: (33, 0.016, 0.87, 0.63, 0.93), 30: (33, 0.020, 0.83, 0.55, 0.92)},
    "random": {10: (25, 0.027, 0.77, 0.52, 0.93), 30: (25, 0.033, 0.73, 0.44, 0.93)},
    "search": {10: (22, 0.023, 0.80, 0.54, 0.95), 30: (14, 0.023, 0.81, 0.51, 0.95)},
    "search, halves": {10: (23, 0.028, 0.77, 0.51, 0.95), 30: (14, 0.029, 0.74, 0.47, 0.96)},
    "+ useless feature": {10: (23, 0.028, 0.77, 0.51, 0.95), 30: (14, 0.029, 0.74, 0.47, 0.96)},
    "+ claims": {10: (24, 0.028, 0.77, 0.51, 0.95), 30: (18, 0.029, 0.74, 0.47, 0.96)},
}
STUDIED = {10: 60, 30: 8}  # zoos behind the study's searches


@dataclass(frozen=True)
class World:
    """True gains [N, N], and results [3, N, N, S] on all images, half A and half B."""

    truth_NN: np.ndarray
    results_3NNS: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Of one strategy in one world: a value for each target."""

    cost: float
    regret_N: np.ndarray
    covered_N: np.ndarray
    in_set_N: np.ndarray
    set_size_N: np.ndarray


def world(models: int, rng: np.random.Generator) -> World:
    def normal(*shape: int, sd: float | np.ndarray = 1.0) -> np.ndarray:
        return sd * rng.standard_normal(shape)

    both = normal(models, models)
    both = np.triu(both, 1) + np.triu(both, 1).T
    own = np.sqrt(SYMMETRIC) * both + np.sqrt(1 - SYMMETRIC) * normal(models, models)
    partner = np.sqrt(TEACHER_SHARE) * normal(models) + np.sqrt(1 - TEACHER_SHARE) * own
    truth_NN = normal(models, 1, sd=LEARNS) + PARTNER * partner
    luck_2N1, cell_2NN = normal(2, models, 1, sd=LUCK), normal(2, models, models, sd=CELL)
    half_2NN = np.sqrt(2) * (luck_2N1 + cell_2NN)
    sd_N = np.clip(SEED_MEDIAN * np.exp(SEED_SPREAD * normal(models)), 0.004, 0.08)[:, None, None]
    seed_NNS = sd_N * (
        np.sqrt(SEED_SHARED) * normal(models, 1, SEEDS)
        + np.sqrt(1 - SEED_SHARED) * normal(models, models, SEEDS)
    )
    luck_3NN = np.stack([half_2NN.mean(0), *half_2NN])
    return World(truth_NN, (truth_NN + luck_3NN)[..., None] + seed_NNS)


def empty(models: int, images: int, rules: Rules, controls: bool) -> State:
    """Nothing is done yet; what images do to a cell is known, as it is with stored answers."""
    ids = [f"m{i:02d}" for i in range(models)]
    jobs = {(pair, seed): 1.0 for pair in combinations(ids, 2) for seed in range(SEEDS)}
    if controls:
        jobs |= {((one,), seed): 0.5 for one in ids for seed in range(SEEDS)}
    question = Question(("simulated",), ids, range(SEEDS), jobs, rules)
    image_var = CELL**2 * IMAGES / images
    return state_of(question, [], dict.fromkeys(ids, image_var), images)


def outcome(
    w: World, done_NNS: np.ndarray, winner_N: np.ndarray, report: int,
    sets_NN: np.ndarray | None = None,
) -> Outcome:  # fmt: skip
    """What is claimed of the winners, on some images; sets: unless they are of the same images."""
    gain_NNS = np.where(done_NNS, w.results_3NNS[report], np.nan)
    models = np.arange(len(winner_N))
    off = ~np.eye(len(models), dtype=bool)
    seeds_NN = done_NNS.sum(2)
    mean_NN = np.where(done_NNS, gain_NNS, 0).sum(2) / np.maximum(1, seeds_NN)
    seed_variance = pooled_variance(gain_NNS, 0.03**2, 4)
    n = IMAGES if report == ALL else IMAGES // 2
    cell_var, all_var = (x * IMAGES / n for x in (CELL**2, CELL**2 + LUCK**2))
    truth_N = w.truth_NN[models, winner_N]
    mean_N, seeds_N = mean_NN[models, winner_N], seeds_NN[models, winner_N]
    none = np.zeros(len(models))
    delta = with_pooled_seeds(Estimates(mean_N, none + all_var, none, seeds_N, n), seed_variance)
    if sets_NN is None:
        sets_NN = np.zeros(off.shape, bool)
        for i in models:
            there = np.flatnonzero(seeds_NN[i])
            between = mean_NN[i, there][:, None] - mean_NN[i, there]
            shared = np.minimum(seeds_NN[i, there][:, None], seeds_NN[i, there])
            rivals = Estimates(between, np.full(between.shape, 2 * cell_var), between, shared, n)
            sets_NN[i, there] = best_set(with_pooled_seeds(rivals, seed_variance, of=2))
        best_N = np.where(off & (seeds_NN > 0), w.truth_NN, -np.inf).argmax(1)
    else:
        best_N = np.where(off, w.truth_NN, -np.inf).argmax(1)
    cost = np.triu(done_NNS.sum(2)).sum() / (SEEDS * len(models) * (len(models) - 1) / 2)
    return Outcome(
        float(cost),
        regret(w.truth_NN, winner_N, off),
        (delta.low <= truth_N) & (truth_N <= delta.high),
        sets_NN[models, best_N],
        sets_NN.sum(1),
    )


def of_map(w: World, seeds: int) -> Outcome:
    """Every pair, and the partner with the largest mean."""
    off = ~np.eye(len(w.truth_NN), dtype=bool)
    done_NNS = off[..., None] & (np.arange(SEEDS) < seeds)
    return outcome(w, done_NNS, _best_seen(w.results_3NNS[ALL], done_NNS), ALL)


def of_random(w: World, share: float, rng: np.random.Generator) -> Outcome:
    """Random pairs with one seed each, up to a share of the map, and the best that was seen; every
    model has a partner."""
    models = len(w.truth_NN)
    i_P, j_P = np.triu_indices(models, 1)
    count = round(share * SEEDS * len(i_P))
    first = rng.permutation(models).reshape(-1, 2)
    done_NNS = np.zeros((models, models, SEEDS), bool)
    done_NNS[first[:, 0], first[:, 1], 0] = done_NNS[first[:, 1], first[:, 0], 0] = True
    rest = [p for p in rng.permutation(len(i_P)) if not done_NNS[i_P[p], j_P[p], 0]]
    for p in rest[: count - len(first)]:
        done_NNS[i_P[p], j_P[p], 0] = done_NNS[j_P[p], i_P[p], 0] = True
    return outcome(w, done_NNS, _best_seen(w.results_3NNS[ALL], done_NNS), ALL)


def _best_seen(results_NNS: np.ndarray, done_NNS: np.ndarray) -> np.ndarray:
    seen_NN = np.where(done_NNS, results_NNS, 0).sum(2) / np.maximum(1, done_NNS.sum(2))
    return np.where(done_NNS.any(2), seen_NN, -np.inf).argmax(1)


def of_search(
    w: World, halves: bool, claims: bool = False, noise: np.random.Generator | None = None
) -> Outcome:
    """The search: by default without controls and with one seed of the winners, as the study had
    it."""
    models = len(w.truth_NN)
    images = IMAGES // 2 if halves else IMAGES
    rules = Rules() if claims else Rules(confirm=1)
    start = empty(models, images, rules, controls=claims)
    if noise is not None:
        raw = standardised(noise.standard_normal((1, models, models)))
        start = replace(start, features_FNN=raw)
    *_, (last, decision) = searched(start, w.results_3NNS[A if halves else ALL])
    belief = believe(last)
    done_NNS = last.done_NNS & ~np.eye(models, dtype=bool)[..., None]
    if halves:
        found = outcome(w, done_NNS, belief.winner_N, B)
    else:
        sets_NN = np.array([credible_set(chances) for chances in belief.ranking.first_NN])
        found = outcome(w, done_NNS, belief.winner_N, ALL, sets_NN)
    return replace(found, cost=decision.share)


def table(models: int, zoos: int) -> None:
    rng = np.random.default_rng(models)
    worlds = [world(models, rng) for _ in range(zoos)]
    strategies: dict[str, Callable[[World], Outcome]] = {
        "map, 3 seeds": lambda w: of_map(w, SEEDS),
        "map, 1 seed": lambda w: of_map(w, 1),
        "random": lambda w: of_random(w, 0.25, rng),
        "search": lambda w: of_search(w, halves=False),
        "search, halves": lambda w: of_search(w, halves=True),
        "+ useless feature": lambda w: of_search(w, halves=True, noise=rng),
        "+ claims": lambda w: of_search(w, halves=True, claims=True),
    }
    print(f"\nN = {models}, {zoos} zoos")
    columns = ("cost %", "mean regret", "within .05", "P(best)", "Δ covers", "set (size)")
    print(" " * 18 + "".join(f"{column:>19s}  " for column in columns))
    for name, strategy in strategies.items():
        began = time.process_time()
        found = [strategy(w) for w in worlds]
        rows = np.array([
            [
                100 * o.cost,
                o.regret_N.mean(),
                (o.regret_N <= 0.05).mean(),
                (o.regret_N <= 1e-12).mean(),
                o.covered_N.mean(),
                o.in_set_N.mean(),
                o.set_size_N.mean(),
            ]
            for o in found
        ])  # fmt: skip
        mean, error = rows.mean(0), rows.std(0, ddof=1) / len(rows) ** 0.5
        theirs = STUDY[name][models]
        texts = [f"{mean[0]:.1f}±{error[0]:.1f} ({theirs[0]})"]
        texts += [f"{mean[1]:.3f}±{error[1]:.3f} ({theirs[1]:.3f})"]
        texts += [f"{mean[k]:.2f}±{error[k]:.2f} ({theirs[k]:.2f})" for k in (2, 3, 4)]
        both = error[:5] * np.sqrt(1 + zoos / STUDIED[models])
        rounded = np.array([0.5, 0.0005, 0.005, 0.005, 0.005])
        apart = np.abs(mean[:5] - theirs) > 3 * both + rounded
        texts = [text + (" !" if far else "  ") for text, far in zip(texts, apart, strict=True)]
        texts += [f"{mean[5]:.2f}±{error[5]:.2f} ({mean[6]:.0f})  "]
        line = "".join(f"{text:>21s}" for text in texts)
        print(f"{name:18s}{line}{time.process_time() - began:5.0f} s")


def main() -> None:
    given = [int(x) for x in sys.argv[1:]]
    for models, zoos in zip((10, 30), given or (200, 50), strict=False):
        table(models, zoos)


if __name__ == "__main__":
    main()
