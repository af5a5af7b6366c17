"""The video saliency networks of the zoo: what each wants to see, and where its weights may go."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bikd_ray.errors import UserError, choices
from bikd_ray.plan import Window
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo.checkpoints import load_checkpoint
from bikd_ray.zoo.saliency import tmfi, vinet_s3d, vinet_slowfast

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class SaliencyModel:
    """A network as it was published: clips [B, 3, T, H, W] to maps [B, H, W] in (0, 1)."""

    build: Callable[..., nn.Module]
    window: Window
    size: tuple[int, int]  # H, W in pixels
    multiple: int  # H and W may be any multiples of this
    mean: Triple
    std: Triple
    licence: str  # of the published weights
    start_names: tuple[tuple[str, str], ...]  # names in files that an encoder may start from


IMAGENET: dict[str, Triple] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS: dict[str, Triple] = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}

SALIENCY_MODELS = {
    "tmfi_net": SaliencyModel(
        tmfi.tmfi_net,
        Window(),
        (224, 384),
        32,
        **IMAGENET,
        licence="none stated, all rights reserved",
        start_names=tmfi.START_NAMES,
    ),
    "vinet_s": SaliencyModel(
        vinet_s3d.vinet_s,
        Window(),
        (224, 384),
        32,
        **IMAGENET,
        licence="cc-by-nc-sa-4.0",
        start_names=vinet_s3d.START_NAMES,
    ),
    "vinet_a": SaliencyModel(
        vinet_slowfast.vinet_a,
        Window(stride=2),
        (256, 456),
        8,
        **KINETICS,
        licence="cc-by-nc-sa-4.0",
        start_names=vinet_slowfast.START_NAMES,
    ),
}


def saliency_model(name: str) -> SaliencyModel:
    """The network of this name. Raises UserError with the names there are."""
    if name not in SALIENCY_MODELS:
        raise UserError(
            f"zoo: there is no saliency network {name!r}; {choices(name, SALIENCY_MODELS)}"
        )
    return SALIENCY_MODELS[name]


def load_published(network: nn.Module, name: str, path: str) -> list[str]:
    """Load a whole network from a file, as its authors or Bi-KD wrote it, or this project.

    The names of a network's tensors are those of the published files, so its state_dict is such
    a file again. Every tensor must be there with its shape, and no other. Returns what a person
    may not know of it, a line each. Raises UserError in one line.
    """
    return load_checkpoint(network, _entry(name, path))


def load_encoder(network: nn.Module, name: str, path: str) -> list[str]:
    """Load the encoder of a network alone, from a file of an action classifier or detector.

    Takes what the encoder and the file share: of torchvision's `swin3d_s` and `s3d` weights, of
    Video Swin's own, and of the files that the ViNet authors start from. Returns what was lost,
    a line each. Raises UserError in one line where less than half of the encoder is there, or a
    tensor has another shape.
    """
    entry = _entry(name, path).model_copy(update={"rename": saliency_model(name).start_names})
    return load_checkpoint(network.get_submodule("backbone"), entry, strict=False)


def _entry(name: str, path: str) -> ZooEntry:
    return ZooEntry(factory=f"{__package__}:{name}", alias=name, checkpoint=path)
