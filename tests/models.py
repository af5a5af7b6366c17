"""timm's resnet18, cut down, and its entries."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from bikd_ray.specs import ZooEntry

TINY: dict[str, Any] = {
    "layers": [1, 1, 1, 1],
    "channels": [8, 8, 8, 8],
    "stem_width": 8,
    "num_classes": 5,
}


def tiny(seed: int = 0, **changes) -> nn.Module:
    """timm's resnet18, cut down, with weights of its own; eval mode."""
    torch.manual_seed(seed)
    return timm.create_model("resnet18", pretrained=False, **{**TINY, **changes}).eval()


def entry(**fields) -> ZooEntry:
    return ZooEntry.model_validate(fields)


def tiny_entry(checkpoint: Path | str, **fields) -> ZooEntry:
    kwargs = {**TINY, **fields.pop("kwargs", {})}
    fields = {"input": {"size": 32}, "alias": "Tiny", **fields}
    return entry(timm="resnet18", kwargs=kwargs, checkpoint=str(checkpoint), **fields)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)
