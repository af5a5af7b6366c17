"""A segmentation model of transformers as a folder that its `from_pretrained` loads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bikd_ray.errors import BikdError
from bikd_ray.export.folder import CARD, SAME
from bikd_ray.export.licence import hub_licence, is_non_commercial
from bikd_ray.zoo.checkpoints import reason
from bikd_ray.zoo.segmentation import Segmenter, map_output
from bikd_ray.zoo.segmentation.huggingface import (
    MASK2FORMER,
    load_transformers,
    quiet,
    transformers,
)

PROCESSOR = "preprocessor_config.json"
SHORT, LONG = 512, 2048
"""Pixels, of the images that ADE20K's models are evaluated on."""


def write_pretrained(
    folder: Path,
    model: Segmenter,
    state: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    name: str = "model",
) -> None:
    """Write weights, config.json, preprocessor_config.json and the licence into a new folder.

    model: how the network was built; state: its trained tensors. classes: the data's names, where
    the model has none of its own. The folder is loaded once, as a person will; raises BikdError
    where that answers otherwise.
    """
    network: Any = model.network
    network.load_state_dict(state)
    names = model.classes or tuple(classes or ())
    try:
        if len(names) == network.config.num_labels:
            network.config.id2label = dict(enumerate(names))
            network.config.label2id = {name: label for label, name in enumerate(names)}
        with quiet(transformers(name)):
            network.save_pretrained(folder)
    except OSError as error:
        raise BikdError(f"cannot write {folder}: {error.strerror or error}") from None
    except Exception as error:  # whatever a library says of a network that it cannot save
        raise BikdError(
            f"{name} cannot be exported: transformers does not save it ({reason(error)})"
        ) from error
    about = json.dumps(_processor(model), indent=2)
    (folder / PROCESSOR).write_text(about + "\n", encoding="utf-8")
    (folder / CARD).write_text(_licence(model), encoding="utf-8")
    check_pretrained(folder, network, name)


@torch.no_grad()
def check_pretrained(folder: Path, network: nn.Module, name: str) -> None:
    """Load a written folder by transformers alone. Raises BikdError where it answers otherwise."""
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    images = images.to(next(network.parameters()).device)
    training = network.training
    network.eval()
    try:
        again = load_transformers(str(folder)).network.to(images.device)
        ours, theirs = (map_output(net(images), name).tensors() for net in (network, again))
        apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    except Exception as error:  # whatever keeps transformers from it would keep the person from it
        raise BikdError(
            f"{name} cannot be exported: transformers does not load what it saved ({reason(error)})"
        ) from error
    finally:
        network.train(training)
    if not apart <= SAME * max(1.0, float(ours[-1].abs().max())):
        raise BikdError(
            f"{name} cannot be exported: what transformers loads answers {apart:.1g} away from "
            "what was trained"
        )


def _processor(model: Segmenter) -> dict[str, Any]:
    """The model's own preprocessing file, or one for a Mask2Former that had none.

    Its sizes are for looking at pictures: transformers stretches images where scores pad them.
    """
    if model.processor:
        return dict(model.processor)
    mask2former = (model.config or {}).get("model_type") == MASK2FORMER
    kind = {"image_processor_type": "Mask2FormerImageProcessor"} if mask2former else {}
    return {
        **kind,
        "do_resize": True,
        "size": {"shortest_edge": SHORT, "longest_edge": LONG},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.mean),
        "image_std": list(model.std),
    }


def _licence(model: Segmenter) -> str:
    """A card's front matter, and a line where the weights may not be sold."""
    lines = [f"{key}: {value}" for key, value in hub_licence(model.licence).items()]
    front = "\n".join(["---", *lines, "pipeline_tag: image-segmentation", "---", ""])
    if not is_non_commercial(model.licence):
        return front
    return f"{front}\nThese weights come from weights under {model.licence}: no commercial use.\n"
