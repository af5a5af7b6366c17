"""Batches for K models at once: each image decoded once, each model its own view of it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bikd_ray.data.augment import augmented_as
from bikd_ray.data.cache import Views, cache_dir, decoded, fits, missing_bytes
from bikd_ray.data.decode import BadImage
from bikd_ray.data.encoded import encoded_copy
from bikd_ray.data.labels import NO_LABEL
from bikd_ray.data.render import render
from bikd_ray.data.sources import EncodedImages, ImageSet
from bikd_ray.data.targets import Target
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.plan import View
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Task

DISK_FRACTIONS = {"val": 1.0, "train": 0.5, "further": 1.0}
"""Of the free disk, what `cache: auto` may take: val is kept wherever it can be, since every epoch
of every job reads it, and so is any further set, which every job reads at its end."""


@dataclass(frozen=True)
class Batch:
    """B samples: `views[v]` is uint8 [B, 3, …, H, W], `index` int64 [B].

    `target`: what is right: the samples' labels, int64 [B], or what the task renders by name:
    tensors [B, …], or lists of B tensors where their sizes differ. None where nobody has said it.
    `counted`: B, or 0 where they only fill the place of a share without samples. `planned`: samples
    of the whole batch, of which this may be one worker's share, with those that do not decode.
    `draw`: a seed for losses that draw at random, of the job's seed and the step, to be combined
    with `index`, so that it is the same in whichever part a sample comes; 0 in evaluation.
    """

    views: dict[View, Tensor]
    target: Any
    index: Tensor
    counted: int
    planned: int
    draw: int = 0

    @property
    def device(self) -> torch.device:
        return next(iter(self.views.values())).device

    def part(self, rows: slice) -> "Batch":
        """Some of its samples."""
        index = self.index[rows]
        return replace(
            self,
            views={view: pixels[rows] for view, pixels in self.views.items()},
            target=_sliced(self.target, rows),
            index=index,
            counted=len(index) if self.counted else 0,
        )


def _sliced(target: Any, rows: slice) -> Any:
    if isinstance(target, dict):
        return {name: value[rows] for name, value in target.items()}
    return None if target is None else target[rows]


_Read = tuple[Tensor, dict[View, Tensor], dict[str, Any] | None]
"""Indices, pixels and the rendered target of the samples of a batch that decode."""

MOST_VALUES = 1 << 19
"""Of the targets `Task.alike` of a batch that is only measured, or of its views where these are
larger: pixels, for which every model answers a probability of each class.
"""

MOST_BYTES = 1 << 28
"""Of decoded samples in a batch that is only looked at, of all views: clips are large."""

_Sample = tuple[int, tuple[list[np.ndarray], Target | None] | str]
"""Index, and pixels of each kind with the target, or why it does not decode."""


class Loader:
    """Batches of an image set in any order, from decoded arrays or decoded on the way.

    Without augmentation decoded arrays serve where `cache` allows them and they take less than
    `disk_fraction` of the free disk; else `workers` processes decode while the models compute, from
    a copy of the encoded images where single images are expensive to read. `task` renders them, the
    default one where it is None.
    `skip` leaves out images that do not decode; without it they raise BadImage.
    Where samples differ in size (`Task.alike`), a batch comes in parts of one size, and of large
    samples few at a time; not where it must be `whole`, to be trained on: that raises UserError.
    """

    def __init__(
        self,
        images: ImageSet,
        views: Sequence[View],
        device: torch.device,
        *,
        cache: str = "auto",
        disk_fraction: float = DISK_FRACTIONS["train"],
        workers: int = 0,
        skip: bool = False,
        augment: str = "none",
        seed: int = 0,
        task: Task | None = None,
        whole: bool = False,
    ) -> None:
        task = task or task_of()
        self.device, self.workers, self.skip = device, workers, skip
        self.views = tuple(dict.fromkeys(views))
        self.kept: Views | None = None
        folder = cache_dir(cache)
        if folder and augment == "none" and task.cacheable:
            wanted = missing_bytes(images, self.views, folder, task)
            if wanted is not None and fits(cache, wanted, disk_fraction):
                self.kept = decoded(images, self.views, folder, skip=skip, task=task)
        plain = not task.rendering
        if folder and not self.kept and plain and isinstance(images, EncodedImages):
            copy = not images.random_access and fits(cache, images.nbytes, disk_fraction)
            images = encoded_copy(images, folder) if copy else images
        known = (images.labels != NO_LABEL).any()
        self.images, self._labels = images, torch.from_numpy(images.labels) if known else None
        self.decoding = _Decoding(images, self.views, augment, seed, task, whole)
        self._passes: _Passes | None = None
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        """Samples."""
        return len(self.images.labels)

    @property
    def at_once(self) -> int | None:
        """The most samples of a part of a batch; None where a batch comes whole."""
        if self.decoding.whole or self.decoding.alike is None:
            return None
        return max(1, MOST_VALUES // max(1, self.decoding.least))

    def at_most(self, batch_size: int) -> int:
        """As many samples of a batch that is only looked at as take MOST_BYTES, and no more than a
        part of it may have.
        """
        one = sum(prod(view.shape) for view in self.views)
        return max(1, min(batch_size, MOST_BYTES // one, self.at_once or batch_size))

    def batches(
        self,
        order: np.ndarray,
        batch_size: int,
        epoch: int = 0,
        *,
        begin: int = 0,
        shard: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Batch]:
        """The samples `order` [M] in batches, on the device; the last may be smaller.

        A lone last sample joins the batch before it: batch normalisation cannot train on one.
        `epoch` tells the draws of one pass from those of another. `begin`: the batch to begin with.
        `shard` takes one worker's samples of a batch; where it has none, a black image stands in.
        """
        parts = parts_of(order, batch_size)[begin:]
        own = [shard(part) for part in parts] if shard else parts
        source = self._from_arrays(own) if self.kept else self._decoded(own, epoch)
        for part, found in zip(parts, source, strict=True):
            runs = [samples for samples in found if len(samples[0])]
            if self.decoding.whole and len(runs) > 1:
                raise UserError(
                    "training images differ in size; set recipe.augment: joint, which crops all "
                    "of them to one"
                )
            for index, arrays, target in runs:
                yield self._batch(index, arrays, target, len(index), len(part))
            if shard and not runs:
                yield self._filler(len(part))

    def _batch(
        self,
        index: Tensor,
        arrays: dict[View, Tensor],
        target: dict[str, Any] | None,
        counted: int,
        planned: int,
    ) -> Batch:
        labels = None
        if target is None and self._labels is not None:
            labels = self._labels[index]
        on_device = self._to_device(([arrays[v] for v in self.views], labels, target))
        of_views, labels, target = on_device
        views = dict(zip(self.views, of_views, strict=True))
        return Batch(views, labels if target is None else target, index, counted, planned)

    def _filler(self, planned: int) -> Batch:
        """A sample of the set with black pixels: its target is such as the others have."""
        found = (self.decoding[index, 0] for index in range(len(self)))
        good = next(sample for sample in found if not isinstance(sample[1], str))
        (samples,) = _collate([good], self.decoding.ragged).runs
        arrays = self._of_views([torch.zeros_like(array) for array in samples.arrays])
        return self._batch(samples.index, arrays, samples.target, 0, planned)

    def _to_device(self, held: Any) -> Any:
        """On CUDA the copies run beside the kernels of the batch before, which go on meanwhile."""
        if self._copying is None:
            return held
        with torch.cuda.stream(self._copying):
            copied = _each(held, lambda t: t.pin_memory().to(self.device, non_blocking=True))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        # its memory is not given away while it is read
        _each(copied, lambda t: t.record_stream(computing))
        return copied

    def _from_arrays(self, parts: list[np.ndarray]) -> Iterator[list[_Read]]:
        assert self.kept is not None
        for part in parts:
            good = part[~np.isin(part, self.kept.bad)] if self.kept.faults else part
            targets = self.kept.targets
            of_all = targets and [targets.of(index) for index in good.tolist()]
            runs = []
            decoding = self.decoding
            for rows in _runs(of_all or [], decoding.alike, decoding.whole, decoding.least):
                some = good[rows]
                arrays = {v: torch.from_numpy(self.kept.arrays[v][some]) for v in self.views}
                target = _target(of_all[rows], self.decoding.ragged) if of_all else None
                runs.append((torch.from_numpy(some), arrays, target))
            yield runs

    def _decoded(self, parts: list[np.ndarray], epoch: int) -> Iterator[list[_Read]]:
        if self._passes is None:  # its processes serve every pass
            self._passes = _Passes(self.decoding, self.workers)
        for read in self._passes.over(parts, epoch):
            if read.bad and not self.skip:
                raise BadImage(read.bad[0])
            yield [(one.index, self._of_views(one.arrays), one.target) for one in read.runs]

    def _of_views(self, arrays: list[Tensor]) -> dict[View, Tensor]:
        by_kind = dict(zip(self.decoding.kinds, arrays, strict=False))  # empty if all are bad
        return {v: by_kind[self.decoding.kind(v)] for v in self.views if by_kind}


def _each(held: Any, do: Callable[[Tensor], Any]) -> Any:
    """The same lists and dicts of other tensors."""
    if isinstance(held, dict):
        return {name: _each(value, do) for name, value in held.items()}
    if isinstance(held, list | tuple):
        return [_each(value, do) for value in held]
    return None if held is None else do(held)


def parts_of(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The samples of each batch of a pass."""
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


