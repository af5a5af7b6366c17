"""How the workers of one job share its work: by models, by samples, or not at all.

Suffixes: S sources (K learners, then frozen ones), B samples, C classes.
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
    B x C logits a step, since a loss of all logits gives each model its own gradient.
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

    def exchange(self, logits_S: Sequence[Tensor | None], owners: Sequence[int]) -> list[Tensor]:
        """Every source's logits [B, C], detached and in float32 at least; None: of another worker.

        owners: the member whose worker computes source s.
        """
        own = [None if z is None else _raised(z.detach()) for z in logits_S]
        if not self.by_models:
            return [z for z in own if z is not None]
        like = next(z for z in own if z is not None)
        found = []
        for z, owner in zip(own, owners, strict=True):
            z = torch.empty_like(like) if z is None else z.contiguous()
            dist.broadcast(z, owner % self.count)
            found.append(z)
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


def _raised(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
