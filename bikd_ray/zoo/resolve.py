"""Identify a zoo entry: build it once and note everything that later steps need to know of it."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bikd_ray.data.labels import placed
from bikd_ray.errors import UserError
from bikd_ray.identity import digest
from bikd_ray.plan import Blueprint, Cost, ResolvedInput, ResolvedModel
from bikd_ray.specs import LOCAL_DIR, ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Head, Task
from bikd_ray.zoo.build import blueprint, build
from bikd_ray.zoo.checkpoints import WEB, downloaded, reason
from bikd_ray.zoo.cost import cost
from bikd_ray.zoo.probe import probe
from bikd_ray.zoo.published import held

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Description:
    """What a network is, whatever its weights."""

    input: ResolvedInput
    num_classes: int
    classes: tuple[str, ...] | None
    cost: Cost
    notes: tuple[str, ...]  # what a person may not know, a line each
    loss: str = ""


def resolve_model(entry: ZooEntry, task: Task | None = None) -> tuple[ResolvedModel, nn.Module]:
    """Build a model with its weights and note what identifies it. Raises UserError.

    task: what it is to do; the default one where None.
    """
    notes: list[str] = []
    network = build(entry, notes=notes)
    about = describe(entry, network, task)
    weights = weights_id(network)
    config = getattr(network, "pretrained_cfg", None) or {}
    own = entry.source.rpartition("/")[2]  # not the place of a hub folder
    architecture = config.get("architecture") or own
    how = blueprint(entry, network)
    kwargs = how.kwargs if how else entry.kwargs  # with those that a config.json adds
    try:
        model_id = digest("model", architecture, kwargs, weights, about.input.identity)
    except TypeError as error:
        raise UserError(f"zoo: {entry.name}: kwargs must be plain YAML values ({error})") from None
    resolved = ResolvedModel(
        entry=entry,
        weights_id=weights,
        model_id=model_id,
        input=about.input,
        num_classes=about.num_classes,
        cost=about.cost,
        classes=about.classes,
        licence=_licence(entry, config),
        blueprint=how,
        holds=_holds(entry, how, network),
        notes=(*notes, *_new_head(entry, network), *about.notes),
        loss=about.loss,
    )
    return resolved, network


def describe(entry: ZooEntry, network: nn.Module, task: Task | None = None) -> Description:
    """The input, the classes and the cost of a network, by forward passes of its own size.

    Raises UserError where it cannot take such samples, does not answer what the task asks for, or
    cannot be trained.
    """
    task = task or task_of()
    how = task.input(entry, network)
    head = task.head(entry, network, how)
    try:
        measured = cost(network, how.view.shape)
    except Exception as error:
        raise UserError(
            f"zoo: {entry.name} cannot be trained as it is ({type(error).__name__} in training "
            f"mode: {reason(error)}); correct it or its kwargs"
        ) from error
    if not task.features:
        measured = replace(measured, features=None)
    return Description(how, head.num_classes, head.classes, measured, head.notes, head.loss)


def classifier(entry: ZooEntry, network: nn.Module, how: ResolvedInput) -> Head:
    """What a classifier's logits are. Raises UserError where they are none."""
    num_classes, notes = probe(entry.name, network, how)
    classes = _classes(entry, network)
    if classes and len(classes) != num_classes:  # the names are of a head that was replaced
        classes = None
    return Head(num_classes, classes, tuple(notes))


def weights_id(network: nn.Module) -> str:
    """16 hex digits over the sorted names, dtypes, shapes and bytes of a network's tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


def _data_config(network: nn.Module) -> dict[str, Any]:
    from timm.data.config import resolve_model_data_config

    return resolve_model_data_config(network)


def square_input(entry: ZooEntry, network: nn.Module) -> ResolvedInput:
    """The model's own data config (timm's, where it is one), with the entry's overrides."""
    given, config = entry.input, _data_config(network) if entry.timm else {}
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


def _licence(entry: ZooEntry, config: dict) -> str | None:
    """Of the pretrained weights, where it is known."""
    if entry.saliency:
        from bikd_ray.zoo.saliency import saliency_model

        return saliency_model(entry.saliency).licence if entry.checkpoint else None
    return config.get("license") if entry.checkpoint is None else None


