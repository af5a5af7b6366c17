"""How the workers of one job share its work: by models, by samples, or not at all.

Suffixes: S sources (K learners, then frozen ones), B samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """The workers of a job as one of them sees them; alone it has everything.

    `models`: worker k has member k, and all see the same samples. What they need of each other is
    what models are compared by and lose, since a loss of these gives each model its own gradient.
    `samples`: every worker has all members and its share of each batch.
    Both take the default process group of torch.distributed.
    """

    split: Literal["models", "samples"] = "models"
    rank: int = 0
    count: int = 1

    @property
    def by_samples(self) -> bool:
        return self.split == "samples" and self.count > 1

    @property
    def by_models(self) -> bool:
        return self.split == "models" and self.count > 1

    def has(self, member: int) -> bool:
        """Whether this worker computes a member of the job."""
        return not self.by_models or member % self.count == self.rank

    def shard(self, part_B: np.ndarray) -> np.ndarray:
        """This worker's samples of a batch; there may be none."""
        return np.array_split(part_B, self.count)[self.rank] if self.by_samples else part_B

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
            for tensor in value if isinstance(value, list) else [value]:
                dist.broadcast(tensor, owner % self.count)
            found.append(value)
        return found

    def gather(self, value: Any) -> list[Any]:
        """The value of every worker, in the order of their ranks; any that pickles."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

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
            dist.all_reduce(tensor)
        return tensor


ALONE = Workers()


def _detached(value: Any) -> Any:
    if isinstance(value, list):
        return [_detached(tensor) for tensor in value]
    return None if value is None else value.detach().contiguous()


def _empty_like(value: Any) -> Any:
    if isinstance(value, list):
        return [torch.empty_like(tensor) for tensor in value]
    return torch.empty_like(value)
