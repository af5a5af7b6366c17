"""Batches of clips for K models at once: each frame decoded once, each model its own window."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from bikd_ray.data.clips.segment import Segment, read_segment, segments_of
from bikd_ray.data.clips.source import ClipSource, Truth
from bikd_ray.data.clips.windows import ClipView
from bikd_ray.data.decode import BadImage
from bikd_ray.tasks.saliency_maps import resized


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """B clips: `views[v]` is uint8 [B, 3, T, H, W]; `sample` int64 [B, 2], (video, position).

    target: `map` float32 [B, H, W] and, where no common grid was asked for, `fixated` bool
    [B, H, W] and `size` int64 [B, 2], the height and width of each: what lies beyond is padding.
    """

    views: dict[ClipView, Tensor]
    target: dict[str, Tensor]
    sample: Tensor


class ClipLoader:
    """Batches of a source's clips in any order.

    workers: processes that decode while models compute; each reads whole segments, so that frames
    which neighbouring targets share are decoded once. grid: the height and width to which maps are
    brought, bilinearly, to train on; without it they stay as they are, to be scored. skip: leaves
    out clips with a frame or truth that does not decode; else they raise BadImage.
    """

    def __init__(
        self,
        source: ClipSource,
        views: Sequence[ClipView],
        device: torch.device,
        *,
        workers: int = 0,
        grid: tuple[int, int] | None = None,
        skip: bool = False,
    ) -> None:
        self.source, self.device, self.grid = source, device, grid
        self.views = tuple(dict.fromkeys(views))
        self._runs: list[tuple[int, list[int]]] = []
        # spawned, not forked: decoders and Arrow's threads do not survive a fork
        self._reading = DataLoader(
            _Reading(source, self.views, skip),
            batch_size=None,
            sampler=self,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
            collate_fn=_as_it_is,
        )

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def batches(self, samples: np.ndarray, batch_size: int) -> Iterator[ClipBatch]:
        """The samples [N, 2] in their order; a lone last one joins the batch before it."""
        from bikd_ray.data.loader import parts_of  # it loads timm, which no process here needs

        self._runs = segments_of(samples)
        sizes = iter([len(part) for part in parts_of(samples, batch_size)])
        waiting: list[tuple[Segment, int]] = []
        size = next(sizes, 0)
        for found in self._reading:
            if isinstance(found, str):
                raise BadImage(found)
            waiting += [(one, i) for one in found for i in range(len(one.targets))]
            while len(waiting) >= size > 0:
                yield self._batch(waiting[:size])
                waiting, size = waiting[size:], next(sizes, 0)
        if waiting:  # fewer than planned, where some were skipped
            yield self._batch(waiting)

    def _batch(self, clips: list[tuple[Segment, int]]) -> ClipBatch:
        views = {
            view: torch.from_numpy(np.stack([one.clip(i, view) for one, i in clips]))
            for view in self.views
        }
        target = targets([one.truths[i] for one, i in clips], self.grid)
        sample = torch.tensor([(one.video, int(one.targets[i])) for one, i in clips])
        return ClipBatch(
            {view: pixels.to(self.device, non_blocking=True) for view, pixels in views.items()},
            {name: value.to(self.device, non_blocking=True) for name, value in target.items()},
            sample,
        )


def targets(truths: Sequence[Truth], grid: tuple[int, int] | None) -> dict[str, Tensor]:
    """What a `ClipBatch` holds of truths, on the host."""
    maps = [torch.from_numpy(np.ascontiguousarray(truth.map)) for truth in truths]
    if grid is not None:
        return {"map": torch.cat([resized(one[None], grid) for one in maps])}
    fixated = [torch.from_numpy(np.ascontiguousarray(truth.fixated)) for truth in truths]
    size_B2 = torch.tensor([one.shape for one in maps])
    height, width = size_B2.amax(0).tolist()

    def padded(parts: list[Tensor]) -> Tensor:
        beyond = [(0, width - one.shape[1], 0, height - one.shape[0]) for one in parts]
        return torch.stack([pad(one, by) for one, by in zip(parts, beyond, strict=True)])

    return {"map": padded(maps), "fixated": padded(fixated), "size": size_B2}


class _Reading(Dataset):
    """(video, targets) to the segment, in parts where clips are skipped, or why it does not decode.

    An error raised here would arrive with a traceback for a message.
    """

    def __init__(self, source: ClipSource, views: Sequence[ClipView], skip: bool) -> None:
        self.source, self.views, self.skip = source, views, skip

    def __getitem__(self, run: tuple[int, list[int]]) -> list[Segment] | str:
        video, positions = run
        try:
            return [read_segment(self.source, video, positions, self.views)]
        except BadImage as error:
            if not self.skip:
                return str(error)
        if len(positions) == 1:
            return []
        alone = (self[video, [position]] for position in positions)
        return [segment for found in alone if not isinstance(found, str) for segment in found]


def _as_it_is(found: list[Segment] | str) -> list[Segment] | str:
    return found
