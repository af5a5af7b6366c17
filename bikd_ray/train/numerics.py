"""Precision, switched for the length of a block; and how memory that runs out is known."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bikd_ray.errors import BikdError

AUTOCAST: dict[str, torch.dtype | None] = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""What each precision computes matrix products in; weights and losses stay float32."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to 10 bits, or forbid it.

    PyTorch by itself allows it in convolutions, where an accuracy then is not the model's own.
    """
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory, or the machine's, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def poisoned(error: Exception, device: torch.device) -> bool:
    """Whether the device can no longer be used by this process."""
    if device.type != "cuda" or isinstance(error, torch.cuda.OutOfMemoryError | BikdError):
        return False
    return "CUDA error" in str(error)
