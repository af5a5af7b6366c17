"""Identify a zoo entry: build it once and note everything that later steps need to know of it."""

import hashlib
from dataclasses import dataclass

import torch
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from bikd_ray.data.labels import placed
from bikd_ray.errors import UserError
from bikd_ray.identity import digest
from bikd_ray.plan import Cost, ResolvedInput, ResolvedModel
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo.adapters import logits_of
from bikd_ray.zoo.build import blueprint, build
from bikd_ray.zoo.checkpoints import reason
from bikd_ray.zoo.cost import cost

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Description:
    """What a network is, whatever its weights."""

    input: ResolvedInput
    num_classes: int
    classes: tuple[str, ...] | None
    cost: Cost


def resolve_model(entry: ZooEntry) -> tuple[ResolvedModel, nn.Module]:
    """Build a model with its weights and note what identifies it. Raises UserError."""
    network = build(entry)
    about = describe(entry, network)
    weights = weights_id(network)
    config = getattr(network, "pretrained_cfg", None) or {}
    own = entry.source.rpartition("/")[2]  # not the place of a hub folder
    architecture = config.get("architecture") or own
    how = blueprint(entry)
    kwargs = how.kwargs if how else entry.kwargs  # with those that a config.json adds
    try:
        model_id = digest("model", architecture, kwargs, weights, vars(about.input))
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
        licence=config.get("license") if entry.checkpoint is None else None,
        blueprint=how,
    )
    return resolved, network


def describe(entry: ZooEntry, network: nn.Module) -> Description:
    """The input, the classes and the cost of a network, by a forward pass of its own size.

    Raises UserError where it cannot take such images or does not answer [B, C].
    """
    how = _input(entry, network)
    with torch.no_grad():  # what a network keeps from inference mode could never be trained with
        try:
            logits = logits_of(network(torch.zeros(2, 3, how.size, how.size)), entry.name)
        except UserError:
            raise
        except Exception as error:  # it is the person's code that runs here
            raise UserError(
                f"zoo: {entry.name} cannot take images of {how.size} x {how.size} "
                f"({reason(error)}); set input: {{size: …}} or kwargs that fit"
            ) from None
    if logits.ndim != 2:
        raise UserError(
            f"zoo: {entry.name} answers {list(logits.shape[1:])} logits for an image; it must "
            "answer one number for each class"
        )
    try:
        measured = cost(network, how.size)
    except Exception as error:
        raise UserError(
            f"zoo: {entry.name} cannot be trained as it is ({type(error).__name__} in training "
            f"mode: {reason(error)}); correct it or its kwargs"
        ) from error
    classes = _classes(entry, network)
    if classes and len(classes) != logits.shape[1]:  # the names are of a head that was replaced
        classes = None
    return Description(how, logits.shape[1], classes, measured)


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


def _input(entry: ZooEntry, network: nn.Module) -> ResolvedInput:
    """The model's own data config (timm's, where it is one), with the entry's overrides."""
    given = entry.input
    config = resolve_model_data_config(network) if entry.timm else {}
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
    subset = infer_imagenet_subset(network) if entry.timm and not entry.checkpoint else None
    own_head = config.get("num_classes") == getattr(network, "num_classes", None)
    return tuple(ImageNetInfo(subset).label_names()) if subset and own_head else None


def check_classes(model: ResolvedModel, num_classes: int, classes: tuple[str, ...] | None) -> None:
    """Refuse a head of another size than the data's, or of the same classes in another order.

    Lists of other vocabularies (synsets, words) have nothing in common and are not compared;
    ImageNet's are known in both. Raises UserError that names the first difference.
    """
    if model.num_classes != num_classes:
        raise UserError(
            f"zoo: {model.name} answers {model.num_classes} classes, the data has {num_classes}; "
            f"{_other_size(model, num_classes, classes)}"
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
