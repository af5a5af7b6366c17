"""What a search may claim: measured on the half of the images that took no part in any decision.

Most of a search's cells have one seed, of which an interval would speak for those weights alone.
Here the variance over seeds is pooled over all cells of a setting, so that intervals and sets speak
of the recipe. They hold for the partners that were trained; of the others the model alone says
something. Suffixes: P partners, S seeds, N models, D draws.
"""

from dataclasses import dataclass, replace

import numpy as np

from bikd_ray.analysis.halves import on_half
from bikd_ray.analysis.scores import Scores
from bikd_ray.analysis.significance import LEVEL, Estimates, differences, rivals
from bikd_ray.search.choose import Belief
from bikd_ray.search.state import State

CREDIBLE = 0.95


@dataclass(frozen=True)
class Measured:
    """Of one learner's trained partners, percentage points.

    net: less the control of the same seeds; NaN without one. best: the set that holds the truly
    best of these partners with 95%. alpha: of each side of an `interval`.
    """

    delta: Estimates  # [P]
    net: Estimates  # [P]
    best_P: np.ndarray
    images: int
    alpha: float


def measured(
    scores: Scores,
    at_PS: np.ndarray,
    before: int,
    control_S: np.ndarray,
    seed_variance: tuple[float, float],
    looks: int | None = None,
) -> Measured:
    """The answer for one learner.

    scores: of all units. at_PS, control_S: which vector is partner p's, or the control's, with
    seed s; -1 for none. before: the untouched model's. seed_variance: s² and its degrees of
    freedom, `pooled_variance` of `gains_on_half` of the reporting half. looks: None reports on the
    half that took no part; a number reports on all units, where a search may have looked so often
    at each partner (the most seeds it may have), with levels that allow for that and for choosing
    among the partners.
    """
    half = on_half(scores, deciding=None if looks else False)
    delta = differences(half, at_PS, np.array(before))
    net = differences(half, at_PS, control_S)
    between = with_pooled_seeds(rivals(half, at_PS), seed_variance, of=2)
    return Measured(
        with_pooled_seeds(delta, seed_variance),
        with_pooled_seeds(net, seed_variance, of=2),
        best_set_after(between, looks or 1),
        half.n,
        (1 - LEVEL) / 2 / (looks * len(at_PS) if looks else 1),
    )


def interval(estimates: Estimates, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of an interval that leaves out the truth with `alpha` on each side."""
    half_width = estimates.critical(alpha) * estimates.se
    return estimates.mean - half_width, estimates.mean + half_width


def best_set_after(rivals_QP: Estimates, looks: int) -> np.ndarray:
    """`best_set` at its level divided by so many looks: whenever the search stopped, the truly best
    partner has left with 5% at most (Bonferroni).
    """
    known = ~np.isnan(rivals_QP.mean)
    compared = known & ~np.eye(len(known), dtype=bool)
    alpha = (1 - LEVEL) / np.maximum(1, compared.sum(0)) / looks
    return np.asarray(known.diagonal() & ~(rivals_QP.above_zero(alpha) & compared).any(0))


def with_pooled_seeds(
    estimates: Estimates, seed_variance: tuple[float, float], of: int = 1
) -> Estimates:
    """The same with of · s² / S as the variance over S seeds, and the degrees of freedom of s².

    of: how many trained models are compared; the untouched one is none.
    """
    variance, df = seed_variance
    return replace(
        estimates,
        var_seeds=of * variance / np.maximum(1, estimates.seeds),
        seeds=np.where(estimates.seeds > 0, df + 1, 0),
    )


@dataclass(frozen=True)
class Believed:
    """What the model says of a learner's partners, trained or not; percentage points."""

    partners: tuple[str, ...]
    trained_P: np.ndarray
    expected_delta_P: np.ndarray
    chance_best_P: np.ndarray
    chance_untrained: float  # that an untrained partner is better than the winner by `regret`
    winner: str | None


def believed(state: State, belief: Belief, model: str) -> Believed:
    """Of one learner, the partners with the highest expected gain first."""
    i = state.models.index(model)
    others = np.flatnonzero(state.partner_NN[i])
    expected = belief.fit.expected_NN[i, others]
    order = np.argsort(-expected, kind="stable")
    at = others[order]
    winner = int(belief.winner_N[i])
    chance = belief.chance_untrained_N[i]
    return Believed(
        tuple(state.models[j] for j in at),
        state.trained_NN[i, at],
        expected[order],
        belief.ranking.first_NN[i, at],
        float(chance),
        state.models[winner] if winner >= 0 else None,
    )


def credible_set(chance_best_P: np.ndarray) -> np.ndarray:
    """Booleans [P]: the fewest partners that hold the best one with 95% by the model."""
    order = np.argsort(-chance_best_P, kind="stable")
    before = np.cumsum(chance_best_P[order]) - chance_best_P[order]
    found = np.zeros(len(order), bool)
    found[order] = before < CREDIBLE - 1e-12
    return found
