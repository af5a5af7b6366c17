"""Who is whose best partner, and how sure that is, from draws of what every partner adds.

Suffixes: D draws, N models (learners first, then partners).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """What draws say of each learner's best partner."""

    leader_N: np.ndarray  # the partner with the largest mean
    regret_N: np.ndarray  # what the leader is expected to lose against the best
    first_NN: np.ndarray  # in which share of the draws a partner is the best
    second_NN: np.ndarray


def ranked(u_DNN: np.ndarray, mean_NN: np.ndarray | None = None) -> Ranking:
    """Read from draws of u; -inf for what is no partner. A learner without any has regret 0.

    mean: of u, where it is known better than from the draws; -inf for what is no partner.
    """
    some_N = np.isfinite(u_DNN[0]).any(1)
    models = np.arange(u_DNN.shape[1])
    leader_N = (u_DNN.mean(0) if mean_NN is None else mean_NN).argmax(1)
    first_DN = u_DNN.argmax(2)
    most_DN = np.take_along_axis(u_DNN, first_DN[..., None], 2)[..., 0]
    with np.errstate(invalid="ignore"):
        regret_N = np.where(some_N, (most_DN - u_DNN[:, models, leader_N]).mean(0), 0.0)
    rest_DNN = u_DNN.copy()
    np.put_along_axis(rest_DNN, first_DN[..., None], -np.inf, 2)
    shares = [_shares(at_DN, len(models)) for at_DN in (first_DN, rest_DNN.argmax(2))]
    return Ranking(leader_N, regret_N, *shares)


def chances_better(
    u_DNN: np.ndarray, winner_N: np.ndarray, others_NN: np.ndarray, by: float
) -> np.ndarray:
    """[N]: in which share of the draws some other partner (booleans) beats the winner by more."""
    models = np.arange(u_DNN.shape[1])
    most_DN = np.where(others_NN, u_DNN, -np.inf).max(2)
    with np.errstate(invalid="ignore"):
        return (most_DN - u_DNN[:, models, winner_N] > by).mean(0)


def _shares(at_DN: np.ndarray, models: int) -> np.ndarray:
    """[N, N]: in which share of the draws each partner stands at a learner's place."""
    flat = at_DN + models * np.arange(at_DN.shape[1])
    counted = np.bincount(flat.ravel(), minlength=at_DN.shape[1] * models)
    return counted.reshape(-1, models) / len(at_DN)
