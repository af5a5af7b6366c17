"""What a task is: how its models are compared, taught and measured.

A task is one file and one row of `bikd_ray.tasks.TASKS`, or a class that a spec names with its
module (`task: my_package.depth:Depth`). Nothing outside `bikd_ray/tasks` knows one task from
another. docs/extend.md has a whole one.

Suffixes: K members, B samples, E events, P positions, N units (images; of video, videos).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from bikd_ray.metrics import Metric

if TYPE_CHECKING:
    from bikd_ray.data.labels import LabelSpace
    from bikd_ray.data.loader import Batch
    from bikd_ray.data.sources import ImageSet
    from bikd_ray.plan import FurtherSet, ResolvedData, ResolvedInput, ResolvedModel, View
    from bikd_ray.specs import Data, DataSource, ZooEntry


@dataclass(frozen=True)
class Prediction:
    """What models are compared by: distributions over E events at P positions.

    log_prob_BEP: float32 or wider; of one shape for all members of a job, whatever their networks.
    valid_BP: bool, positions that count (all where None): padding does not.
    Classification: E classes, P = 1. Segmentation: E classes, P cells of a grid. Saliency: E
    pixels, P = 1.
    """

    log_prob_BEP: Tensor
    valid_BP: Tensor | None = None


AGREEMENT = "agreement"
"""What `Task.agreements` calls its counts."""

Answer = Tensor | list[Tensor]
"""What is measured of B samples: [B, …], or a list of B where their sizes differ."""


@dataclass(frozen=True)
class Head:
    """What a network answers. classes: names in the order of its outputs, where known; notes: what
    a person may not know, a line each; loss: what its own loss is, equal for losses that compare.
    """

    num_classes: int = 0
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    loss: str = ""


Statistics = dict[str, np.ndarray]
"""Name to an array [N, …]: what is kept of a model's answers, sufficient for every metric."""


@dataclass(frozen=True)
class Measured:
    """One model, or an ensemble, on N units."""

    statistics: Statistics
    scores: dict[str, np.ndarray]  # of every metric, [N]; bool where it is binary
    values: dict[str, float]  # of every metric, in its unit
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    """Of pooled metrics that are ratios of sums, float64 [2, N]."""


