"""Videos and where people look in them: maps that are compared, taught and measured.

A sample to learn from is a video, of which an epoch shows one clip; one to be measured on is a
frame. The units that are drawn at random are the videos: metrics are means over all frames, and a
video's score is what it adds to them. Suffixes: B frames, E = H·W pixels, N frames, V videos.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.analysis.clustered import ClusterSums, pseudo_values
from bikd_ray.errors import UserError
from bikd_ray.formatting import listed
from bikd_ray.metrics import Metric
from bikd_ray.tasks import saliency_maps as maps
from bikd_ray.tasks.base import Answer, Head, Prediction, Statistics, Task
from bikd_ray.tasks.heat import heated, plain
from bikd_ray.tasks.saliency_metrics import METRICS as NAMES
from bikd_ray.tasks.saliency_metrics import blurred, measure

if TYPE_CHECKING:
    from bikd_ray.data.clips.clip_set import ClipSet
    from bikd_ray.data.loader import Batch
    from bikd_ray.data.sources import ImageSet
    from bikd_ray.plan import ResolvedInput, View
    from bikd_ray.specs import DataSource, ZooEntry

METRICS = (
    Metric("cc", "CC", pooled=True, units="videos"),
    Metric("nss", "NSS", pooled=True, units="videos"),
    Metric("sim", "SIM", pooled=True, units="videos"),
    Metric("kldiv", "KLDiv", "nats", higher_is_better=False, pooled=True, units="videos"),
    Metric("auc_j", "AUC-J", pooled=True, units="videos"),
)
assert tuple(metric.name for metric in METRICS) == NAMES

OF_FIXATIONS = ("nss", "auc_j")


class Saliency(Task):
    """Maps of where people look (Jain et al. 2025, §5; the own loss is KL − CC)."""

    name = "saliency"
    metrics = METRICS
    ragged = ("map", "fixated")
    cacheable = False
    augments = ("none",)
    table, results_table = "frames", "result_frames"
    pictured, kin = METRICS[0], "unit"

    # -- the models --------------------------------------------------------------------

    def input(self, entry: "ZooEntry", network: nn.Module) -> "ResolvedInput":
        """Of the zoo's own networks as they were published; of others as `input` says."""
        from bikd_ray.zoo.saliency.inputs import clip_input

        return clip_input(entry)

    def head(self, entry: "ZooEntry", network: nn.Module, how: "ResolvedInput") -> Head:
        """One map a clip. Raises UserError where it is none."""
        from bikd_ray.zoo.probe import examined
        from bikd_ray.zoo.saliency.inputs import checked_map

        notes = examined(entry.name, network, how)
        checked_map(entry, network, how)
        return Head(notes=tuple(notes))

    # -- the data ----------------------------------------------------------------------

    def open(self, source: "DataSource") -> "ImageSet":
        """The scored frames of a source of clips."""
        from bikd_ray.data.clips.open import open_clips

        return open_clips(source)

    def look(self, split: str, images: "ImageSet") -> tuple[list[str], list[str]]:
        """One frame and a few truths of every video."""
        from bikd_ray.data.clips.check import look

        found = look(_clips(images).source)
        return [f"data.{split}: {fault}" for fault in found.faults], [
            f"{split}: {note}" for note in found.notes
        ]

    def to_learn(self, images: "ImageSet") -> "ImageSet":
        """The videos, of each of which an epoch has one clip."""
        return _clips(images).other(to_learn=True)

    def held_out(self, images: "ImageSet", rows: np.ndarray) -> "ImageSet":
        """The scored frames of some videos."""
        return _clips(images).other(to_learn=False, rows=rows)

    def render(
        self, images: "ImageSet", index: int, views: Sequence["View"], augment: str, seed: int
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """The clip of each view. To learn from, with `truth`, a map of the size of all; to be
        measured on, with `map` and `fixated` as they are, which `frame` of which `video` it is, the
        `unit` that it belongs to, and whether to `blur`.
        """
        clips = _clips(images)
        pixels, truth = clips.clips(index, views, seed), clips.truth(index, seed)
        if clips.to_learn:
            of_all = maps.resized(
                torch.from_numpy(np.ascontiguousarray(truth.map))[None], clips.size
            )
            return pixels, {"truth": of_all[0].numpy()}
        video, frame = clips.at(index)
        told = {"unit": clips.unit(index), "video": video, "frame": frame, "blur": clips.blur}
        where = {name: np.array(value) for name, value in told.items()}
        return pixels, {"map": truth.map, "fixated": truth.fixated, **where}

    # -- training ----------------------------------------------------------------------

    def predict(self, output: Any, batch: "Batch") -> Prediction:
        """At the size of the truths to learn from."""
        found = maps.resized(_map(output), tuple(batch.target["truth"].shape[-2:]))
        share = maps.normalised(found).flatten(1)
        return Prediction(share.clamp(min=torch.finfo(share.dtype).tiny).log()[..., None])

    def loss(self, output: Any, prediction: Prediction, batch: "Batch") -> Tensor:
        """KL − CC; 0 where the truth is 0 everywhere."""
        truth = batch.target["truth"]
        found = prediction.log_prob_BEP.exp().reshape(truth.shape)
        return maps.task_loss(found, truth)

    def confidence(self, prediction: Prediction, loss_B: Tensor, batch: "Batch") -> Tensor:
        return maps.confidence(loss_B, batch.target["truth"])

    def divergence(self, student: Prediction, teacher: Prediction) -> Tensor:  # type: ignore[override]
        """KL(teacher || student) of the maps, with the ε of the loss."""
        shares = (p.log_prob_BEP.exp().transpose(1, 2) for p in (teacher, student))
        return maps.divergence(*shares)

    # -- measuring ---------------------------------------------------------------------

    def answer(self, output: Any, batch: "Batch") -> list[Tensor]:
        """Each map at its truth's own size, divided by its sum."""
        found = _map(output)
        sizes = [tuple(one.shape) for one in batch.target["map"]]
        answers: list[Tensor] = [found] * len(sizes)
        for size, rows in _by_size(sizes).items():
            at_size = maps.normalised(maps.resized(found[rows], size)).float()
            for row, one in zip(rows, at_size, strict=True):
                answers[row] = one
        return answers

    def ensemble(self, answers: Sequence[Answer]) -> list[Tensor]:
        """The mean of the maps, each of which has sum 1."""
        return [maps.mean_map(torch.stack(one)) for one in zip(*answers, strict=True)]

    def measure(self, answer: Answer, batch: "Batch") -> dict[str, Tensor]:
        """Each metric [B] and whether it is `known_` [B]: where it is not, of no model, it is 0.
        NaN for answers that are not finite.
        """
        target, device = batch.target, answer[0].device
        found = {name: torch.zeros(len(answer), device=device) for name in NAMES}
        known = {name: torch.zeros(len(answer), device=device, dtype=torch.bool) for name in NAMES}
        for rows in _by_size([tuple(one.shape) for one in answer]).values():
            mine, truth, fixated = (
                torch.stack([of[row] for row in rows])
                for of in (answer, target["map"], target["fixated"])
            )
            values = measure(
                blurred(mine) if bool(target["blur"][rows[0]]) else mine, truth, fixated
            )
            usable = mine.isfinite().all(-1).all(-1)
            for name, value in values.items():
                known[name][rows] = ~value.isnan()
                found[name][rows] = torch.where(usable, value.nan_to_num(0.0), torch.nan).float()
        told = {f"known_{name}": flags for name, flags in known.items()}
        where = {name: target[name].to(device) for name in ("unit", "video", "frame")}
        return {**found, **told, **where}

    def scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Of the videos that have a scored frame: pseudo-values of leaving each of them out."""
        return {name: pseudo_values(sums) for name, sums in self.sums(statistics).items()}

    def sums(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Of each video the sum of its frames' values, and the number of frames that have one."""
        units, unit_N = np.unique(statistics["unit"], return_inverse=True)
        found = {}
        for name in NAMES:
            known = statistics[f"known_{name}"]
            value_N = np.where(known, statistics[name].astype(np.float64), np.nan)
            sums = ClusterSums.of(value_N, unit_N, len(units))
            found[name] = np.stack([sums.sum_V, sums.n_V.astype(np.float64)])
        return found

    def columns(self, statistics: Statistics) -> dict[str, Any]:
        """Which frame of which video each is, and its own value of each metric."""
        import pyarrow as pa

        where = {name: statistics[name].astype(np.int32) for name in ("video", "frame")}
        values = {
            name: pa.array(statistics[name], mask=~statistics[f"known_{name}"]) for name in NAMES
        }
        return {**where, **values}

    def of_each(self, statistics: Statistics) -> np.ndarray:
        cc = self.metrics[0].name
        return np.where(statistics[f"known_{cc}"], statistics[cc], np.nan)

    def draw(self, batch: "Batch", answers: Sequence[Answer]) -> list[np.ndarray]:
        """The frame, and over it as heat the truth with its fixations, and each answer."""
        truth, fixated = batch.target["map"][0], batch.target["fixated"][0]
        photo = maps.resized(_target_frame(batch), tuple(truth.shape)).cpu()
        found = [heated(photo, answer[0].cpu()) for answer in answers]
        return [plain(photo), heated(photo, truth.cpu(), fixated.cpu()), *found]

    def doubt(self, statistics: Statistics) -> str | None:
        """How many frames are left out, for all models alike."""
        frames = len(statistics["unit"])
        lines = []
        for metrics, why in ((OF_FIXATIONS, "no fixation"), (("cc", "sim", "kldiv"), "no map")):
            if lacking := int((~statistics[f"known_{metrics[0]}"]).sum()):
                titles = listed([m.title for m in METRICS if m.name in metrics])
                lines.append(f"{lacking:,} of {frames:,} frames have {why}: out of {titles}")
        return "; ".join(lines) or None


def _clips(images: Any) -> "ClipSet":
    return images


def _target_frame(batch: "Batch") -> Tensor:
    """float32 [3, H, W] of a batch of one: of the largest view, the frame whose map is asked for,
    or the nearest that it shows.
    """
    view = max(batch.views, key=lambda view: view.size)
    pixels = batch.views[view][0].float()
    if view.window is None:
        return pixels
    return pixels[:, int(np.abs(view.window.offsets).argmin())]


def _map(output: Any) -> Tensor:
    """[B, H, W] of what a network returned."""
    if not isinstance(output, Tensor):
        raise UserError(f"a saliency model must return one map a clip, got {type(output).__name__}")
    return maps.full_precision(maps.as_maps(output))


def _by_size(sizes: Sequence[tuple[int, ...]]) -> Mapping[Any, list[int]]:
    """The rows of each size."""
    rows: dict[Any, list[int]] = {}
    for row, size in enumerate(sizes):
        rows.setdefault(size, []).append(row)
    return rows
