"""What a frozen source says of the train images, computed once for each node.

Its network never changes and, without augmentation, neither do the images it sees: job after job,
seed after seed and epoch after epoch it says the same. So that is computed once and read back, as
decoded images are (`bikd_ray/data/cache.py`): one file, written aside and renamed.

It pays where a prediction is small beside the image it is made from: 4 kB for 1,000 classes, and
none of the forward passes. A map of 150 classes on 128 x 128 cells takes 10 MB for an image of
0.8 MB: reading it back costs as much as computing it, and the disk would not hold it. So a task
says of itself whether its predictions are kept (`Task.kept_shape`).

Suffixes: N rows, B samples, E events, P positions.
"""

import logging
import os
import tempfile
from collections.abc import Callable
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
from bikd_ray.train.member import Member
from bikd_ray.train.numerics import AUTOCAST, out_of_memory, tf32

FROZEN_VERSION = 1
DISK_FRACTION = 0.25
"""Of the free disk, what `frozen_cache: auto` may take."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """Where the loss is cut from a model: what it predicts of B samples, and its own loss [B]."""

    prediction: Prediction
    loss_B: Tensor


class Remembered:
    """A frozen source whose predictions are kept: `kept` has a row for each of `rows` [N]."""

    def __init__(self, rows_N: np.ndarray, kept: np.ndarray, device: torch.device) -> None:
        self._rows_N, self._device = rows_N, device
        self._log_prob, self._loss = kept["log_prob"], kept["loss"]

    def cut(self, part: Batch) -> Cut:
        """What it said of these samples."""
        # a sample that only fills a place may be none of the rows; what it says does not count
        at_B = np.searchsorted(self._rows_N, part.index.numpy()).clip(max=len(self._rows_N) - 1)
        log_prob_BEP, loss_B = (self._there(held[at_B]) for held in (self._log_prob, self._loss))
        return Cut(Prediction(log_prob_BEP), loss_B)

    def _there(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def kept_bytes(shape: tuple[int, int], count: int) -> int:
    """On disk, of one model's predictions [E, P] and losses of `count` images, in float32."""
    return 4 * count * (shape[0] * shape[1] + 1)


def remembered(
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
    shape, folder = task.kept_shape(job.data), cache_dir(setting, "frozen")
    if folder is None or shape is None or job.recipe.augment != "none":
        return None
    kind = next((p.dtype for p in member.network.parameters() if p.is_floating_point()), None)
    wide = np.dtype(np.float64 if kind == torch.float64 else np.float32)
    form = np.dtype([("log_prob", wide, shape), ("loss", wide)])
    known = (member.model.model_id, job.data.data_id, job.recipe.precision, task.name, wide.name)
    name = digest("frozen", FROZEN_VERSION, *known, member.device.type, rows_N.tolist())
    path = folder / f"{name}.npy"
    try:
        if (kept := _read(path, form, len(rows_N))) is None:
            if not fits(setting, form.itemsize * len(rows_N), DISK_FRACTION, "frozen"):
                return None
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{name}.lock"):  # one job computes, the others find it done
                if (kept := _read(path, form, len(rows_N))) is None:
                    _compute(path, form, member, job, task, rows_N, images())
                    kept = _read(path, form, len(rows_N))
    except OSError as error:
        raise BikdError(
            f"cannot keep the predictions of frozen models under {folder}: "
            f"{error.strerror or error}; free some space, or set resources.frozen_cache to another "
            "folder or to none"
        ) from None
    assert kept is not None
    return Remembered(rows_N, kept, member.device)


def _read(path: Path, form: np.dtype, count: int) -> np.ndarray | None:
    """The kept array, if it is there in full (a torn or foreign file is computed again)."""
    try:
        kept = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.dtype == form and kept.shape == (count,) else None


def _compute(
    path: Path,
    form: np.dtype,
    member: Member,
    job: Job,
    task: Task,
    rows_N: np.ndarray,
    images: Loader,
) -> None:
    if path.exists():
        log.warning("computing again: %s is damaged", path)
    remove_abandoned(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.fchmod(handle, 0o644)  # the next person on this node uses it too
    os.close(handle)
    try:
        kept = np.lib.format.open_memmap(name, "w+", form, (len(rows_N),))
        with open(name, "r+b") as file:  # a full disk is an error here, and a bus error later
            claim(file.fileno(), kept.offset, os.path.getsize(name))
        _fill(kept, member, job, task, rows_N, images, job.recipe.batch_size)
        kept.flush()
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _fill(
    kept: np.ndarray,
    member: Member,
    job: Job,
    task: Task,
    rows_N: np.ndarray,
    images: Loader,
    batch_size: int,
) -> None:
    """As a step would compute it; where memory runs out, with fewer samples at a time."""
    mode = member.network.training
    member.network.eval()
    try:
        for batch in images.batches(rows_N, batch_size):
            cut = frozen_cut(member, batch, task, job.recipe.precision)
            found = kept[at_B := np.searchsorted(rows_N, batch.index.numpy())]
            found["log_prob"] = cut.prediction.log_prob_BEP.cpu().numpy()
            found["loss"] = cut.loss_B.cpu().numpy()
            kept[at_B] = found
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or batch_size == 1:
            raise
    else:
        return
    finally:
        member.network.train(mode)
    _fill(kept, member, job, task, rows_N, images, batch_size // 2)


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
