"""Zoo entries of segmentation's libraries: transformers, torchvision, smp, detectron2's files.

A network comes with what is known of it in `pretrained_cfg`, where timm's have it too: mean, std,
license, label_names, notes.
"""

import json
from typing import Any

from torch import nn

from bikd_ray.errors import UserError
from bikd_ray.plan import Blueprint, ResolvedModel
from bikd_ray.specs import ZooEntry

KINDS = ("transformers", "torchvision", "smp", "detectron2")
"""The fields of an entry that name such a network."""

OF_TRANSFORMERS = ("transformers", "detectron2")
"""The kinds of entries whose networks are of transformers."""


def segmenter(entry: ZooEntry, *, pretrained: bool = True) -> nn.Module:
    """The network of an entry, with its weights or, where pretrained is False, random ones.

    Raises UserError, in one line.
    """
    from bikd_ray.zoo import segmentation as load  # it loads libraries that few models need

    kwargs = dict(entry.kwargs)
    if entry.transformers:
        found = load.load_transformers(entry.transformers, kwargs, weights=pretrained)
    elif entry.detectron2:
        if kwargs:
            raise UserError(f"zoo: {entry.name}: a file of detectron2 takes no kwargs; remove them")
        found = load.load_mask2former(entry.detectron2, entry.name)
    elif entry.torchvision:
        weights = kwargs.pop("weights", "DEFAULT")
        found = load.load_torchvision(entry.torchvision, weights if pretrained else None, kwargs)
    else:
        if not pretrained:
            kwargs["encoder_weights"] = None
        found = load.load_smp(entry.smp or "", kwargs)
    network: Any = found.network
    network.pretrained_cfg = {
        "mean": found.mean,
        "std": found.std,
        "license": found.licence,
        "label_names": found.classes,
        "processor": found.processor,
        "notes": found.notes,
    }
    return network


def of_transformers(entry: ZooEntry, network: nn.Module) -> Blueprint:
    """How transformers builds a network anew."""
    known: Any = network
    processor = getattr(network, "pretrained_cfg", {}).get("processor")
    config = json.loads(json.dumps(known.config.to_dict(), default=str))
    return Blueprint("transformers", {**config, PROCESSOR: processor}, entry.kwargs)


def segmenter_from(entry: ZooEntry, how: Blueprint) -> nn.Module:
    """The same architecture with random weights: no file is read or fetched."""
    from bikd_ray.zoo.frozen_norm import freeze_batchnorm
    from bikd_ray.zoo.segmentation import from_config
    from bikd_ray.zoo.segmentation.huggingface import blue_first, turn_channels

    assert how.config is not None
    about = dict(how.config)
    processor = about.pop(PROCESSOR, None)
    network: Any = from_config(about, entry.name)
    if processor and blue_first(processor):
        turn_channels(network)
    if entry.detectron2:
        freeze_batchnorm(network)
    network.pretrained_cfg = {"processor": processor}
    return network


def of_network(model: ResolvedModel, network: nn.Module) -> Any:
    """What is known of a rebuilt network of transformers, as its exporter takes it."""
    from bikd_ray.zoo.segmentation import Segmenter

    known: Any = network
    processor = network.pretrained_cfg.get("processor")  # type: ignore[union-attr]
    how = model.input
    return Segmenter(
        network,
        how.mean,
        how.std,
        model.classes,
        model.licence,
        known.config.to_dict(),
        processor,
    )


PROCESSOR = "bikd_processor"
"""Where a blueprint's config keeps what preprocessor_config.json says: some networks are given
their channels in another order.
"""
