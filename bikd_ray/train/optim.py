"""Optimisers and schedules by name: tables, so that a new one is a new row."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bikd_ray.errors import BikdError
from bikd_ray.specs import Recipe

OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], tuple[str, ...]]] = {
    "adam": (Adam, ()),
    "adamw": (AdamW, ()),
    "sgd": (SGD, ("momentum",)),
}
"""The optimiser, and what else of the recipe it takes."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "none": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
    "poly": lambda done: (1 - done) ** 0.9,
}
"""From the share of the run after the warm-up that is done to a factor on the learning rate."""


def make_optimizer(
    network: nn.Module, recipe: Recipe, steps: int, name: str = ""
) -> tuple[Optimizer, LambdaLR]:
    """The recipe's optimiser for a network, and its schedule over `steps` steps.

    name: the model's, to look its own learning rate up.
    """
    make, takes = OPTIMIZERS[recipe.optimizer]
    own: dict[str, Any] = {field: getattr(recipe, field) for field in takes}
    optimizer = make(
        _groups(network, recipe, name),
        lr=recipe.lrs.get(name, recipe.lr),
        weight_decay=recipe.weight_decay,
        fused=True,
        **own,
    )
    return optimizer, LambdaLR(optimizer, _factor(recipe, steps))


BODY = ("backbone", "encoder")
"""What networks call the part that was pretrained as a classifier; below a `decoder` nothing is."""

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Embedding,
)


def of_backbone(parameter: str) -> bool:
    """Whether a parameter, by its name, belongs to the backbone.

    >>> of_backbone("model.pixel_level_module.encoder.swin.encoder.layers.0.weight")
    True
    >>> of_backbone("model.pixel_level_module.decoder.encoder.layers.0.fc1.weight")
    False
    """
    found = (part for part in parameter.split(".") if part in (*BODY, "decoder"))
    return next(found, "") in BODY


def undecayed(network: nn.Module) -> set[str]:
    """The names of what is no weight of a product: norms, embeddings, relative positions."""
    return {
        f"{module_name}.{name}".lstrip(".")
        for module_name, module in network.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or "relative_position" in f"{module_name}.{name}"
    }


def _groups(network: nn.Module, recipe: Recipe, name: str) -> list[Any]:
    """The trainable parameters, or groups of them where the recipe tells some apart."""
    named = [(key, p) for key, p in network.named_parameters() if p.requires_grad]
    if recipe.backbone_lr == 1.0 and recipe.decay == "all":
        return [p for _, p in named]
    plain = undecayed(network) if recipe.decay == "matrices" else set()
    body = {key for key, _ in named if recipe.backbone_lr != 1.0 and of_backbone(key)}
    if recipe.backbone_lr != 1.0 and not body:
        raise BikdError(
            f"recipe.backbone_lr: {name} has no parameters below a {' or '.join(BODY)}; leave it "
            "out"
        )
    lr, groups = recipe.lrs.get(name, recipe.lr), []
    for in_body in (False, True):
        for decays in (True, False):
            some = [p for k, p in named if (k in body, k not in plain) == (in_body, decays)]
            factor = recipe.backbone_lr if in_body else 1.0
            decay = recipe.weight_decay if decays else 0.0
            if some:
                groups.append({"params": some, "lr": factor * lr, "weight_decay": decay})
    return groups


def _factor(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Step (from 0) to the factor: a linear warm-up from 0, then the schedule to its end."""
    warm = round(recipe.warmup_epochs / recipe.epochs * steps)
    shape = SCHEDULES[recipe.schedule]

    def factor(step: int) -> float:
        if step < warm:
            return step / warm
        return shape(min(1.0, (step - warm) / max(1, steps - warm)))

    return factor