def _holds(entry: ZooEntry, how: Blueprint | None, network: nn.Module) -> str | None:
    """The name that timm has for the weights of a timm entry, where they are timm's own."""
    if how is None or entry.timm is None:
        return None
    folder = entry.timm.startswith(LOCAL_DIR)
    if not entry.checkpoint and not folder:
        return entry.timm
    address = entry.checkpoint or f"{entry.timm.removeprefix(LOCAL_DIR)}/model.safetensors"
    file = downloaded(address) if address.startswith(WEB) else Path(address)
    return held(how.name, file if file.is_file() else None, address, network.state_dict())


def _new_head(entry: ZooEntry, network: nn.Module) -> list[str]:
    """Whether timm has initialised the classifier, as it does for another number of classes."""
    if not entry.timm or entry.checkpoint:
        return []
    pretrained = (getattr(network, "pretrained_cfg", None) or {}).get("num_classes")
    own = getattr(network, "num_classes", None)
    if own is None or pretrained is None or own == pretrained:
        return []
    had = f"the weights' own has {pretrained}" if pretrained else "the weights have none"
    return [
        f"its classifier of {own} classes was just initialised ({had}): it knows nothing yet; "
        "train it first, or give a checkpoint: with that head"
    ]


def _classes(entry: ZooEntry, network: nn.Module) -> tuple[str, ...] | None:
    """Class names in the order of the logits: from the model's config, or ImageNet's synsets where
    timm gives the weights. Weights of the person's own may have any order.
    """
    config = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("label_names")
    if isinstance(names, dict):  # {"0": name, …}, as JSON has it
        names = [names[key] for key in sorted(names, key=int)]
    if names:
        return tuple(names)
    if not entry.timm or entry.checkpoint:
        return None
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(network)
    own_head = config.get("num_classes") == getattr(network, "num_classes", None)
    return tuple(ImageNetInfo(subset).label_names()) if subset and own_head else None


def check_classes(model: ResolvedModel, num_classes: int, classes: tuple[str, ...] | None) -> None:
    """Refuse a head of another size than the data's, or of the same classes in another order.

    Lists of other vocabularies (synsets, words) have nothing in common and are not compared;
    ImageNet's are known in both. Raises UserError that names the first difference.
    """
    if model.num_classes != num_classes:
        raise UserError(
            f"zoo: {model.name} outputs {model.num_classes} classes, but the data has {num_classes}"
            f"{_no_head(model)}; {_other_size(model, num_classes, classes)}"
        )
    found = placed(classes or (), model.classes or ())
    if (label := found.moved) is not None:
        place = found.places[label]
        assert classes is not None
        assert model.classes is not None
        raise UserError(
            f"zoo: {model.name} has class {place} {classes[label]!r}, which is class {label} in "
            f"the data (there the model has {model.classes[label]!r}); the orders must agree: "
            "name the classes in the model's order with data.classes"
        )


def _other_size(model: ResolvedModel, num_classes: int, classes: tuple[str, ...] | None) -> str:
    """What to do about a head of another size than the data's."""
    known = model.classes
    from timm.data.imagenet_info import ImageNetInfo

    if known and classes and len(placed(classes, known).places) == len(classes):
        if len(known) == len(ImageNetInfo().label_names()):
            return f"all of them are among the model's: set data.num_classes: {len(known)}"
        return f"all of them are among the model's: give its {len(known)} names as data.classes"
    if model.num_classes == num_classes + 1:
        return (
            "one output more is often a background class, and must be cut off in a factory; or "
            f"give a model with that head (kwargs: {{num_classes: {num_classes}}})"
        )
    return (
        f"give a model with that head (kwargs: {{num_classes: {num_classes}}}) or data with its "
        "classes"
    )


def _no_head(model: ResolvedModel) -> str:
    if model.num_classes == 1:
        return " (a single number is the answer of a sigmoid; here each class needs one)"
    if model.cost.features in (None, model.num_classes):
        return " (if these are features and not logits, its classifier is missing)"
    return ""
