"""What one model's logits say about labelled images.

Suffixes: N samples, C classes, k = min(C, TOP_K).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TOP_K = 32
ECE_BINS = 15


@dataclass(frozen=True)
class Measurement:
    """One model on N samples. Ties between classes go to the lowest index, as argmax has it."""

    label_N: np.ndarray
    predicted_N: np.ndarray
    label_prob_N: np.ndarray
    nll_N: np.ndarray
    top_classes_Nk: np.ndarray
    top_probs_Nk: np.ndarray

    @property
    def correct_N(self) -> np.ndarray:
        return self.predicted_N == self.label_N

    @property
    def top1(self) -> float:
        """Percentage of samples whose most probable class is the label."""
        return 100 * float(self.correct_N.mean())

    @property
    def top5(self) -> float:
        """Percentage of samples whose label is among the five most probable classes."""
        hit = self.top_classes_Nk[:, :5] == self.label_N[:, None]
        return 100 * float(hit.any(1).mean())

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the labels, nats."""
        return float(self.nll_N.mean())

    @property
    def ece(self) -> float:
        """Expected calibration error, a fraction: 15 equal bins of the top probability."""
        confidence = self.top_probs_Nk[:, 0]
        bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
        gap = np.bincount(bins, self.correct_N - confidence.astype(float), ECE_BINS)
        return float(np.abs(gap).sum() / len(confidence))


def measure(logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, ...]:
    """What `Outcome` holds, field by field, on the device of the logits; in float32."""
    logp = logits_NC.float().log_softmax(-1)
    nll_N = -logp.gather(1, labels_N[:, None]).squeeze(1)
    # a stable sort keeps equal probabilities in class order, so that [:, 0] is the argmax
    order = logp.sort(dim=1, descending=True, stable=True)
    k = min(logp.shape[1], TOP_K)
    classes_Nk, probs_Nk = order.indices[:, :k].int(), order.values[:, :k].exp()
    return labels_N, order.indices[:, 0], torch.exp(-nll_N), nll_N, classes_Nk, probs_Nk


def measurement(logits_NC: Tensor, labels_N: Tensor) -> Measurement:
    """Measure logits against labels; the result is on the host."""
    return Measurement(*(tensor.cpu().numpy() for tensor in measure(logits_NC, labels_N)))
