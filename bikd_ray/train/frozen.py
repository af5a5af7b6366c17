"""What models say that do not change, computed once for each node.

A frozen source never changes and, without augmentation, neither do the train images it sees: job
after job, seed after seed and epoch after epoch it says the same of them. So does every model of a
job on val before it is trained, and a frozen one afterwards too. So that is computed once and read
back, as decoded images are (`bikd_ray/data/cache.py`): one file, written aside and renamed.

It pays where a prediction is small beside the image it is made from: 4 kB for 1,000 classes, and
none of the forward passes. A map of 150 classes on 128 x 128 cells takes 10 MB for an image of
0.8 MB: reading it back costs as much as computing it, and the disk would not hold it. So a task
says of itself whether its predictions are kept (`Task.kept_shape`).

Suffixes: N rows, B samples, E events, P positions, D features.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from bikd_ray.cache_dir import claim, remove_abandoned
from bikd_ray.data.cache import cache_dir, fits
from bikd_ray.data.loader import Batch, Loader
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.plan import Job
from bikd_ray.tasks.base import Prediction, Task
from bikd_ray.train.member import Member, measuring
from bikd_ray.train.numerics import AUTOCAST, out_of_memory, tf32
from bikd_ray.train.similarity import FeatureTap

FROZEN_VERSION = 1
DISK_FRACTION = 0.25
"""Of the disk, as free as it would be without, what `frozen_cache: auto` may take in all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """Where the loss is cut from a model: what it predicts of B samples, and its own loss [B]."""

    prediction: Prediction
    loss_B: Tensor


class Remembered:
    """A member whose words are kept: `kept` has a row for each of `rows` [N]."""

    def __init__(self, member: Member, rows_N: np.ndarray, kept: np.ndarray) -> None:
        self.model, self._device = member.model, member.device
        self._rows_N = rows_N
        # of a structured array, each access to a field would make it anew
        self._fields = {name: kept[name] for name in kept.dtype.names or ()}

    def cut(self, part: Batch) -> Cut:
        """What it said of these train images, as a source of lessons."""
        log_prob_BEP, loss_B = (self._of(part.index, name) for name in ("log_prob", "loss"))
        return Cut(Prediction(log_prob_BEP), loss_B)

    def answer(self, part: Batch) -> Tensor:
        """What `Task.answer` gave of these samples."""
        return self._of(part.index, "answer")

    def features(self, rows_N: np.ndarray) -> Tensor | None:
        """float32 [N, D], on the CPU, as a `FeatureTap` has them."""
        at_N = np.searchsorted(self._rows_N, rows_N)
        features_ND = self._fields["feature"][at_N]
        return torch.from_numpy(features_ND) if features_ND.shape[1] else None

    def _of(self, index_B: Tensor, name: str) -> Tensor:
        # a sample that only fills a place may be none of the rows; what it says does not count
        at_B = np.searchsorted(self._rows_N, index_B.numpy()).clip(max=len(self._rows_N) - 1)
        tensor = torch.from_numpy(self._fields[name][at_B])
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


Answering = Member | Remembered
"""What a member is asked through: its network, or what is kept of its words."""


def kept_bytes(shape: tuple[int, int], count: int, beside: int = 1) -> int:
    """On disk, of what one model says of `count` images, in float32: predictions [E, P] and so many
    values beside them, its loss or its features.
    """
    return 4 * count * (shape[0] * shape[1] + beside)


def kept_lessons(
    member: Member,
    job: Job,
    task: Task,
    rows_N: np.ndarray,
    setting: str,
    images: Callable[[], Loader],
) -> Remembered | None:
    """A frozen member as it is read back, computed now where that is not kept yet.

    rows_N: the train images to learn from, rising. setting: `resources.frozen_cache`. images:
    opens them in the member's own view. None where nothing is kept: views that are drawn anew, a
    task whose predictions are not kept, no room. Raises BikdError where the folder cannot be used.
    """
    shape = task.kept_shape(job.data)
    if shape is None or job.recipe.augment != "none":
        return None
    precision = job.recipe.precision
    kept = _Kept(
        ("frozen", job.data.data_id, precision, task.name, rows_N.tolist()),
        {"log_prob": shape, "loss": ()},
        lambda: _lessons(member, task, precision),
    )
    return kept.of(member, rows_N, setting, images, job.recipe.batch_size)


def kept_answers(
    member: Member,
    job: Job,
    task: Task,
    setting: str,
    images: Callable[[], Loader],
    batch_size: int,
) -> Remembered | None:
    """A member that has not been trained, as it is measured on val, with its features; computed
    now where that is not kept yet.

    setting, images, None and errors: as for `kept_lessons`. batch_size: as it is measured.
    """
    if task.kept_shape(job.data) is None:
        return None
    kept = _Kept(
        ("untouched", job.data.data_id, task.name),
        {"answer": None, "feature": None},
        lambda: _answers(member, task),
    )
    return kept.of(member, np.arange(job.data.n_val), setting, images, batch_size)


Said = Callable[[Batch], dict[str, Tensor]]
"""What a member says of a batch, by name."""


@contextmanager
def _lessons(member: Member, task: Task, precision: str) -> Iterator[Said]:
    def said(batch: Batch) -> dict[str, Tensor]:
        cut = frozen_cut(member, batch, task, precision)
        return {"log_prob": cut.prediction.log_prob_BEP, "loss": cut.loss_B}

    with measuring([member]):
        yield said


