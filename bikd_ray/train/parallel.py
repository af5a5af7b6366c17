"""How the workers of one job share its work: by models, by samples, by both, or not at all.

Suffixes: S sources (K learners, then frozen ones), B samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """The workers of a job as one of them sees them; alone it has everything.

    A grid of `models` rows and `shares` columns, `rank` row by row. Row k has member k (with fewer
    rows, every `models`-th from k), and all rows see the same samples. What rows need of each
    other is what models are compared by and lose, since a loss of these gives each model its own
    gradient. The workers of one row have the same members, and of each batch a share each.
    Takes the default process group of torch.distributed, and groups of its ranks.
    """

    models: int = 1
    shares: int = 1
    rank: int = 0

    @property
    def count(self) -> int:
        return self.models * self.shares

    @property
    def row(self) -> int:
        return self.rank // self.shares

    @property
    def share(self) -> int:
        return self.rank % self.shares

    @property
    def by_samples(self) -> bool:
        return self.shares > 1

    @property
    def by_models(self) -> bool:
        return self.models > 1

    def connect(self) -> None:
        """Make the groups; all workers do it together, before anything that needs them."""
        if self.count > 1:
            _groups(dist.group.WORLD, self.models, self.shares)

    @property
    def of_my_members(self) -> dist.ProcessGroup | None:
        """The workers of this row; None: all."""
        if not self.by_models:
            return None
        return _groups(dist.group.WORLD, self.models, self.shares)[0][self.row]

    @property
    def of_my_samples(self) -> dist.ProcessGroup | None:
        """The workers that see the same samples; None: all."""
        if not self.by_samples:
            return None
        return _groups(dist.group.WORLD, self.models, self.shares)[1][self.share]

    def has(self, member: int) -> bool:
        """Whether this worker computes a member of the job."""
        return member % self.models == self.row

    def shard(self, part_B: np.ndarray) -> np.ndarray:
        """This worker's samples of a batch; there may be none."""
        return np.array_split(part_B, self.shares)[self.share] if self.by_samples else part_B

    def exchange(self, own_S: Sequence[Any], owners: Sequence[int]) -> list[Any]:
        """Every source's tensor, or list of tensors, detached; None: of another worker.

        Of one shape and type for all sources. owners: the member whose worker computes source s.
        """
        own = [_detached(value) for value in own_S]
        if not self.by_models:
            return [value for value in own if value is not None]
        like = next(value for value in own if value is not None)
        found = []
        for value, owner in zip(own, owners, strict=True):
            value = _empty_like(like) if value is None else value
            source = owner % self.models * self.shares + self.share
            for tensor in value if isinstance(value, list) else [value]:
                dist.broadcast(tensor, source, self.of_my_samples)
            found.append(value)
        return found

    def gather(self, value: Any) -> list[Any]:
        """The value of every worker, in the order of their ranks; any that pickles."""
        return _gathered(value, self.count, None)

    def gather_shares(self, value: Any) -> list[Any]:
        """The same of the workers that have the same members."""
        return _gathered(value, self.shares, self.of_my_members)

    def agree(self, value: Any) -> Any:
        """What the first worker says."""
        if self.count == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, 0)
        return said[0]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over workers that share samples; of others each knows everything."""
        if self.by_samples:
            dist.all_reduce(tensor, group=self.of_my_members)
        return tensor


ALONE = Workers()


@cache
def _groups(
    world: dist.ProcessGroup, models: int, shares: int
) -> tuple[list[dist.ProcessGroup], list[dist.ProcessGroup]]:
    """A group for each row of the grid, and one for each column."""
    rank_MS = np.arange(models * shares).reshape(models, shares)

    def made(ranks: np.ndarray) -> dist.ProcessGroup:
        group = dist.new_group(ranks.tolist())
        # a number stands for a group that one is not in; nobody asks for that
        return cast(dist.ProcessGroup, group)

    return [made(row) for row in rank_MS], [made(column) for column in rank_MS.T]


def _gathered(value: Any, count: int, group: dist.ProcessGroup | None) -> list[Any]:
    if count == 1:
        return [value]
    found: list[Any] = [None] * count
    dist.all_gather_object(found, value, group=group)
    return found


def _detached(value: Any) -> Any:
    if isinstance(value, list):
        return [_detached(tensor) for tensor in value]
    return None if value is None else value.detach().contiguous()


def _empty_like(value: Any) -> Any:
    if isinstance(value, list):
        return [torch.empty_like(tensor) for tensor in value]
    return torch.empty_like(value)
