"""Build the network of a zoo entry: from timm, from a dotted factory, or from torch hub."""

import importlib
import os
import random
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bikd_ray.errors import UserError, choices
from bikd_ray.plan import Blueprint, ResolvedModel
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo.checkpoints import load_checkpoint, reason
from bikd_ray.zoo.segmenters import (
    KINDS,
    OF_TRANSFORMERS,
    of_transformers,
    segmenter,
    segmenter_from,
)


def build(entry: ZooEntry, *, weights: bool = True, notes: list[str] | None = None) -> nn.Module:
    """The network of a zoo entry on the CPU, in eval mode, with its weights, in float32.

    What a factory or a new head initialises itself is drawn from seed 0, the same everywhere.
    `weights=False` fetches nothing: only a checkpoint that is a local file is still loaded.
    notes: takes what a person may not know of it (what was taken of a checkpoint), a line each.
    Raises UserError for an unknown name, arguments that do not fit, or weights that do not fit.
    """
    with _seeded():
        network = _source(entry, pretrained=weights and entry.checkpoint is None)
    said = [] if notes is None else notes
    if before := _float32(network):
        said.append(f"built in {before}; it is measured and trained in float32")
    if entry.start and (weights or "://" not in entry.start):
        from bikd_ray.zoo.saliency import load_encoder

        said += load_encoder(network, entry.saliency or "", entry.start)
    if entry.checkpoint and (weights or "://" not in entry.checkpoint):
        said += load_checkpoint(network, entry)
    return network.eval()


def rebuild(model: ResolvedModel, state: Mapping[str, Tensor]) -> nn.Module:
    """The network of a resolved model with the tensors of `state`; timm's own are fetched from
    nowhere. What a state_dict does not hold is built as `build` builds it.
    """
    with _seeded():
        if model.blueprint:
            network = _from_blueprint(model.entry, model.blueprint)
        else:
            network = _source(model.entry, pretrained=False)
    _float32(network)
    network.load_state_dict({**network.state_dict(), **state})
    return network.eval()


def _float32(network: nn.Module) -> str:
    """Cast a network whose weights are half or double; returns what they were, or ""."""
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        network.float()
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


@contextmanager
def _seeded() -> Iterator[None]:
    """Everything that draws at random starts from 0, and goes on as before afterwards."""
    python, numpy_ = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_)


def _source(entry: ZooEntry, *, pretrained: bool) -> nn.Module:
    if entry.timm:
        return _timm(entry, pretrained)
    if any(getattr(entry, kind) for kind in KINDS):
        return segmenter(entry, pretrained=pretrained)
    with redirect_stdout(sys.stderr):  # the person's code may print; answers go to standard output
        network = _other(entry)
    while isinstance(network, nn.DataParallel):  # one device at a time; the names lose module.
        network = network.module
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError(
            f"zoo: {entry.source} returned TorchScript, which cannot be looked into; give the "
            "nn.Module that it was made from"
        )
    if not isinstance(network, nn.Module):
        raise UserError(f"zoo: {entry.source} returned {type(network).__name__}, not an nn.Module")
    return network


def _other(entry: ZooEntry) -> object:
    """What an entry that timm does not build returns."""
    if entry.saliency:
        return _saliency(entry)
    return _factory(entry) if entry.factory else _hub(entry)


def _saliency(entry: ZooEntry) -> nn.Module:
    from bikd_ray.zoo.saliency import saliency_model

    try:
        return saliency_model(entry.saliency or "").build(**entry.kwargs)
    except TypeError as error:
        raise UserError(
            f"zoo: {entry.saliency} does not take kwargs {entry.kwargs} ({reason(error)}); correct "
            "them"
        ) from None


def blueprint(entry: ZooEntry, network: nn.Module | None = None) -> Blueprint | None:
    """How timm or transformers builds the architecture of an entry, as plain values; None where
    neither does. network: the one that was built, of which transformers' config is read.
    """
    if any(getattr(entry, kind) for kind in OF_TRANSFORMERS):
        return of_transformers(entry, network) if network is not None else None
    if not entry.timm:
        return None
    from timm.models import load_model_config_from_hf, parse_model_name
    from timm.models._hub import load_model_config_from_path  # of a folder; not exported

    kind, where = parse_model_name(entry.timm)
    if kind is None:
        return Blueprint(where, None, entry.kwargs)
    load = load_model_config_from_hf if kind == "hf-hub" else load_model_config_from_path
    config, architecture, arguments = load(where)
    return Blueprint(architecture, config, {**(arguments or {}), **entry.kwargs})


