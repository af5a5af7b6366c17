"""What is kept of logits, as an evaluation keeps it."""

from torch import Tensor

from bikd_ray.tasks.base import Statistics
from bikd_ray.tasks.classification import statistics_of


def statistics(logits_NC: Tensor, labels_N: Tensor) -> Statistics:
    found = statistics_of(logits_NC.float().log_softmax(-1), labels_N)
    return {name: tensor.numpy() for name, tensor in found.items()}
