"""A task whose answers are looked at: one line instead of an error from the middle of a step.

Only shapes, types and names are looked at, so that nothing waits for the device.
Suffixes: B samples, E events, P positions, N units.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.errors import UserError
from bikd_ray.metrics import Metric
from bikd_ray.tasks.base import AGREEMENT, Answer, Head, Prediction, Statistics, Task

if TYPE_CHECKING:
    from bikd_ray.data.labels import LabelSpace
    from bikd_ray.data.loader import Batch
    from bikd_ray.data.sources import ImageSet
    from bikd_ray.plan import FurtherSet, ResolvedData, ResolvedInput, ResolvedModel, View
    from bikd_ray.specs import Data, DataSource, ZooEntry

WIDE = (torch.float32, torch.float64)


class Checked(Task):
    """Another task; its methods raise UserError where they give what the contract does not."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._check_class()
        self.name, self.metrics = task.name, task.metrics
        self.table, self.ragged, self.features = task.table, task.ragged, task.features
        self.alike, self.augments = task.alike, task.augments
        self.results_table, self.pictured = task.results_table, task.pictured
        self.kin = task.kin
        self.cacheable = task.cacheable
        self.labels_are_targets = task.labels_are_targets
        if task.divergence is not None:
            self.divergence = self._divergence

    def _check_class(self) -> None:
        cls = type(self.task)
        where = f"task {cls.__module__}:{cls.__name__}"
        name, metrics = getattr(self.task, "name", None), getattr(self.task, "metrics", None)
        if not (isinstance(name, str) and name):
            raise UserError(f"{where}: name must be text, got {name!r}")
        whole = isinstance(metrics, tuple) and metrics
        if not whole or not all(isinstance(metric, Metric) for metric in metrics or ()):
            raise UserError(f"{where}: metrics must be a tuple of bikd_ray.metrics.Metric")
        names = [metric.name for metric in metrics or ()]
        if len(set(names)) < len(names):
            raise UserError(f"{where}: metrics has a name twice: {', '.join(names)}")

    # -- the models --------------------------------------------------------------------

    def input(self, entry: "ZooEntry", network: nn.Module) -> "ResolvedInput":
        return self.task.input(entry, network)

    def head(self, entry: "ZooEntry", network: nn.Module, how: "ResolvedInput") -> Head:
        return self.task.head(entry, network, how)

    # -- the data ----------------------------------------------------------------------

    def label_space(self, opened: Mapping[str, "ImageSet"], data: "Data") -> "LabelSpace":
        return self.task.label_space(opened, data)

    def relabel(self, images: "ImageSet", classes: tuple[str, ...] | None) -> None:
        self.task.relabel(images, classes)

    @property
    def rendering(self) -> str:
        return self.task.rendering

    def open(self, source: "DataSource") -> "ImageSet":
        return self.task.open(source)

    def to_learn(self, images: "ImageSet") -> "ImageSet":
        return self.task.to_learn(images)

    def held_out(self, images: "ImageSet", rows: np.ndarray) -> "ImageSet":
        return self.task.held_out(images, rows)

    def look(self, split: str, images: "ImageSet") -> tuple[list[str], list[str]]:
        return self.task.look(split, images)

    def render(
        self, images: "ImageSet", index: int, views: Sequence["View"], augment: str, seed: int
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray] | None]:
        pixels, target = self.task.render(images, index, views, augment, seed)
        for array in pixels:
            if array.dtype != np.uint8 or array.ndim < 3 or len(array) != 3:
                self._refuse("render", f"pixels {_said(array)}", "uint8 [3, …, H, W]")
        if len(pixels) != len(views):
            self._refuse("render", f"{len(pixels)} arrays", f"one for each of {len(views)} views")
        if target is not None and not isinstance(target, dict):
            self._refuse("render", f"the target {_said(target)}", "a dict of numpy arrays, or None")
        for name, array in (target or {}).items():
            if not isinstance(array, np.ndarray):
                self._refuse("render", f"the target's {name} {_said(array)}", "a numpy array")
        return pixels, target

    def check(self, model: "ResolvedModel", data: "ResolvedData") -> None:
        self.task.check(model, data)

    # -- training ----------------------------------------------------------------------

    def joined(self, models: Sequence["ResolvedModel"]) -> "Task":
        joined = self.task.joined(models)
        return self if joined is self.task else Checked(joined)

    def kept_shape(self, data: "ResolvedData") -> tuple[int, int] | None:
        return self.task.kept_shape(data)

    def predict(self, output: Any, batch: "Batch") -> Prediction:
        found = self.task.predict(output, batch)
        if not isinstance(found, Prediction):
            self._refuse("predict", _said(found), "a Prediction")
        count, log_prob, valid = len(batch.index), found.log_prob_BEP, found.valid_BP
        if log_prob.ndim != 3 or len(log_prob) != count or log_prob.dtype not in WIDE:
            asked = f"float32 or float64 [B = {count}, E, P]"
            self._refuse("predict", f"log_prob {_said(log_prob)}", asked)
        shape = (count, log_prob.shape[2])
        if valid is not None and (valid.shape != shape or valid.dtype != torch.bool):
            asked = f"bool [B = {count}, P = {shape[1]}]"
            self._refuse("predict", f"valid {_said(valid)}", asked)
        return found

    def loss(self, output: Any, prediction: Prediction, batch: "Batch") -> Tensor:
        return self._floats("loss", self.task.loss(output, prediction, batch), len(batch.index))

    def confidence(self, prediction: Prediction, loss_B: Tensor, batch: "Batch") -> Tensor:
        found = self.task.confidence(prediction, loss_B, batch)
        return self._floats("confidence", found, len(loss_B))

    def certainty(self, prediction: Prediction) -> Tensor:
        count = len(prediction.log_prob_BEP)
        return self._floats("certainty", self.task.certainty(prediction), count)

    def right(self, prediction: Prediction, batch: "Batch") -> Tensor | None:
        found = self.task.right(prediction, batch)
        count = len(batch.index)
        if found is not None and (found.shape != (count,) or found.dtype != torch.bool):
            self._refuse("right", _said(found), f"bool [B = {count}] or None")
        return found

    def _divergence(self, student: Prediction, teacher: Prediction) -> Tensor:
        assert self.task.divergence is not None
        found = self.task.divergence(student, teacher)
        return self._floats("divergence", found, len(student.log_prob_BEP))

    # -- measuring ---------------------------------------------------------------------

    def on(self, part: "FurtherSet") -> "Task":
        measuring = self.task.on(part)
        return self if measuring is self.task else Checked(measuring)

    def answer(self, output: Any, batch: "Batch") -> Answer:
        return self._answer("answer", self.task.answer(output, batch), len(batch.index))

    def ensemble(self, answers: Sequence[Answer]) -> Answer:
        return self._answer("ensemble", self.task.ensemble(answers), len(answers[0]))

    def agreements(
        self, answers: Sequence[Answer], pairs: Sequence[tuple[int, int]], batch: "Batch"
    ) -> Sequence[dict[str, Tensor]]:
        found, shape = self.task.agreements(answers, pairs, batch), (len(batch.index), 5)
        if len(found) != len(pairs):
            self._refuse("agreements", f"{len(found)} dicts", f"one for each of {len(pairs)} pairs")
        for tensor in (one[AGREEMENT] for one in found if one):
            if tensor.shape != shape or tensor.is_floating_point():
                self._refuse("agreements", _said(tensor), f"integers {list(shape)}")
        return found

    def _answer(self, method: str, found: Answer, count: int) -> Answer:
        asked = f"a float32 tensor [B = {count}, …], or a list of {count} of them"
        parts: Sequence[Tensor] = [found] if isinstance(found, Tensor) else found
        if not isinstance(parts, list) or not all(isinstance(part, Tensor) for part in parts):
            self._refuse(method, _said(found), asked)
        if len(found) != count:
            self._refuse(method, f"{len(found)} answers", asked)
        for part in parts:
            if part.dtype != torch.float32:
                self._refuse(method, _said(part), asked)
        return found

    def measure(self, answer: Answer, batch: "Batch") -> dict[str, Tensor]:
        found, count = self.task.measure(answer, batch), len(batch.index)
        if not isinstance(found, dict) or not found:
            self._refuse("measure", _said(found), "a dict of tensors [B, …]")
        for name, tensor in found.items():
            if not isinstance(tensor, Tensor) or tensor.shape[:1] != (count,):
                self._refuse("measure", f"{name} {_said(tensor)}", f"a tensor [B = {count}, …]")
        return found

    def scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        found, names = self.task.scores(statistics), [metric.name for metric in self.metrics]
        if not isinstance(found, dict) or set(found) != set(names):
            given = ", ".join(map(str, found)) if isinstance(found, dict) else _said(found)
            self._refuse("scores", given or "nothing", f"one for each of {', '.join(names)}")
        count = len(next(iter(found.values())))
        for metric in self.metrics:
            array = found[metric.name]
            fits = isinstance(array, np.ndarray) and array.shape == (count,)
            if not fits or array.dtype.kind != ("b" if metric.binary else "f"):
                kind = "bool" if metric.binary else "float"
                self._refuse("scores", f"{metric.name} {_said(array)}", f"{kind} [N = {count}]")
        return found

    def sums(self, statistics: Statistics) -> dict[str, np.ndarray]:
        found = self.task.sums(statistics)
        pooled = {metric.name for metric in self.metrics if metric.pooled}
        for name, array in found.items():
            if name not in pooled or array.dtype != np.float64 or len(array) != 2:
                self._refuse("sums", f"{name} {_said(array)}", "float64 [2, N] of pooled metrics")
        return found

    def columns(self, statistics: Statistics) -> dict[str, Any]:
        count, found = len(next(iter(statistics.values()))), self.task.columns(statistics)
        for name, values in found.items():
            if len(values) != count:
                self._refuse("columns", f"{len(values)} values of {name}", f"[N] = {count}")
        return found

    def of_each(self, statistics: Statistics) -> np.ndarray:
        count, found = len(next(iter(statistics.values()))), self.task.of_each(statistics)
        if found.shape != (count,) or found.dtype.kind != "f":
            self._refuse("of_each", _said(found), f"floats [N] = [{count}]")
        return found

    def draw(self, batch: "Batch", answers: Sequence[Answer]) -> list[np.ndarray]:
        found = self.task.draw(batch, answers)
        if len(found) != 2 + len(answers):
            asked = f"the sample, what is right, and {len(answers)} answers"
            self._refuse("draw", f"{len(found)} pictures", asked)
        for picture in found:
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                self._refuse("draw", _said(picture), "uint8 [H, W, 3]")
        return found

    def certain_of_truth(self, statistics: Statistics) -> np.ndarray | None:
        return self.task.certain_of_truth(statistics)

    def doubt(self, statistics: Statistics) -> str | None:
        return self.task.doubt(statistics)

    # -- what is wrong -----------------------------------------------------------------

    def _floats(self, method: str, found: Any, count: int) -> Tensor:
        fits = isinstance(found, Tensor) and found.shape == (count,)
        if not fits or not found.is_floating_point():
            self._refuse(method, _said(found), f"a float tensor [B = {count}]")
        return found

    def _refuse(self, method: str, given: str, asked: str) -> NoReturn:
        raise UserError(f"task {self.name}: {method} gave {given}; asked for: {asked}")


def _said(value: Any) -> str:
    """Such as: float32 [4, 3]."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
