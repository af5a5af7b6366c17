"""The saliency networks as tests want them: small, quick, and with weights that say something."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from bikd_ray.zoo.saliency import SALIENCY_MODELS, tmfi_net, vinet_a, vinet_s

Network = TypeVar("Network", bound=nn.Module)

TINY: dict[str, Any] = {
    "embed_dim": 6,
    "depths": (1, 2, 2, 1),
    "heads": (1, 2, 3, 4),
    "width": 16,
}
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "tmfi_net": (lambda: tmfi_net(**TINY), (32, 64)),
    "vinet_s": (vinet_s, (32, 64)),
    "vinet_a": (vinet_a, (16, 24)),
}
"""A network and a size that are legal and quick."""

each = pytest.mark.parametrize("name", SMALL)


@cache
def of_no_memory(name: str) -> nn.Module:
    """The published network on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return SALIENCY_MODELS[name].build().eval()


def shaken(network: Network, seed: int = 0) -> Network:
    """The network in float64 and eval mode, its norms and biases no longer 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.double().state_dict().items():
        if tensor.ndim == 1:
            drawn = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(drawn + 0.5 if name.endswith(("weight", "var")) else drawn - 0.5)
    return network.eval()


def clip(height: int, width: int, *, batch: int = 1, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 32, height, width, generator=generator).to(dtype)


def published_start(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ViNet-S's encoder as the Kinetics file names it: counted through, pools included."""
    begins = {"base1": 0, "base2": 5, "base3": 8, "base4": 14}
    renamed = {}
    for key, tensor in state.items():
        base, place, rest = key.split(".", 2)
        renamed[f"module.base.{begins[base] + int(place)}.{rest}"] = tensor
    return renamed