@dataclass(frozen=True)
class _Samples:
    """B samples of one size."""

    index: Tensor
    arrays: list[Tensor]  # one for each kind
    target: dict[str, Any] | None


@dataclass(frozen=True)
class _Collated:
    """What a loader process returns: the samples of a batch, and what did not decode."""

    runs: list[_Samples]
    bad: list[str]


class _Passes:
    """A DataLoader whose processes stay for the next pass."""

    def __init__(self, decoding: "_Decoding", workers: int) -> None:
        self._keys: list[list[tuple[int, int]]] = []
        # spawned, not forked: Arrow and object-store clients do not survive a fork
        self._loader = DataLoader(
            decoding,
            batch_sampler=self,  # type: ignore[arg-type]
            collate_fn=partial(
                _collate,
                ragged=decoding.ragged,
                alike=decoding.alike,
                whole=decoding.whole,
                least=decoding.least,
            ),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def over(self, parts: list[np.ndarray], epoch: int) -> Iterator[_Collated]:
        self._keys = [[(index, epoch) for index in part.tolist()] for part in parts]
        return iter(self._loader)


class _Decoding(Dataset):
    """(index, epoch) to the pixels of every distinct kind of view, and the target."""

    def __init__(
        self,
        images: ImageSet,
        views: Sequence[View],
        augment: str,
        seed: int,
        task: Task,
        whole: bool,
    ) -> None:
        self.images, self.augment, self.seed, self.task = images, augment, seed, task
        self.whole = whole
        self.kinds = list(dict.fromkeys(self.kind(v) for v in views))
        of_kind = {self.kind(v): v for v in views}
        self.views = [of_kind[kind] for kind in self.kinds]
        self.ragged, self.alike = task.ragged, task.alike
        self.least = max((prod(view.shape[1:]) for view in self.views), default=0)

    def kind(self, view: View) -> object:
        """What decides the pixels: views of one kind share them."""
        plain = self.augment == "none" or self.task.rendering
        return view if plain else augmented_as(self.augment, view)

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        index, epoch = key
        seed = derived_seed("augment", self.seed, epoch, index)
        try:
            found = render(self.task, self.images, index, self.views, self.augment, seed)
        except BadImage as error:
            return index, str(error)  # raised here it would arrive with a traceback for a message
        return index, found


def _collate(
    samples: list[_Sample],
    ragged: Collection[str],
    alike: str | None = None,
    whole: bool = False,
    least: int = 0,
) -> _Collated:
    good = [(index, found) for index, found in samples if not isinstance(found, str)]
    targets = [target for _, (_, target) in good if target is not None]
    runs = []
    for rows in _runs(targets, alike, whole, least):
        pixels = zip(*(arrays for _, (arrays, _) in good[rows]), strict=True)
        runs.append(
            _Samples(
                torch.tensor([index for index, _ in good[rows]], dtype=torch.int64),
                [torch.from_numpy(np.stack(arrays)) for arrays in pixels],
                _target(targets[rows], ragged) if targets else None,
            )
        )
    return _Collated(runs, [found for _, found in samples if isinstance(found, str)])


def _runs(targets: list[Target], alike: str | None, whole: bool, least: int) -> list[slice]:
    """Neighbours whose targets `alike` have one shape; unless whole, of MOST_VALUES at most.

    least: the pixels of a view, which a sample has at least.
    """
    if alike is None or not targets:
        return [slice(None)]
    starts = [0]
    for row, target in enumerate(targets):
        first = targets[starts[-1]][alike]
        room = whole or (row + 1 - starts[-1]) * max(first.size, least) <= MOST_VALUES
        if row > starts[-1] and not (room and first.shape == target[alike].shape):
            starts.append(row)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _target(targets: list[Target], ragged: Collection[str]) -> dict[str, Any]:
    """Of a batch: a tensor for each name, or a list of them. Raises UserError."""
    found: dict[str, Any] = {}
    for name in targets[0] if targets else ():
        arrays = [target[name] for target in targets]
        shapes = {array.shape for array in arrays}
        if name in ragged:
            found[name] = [torch.from_numpy(array) for array in arrays]
        elif len(shapes) == 1:
            found[name] = torch.from_numpy(np.stack(arrays))
        else:
            some = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
            raise UserError(
                f"render gave targets {name!r} of several shapes ({some}); they can be lists where "
                "the task's `ragged` names them"
            )
    return found
