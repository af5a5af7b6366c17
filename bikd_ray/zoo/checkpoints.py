"""Weights from a file, without running code that the file may carry."""

import io
import json
import pickle
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from urllib.error import URLError

import pyarrow.fs as pafs
import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn

from bikd_ray.errors import UserError
from bikd_ray.identity import digest
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo.containers import SAFE, foreign, is_index, is_safetensors
from bikd_ray.zoo.fitting import CheckpointFit, Fitter, State, same, states_in, with_versions
from bikd_ray.zoo.pickles import arrays_in, is_plain

WEB = ("http://", "https://")

SHOWN = 3
"""Names of tensors that a note lists."""


class _Plain:
    """Stands for an object of plain data in a checkpoint: takes whatever it is given, does nothing.

    The weights are all that is wanted of a file, so no class of another library is ever called.
    """

    def __new__(cls, *args: object, **kwargs: object) -> "_Plain":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _defaultdict(*_: object) -> dict:
    return {}


def _deque(*_: object) -> list:
    return []


PLAIN_DATA = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "frozenset", "int", "list", "str")),
    *(f"builtins.{kind}" for kind in ("tuple", "range", "slice")),
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{function}"
        for core in ("core", "_core")
        for function in ("scalar", "_reconstruct")
    ),
    *(f"numpy.{kind}{bits}" for kind in ("float", "int", "uint") for bits in (16, 32, 64)),
    "numpy.bool_",
    *(
        f"{module}.{flavour}{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for flavour, kind in (("", ""), ("Pure", ""), ("", "Posix"), ("Pure", "Posix"))
    ),
    *(
        f"{module}.{flavour}WindowsPath"
        for module in ("pathlib", "pathlib._local")
        for flavour in ("", "Pure")
    ),
    "torch.torch_version.TorchVersion",
)
"""Classes and constructors of plain values that training scripts leave in checkpoints."""


def load_checkpoint(model: nn.Module, entry: ZooEntry, *, strict: bool = True) -> list[str]:
    """Load the entry's checkpoint (safetensors or a weights-only torch file) into `model`.

    All of the model's tensors must be in the file with their shapes, but for those that its
    modules' own loading does without. Not strict: half of them are enough, and the file may hold
    others; all that are in both must have the same shapes.
    Returns what was taken and what was left out, in one line, or nothing where the file is a
    plain state_dict. Raises UserError, also in one line.
    """
    path, name = entry.checkpoint or "", entry.name
    states = list(states_in(read_checkpoint(path, name)))
    if not states:
        raise UserError(
            f"zoo: {name}: checkpoint {path} holds no state_dict (no named tensors); save the "
            "model's state_dict"
        )
    chosen, outside = _chosen(states, entry)
    arch = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    fits = Fitter(model, arch if entry.timm else None).fits(chosen, given=bool(entry.prefix))
    if fits[0].good:
        fit = _first(fits, entry)
    elif not strict and _is_half(fits[0], model):
        fit, fits = fits[0], []
    else:
        raise UserError(_misfit(fits[0], entry, states))
    try:
        model.load_state_dict(with_versions(fit.tensors, fit.versions), strict=False)
    except Exception as error:  # a module's own loading
        raise UserError(
            f"zoo: {path} does not fit {name} ({_line(reason(error))}); give the file of this "
            "architecture"
        ) from None
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    left = [*outside.get(fit.path, ()), *fit.left, *(fit.prefix + k for k in fit.unexpected)]
    others = [other for other in fits if other is not fit]
    return _notes(fit, entry, own, left, others)


def _is_half(fit: CheckpointFit, model: nn.Module) -> bool:
    """Whether a file has half of a model's tensors, or more, and none of another shape."""
    return not (fit.shaped or fit.failed) and 2 * len(fit.missing) <= len(model.state_dict())


def _chosen(states: list[State], entry: ZooEntry) -> tuple[list[State], dict[str, list[str]]]:
    """The states that the entry's key, prefix and rename leave, and the names that they leave out
    by the path of the dict.
    """
    where = f"zoo: {entry.name}: checkpoint {entry.checkpoint}"
    if key := entry.key:
        paths = [s.path or "the top" for s in states]
        states = [s for s in states if s.path == key or s.path.startswith(f"{key}.")]
        if not states:
            raise UserError(
                f"{where} has no tensors under key {key!r}; it has them under {_list(paths)}"
            )
    outside: dict[str, list[str]] = {}
    if prefix := entry.prefix:
        heads = {_head(k) for s in states for k in s.tensors}
        if not prefix.endswith(".") and any(k.startswith(f"{prefix}.") for k in _names(states)):
            prefix += "."
        for s in states:
            outside[s.path] = [k for k in s.tensors if not k.startswith(prefix)]
        states = [_stripped(s, prefix) for s in states if len(outside[s.path]) < len(s.tensors)]
        if not states:
            raise UserError(
                f"{where}: prefix {prefix!r} begins no tensor's name; they begin with "
                f"{_list(sorted(heads))}"
            )
    if entry.rename:
        states = [_renamed(s, entry, where, outside.setdefault(s.path, [])) for s in states]
    return states, outside


