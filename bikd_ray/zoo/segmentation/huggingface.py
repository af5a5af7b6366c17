"""Segmentation models of transformers, from the hub or a folder; imported only when asked for."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bikd_ray.errors import UserError
from bikd_ray.tasks.mask_criterion import Criterion
from bikd_ray.zoo.checkpoints import reason
from bikd_ray.zoo.segmentation.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, Triple

MASK2FORMER = "mask2former"
OTHER_CRITERIA = ("maskformer", "oneformer", "eomt", "eomt_dinov3")
"""Mask models whose own loss or input is not Mask2Former's."""

NON_COMMERCIAL = "cc-by-nc-4.0"
"""Of the weights that Mask2Former's authors released, whoever converted them."""
RELEASED = "facebook/mask2former-"

CARD = "README.md"


def load_transformers(
    name: str, kwargs: Mapping[str, Any] | None = None, *, weights: bool = True
) -> Segmenter:
    """A segmentation model of the Hugging Face hub or of a local folder, in float32 and eval mode.

    Any of AutoModelForSemanticSegmentation, or Mask2Former. kwargs: changes of its config, such as
    num_labels. weights=False: its architecture with random weights. Of the preprocessing only mean
    and standard deviation are taken, since its sizes are not those that the models are scored at.
    Raises UserError, in one line.
    """
    library = transformers(name)
    options = dict(kwargs or {})
    mismatch = {k: options.pop(k) for k in ("ignore_mismatched_sizes",) if k in options}
    try:
        with quiet(library):
            config = library.AutoConfig.from_pretrained(name, **options)
    except Exception as error:  # what is wrong with a name comes as any of several
        raise UserError(
            f"zoo: {name}: transformers finds no config.json ({reason(error)}); give a hub name "
            "or the folder of a segmentation model"
        ) from None
    auto = _auto(library, config, name)
    told: Mapping[str, Any] = {}
    try:
        with quiet(library):
            if weights:
                network, told = auto.from_pretrained(
                    name, config=config, dtype=torch.float32, output_loading_info=True, **mismatch
                )
            else:
                network = auto.from_config(config)
    except Exception as error:
        raise UserError(
            f"zoo: {name}: transformers cannot load it ({reason(error)}); correct the name or "
            "kwargs (another num_labels asks for ignore_mismatched_sizes: true)"
        ) from None
    notes = _new_tensors(told)
    about = _processor(library, name)
    if about is None:
        notes.append(f"{name} has no preprocessor_config.json; ImageNet's mean and std are taken")
    elif blue_first(about):
        turn_channels(network)
        notes.append(f"{name} takes blue, green, red; the channels are turned for it")
    mean, std = pixel_scale(about or {})
    return Segmenter(
        _with_all_outputs(network).eval(),
        mean,
        std,
        class_names(config),
        _licence(name),
        config.to_dict(),
        about,
        tuple(notes),
    )


def _licence(name: str) -> str | None:
    """Of the weights of a hub name or folder: what its card says, where there is one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.repocard import metadata_load

    if name.startswith(RELEASED):
        return NON_COMMERCIAL
    try:
        card = Path(name) / CARD if Path(name).is_dir() else hf_hub_download(name, CARD)
        about = metadata_load(card) or {}
    except Exception:  # without a card, or offline, nothing is known
        return None
    said = about.get("license_name") or about.get("license")
    return str(said) if said and said != "unknown" else None


def from_config(config: Mapping[str, Any], name: str) -> nn.Module:
    """The network of a `Segmenter.config` with random weights: no file is read or fetched."""
    library = transformers(name)
    values = dict(config)
    with quiet(library):
        built = library.AutoConfig.for_model(values.pop("model_type"), **values)
        network = _auto(library, built, name).from_config(built)
    return _with_all_outputs(network).eval()


def criterion_of(config: Mapping[str, Any]) -> Criterion:
    """The settings of Mask2Former's loss that a `Segmenter.config` holds."""
    return Criterion(
        class_weight=config["class_weight"],
        mask_weight=config["mask_weight"],
        dice_weight=config["dice_weight"],
        no_object=config["no_object_weight"],
        points=config["train_num_points"],
        oversample=config["oversample_ratio"],
        uncertain=config["importance_sample_ratio"],
    )


