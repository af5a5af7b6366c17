"""Weights from a file, without running code that the file may carry."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bikd_ray.errors import UserError

STATE_KEYS = ("model_ema", "model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")


def load_checkpoint(model: nn.Module, path: str, name: str) -> None:
    """Load safetensors or a weights-only torch file into `model`, strictly.

    The state may lie under one of STATE_KEYS and carry one of PREFIXES. Raises UserError that
    names the first missing and unexpected tensors where it does not fit.
    """
    state = _strip(_read(path, name), model)
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    shaped = [k for k in own if k in state and state[k].shape != own[k].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors missing, first {missing[0]}")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected, first {unexpected[0]}")
    if shaped:
        k = shaped[0]
        problems.append(
            f"{len(shaped)} of another shape, first {k}: file {list(state[k].shape)}, "
            f"model {list(own[k].shape)}"
        )
    if problems:
        raise UserError(
            f"zoo: {path} does not fit {name} ({'; '.join(problems)}); "
            "give the file of this architecture, or the kwargs it was trained with"
        )
    model.load_state_dict(state)


def _read(path: str, name: str) -> dict[str, Tensor]:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"zoo: {name}: checkpoint {path} does not exist; correct the path")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"zoo: {name}: {path} holds more than tensors, and loading it could run code "
            f"({str(error).strip().splitlines()[0]}); save its state_dict alone, or as safetensors"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it ends early"
        raise UserError(
            f"zoo: {name}: checkpoint {path} cannot be read ({reason}); it may be incomplete"
        ) from None
    for key in STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"zoo: {name}: {path} holds no state_dict (looked under {STATE_KEYS})")
    return {k: v for k, v in content.items() if isinstance(v, Tensor)}


def _strip(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` without a wrapper's prefix, when all names have it and the model's do not."""
    own = model.state_dict()
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state) and not all(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state