class Task(ABC):
    """One kind of task. The abstract methods are what a task has to say; it must pickle.

    `output` is what a member's network returned for its view of the batch, and `batch.target` what
    is right: the samples' labels [B], or by name what `render` gave: tensors [B, …], or lists of B.
    Where train has no labels it is None in training: `predict` and `certainty` do without it, and
    `loss`, `confidence` and `right` are not called.
    """

    name: str
    metrics: tuple[Metric, ...]
    """The first is primary: epochs are selected, partners ranked and headlines written by it."""

    divergence: Callable[[Prediction, Prediction], Tensor] | None = None
    """(student, teacher) to [B], in nats; None for KL(teacher || student), summed over the events
    and averaged over the valid positions of each sample."""

    table: str | None = None
    """The store's table of what `columns` gives of untouched models; None where nothing is kept."""

    ragged: tuple[str, ...] = ()
    """Targets whose sizes differ from sample to sample: a batch has a list of them."""

    cacheable: bool = True
    """Whether rendered samples may be kept on disk: not where an epoch has samples of its own."""

    alike: str | None = None
    """The target by whose shape samples come together in a batch, where samples differ in size;
    None where they have one size, or are lists."""

    augments: tuple[str, ...] = ("none", "timm", "reference")
    """What `recipe.augment` may ask for, `none` first."""

    results_table: str | None = None
    """The store's table of what `columns` gives of trained models; None where nothing is kept."""

    pictured: Metric | None = None
    """By whose value of each sample (`of_each`) it is told where a job has changed a model's
    answers most: pictures of these samples are kept (`draw`). None: a task without pictures."""

    kin: str | None = None
    """The statistic by which samples are alike, such as the video of a frame: of those of one value
    only the one that changed most is pictured. None: none are."""

    features: bool = False
    """Whether what the networks' classifiers read is compared and probed."""

    labels_are_targets: bool = False
    """Whether models are measured by the samples' labels, classes of one list: then those of a set
    that is only measured on are brought into the data's, and an image may have several, [B, M].
    """

    # -- the models --------------------------------------------------------------------

    def input(self, entry: "ZooEntry", network: nn.Module) -> "ResolvedInput":
        """What the samples of a network look like: of a timm model what its data config says, with
        the entry's overrides; square images. Raises UserError.
        """
        from bikd_ray.zoo.resolve import square_input

        return square_input(entry, network)

    def head(self, entry: "ZooEntry", network: nn.Module, how: "ResolvedInput") -> "Head":
        """What a network answers, found by running it on a few made samples in eval and in
        training mode. Raises UserError where it cannot take them or cannot be trained.
        """
        from bikd_ray.zoo.probe import examined

        return Head(notes=tuple(examined(entry.name, network, how)))

    # -- the data ----------------------------------------------------------------------

    def label_space(self, opened: Mapping[str, "ImageSet"], data: "Data") -> "LabelSpace":
        """What the labels of all splits stand for. Raises UserError where they disagree."""
        from bikd_ray.data.labels import LabelSpace

        return LabelSpace(0, None)

    def relabel(self, images: "ImageSet", classes: tuple[str, ...] | None) -> None:  # noqa: B027
        """Give the samples of one split the labels of the space, where they have some."""

    def open(self, source: "DataSource") -> "ImageSet":
        """The samples that a data source of a spec names. Raises UserError."""
        from bikd_ray.data.sources import open_images

        return open_images(source)

    def to_learn(self, images: "ImageSet") -> "ImageSet":
        """The samples of train as an epoch takes them, of what `open` gave."""
        return images

    def held_out(self, images: "ImageSet", rows: np.ndarray) -> "ImageSet":
        """Some samples of `to_learn`, to be measured on."""
        from bikd_ray.data.sources import Subset

        return Subset(images, rows)

    def render(
        self, images: "ImageSet", index: int, views: Sequence["View"], augment: str, seed: int
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray] | None]:
        """Sample `index` as uint8 pixels of each view [3, …, H, W], and its target; None where the
        target is the sample's label. augment: as the recipe says; seed: of this sample's draw.
        The target is the same whichever views are asked for. Raises BadImage where a sample does
        not decode.
        """
        from bikd_ray.data.render import rendered

        return rendered(images.image(index), views, augment, seed), None

    @property
    def rendering(self) -> str:
        """What caches of its pixels and targets are called; nothing where they are those of every
        task. To be extended where `render` depends on more than the class.
        """
        own = type(self).render is not Task.render
        return f"{type(self).__module__}:{type(self).__qualname__}" if own else ""

    def look(self, split: str, images: "ImageSet") -> tuple[list[str], list[str]]:
        """What a few targets of a split show before anything is trained: what stops a sweep, and
        what a person should know, a line each.
        """
        return [], []

    def check(self, model: "ResolvedModel", data: "ResolvedData") -> None:  # noqa: B027
        """Raises UserError where a model does not fit the data; every one fits by default."""

    # -- training ----------------------------------------------------------------------

    def joined(self, models: Sequence["ResolvedModel"]) -> "Task":
        """The task of a job of these models, which may be compared otherwise than others."""
        return self

    def kept_shape(self, data: "ResolvedData") -> tuple[int, int] | None:
        """[E, P] of what `predict` gives of any model of these data, where what a frozen one says
        of the train images, and any one of val before it is trained, is worth keeping; None where
        it is computed whenever it is needed.

        It may be kept where `predict` has no `valid_BP`, `answer` gives one tensor and both, like
        `loss`, depend on the sample and the model alone (on no partner, no draw). It pays where
        E x P values of 4 bytes are few beside the pixels they come from: for classes, and hardly
        for dense maps, whose reading costs what a network costs.
        """
        return None

    @abstractmethod
    def predict(self, output: Any, batch: "Batch") -> Prediction:
        """Differentiable, on the grid that all members of a batch share."""

    @abstractmethod
    def loss(self, output: Any, prediction: Prediction, batch: "Batch") -> Tensor:
        """[B]: the model's own loss of each sample, nats, differentiable; of that sample alone, so
        that parts of a batch add up to it.
        """

    def confidence(self, prediction: Prediction, loss_B: Tensor, batch: "Batch") -> Tensor:
        """[B], by which teachers are chosen where labels may say it: minus the own loss. -inf where
        the sample says nothing of the model: a source does not teach there.
        """
        return -loss_B

    def certainty(self, prediction: Prediction) -> Tensor:
        """[B], by which teachers are chosen without labels: the mean over the valid positions of
        the largest log probability.
        """
        largest_BP = prediction.log_prob_BEP.amax(1)
        if prediction.valid_BP is None:
            return largest_BP.mean(1)
        valid_BP = prediction.valid_BP.to(largest_BP.dtype)
        return (largest_BP * valid_BP).sum(1) / valid_BP.sum(1).clamp(min=1)

    def right(self, prediction: Prediction, batch: "Batch") -> Tensor | None:
        """Which samples are right, bool [B]; None where a sample is not right or wrong."""
        return None

    # -- measuring ---------------------------------------------------------------------

    def on(self, part: "FurtherSet") -> "Task":
        """The task as it measures on a further set, which may have a part of the classes."""
        return self

    def answer(self, output: Any, batch: "Batch") -> Answer:
        """What is measured: float32, at the target's own size (a list where sizes differ)."""
        return self.predict(output, batch).log_prob_BEP

    @abstractmethod
    def ensemble(self, answers: Sequence[Answer]) -> Answer:
        """The answer of the mean distribution of several members."""

    def agreements(
        self, answers: Sequence[Answer], pairs: Sequence[tuple[int, int]], batch: "Batch"
    ) -> Sequence[dict[str, Tensor]]:
        """For each pair of the answers, where a sample has many places that are right or wrong:
        AGREEMENT, int64 [B, 5]: where both are right, only the first, only the second, none, and
        where they predict differently. Nothing where a sample is right or wrong as a whole, or
        neither.
        """
        return [{} for _ in pairs]

    @abstractmethod
    def measure(self, answer: Answer, batch: "Batch") -> dict[str, Tensor]:
        """Sufficient statistics [B, …], on the device; whole answers are not kept. Finite, unless
        the model answers what is not.
        """

    @abstractmethod
    def scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Metric to its scores [N] in the metric's unit, whose mean is the metric; bool [N] where
        it is binary. Given the statistics of a part of the set, of that part.
        """

    def sums(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Of pooled metrics that are ratios of sums over the units: float64 [2, N], each unit's
        share of the sum above and below, from which a part of the units has its own metric.
        """
        return {}

    def columns(self, statistics: Statistics) -> dict[str, Any]:
        """Columns of `table`, a value for each sample."""
        return {}

    def of_each(self, statistics: Statistics) -> np.ndarray:
        """[N]: the value of `pictured` of each sample by itself, NaN where it has none. Samples
        are what `statistics` has rows of: images, or frames of videos.
        """
        return np.full(len(next(iter(statistics.values()))), np.nan)

    def draw(self, batch: "Batch", answers: Sequence[Answer]) -> list[np.ndarray]:
        """A batch of one sample as pictures: the sample, what is right, and each of the answers
        (what `answer` gave of this batch), so that one sees where they differ. uint8 [H, W, 3] of
        any size: they are scaled to that of a thumbnail afterwards. Such as a photo, its mask and
        the predicted masks, drawn over it; or the last frame of a clip, that frame with its map and
        fixations, and the frame with each predicted map.
        """
        return []

    def certain_of_truth(self, statistics: Statistics) -> np.ndarray | None:
        """[N]: how sure a model is of what is right; who of two is surer is called the teacher in
        the case shares of a binary metric. None where there are no such.
        """
        return None

    def doubt(self, statistics: Statistics) -> str | None:
        """Why an untouched model's answers may not be what it can do, in a line; None if nothing
        looks wrong.
        """
        return None


def measured(task: Task, statistics: Statistics) -> Measured:
    """Every metric of a task; of a binary one the share of the units, in percent if that is its
    unit.
    """
    scores = task.scores(statistics)
    values = {}
    for metric in task.metrics:
        scale = 100 if metric.binary and metric.unit == "%" else 1
        values[metric.name] = scale * float(scores[metric.name].mean())
    return Measured(statistics, scores, values, task.sums(statistics))
