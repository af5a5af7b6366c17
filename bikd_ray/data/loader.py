"""Batches for K models at once: each image decoded once, each model its own view of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bikd_ray.data.cache import cache_dir, decoded, fits
from bikd_ray.data.sources import ImageSet
from bikd_ray.data.views import pixels
from bikd_ray.plan import View


@dataclass(frozen=True)
class Batch:
    """B samples: `views[v]` is uint8 [B, 3, H, W], `labels` and `index` are int64 [B]."""

    views: dict[View, Tensor]
    labels: Tensor
    index: Tensor


class Loader:
    """Batches of an image set in any order, from decoded arrays or decoded on the way.

    Decoded arrays serve where `cache` allows them and they fit (`data.cache`); else
    `workers` processes decode while the models compute.
    """

    def __init__(
        self,
        images: ImageSet,
        views: Sequence[View],
        device: torch.device,
        *,
        cache: str = "auto",
        workers: int = 0,
    ) -> None:
        self.images, self.device, self.workers = images, device, workers
        self.views = tuple(dict.fromkeys(views))
        self.labels = torch.from_numpy(images.labels)
        folder = cache_dir(cache)
        keep = fits(cache, images, self.views)
        self.arrays = decoded(images, self.views, folder) if keep and folder else None

    def batches(self, order: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """The samples `order` [M] in batches, on the device; the last may be smaller.

        A lone last sample joins the batch before it: batch normalisation cannot train on one.
        """
        parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [np.concatenate(parts[-2:])]
        for index, arrays in self._from_arrays(parts) if self.arrays else self._decoding(parts):
            yield Batch(
                {v: self._to_device(t) for v, t in zip(self.views, arrays, strict=True)},
                self._to_device(self.labels[index]),
                index,
            )

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _from_arrays(self, parts: list[np.ndarray]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        assert self.arrays is not None
        for part in parts:
            arrays = [torch.from_numpy(self.arrays[v][part]) for v in self.views]
            yield torch.from_numpy(part), arrays

    def _decoding(self, parts: list[np.ndarray]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        # spawned, not forked: Arrow and object-store clients do not survive a fork
        yield from DataLoader(
            _Decoding(self.images, self.views),
            batch_sampler=[part.tolist() for part in parts],
            collate_fn=_collate,
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
        )


class _Decoding(Dataset):
    def __init__(self, images: ImageSet, views: Sequence[View]) -> None:
        self.images, self.views = images, views
        self._convert: list | None = None  # built in the process that uses it

    def __getitem__(self, index: int) -> tuple[int, list[np.ndarray]]:
        if self._convert is None:
            self._convert = [pixels(v) for v in self.views]
        image = self.images.image(index)
        return index, [convert(image) for convert in self._convert]


def _collate(samples: list[tuple[int, list[np.ndarray]]]) -> tuple[Tensor, list[Tensor]]:
    index, arrays = zip(*samples, strict=True)
    return torch.tensor(index), [torch.from_numpy(np.stack(a)) for a in zip(*arrays, strict=True)]
