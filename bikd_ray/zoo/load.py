"""Build a zoo entry's model with its weights, and identify it by content."""

import hashlib
import importlib
import os
import sys
import traceback

import timm
import torch
from timm.data import resolve_model_data_config  # type: ignore[attr-defined]
from torch import Tensor, nn

from bikd_ray.errors import BikdError, UserError, choices
from bikd_ray.identity import digest
from bikd_ray.plan import ResolvedInput, ResolvedModel
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo.checkpoints import load_checkpoint, reason

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(entry: ZooEntry) -> nn.Module:
    """The model of a zoo entry on the CPU, with its weights, in eval mode.

    What a factory or a new head initialises itself is drawn from seed 0, the same everywhere.
    Raises UserError for an unknown name, arguments that do not fit, or weights that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _timm(entry) if entry.timm else _factory(entry)
    if entry.checkpoint:
        load_checkpoint(model, entry.checkpoint, entry.name)
    return model.eval()


def _timm(entry: ZooEntry) -> nn.Module:
    name = entry.timm or ""
    local = ":" in name or "/" in name
    if not local and not timm.is_model(name):
        raise UserError(f"zoo: timm has no model {name!r}; {choices(name, timm.list_models())}")
    pretrained = entry.checkpoint is None
    try:
        return timm.create_model(name, pretrained=pretrained, **entry.kwargs)
    except (TypeError, AssertionError) as error:
        raise UserError(
            f"zoo: {name} does not take kwargs {entry.kwargs} ({reason(error)}); correct them"
        ) from None
    except Exception as error:
        doing = "fetch its pretrained weights" if pretrained else "build it"
        raise UserError(
            f"zoo: {name}: cannot {doing} ({reason(error)}); "
            + (
                "check the name and the network, or give checkpoint: FILE"
                if pretrained
                else "check kwargs"
            )
        ) from None


def _factory(entry: ZooEntry) -> nn.Module:
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
        model = target(**entry.kwargs)  # type: ignore[operator]
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"zoo: factory {path!r} with kwargs {entry.kwargs} raised {type(error).__name__}: "
            f"{reason(error)} ({at.filename}:{at.lineno}); correct it or its kwargs"
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"zoo: factory {path!r} returned {type(model).__name__}, not an nn.Module")
    return model


def logits_of(output: object, name: str) -> Tensor:
    """The logits [B, C] in what a model returns: a tensor, a dict, an object or a tuple.

    Raises UserError where none can be found.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits  # type: ignore[attr-defined]
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise UserError(
        f"zoo: {name} returns a {type(output).__name__} without logits; expected a tensor, "
        "a dict with 'logits', an object with .logits, or a tuple that begins with them"
    )


def weights_id(model: nn.Module) -> str:
    """16 hex digits over the sorted names, dtypes, shapes and bytes of a model's tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


def build_resolved(model: ResolvedModel) -> nn.Module:
    """`build` for a model that was resolved elsewhere. Raises BikdError if the weights differ."""
    network = build(model.entry)
    found = weights_id(network)
    if found != model.weights_id:
        raise BikdError(
            f"{model.name} has weights {found} on this node and {model.weights_id} in the plan; "
            "its checkpoint changed, or its factory is not deterministic"
        )
    return network


def resolve_model(entry: ZooEntry, num_classes: int | None = None) -> ResolvedModel:
    """Build a model once and note what identifies it.

    With `num_classes` also checks, by one forward pass, that it answers [B, num_classes].
    Raises UserError.
    """
    model = build(entry)
    how = _input(entry, model)
    with torch.inference_mode():
        images = torch.zeros(2, 3, how.size, how.size)
        try:
            logits = logits_of(model(images), entry.name)
        except UserError:
            raise
        except Exception as error:  # it is the person's code that runs here
            raise UserError(
                f"zoo: {entry.name} cannot take images of {how.size} x {how.size} "
                f"({reason(error)}); set input: {{size: …}} or kwargs that fit"
            ) from None
    if logits.ndim != 2 or (num_classes and logits.shape[1] != num_classes):
        raise UserError(
            f"zoo: {entry.name} answers {list(logits.shape[1:])} logits, the data has "
            f"{num_classes} classes; give a model with that head (kwargs: {{num_classes: "
            f"{num_classes}}}) or data with its classes"
        )
    weights = weights_id(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    architecture = config.get("architecture") or entry.source
    try:
        model_id = digest("model", architecture, entry.kwargs, weights, vars(how))
    except TypeError as error:
        raise UserError(f"zoo: {entry.name}: kwargs must be plain YAML values ({error})") from None
    return ResolvedModel(
        entry=entry,
        weights_id=weights,
        model_id=model_id,
        input=how,
        params=sum(p.numel() for p in model.parameters()),
        num_classes=int(logits.shape[1]),
        licence=config.get("license") if entry.checkpoint is None else None,
    )


def _input(entry: ZooEntry, model: nn.Module) -> ResolvedInput:
    """The model's own data config (timm's, where it is one), with the entry's overrides."""
    given = entry.input
    config = resolve_model_data_config(model) if entry.timm else {}
    height, width = config.get("input_size", (3, 224, 224))[-2:]
    if height != width and given.size is None:
        raise UserError(
            f"zoo: {entry.name} wants {height} x {width} images; only square ones are supported, "
            "set input: {size: …} if it can take them"
        )
    return ResolvedInput(
        size=given.size or height,
        mean=given.mean or tuple(config.get("mean", IMAGENET_MEAN)),
        std=given.std or tuple(config.get("std", IMAGENET_STD)),
        crop_pct=given.crop_pct or config.get("crop_pct", 0.875),
        interpolation=given.interpolation or config.get("interpolation", "bilinear"),
        crop_mode=config.get("crop_mode", "center"),
    )