def _stripped(state: State, prefix: str) -> State:
    size = len(prefix)
    return State(
        state.path,
        {k[size:]: v for k, v in state.tensors.items() if k.startswith(prefix)},
        {k[size:]: v for k, v in state.versions.items() if f"{k}.".startswith(prefix)},
    )


def _renamed(state: State, entry: ZooEntry, where: str, outside: list[str]) -> State:
    """The state under its new names; a tensor whose name becomes empty is left out."""
    tensors: dict[str, Tensor] = {}
    came: dict[str, str] = {}
    for name, tensor in state.tensors.items():
        new = _rename(name, entry)
        if not new:
            outside.append(name)
        elif new in came:
            raise UserError(
                f"{where}: rename makes {_line(new)} of both {_line(came[new])} and {_line(name)}; "
                "correct it"
            )
        else:
            tensors[new], came[new] = tensor, name
    versions = {_rename(f"{k}.", entry).rstrip("."): v for k, v in state.versions.items() if k}
    return State(state.path, tensors, versions)


def _rename(name: str, entry: ZooEntry) -> str:
    for pattern, replacement in entry.rename:
        name = re.sub(pattern, replacement, name)
    return name


def _first(fits: list[CheckpointFit], entry: ZooEntry) -> CheckpointFit:
    """The fit that is taken. Raises UserError where two that differ are equally near."""
    first = fits[0]
    for other in fits[1:]:
        if other.rank == first.rank and not same(first, other):
            raise UserError(
                f"zoo: {entry.name}: checkpoint {entry.checkpoint} holds different weights that "
                f"fit, {_list([_line(f.where) or 'those at the top' for f in fits])}; choose with "
                "key: or prefix:"
            )
    return first


def _misfit(fit: CheckpointFit, entry: ZooEntry, states: list[State]) -> str:
    """Why the nearest state does not fit, in one line."""
    problems = []
    if fit.small:
        problems.append("these are less than half of the weights there")
    if fit.missing:
        problems.append(f"{len(fit.missing)} tensors missing, first {_line(fit.missing[0])}")
    if fit.unexpected:
        problems.append(f"{len(fit.unexpected)} unexpected, first {_line(fit.unexpected[0])}")
    if fit.shaped:
        name, found, own = fit.shaped[0]
        kind = "shape" if found.shape != own.shape else f"type ({found.dtype} for {own.dtype})"
        problems.append(
            f"{len(fit.shaped)} of another {kind}, first {_line(name)}: file {list(found.shape)}, "
            f"model {list(own.shape)}"
        )
    if fit.failed:
        problems.append(_line(fit.failed))
    names = _names(states)
    for pattern, replacement in entry.rename:
        if not any(re.search(pattern, k) for k in names):
            problems.append(f"rename {pattern!r} matches no name")
            break
        names = {re.sub(pattern, replacement, k) for k in names}
    at = f"under {_line(fit.where)}: " if fit.where else ""
    fix = (
        f"if they are meant, say prefix: '{_line(fit.prefix)}'"
        if fit.small
        else "give the file of this architecture, or the kwargs it was trained with"
    )
    return f"zoo: {entry.checkpoint} does not fit {entry.name} ({at}{'; '.join(problems)}); {fix}"


def _notes(
    fit: CheckpointFit,
    entry: ZooEntry,
    own: dict[str, Tensor],
    left: list[str],
    more: list[CheckpointFit],
) -> list[str]:
    said = []
    if fit.where or more:
        said.append(f"took {_line(fit.where) or 'the names at the top'} of {entry.checkpoint}")
        if others := [_line(f.where) or "the top" for f in more if not same(f, fit)]:
            said.append(f"{_list(others)} would fit too (key: or prefix: chooses)")
    if fit.filtered:
        said.append("renamed by timm's own filter of checkpoints")
    for name, before, after in fit.resized[:1]:
        rest = f" and {len(fit.resized) - 1} more" if len(fit.resized) > 1 else ""
        said.append(
            f"resized position embedding {name} from {list(before.shape)} to "
            f"{list(after.shape)}{rest}"
        )
    if left:
        said.append(f"left out {_tensors_named(left)}")
    if absent := [k for k in own if k not in fit.tensors]:
        optional = "" if fit.missing else "optional, "
        said.append(f"it lacks {_tensors_named(absent)}, {optional}kept as built")
    cast = sorted(
        {
            f"{str(v.dtype).removeprefix('torch.')} to {str(own[k].dtype).removeprefix('torch.')}"
            for k, v in fit.tensors.items()
            if k in own and own[k].is_floating_point() and v.dtype != own[k].dtype
        }
    )
    if cast:
        said.append(f"cast {', '.join(cast)}")
    if not said:
        return []
    if not said[0].startswith("took"):
        said[0] = f"{entry.checkpoint}: {said[0]}"
    return ["; ".join(said)]


