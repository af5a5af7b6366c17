"""Searches without a store: questions over a few models, and results drawn for their jobs."""

from itertools import combinations

import numpy as np

from bikd_ray.search.state import Question, Rules, Seen, state_of

SETTING = ("data", "recipe", "bikd", "top1")


def ids(models):
    return [f"m{i:02d}" for i in range(models)]


def question(models=8, seeds=(0, 1, 2), rules=None, controls=False, targets=None, work=None):
    names = ids(models)
    jobs = {
        (pair, s): (work or {}).get(pair, 2.0) for pair in combinations(names, 2) for s in seeds
    }
    if controls:
        jobs |= {((name,), s): 1.0 for name in names for s in seeds}
    return Question(SETTING, targets or names, seeds, jobs, rules or Rules())


def drawn_results(models=8, seeds=3, spread=0.08, seed=0):
    """[N, N, S] of gains; the diagonal is the control's."""
    rng = np.random.default_rng(seed)
    gains = rng.normal(0.6, 0.4, (models, 1)) + spread * rng.standard_normal((models, models))
    noise = 0.03 * rng.standard_normal((models, models, seeds))
    return (gains + 0.05 * rng.standard_normal((models, models)))[..., None] + noise


def rows_of(state):
    """The rows that a store would have of a state's done jobs."""
    return [
        Seen(
            state.models[i],
            None if i == j else state.models[j],
            state.seeds[s],
            float(state.gain_NNS[i, j, s]),
        )
        for i, j, s in np.argwhere(~np.isnan(state.gain_NNS))
    ]


def empty(asked):
    return state_of(asked, [], dict.fromkeys(asked.targets, 0.003), 25_000)