def _from_blueprint(entry: ZooEntry, how: Blueprint) -> nn.Module:
    if any(getattr(entry, kind) for kind in OF_TRANSFORMERS):
        return segmenter_from(entry, how)
    import timm

    config = {"pretrained_cfg": dict(how.config)} if how.config else {}
    return timm.create_model(how.name, pretrained=False, **config, **how.kwargs)


def _timm(entry: ZooEntry, pretrained: bool) -> nn.Module:
    import timm
    from timm.models import parse_model_name

    name = entry.timm or ""
    try:
        kind, _ = parse_model_name(name)
    except ValueError as error:
        raise UserError(f"zoo: {name}: {reason(error)}") from None
    try:
        how = blueprint(entry)
    except Exception as error:
        fix = (
            "give the folder of a timm model"
            if kind == "local-dir"
            else "check the name and the network, or fetch it once with bikd check SPEC --fetch"
        )
        raise UserError(
            f"zoo: {name}: cannot read its config.json ({type(error).__name__}: {reason(error)}); "
            f"{fix}"
        ) from None
    assert how is not None
    if not timm.is_model(how.name):
        raise UserError(
            f"zoo: timm has no model {how.name!r}; {choices(how.name, timm.list_models())}"
        )
    try:
        if pretrained:
            return timm.create_model(name, pretrained=True, **entry.kwargs)
        return _from_blueprint(entry, how)
    except (TypeError, AssertionError) as error:
        raise UserError(
            f"zoo: {name} does not take kwargs {entry.kwargs} ({reason(error)}); correct them"
        ) from None
    except Exception as error:
        doing = "fetch its pretrained weights" if pretrained else "build it"
        fix = (
            "check the name and the network, or give checkpoint: FILE"
            if pretrained
            else "check kwargs"
        )
        raise UserError(f"zoo: {name}: cannot {doing} ({reason(error)}); {fix}") from None


def _hub(entry: ZooEntry) -> object:
    """A torch hub entry point, called with the entry's kwargs. Its code runs: the spec says so."""
    repository, _, function = (entry.hub or "").rpartition(":")
    local = Path(repository).is_dir()
    if local and not (Path(repository) / "hubconf.py").is_file():
        raise UserError(f"zoo: hub {repository} has no hubconf.py; give the folder that does")
    if not local and repository.count("/") != 1:
        raise UserError(f"zoo: hub {repository} is neither a folder nor OWNER/REPO; correct it")
    try:
        return torch.hub.load(
            repository if local else repository.replace("@", ":"),
            function,
            source="local" if local else "github",
            trust_repo=True,  # type: ignore[arg-type]
            verbose=False,
            **entry.kwargs,
        )
    except Exception as error:
        raise UserError(
            f"zoo: hub {entry.hub!r} with kwargs {entry.kwargs} raised {type(error).__name__}: "
            f"{reason(error)}; check the name, the kwargs and the network"
        ) from error


def _factory(entry: ZooEntry) -> object:
    path = entry.factory or ""
    module_name, _, function = path.partition(":")
    if os.getcwd() not in sys.path:  # a console script does not look where the person stands
        sys.path.insert(0, os.getcwd())
    try:
        target = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"zoo: factory {path!r}: cannot import {module_name!r} ({reason(error)}); it must be "
            "installed, or lie in the folder where the command runs"
        ) from None
    except Exception as error:
        raise UserError(
            f"zoo: factory {path!r}: importing {module_name!r} raised {type(error).__name__}: "
            f"{reason(error)}; correct it"
        ) from error
    for part in function.split("."):
        if not hasattr(target, part):
            public = [n for n in dir(target) if not n.startswith("_")]
            raise UserError(
                f"zoo: factory {path!r}: no {part!r} in {module_name}; {choices(part, public)}"
            )
        target = getattr(target, part)
    try:
        return target(**entry.kwargs)  # type: ignore[operator]
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"zoo: factory {path!r} with kwargs {entry.kwargs} raised {type(error).__name__}: "
            f"{reason(error)} ({at.filename}:{at.lineno}); correct it or its kwargs"
        ) from error
