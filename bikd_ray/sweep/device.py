"""The GPU that Ray has given a process, as torch sees it: Ray only counts GPUs."""

import socket
from typing import Any

from bikd_ray.errors import UserError


def device_of(gpus: float) -> Any:
    """The torch.device of a process to which Ray has given so many GPUs, or a part of one.

    Raises UserError where torch sees none: what was to be trained on a GPU is not on a CPU.
    """
    import torch

    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(no_gpu(socket.gethostname()))
    device = torch.device("cuda", torch.cuda.current_device())
    if gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus)
    return device


def gpus_seen() -> list[int]:
    """Bytes of memory of each GPU that torch sees on this machine."""
    import torch

    count = torch.cuda.device_count()
    return [torch.cuda.get_device_properties(i).total_memory for i in range(count)]


def no_gpu(host: str) -> str:
    """What is wrong where Ray counts GPUs that torch does not see."""
    return (
        f"Ray counts GPUs on {host}, and torch sees none; install a torch with CUDA "
        "(or ROCm) and the driver there, or set resources.gpus_per_job: 0 to train on CPUs"
    )
