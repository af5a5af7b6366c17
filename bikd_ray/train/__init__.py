"""The K-model loop in plain torch; knows nothing of Ray or of the store."""

from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.fit import EpochRow, Fit, NonFiniteLoss, StepProgress, fit

__all__ = ["EpochRow", "Fit", "NonFiniteLoss", "StepProgress", "evaluate", "fit"]
