"""What timm measured for its own weights, to notice when an evaluation of ours differs.

A difference means that the images, their order of classes, the preprocessing or the weights are
not those that timm measured; it is found in minutes, before a sweep of days rests on it.
"""

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bikd_ray.plan import ResolvedModel

SOURCE = (
    "huggingface/pytorch-image-models, results/results-imagenet.csv at commit 7479d451a6df "
    "(November 2024, Apache-2.0)"
)
"""Where published.csv comes from: every row, without the columns of errors, top-5 and size. Three
of its rows have a name without a tag, which does not say whose weights they were; no name finds
them."""

CLASSES, IMAGES = 1000, 50_000
"""Of ImageNet-1k's validation set."""

WARN_BEYOND = 0.1
"""Percentage points. Another library version or another JPEG decoder stays below that."""


@dataclass(frozen=True)
class Published:
    """Top-1 on ImageNet-1k's 50,000 validation images, in percent, and the input it was got at."""

    top1: float
    img_size: int
    crop_pct: float
    interpolation: str


def published(name: str, size: int | None = None) -> Published | None:
    """What timm published for its weights `name` at `size` (pixels), or None.

    Without a tag `name` means timm's default weights; without a size, the one that timm gives the
    model. `hf-hub:timm/NAME` is NAME.
    """
    import timm

    try:
        config = timm.get_pretrained_cfg(name.removeprefix("hf-hub:timm/"))
    except RuntimeError:  # no such tag
        return None
    if config is None or not config.tag:
        return None
    return _figures().get((f"{config.architecture}.{config.tag}", size or config.input_size[-1]))


def published_for(model: ResolvedModel, n_val: int) -> Published | None:
    """What timm published for a model's own weights on its own input, or None.

    It is comparable on the whole validation set of ImageNet-1k only: 1,000 classes, 50,000 images.
    """
    if model.holds is None:
        return None
    if model.num_classes != CLASSES or n_val != IMAGES:
        return None
    how = model.input
    known = published(model.holds, how.size)
    if known is None or known.interpolation != how.interpolation:
        return None
    same_crop = abs(known.crop_pct - how.crop_pct) < 0.001  # published with three decimals
    return known if same_crop else None


def held(
    architecture: str, file: Path | None, address: str | None, state: Mapping[str, Tensor]
) -> str | None:
    """The name (with its tag) that timm has for the weights in a given file; None if unknown.

    They are timm's own where the file was taken from timm's address, where its SHA-256 begins as
    the name of timm's file says (torch hub's convention), or where a copy of timm's file that
    huggingface_hub has kept on this machine has the same tensors. Downloads nothing.
    """
    from timm.models import get_arch_pretrained_cfgs  # type: ignore[attr-defined]

    known = get_arch_pretrained_cfgs(architecture.partition(".")[0])
    hashes = {
        name: match[1] for name, cfg in known.items() if (match := _HASH.search(str(cfg.url)))
    }
    sha = _sha256(file) if hashes and file else ""
    for name, cfg in known.items():
        repository = f"huggingface.co/{cfg.hf_hub_id}/resolve/"
        given = address and (address == cfg.url or (cfg.hf_hub_id and repository in address))
        if (
            given
            or (name in hashes and sha.startswith(hashes[name]))
            or _kept(cfg.hf_hub_id, state)
        ):
            return name
    return None


_HASH = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kept(repository: str | None, state: Mapping[str, Tensor]) -> bool:
    """Whether the copy of a repository's weights on this machine, if any, has these tensors."""
    kept = repository and try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(kept, str):
        return False
    try:
        own = load_file(kept)
    except (OSError, SafetensorError):
        return False
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


@cache
def _figures() -> dict[tuple[str, int], Published]:
    """Model with tag, image size -> what was published."""
    text = (files("bikd_ray.zoo") / "published.csv").read_text(encoding="utf-8")
    return {
        (row["model"], int(row["img_size"])): Published(
            float(row["top1"]), int(row["img_size"]), float(row["crop_pct"]), row["interpolation"]
        )
        for row in csv.DictReader(text.splitlines())
    }
