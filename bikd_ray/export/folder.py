"""A model as a folder: safetensors, timm's config.json, a card; there whole or not at all."""

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_config_for_hf  # only the function around it is exported
from torch import Tensor, nn

from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import ResolvedInput, ResolvedModel
from bikd_ray.weights import pack_state
from bikd_ray.zoo import logits_of
from bikd_ray.zoo.checkpoints import reason

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SAME = 1e-5
"""By how much the logits of a model and of what was written of it may differ."""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end of the block, and goes if that fails.

    Raises BikdError where it cannot be written.
    """
    target = out.resolve()
    aside = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(target)
    except OSError as error:
        raise BikdError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


OF_THE_BASE = ("tag", "test_input_size", "test_crop_pct", "test_pool_size")
"""What timm's config says of the base model's weights and not of these."""


def check_free(out: Path) -> None:
    """Raises UserError unless `out` is a new or an empty folder."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty; give a new folder")


def write_weights(folder: Path, state: dict[str, Tensor], about: dict[str, str]) -> None:
    """`state` as safetensors; its metadata say which result it is."""
    content = pack_state(state, {"format": "pt", **about})  # transformers asks for the format
    (folder / WEIGHTS).write_bytes(content)


def write_config(folder: Path, model: ResolvedModel, network: nn.Module) -> None:
    """The config.json by which `timm.create_model("local-dir:…", pretrained=True)` builds it."""
    assert model.blueprint is not None
    named: dict[str, Any] = {"label_names": list(model.classes)} if model.classes else {}
    path = folder / CONFIG
    save_config_for_hf(
        network,
        str(path),
        model_config={"pretrained_cfg": input_config(model.input), **named},
        model_args=dict(model.blueprint.kwargs),
    )
    config = json.loads(path.read_text())
    pretrained = config["pretrained_cfg"]
    for gone in OF_THE_BASE:
        pretrained.pop(gone, None)
    if model.licence is None:  # timm names that of its own weights, which these never were
        pretrained.pop("license", None)
    path.write_text(json.dumps(config, indent=2))


def input_config(how: ResolvedInput) -> dict[str, Any]:
    """A model's input as timm's transforms take it."""
    return {
        "input_size": (3, how.size, how.size),
        "mean": how.mean,
        "std": how.std,
        "crop_pct": how.crop_pct,
        "interpolation": how.interpolation,
        "crop_mode": how.crop_mode,
    }


@torch.no_grad()
def check_loads(folder: Path, model: ResolvedModel, network: nn.Module) -> None:
    """Load a written folder as a person will. Raises BikdError where it answers otherwise."""
    size = model.input.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        ours, theirs = (logits_of(net(images), model.name) for net in (network, again))
        apart = float((ours - theirs).abs().max())
    except Exception as error:  # whatever keeps timm from it would keep the person from it
        raise BikdError(
            f"{model.name} cannot be exported: timm {timm.__version__} does not load what it saved "
            f"({reason(error)})"
        ) from error
    if not apart <= SAME:
        raise BikdError(
            f"{model.name} cannot be exported: what timm {timm.__version__} loads answers "
            f"{apart:.1g} away from what was trained"
        )
