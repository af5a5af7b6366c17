"""Images of classes: what logits are compared by, taught by and measured by.

On a further set models choose among its classes alone, as the authors of ImageNet-A and -R do, and
any of several right labels of an image is right (Beyer et al. 2020, ReaL).

Suffixes: B and N samples, C classes, k = min(C, TOP_K); E = C events at P = 1 position; M right
labels of an image at most, filled up with -1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.tasks.base import Head, Prediction, Statistics, Task
from bikd_ray.tasks.classification_metrics import METRICS

if TYPE_CHECKING:
    from bikd_ray.data.labels import LabelSpace
    from bikd_ray.data.loader import Batch
    from bikd_ray.data.sources import ImageSet
    from bikd_ray.plan import FurtherSet, ResolvedData, ResolvedInput, ResolvedModel
    from bikd_ray.specs import Data, ZooEntry

TOP_K = 32
ECE_BINS = 15


class Classification(Task):
    """One class for each image. Ties between classes go to the lowest index, as argmax has it."""

    name = "classification"
    metrics = METRICS
    table = "predictions"
    features = True
    labels_are_targets = True

    def __init__(self, kept: Sequence[int] | None = None) -> None:
        """kept: the classes between which models are asked to decide; None for all."""
        self.kept = None if kept is None else np.asarray(kept, np.int64)

    def head(self, entry: "ZooEntry", network: nn.Module, how: "ResolvedInput") -> Head:
        """Its logits."""
        from bikd_ray.zoo.resolve import classifier

        return classifier(entry, network, how)

    def label_space(self, opened: Mapping[str, "ImageSet"], data: "Data") -> "LabelSpace":
        """The classes, in the order of the models' outputs."""
        from bikd_ray.data.labels import class_list, label_space

        given = class_list(data.classes) if data.classes else None
        return label_space(opened, num_classes=data.num_classes, given=given)

    def relabel(self, images: "ImageSet", classes: tuple[str, ...] | None) -> None:
        from bikd_ray.data.labels import relabelled

        images.labels = relabelled(images, classes)

    def check(self, model: "ResolvedModel", data: "ResolvedData") -> None:
        """The head has the data's classes, in their order."""
        from bikd_ray.zoo import check_classes

        check_classes(model, data.num_classes, data.classes)

    def kept_shape(self, data: "ResolvedData") -> tuple[int, int]:
        return (data.num_classes, 1)

    def predict(self, output: Any, batch: "Batch") -> Prediction:
        return Prediction(_raised(_logits(output)).log_softmax(-1)[..., None])

    def loss(self, output: Any, prediction: Prediction, batch: "Batch") -> Tensor:
        """Cross-entropy."""
        log_prob_BC = prediction.log_prob_BEP.squeeze(2)
        return -log_prob_BC.gather(1, batch.target[:, None]).squeeze(1)

    def right(self, prediction: Prediction, batch: "Batch") -> Tensor:
        return prediction.log_prob_BEP.squeeze(2).argmax(1) == batch.target

    def on(self, part: "FurtherSet") -> "Task":
        return self if part.kept is None else Classification(part.kept)

    def answer(self, output: Any, batch: "Batch") -> Tensor:
        logits_BC = _logits(output).float()
        if self.kept is not None:
            logits_BC = logits_BC[:, torch.from_numpy(self.kept).to(logits_BC.device)]
        return logits_BC.log_softmax(-1)[..., None]

    def ensemble(self, answers: Sequence[Any]) -> Tensor:
        return torch.stack(tuple(answers)).logsumexp(0) - math.log(len(answers))

    def measure(self, answer: Any, batch: "Batch") -> dict[str, Tensor]:
        """`top_classes` and `top_probs` [B, k], the most probable first; the others [B]. Classes
        are the data's, whichever are kept.
        """
        labels, log_prob_BC = batch.target, answer.squeeze(2)
        if self.kept is None:
            return statistics_of(log_prob_BC, labels)
        kept = torch.from_numpy(self.kept).to(labels.device)
        places = torch.searchsorted(kept, labels.contiguous())  # all labels are kept ones, or -1
        found = statistics_of(log_prob_BC, torch.where(labels < 0, labels, places))
        of_classes = ("label", "predicted", "top_classes")
        return found | {name: kept[found[name].long()].to(found[name].dtype) for name in of_classes}

    def scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """top5: whether the label is among the five most probable classes."""
        label_N, correct_N = statistics["label"], correct(statistics)
        return {
            "top1": correct_N,
            "top5": (statistics["top_classes"][:, :5] == label_N[:, None]).any(1),
            "nll": statistics["nll"],
            "ece": _calibration(correct_N, statistics["top_probs"][:, 0]),
        }

    def columns(self, statistics: Statistics) -> dict[str, Any]:
        single = {name: statistics[name] for name in ("label", "predicted", "label_prob")}
        return single | {name: list(statistics[name]) for name in ("top_classes", "top_probs")}

    def certain_of_truth(self, statistics: Statistics) -> np.ndarray:
        return statistics["label_prob"]

    def doubt(self, statistics: Statistics) -> str | None:
        from bikd_ray.tasks.plausible import plausibility

        return plausibility(statistics, statistics["label"]).suspicion


def statistics_of(log_prob_BC: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What is kept of a model's answers.

    labels: [B], or [B, M] where several are right: then `nll` and `label_prob` are of all of them
    together, and `label` is the one that the model thinks most probable, so that an answer is right
    where it equals it, and a right one is among the first where it is.
    """
    # a stable sort keeps equal probabilities in class order, so that [:, 0] is the argmax
    order = log_prob_BC.sort(dim=1, descending=True, stable=True)
    if labels.ndim == 1:
        labels_B = labels
        nll_B = -log_prob_BC.gather(1, labels_B[:, None]).squeeze(1)
    else:
        nothing = log_prob_BC.shape[1]  # a class beside the others, where -1 points to
        right_BC = torch.zeros(len(labels), nothing + 1, dtype=torch.bool, device=labels.device)
        right_BC.scatter_(1, torch.where(labels < 0, nothing, labels), True)
        right_BC = right_BC[:, :nothing]
        nll_B = -log_prob_BC.masked_fill(~right_BC, -torch.inf).logsumexp(1).clamp(max=0)
        first_B = right_BC.gather(1, order.indices).float().argmax(1)
        labels_B = order.indices.gather(1, first_B[:, None]).squeeze(1)
    k = min(log_prob_BC.shape[1], TOP_K)
    return {
        "label": labels_B,
        "predicted": order.indices[:, 0],
        "label_prob": torch.exp(-nll_B),
        "nll": nll_B,
        "top_classes": order.indices[:, :k].int(),
        "top_probs": order.values[:, :k].exp(),
    }


def correct(statistics: Statistics) -> np.ndarray:
    """Bool [N]"""
    return statistics["predicted"] == statistics["label"]


def _calibration(correct_N: np.ndarray, confidence_N: np.ndarray) -> np.ndarray:
    """The influence values of the expected calibration error (15 equal bins of the top
    probability): sign(gap of the bin) * (correct - confidence), whose mean it is.
    """
    confidence_N = confidence_N.astype(float)
    bins_N = np.minimum((confidence_N * ECE_BINS).astype(int), ECE_BINS - 1)
    gap_N = correct_N - confidence_N
    return np.sign(np.bincount(bins_N, gap_N, ECE_BINS))[bins_N] * gap_N


def _logits(output: Any) -> Tensor:
    from bikd_ray.zoo.adapters import logits_of

    return logits_of(output, "a model")


def _raised(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