def _tensors_named(names: list[str]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{', '.join(_line(name) for name in names[:SHOWN])}{more} ({count})"


def _list(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")


def _names(states: list[State]) -> set[str]:
    return {k for s in states for k in s.tensors}


def _head(name: str) -> str:
    first, dot, _ = name.partition(".")
    return _line(first + dot)


def _line(text: str) -> str:
    """A text of a file as a part of one line: whatever it holds, printable and not long."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"


def read_checkpoint(path: str, name: str) -> object:
    """What a file holds: dicts, lists, values and tensors, nested as they were saved.

    path: local, or an address. Raises UserError, which begins with the model's name.
    """
    try:
        return _content(path, name)
    except UserError:
        if path.startswith(WEB):  # torch keeps half a download; the next try fetches it anew
            downloaded(path).unlink(missing_ok=True)
        raise


def _content(path: str, name: str) -> object:
    where = f"zoo: {name}: checkpoint {path}"
    try:
        file = _opened(path)
        if isinstance(file, Path) and not file.exists():
            raise FileNotFoundError(path)
        if known := foreign(path, file):
            raise UserError(f"{where} is {known[0]}; {known[1]}")
        if is_index(path):
            return _shards(path, name, file)
        return _loaded(path, file, where)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{where} does not exist; correct the path") from None
    except URLError as error:
        raise UserError(
            f"zoo: {name}: cannot download {path} ({reason(error)}); correct the address, or "
            "fetch the file and give its path"
        ) from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UserError(
                f"{where} holds {_line(code[1])}, more than tensors: loading it could run code; "
                "save its state_dict alone, or as safetensors"
            ) from None
        raise UserError(
            f"{where} is damaged, or not a torch file of tensors; copy it again, or {SAFE}"
        ) from None
    except Exception as error:  # damaged files raise whatever the damage leads to
        raise UserError(
            f"{where} cannot be read ({_line(reason(error).partition('. ')[0])}); it may be "
            "incomplete, copy it again"
        ) from None


def _loaded(path: str, file: Path | io.BytesIO, where: str) -> object:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            head = stream.read(16)
    else:
        head = file.getvalue()[:16]
    if is_safetensors(path, head):
        return load_file(file) if isinstance(file, Path) else load(file.getvalue())
    if is_plain(head):
        with file.open("rb") if isinstance(file, Path) else file as stream:
            content = arrays_in(stream)
        if not any(states_in(content)):
            raise UserError(f"{where} is a pickle of no named arrays; {SAFE}")
        return content
    allowed = [(_Plain, kind) for kind in PLAIN_DATA]
    with (
        warnings.catch_warnings(action="ignore"),
        torch.serialization.safe_globals(
            [
                *allowed,
                (_defaultdict, "collections.defaultdict"),
                (_deque, "collections.deque"),
            ]
        ),
        file.open("rb") if isinstance(file, Path) else file as stream,
    ):  # whatever its name
        return torch.load(stream, map_location="cpu", weights_only=True)


def _shards(path: str, name: str, index: Path | io.BytesIO) -> dict[str, Tensor]:
    """The tensors of all files that an index names, which lie beside it."""
    text = index.read_bytes() if isinstance(index, Path) else index.getvalue()
    try:
        files = sorted(set(json.loads(text)["weight_map"].values()))
        inside = all(re.fullmatch(r"[\w.\-]+", file) for file in files)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"zoo: {name}: checkpoint {path} is JSON without the weight_map of a sharded "
            "checkpoint; give the file of the weights"
        ) from None
    if not inside or not files:
        raise UserError(f"zoo: {name}: checkpoint {path} names no files beside it; correct it")
    folder, _, query = path.rpartition("/")[0], *path.partition("?")[1:]
    state: dict[str, Tensor] = {}
    for file in files:
        shard = f"{folder}/{file}{'?' + query if query else ''}" if folder else file
        content = read_checkpoint(shard, name)
        state |= {k: v for s in states_in(content) for k, v in s.tensors.items()}
    return state


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
