"""Batch normalisation over the samples of several workers, as if one worker had them all.

torch's SyncBatchNorm needs CUDA, and networks whose norms are its own subclasses need conversion;
this takes the place of `torch.nn.functional.batch_norm`, which all of them call.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode


class SharedBatchNorm(TorchFunctionMode):
    """Within it, batch normalisation in training counts the first `counted` of each worker's rows.

    The workers of `group` all run the same networks in the same order, forward and backward.
    """

    def __init__(self, counted: int, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.counted, self.group = counted, group

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is not batch_norm:
            return func(*args, **(kwargs or {}))
        return self._batch_norm(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        wide = x if x.dtype == torch.float64 else x.float()
        rest = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        counting = wide[: self.counted]
        count = wide.new_tensor(counting.numel() // x.shape[1])
        dist.all_reduce(count, group=self.group)
        mean = self._sum(counting.sum(rest)) / count
        # in two passes: the difference of two large sums would lose what float32 has of a variance
        var = self._sum((counting - mean.view(shape)).square().sum(rest)) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                unbiased = var * (count / (count - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        y = (wide - mean.view(shape)) * (var.view(shape) + eps).rsqrt()
        if weight is not None and bias is not None:
            y = y * weight.view(shape) + bias.view(shape)
        return y.to(x.dtype)

    def _sum(self, value: Tensor) -> Tensor:
        return all_reduce(value, group=self.group)
