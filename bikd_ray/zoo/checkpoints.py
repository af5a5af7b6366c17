"""Weights from a file, without running code that the file may carry."""

import io
import pickle
import re
import warnings
from pathlib import Path
from urllib.error import URLError

import pyarrow.fs as pafs
import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn

from bikd_ray.errors import UserError
from bikd_ray.identity import digest

STATE_KEYS = ("model_ema", "model", "state_dict", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")
WEB = ("http://", "https://")


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
    try:
        return _tensors(path, name)
    except UserError:
        if path.startswith(WEB):  # torch keeps half a download; the next try fetches it anew
            downloaded(path).unlink(missing_ok=True)
        raise


def _tensors(path: str, name: str) -> dict[str, Tensor]:
    try:
        file = _opened(path)
        if isinstance(file, Path) and not file.is_file():
            raise FileNotFoundError(path)
        if path.partition("?")[0].endswith(".safetensors"):
            return load_file(file) if isinstance(file, Path) else load(file.getvalue())
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"zoo: {name}: checkpoint {path} does not exist; correct the path"
        ) from None
    except URLError as error:
        raise UserError(
            f"zoo: {name}: cannot download {path} ({reason(error)}); correct the address, or "
            "fetch the file and give its path"
        ) from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UserError(
                f"zoo: {name}: checkpoint {path} holds {code[1]}, more than tensors: loading it "
                "could run code; save its state_dict alone, or as safetensors"
            ) from None
        raise UserError(
            f"zoo: {name}: checkpoint {path} is not a torch file of tensors; "
            "save the state_dict with torch.save, or as safetensors"
        ) from None
    except Exception as error:  # damaged files raise whatever the damage leads to
        raise UserError(
            f"zoo: {name}: checkpoint {path} cannot be read ({reason(error).partition('. ')[0]}); "
            "it may be incomplete, copy it again"
        ) from None
    for key in STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise UserError(
            f"zoo: {name}: checkpoint {path} holds no state_dict, neither at the top nor under "
            f"{', '.join(STATE_KEYS)}; save the model's state_dict"
        )
    return {k: v for k, v in content.items() if isinstance(v, Tensor)}


def _opened(path: str) -> Path | io.BytesIO:
    """A local file, one downloaded once and kept (https), or the content of one on s3 or gs."""
    if path.startswith(WEB):
        file = downloaded(path)
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(path, str(file), progress=False)
        return file
    if "://" not in path:
        return Path(path)
    filesystem, inner = pafs.FileSystem.from_uri(path)
    with filesystem.open_input_stream(inner) as stream:
        return io.BytesIO(stream.read())


def downloaded(url: str) -> Path:
    """Where torch hub's cache keeps the file of an address; names of one kind do not collide."""
    name = url.rpartition("/")[2].partition("?")[0]
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{digest(url)}-{name}"


def reason(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _strip(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` without a wrapper's prefix, when all names have it and the model's do not."""
    own = model.state_dict()
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state) and not all(k.startswith(prefix) for k in own):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state