def transformers(name: str) -> Any:
    """The library. Raises UserError where it is not installed; name: the model that needs it."""
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError(
            f"zoo: {name} is a model of transformers, which is not installed; "
            'pip install "bikd-ray[segmentation]"'
        ) from None


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Without the library's own warnings and progress bars: what counts is told in our words."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def class_names(config: Any) -> tuple[str, ...] | None:
    """The names in a config's id2label, in order; None for the LABEL_0, … of a model without."""
    known = {int(label): str(name) for label, name in (config.id2label or {}).items()}
    if sorted(known) != list(range(len(known))):
        return None
    names = tuple(known[label] for label in range(len(known)))
    return None if names == tuple(f"LABEL_{n}" for n in range(len(names))) else names


def _auto(library: Any, config: Any, name: str) -> Any:
    """The class that builds a config. Raises UserError for a model of another task."""
    kind = config.model_type
    if kind == MASK2FORMER:
        return library.AutoModelForUniversalSegmentation
    if type(config) in library.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        return library.AutoModelForSemanticSegmentation
    if kind in OTHER_CRITERIA:
        raise UserError(
            f"zoo: {name} is a {kind}, whose own loss is not Mask2Former's and is not built in; "
            "choose a Mask2Former, or a model of AutoModelForSemanticSegmentation"
        )
    known = library.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING.keys()
    kinds = sorted(known.model_type for known in known)
    raise UserError(
        f"zoo: {name} is a {kind}, no semantic segmentation model; choose one of "
        f"{', '.join([MASK2FORMER, *kinds])}"
    )


def _with_all_outputs(network: nn.Module) -> nn.Module:
    """Auxiliary outputs are part of Mask2Former's loss, and left out of its answer by default."""
    config: Any = network.config
    if config.model_type == MASK2FORMER:
        config.output_auxiliary_logits = True
    return network


def _new_tensors(told: Mapping[str, Any]) -> list[str]:
    """What from_pretrained initialised at random since the file lacks it."""
    mismatched = told.get("mismatched_keys", ())
    names = [key[0] if isinstance(key, tuple) else key for key in mismatched]
    new = sorted({*told.get("missing_keys", ()), *names})
    if not new:
        return []
    more = ", …" if len(new) > 3 else ""
    return [
        f"{', '.join(new[:3])}{more} ({len(new)} tensors) were just initialised: they know nothing "
        "yet; train it first"
    ]


def _processor(library: Any, name: str) -> dict[str, Any] | None:
    """What preprocessor_config.json says; None where there is none."""
    try:
        return library.BaseImageProcessor.get_image_processor_dict(name)[0]
    except Exception:  # a folder that holds a model alone
        return None


def pixel_scale(about: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """(mean, std) for pixels in 0-1, whatever factor a processor multiplies 0-255 by."""
    factor = about.get("rescale_factor", 1 / 255) if about.get("do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if about.get("do_normalize", not about or "image_mean" in about):
        mean = about.get("image_mean", IMAGENET_MEAN)
        std = about.get("image_std", IMAGENET_STD)
    unit = 255 * factor
    unit = 1.0 if abs(unit - 1) < 1e-6 else unit
    return _triple(mean, unit), _triple(std, unit)


def _triple(values: Sequence[float], unit: float) -> Triple:
    red, green, blue = (value / unit for value in values)
    return red, green, blue


def blue_first(about: Mapping[str, Any]) -> bool:
    """Whether a processor gives its network blue, green, red."""
    by_default = str(about.get("image_processor_type", "")).startswith("MobileViT")
    return bool(about.get("do_flip_channel_order", by_default))


def turn_channels(network: nn.Module) -> None:
    """Give a network that takes blue, green, red the channels in that order."""
    network.register_forward_pre_hook(_turned)


def _turned(network: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].flip(1), *args[1:]