@contextmanager
def _answers(member: Member, task: Task) -> Iterator[Said]:
    def said(batch: Batch) -> dict[str, Tensor]:
        answer = task.answer(member.output(batch), batch)
        if not isinstance(answer, Tensor):
            raise BikdError(
                f"{task.name}: `answer` gives a list, which cannot be kept: let `kept_shape` say "
                "None"
            )
        features_BD = tap.take() if tap else None
        if features_BD is None:
            features_BD = torch.empty(len(batch.index), 0)
        return {"answer": answer, "feature": features_BD}

    with measuring([member]):
        if not task.features:
            tap = None
            yield said
        else:
            with FeatureTap(member.network) as tap:
                yield said


@dataclass(frozen=True)
class _Kept:
    """One kind of what members say. key: what it depends on beside the member. fields: their
    shapes, None where that is known only from a network's first words. asking: opens a member to
    be asked.
    """

    key: tuple[Any, ...]
    fields: dict[str, tuple[int, ...] | None]
    asking: Callable[[], AbstractContextManager[Said]]

    def of(
        self,
        member: Member,
        rows_N: np.ndarray,
        setting: str,
        images: Callable[[], Loader],
        batch_size: int,
    ) -> Remembered | None:
        """What is kept of a member's words of `rows_N`; None without a folder, or room in it."""
        folder = cache_dir(setting, "frozen")
        if folder is None:
            return None
        kinds = {p.dtype for p in member.network.parameters() if p.is_floating_point()}
        about = (member.model.model_id, sorted(map(str, kinds)), _hardware(member.device))
        name = digest(FROZEN_VERSION, *about, *self.key)
        path = folder / f"{name}.npy"
        try:
            if (kept := self._read(path, len(rows_N))) is None:
                folder.mkdir(parents=True, exist_ok=True)
                with FileLock(folder / f"{name}.lock"):  # one computes, the others find it done
                    kept = self._read(path, len(rows_N))
                    if kept is None and self._compute(path, rows_N, images(), setting, batch_size):
                        kept = self._read(path, len(rows_N))
        except OSError as error:
            raise BikdError(
                f"cannot keep the predictions of frozen models under {folder}: "
                f"{error.strerror or error}; free some space, or set resources.frozen_cache to "
                "another folder or to none"
            ) from None
        return None if kept is None else Remembered(member, rows_N, kept)

    def _read(self, path: Path, count: int) -> np.ndarray | None:
        """The kept array, if it is there in full (a torn or foreign file is computed again)."""
        try:
            kept = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        found = kept.dtype.fields or {}
        if kept.shape != (count,) or [*found] != [*self.fields]:
            return None
        known = [(found[name][0].shape, shape) for name, shape in self.fields.items()]
        return kept if all(shape in (None, there) for there, shape in known) else None

    def _compute(
        self, path: Path, rows_N: np.ndarray, images: Loader, setting: str, batch_size: int
    ) -> bool:
        """Write the file, if there is room for it."""
        if path.exists():
            log.warning("computing again: %s is damaged", path)
        remove_abandoned(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        os.fchmod(handle, 0o644)  # the next person on this node uses it too
        os.close(handle)
        try:
            kept = self._fill(name, rows_N, images, setting, images.at_most(batch_size))
            if kept is not None:
                kept.flush()
                os.replace(name, path)
            return kept is not None
        finally:
            Path(name).unlink(missing_ok=True)

    def _fill(
        self, name: str, rows_N: np.ndarray, images: Loader, setting: str, batch_size: int
    ) -> np.memmap | None:
        """The array, in file `name`; where memory runs out, fewer samples are asked at a time."""
        kept: np.memmap | None = None
        try:
            with self.asking() as said:
                for batch in images.batches(rows_N, batch_size):
                    words = {k: tensor.cpu().numpy() for k, tensor in said(batch).items()}
                    if kept is None:
                        form = [(k, array.dtype, array.shape[1:]) for k, array in words.items()]
                        kept = _array(name, np.dtype(form), len(rows_N), setting)
                        if kept is None:
                            return None
                    at_B = np.searchsorted(rows_N, batch.index.numpy())
                    for field, array in words.items():
                        kept[field][at_B] = array
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or batch_size == 1:
                raise
        else:
            return kept
        return self._fill(name, rows_N, images, setting, batch_size // 2)


def _array(name: str, form: np.dtype, count: int, setting: str) -> np.memmap | None:
    """An array of a file; None where the disk is not to hold as much."""
    beside = (path.stat() for path in Path(name).parent.glob("*.npy"))
    held = sum(stat.st_size for stat in beside)  # of many models, each small beside the disk
    if not fits(setting, form.itemsize * count, DISK_FRACTION, "frozen", held):
        return None
    kept = np.lib.format.open_memmap(name, "w+", form, (count,))
    with open(name, "r+b") as file:  # a full disk is an error here, and a bus error later
        claim(file.fileno(), kept.offset, os.path.getsize(name))
    return kept


def _hardware(device: torch.device) -> str:
    """What rounds as this device does."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@torch.no_grad()
def frozen_cut(member: Member, part: Batch, task: Task, precision: str) -> Cut:
    """What a frozen member says of some samples, by its network, which is in eval mode."""
    dtype = AUTOCAST[precision]
    with tf32(precision == "tf32"):
        with torch.autocast(part.device.type, dtype=dtype, enabled=dtype is not None):
            output = member.output(part)
        return cut_of(task, output, part)


def cut_of(task: Task, output: Any, part: Batch) -> Cut:
    """Of what a network returned; without labels its own loss is 0."""
    prediction = task.predict(output, part)
    if part.target is None:
        return Cut(prediction, prediction.log_prob_BEP.new_zeros(len(part.index)))
    return Cut(prediction, task.loss(output, prediction, part))
