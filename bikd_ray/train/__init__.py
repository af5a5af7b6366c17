"""The K-model loop in plain torch; knows nothing of Ray or of the store."""

from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.fit import Beat, EpochRow, Fit, NonFiniteLoss, fit

__all__ = ["Beat", "EpochRow", "Fit", "NonFiniteLoss", "evaluate", "fit"]
