"""Where a search begins: a few partners for every target, spread evenly over the models.

A circulant partial diallel (Kempthorne & Curnow 1961). Suffixes: N models, S seeds.
"""

import numpy as np

from bikd_ray.identity import derived_seed
from bikd_ray.search.state import State


def missing_start(state: State) -> list[tuple[int, int]]:
    """The pairs of the start that have not begun.

    The models stand in a circle, in an order that the setting decides, and each is paired with
    those so many steps away; a step is added until every target has enough partners. Pairs that
    have begun count, whyever they did. Few targets get enough for the model's fewest cells.
    """
    models = len(state.models)
    order = np.random.default_rng(derived_seed("start", state.setting)).permutation(models)
    begun_NN = state.begun_NNS.any(2) & state.partner_NN
    can_NN = state.partner_NN & (state.open_NNS & ~state.begun_NNS).any(2) & ~begun_NN
    least = max(state.rules.start, min(4, -(-8 // max(1, int(state.target_N.sum())))))
    enough_N = np.minimum(least, state.partner_NN.sum(1)) * state.target_N
    short_N = enough_N - begun_NN.sum(1)
    found = []
    for step in circle_steps(models):
        if not (short_N > 0).any():
            break
        for at in range(models if 2 * step != models else step):
            i, j = int(order[at]), int(order[(at + step) % models])
            if can_NN[i, j] and max(short_N[i], short_N[j]) > 0:
                short_N[[i, j]] -= 1
                found.append((i, j))
    return found


def circle_steps(models: int) -> list[int]:
    """All steps of a circle. One step alone is a chain, along which comparisons would be long; the
    second is about the square root of the number of models, so that few pairs join any two.
    """
    steps = list(range(1, models // 2 + 1))
    second = min(max(2, round(models**0.5)), models // 2)
    return sorted(steps, key=lambda step: (step != 1, step != second, step))
