"""Batches for K models at once: each image decoded once, each model its own view of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bikd_ray.data.augment import augmentation, augmented_as
from bikd_ray.data.cache import Views, cache_dir, decoded, fits, missing_bytes
from bikd_ray.data.decode import BadImage
from bikd_ray.data.encoded import encoded_copy
from bikd_ray.data.sources import EncodedImages, ImageSet
from bikd_ray.data.views import pixels
from bikd_ray.identity import derived_seed
from bikd_ray.plan import View

DISK_FRACTIONS = {"val": 1.0, "train": 0.5}
"""Of the free disk, what `cache: auto` may take: val is kept wherever it can be, since every epoch
of every job reads it."""


@dataclass(frozen=True)
class Batch:
    """B samples: `views[v]` is uint8 [B, 3, …, H, W], `index` int64 [B].

    `target`: what is right: the samples' labels, int64 [B], or what the task renders by name:
    tensors [B, …], or lists of B tensors where their sizes differ.
    `counted`: B, or 0 where they only fill the place of a share without samples. `planned`: samples
    of the whole batch, of which this may be one worker's share, with those that do not decode.
    `draw`: a seed for losses that draw at random, of the job's seed and the step; 0 in evaluation.
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
    return target[rows]


class Loader:
    """Batches of an image set in any order, from decoded arrays or decoded on the way.

    Without augmentation decoded arrays serve where `cache` allows them and they take less than
    `disk_fraction` of the free disk; else `workers` processes decode while the models compute, from
    a copy of the encoded images where single images are expensive to read.
    `skip` leaves out images that do not decode; without it they raise BadImage.
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
    ) -> None:
        self.device, self.workers, self.skip = device, workers, skip
        self.views = tuple(dict.fromkeys(views))
        self.kept: Views | None = None
        folder = cache_dir(cache)
        if folder and augment == "none":
            wanted = missing_bytes(images, self.views, folder)
            if fits(cache, wanted, disk_fraction):
                self.kept = decoded(images, self.views, folder, skip=skip)
        if folder and not self.kept and isinstance(images, EncodedImages):
            copy = not images.random_access and fits(cache, images.nbytes, disk_fraction)
            images = encoded_copy(images, folder) if copy else images
        self.images, self._labels = images, torch.from_numpy(images.labels)
        self.decoding = _Decoding(images, self.views, augment, seed)
        self._passes: _Passes | None = None
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        """Samples."""
        return len(self._labels)

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
        for part, (index, arrays) in zip(parts, source, strict=True):
            if len(index):
                of_views = (arrays[v] for v in self.views)
                labels, *of_views = self._to_device(self._labels[index], *of_views)
                views = dict(zip(self.views, of_views, strict=True))
                yield Batch(views, labels, index, len(index), len(part))
            elif shard:
                yield self._filler(len(part))

    def _filler(self, planned: int) -> Batch:
        black = {
            v: torch.zeros(1, 3, v.size, v.size, dtype=torch.uint8, device=self.device)
            for v in self.views
        }
        label = torch.zeros(1, dtype=torch.int64, device=self.device)
        return Batch(black, label, torch.zeros(1, dtype=torch.int64), 0, planned)

    def _to_device(self, *tensors: Tensor) -> list[Tensor]:
        """On CUDA the copies run beside the kernels of the batch before, which go on meanwhile."""
        if self._copying is None:
            return list(tensors)
        with torch.cuda.stream(self._copying):
            copied = [t.pin_memory().to(self.device, non_blocking=True) for t in tensors]
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        for tensor in copied:
            tensor.record_stream(computing)  # its memory is not given away while it is read
        return copied

    def _from_arrays(self, parts: list[np.ndarray]) -> Iterator[tuple[Tensor, dict[View, Tensor]]]:
        assert self.kept is not None
        for part in parts:
            good = part[~np.isin(part, self.kept.bad)] if self.kept.faults else part
            arrays = {v: torch.from_numpy(self.kept.arrays[v][good]) for v in self.views}
            yield torch.from_numpy(good), arrays

    def _decoded(
        self, parts: list[np.ndarray], epoch: int
    ) -> Iterator[tuple[Tensor, dict[View, Tensor]]]:
        if self._passes is None:  # its processes serve every pass
            self._passes = _Passes(self.decoding, self.workers)
        for samples in self._passes.over(parts, epoch):
            if samples.bad and not self.skip:
                raise BadImage(samples.bad[0])
            by_kind = dict(
                zip(self.decoding.kinds, samples.arrays, strict=False)
            )  # empty if all bad
            arrays = {v: by_kind[self.decoding.kind(v)] for v in self.views if by_kind}
            yield samples.index, arrays


def parts_of(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The samples of each batch of a pass."""
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


@dataclass(frozen=True)
class _Samples:
    """What a loader process returns: B samples and the images that did not decode."""

    index: Tensor
    arrays: list[Tensor]  # one for each kind
    bad: list[str]


class _Passes:
    """A DataLoader whose processes stay for the next pass."""

    def __init__(self, decoding: "_Decoding", workers: int) -> None:
        self._keys: list[list[tuple[int, int]]] = []
        # spawned, not forked: Arrow and object-store clients do not survive a fork
        self._loader = DataLoader(
            decoding,
            batch_sampler=self,  # type: ignore[arg-type]
            collate_fn=_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def over(self, parts: list[np.ndarray], epoch: int) -> Iterator[_Samples]:
        self._keys = [[(index, epoch) for index in part.tolist()] for part in parts]
        return iter(self._loader)


class _Decoding(Dataset):
    """(index, epoch) to the pixels of every distinct kind of view."""

    def __init__(self, images: ImageSet, views: Sequence[View], augment: str, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed
        self.kinds = list(dict.fromkeys(self.kind(v) for v in views))
        self.views = {self.kind(v): v for v in views}
        self._convert: list | None = None  # built in the process that uses it

    def kind(self, view: View) -> object:
        """What decides the pixels: views of one kind share them."""
        return view if self.augment == "none" else augmented_as(self.augment, view)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, list[np.ndarray] | str]:
        index, epoch = key
        try:
            image = self.images.image(index)
        except BadImage as error:
            return index, str(error)  # raised here it would arrive with a traceback for a message
        return index, self._pixels(image, index, epoch)

    def _pixels(self, image: Image.Image, index: int, epoch: int) -> list[np.ndarray]:
        views = [self.views[kind] for kind in self.kinds]
        if self.augment == "none":
            self._convert = self._convert or [pixels(v) for v in views]
            return [convert(image) for convert in self._convert]
        self._convert = self._convert or [augmentation(self.augment, v) for v in views]
        seed = derived_seed("augment", self.seed, epoch, index)
        return [convert(image, seed) for convert in self._convert]


def _collate(samples: list[tuple[int, list[np.ndarray] | str]]) -> _Samples:
    good = [(i, arrays) for i, arrays in samples if not isinstance(arrays, str)]
    stacked = [torch.from_numpy(np.stack(a)) for a in zip(*(a for _, a in good), strict=True)]
    index = torch.tensor([i for i, _ in good], dtype=torch.int64)
    return _Samples(index, stacked, [a for _, a in samples if isinstance(a, str)])
