"""Segmentation models of torchvision and of segmentation-models-pytorch."""

import importlib
from collections.abc import Mapping
from typing import Any

import torchvision

from bikd_ray.errors import UserError, choices
from bikd_ray.zoo.checkpoints import reason
from bikd_ray.zoo.segmentation.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter


def load_torchvision(
    name: str, weights: str | None = "DEFAULT", kwargs: Mapping[str, Any] | None = None
) -> Segmenter:
    """A segmentation model of torchvision in eval mode; weights: its name for them, or None.

    Raises UserError, in one line.
    """
    known = torchvision.models.list_models(module=torchvision.models.segmentation)
    if name not in known:
        raise UserError(
            f"zoo: torchvision has no segmentation model {name!r}; {choices(name, known)}"
        )
    options = dict(kwargs or {})
    if not weights:
        options.setdefault("weights_backbone", None)  # else it is fetched
    try:
        chosen: Any = torchvision.models.get_model_weights(name)[weights] if weights else None
    except KeyError:
        offered = [each.name for each in torchvision.models.get_model_weights(name)]
        raise UserError(
            f"zoo: torchvision's {name} has no weights {weights!r}; "
            f"{choices(weights, [*offered, 'DEFAULT'])}"
        ) from None
    try:
        network = torchvision.models.get_model(name, weights=chosen, **options)
    except Exception as error:
        raise UserError(
            f"zoo: torchvision's {name} with kwargs {dict(kwargs or {})} raised "
            f"{type(error).__name__}: {reason(error)}; correct the kwargs, or fetch it once"
        ) from None
    if chosen is None:
        return Segmenter(network.eval())
    how = chosen.transforms()
    names = tuple(chosen.meta["categories"])
    return Segmenter(network.eval(), tuple(how.mean), tuple(how.std), names)


def load_smp(architecture: str, kwargs: Mapping[str, Any] | None = None) -> Segmenter:
    """A model of segmentation-models-pytorch by its architecture (unet, fpn, …) in eval mode.

    kwargs: encoder_name, classes, …; encoder_weights is None unless given, so nothing is fetched.
    Raises UserError, in one line, also where the library is not installed.
    """
    try:
        library: Any = importlib.import_module("segmentation_models_pytorch")
    except ImportError:
        raise UserError(
            f"zoo: {architecture} is asked of segmentation-models-pytorch, which is not installed; "
            "pip install segmentation-models-pytorch"
        ) from None
    known = library.MODEL_ARCHITECTURES_MAPPING
    if architecture not in known:
        raise UserError(
            f"zoo: segmentation-models-pytorch has no architecture {architecture!r}; "
            f"{choices(architecture, known)}"
        )
    options = {"encoder_weights": None, **(kwargs or {})}
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    try:
        network = library.create_model(architecture, **options)
        if trained := options["encoder_weights"]:
            encoder = options.get("encoder_name", "resnet34")
            about = library.encoders.get_preprocessing_params(encoder, trained)
            mean, std = tuple(about["mean"]), tuple(about["std"])
    except Exception as error:
        raise UserError(
            f"zoo: segmentation-models-pytorch's {architecture} with kwargs {dict(kwargs or {})} "
            f"raised {type(error).__name__}: {reason(error)}; correct the kwargs"
        ) from None
    return Segmenter(network.eval(), mean, std)
