"""The whole way on data and a zoo that come with the package.

Four tiny networks of four families learn to read handwritten digits, each from its own quarter of
the training images; then a sweep asks which of them should teach which. Sizes and recipe were
chosen by the accuracies before the sweep and by its duration, never by a Δ (LOG.md).
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import open_images
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import CONTROL, DigitsData, Recipe, Spec, ZooEntry
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.step import Sources, train_step
from bikd_ray.weights import pack_state
from bikd_ray.zoo import resolve_model

SIZE = 16
INPUT = {
    "size": SIZE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "crop_pct": 1.0,
    "interpolation": "bicubic",
}

ZOO: dict[str, dict[str, Any]] = {
    "ResNet": {
        "timm": "resnet18",
        "kwargs": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64], "stem_width": 16},
    },
    "ViT": {
        "timm": "vit_tiny_patch16_224",
        "kwargs": {
            "img_size": SIZE,
            "patch_size": 4,
            "embed_dim": 64,
            "depth": 2,
            "num_heads": 4,
            "class_token": False,
            "global_pool": "avg",
        },
    },
    "Mixer": {
        "factory": "timm.models.mlp_mixer:MlpMixer",
        "kwargs": {"img_size": SIZE, "patch_size": 4, "num_blocks": 3, "embed_dim": 48},
    },
    "ConvNeXt": {
        "timm": "convnext_atto",
        "kwargs": {
            "depths": [1, 1, 1, 1],
            "dims": [8, 16, 24, 32],
            "patch_size": 2,
            "output_stride": 8,
        },
    },
}

FIRST_LESSONS = Recipe(epochs=12, batch_size=32, optimizer="adamw", lr=3e-3, weight_decay=0.05)
OTHER_LESSONS = {
    # at a steady rate its batch norms' running statistics lag behind the weights, and the sweep
    # would show their catching up as a gain
    "ResNet": FIRST_LESSONS.model_copy(update={"epochs": 24, "schedule": "cosine"}),
    "ViT": FIRST_LESSONS.model_copy(update={"epochs": 40, "lr": 1e-3}),
}
"""How each network learns alone, on its own quarter of the training images."""

DATA = {
    "train": {"source": "digits", "split": "train"},
    "val": {"source": "digits", "split": "val"},
}


def prepare_demo(store: str) -> Path:
    """Teach the demo's zoo where the store lacks it and write the spec of the sweep beside it.

    Returns the path of the spec: an ordinary file that `bikd sweep` runs as well. Raises
    UserError for a store that is not a folder.
    """
    place = StoreFS.at(store)
    if not place.is_local:
        raise UserError(f"the demo's store must be a folder, got {store}")
    zoo = []
    for part, (name, how) in enumerate(ZOO.items()):
        file = f"zoo/{name}.safetensors"
        entry = {"alias": name, **how, "input": INPUT}
        entry["kwargs"] = {**entry["kwargs"], "num_classes": 10}
        if not place.exists(file):
            print(f"bikd: {name} takes its first lessons …", file=sys.stderr)
            state = _first_lessons(entry, part, len(ZOO), Path(place.root) / "views")
            place.write(file, pack_state(state))
        zoo.append({**entry, "checkpoint": file})
    spec = {
        "name": "demo",
        "zoo": zoo,
        "data": {**DATA, "cache": "views"},
        "recipe": {"epochs": 3, "batch_size": 64, "optimizer": "adam", "lr": 3e-4},
        "seeds": [0, 1, 2],
        "store": ".",
    }
    text = "# The sweep of `bikd demo`; change it and run it with `bikd sweep`.\n"
    place.write("demo.yaml", (text + yaml.safe_dump(spec, sort_keys=False)).encode())
    return Path(place.root) / "demo.yaml"


def _first_lessons(
    entry: dict[str, Any], part: int, parts: int, cache: Path
) -> dict[str, torch.Tensor]:
    """Cross-entropy on every `parts`-th training image, from random weights."""
    torch.set_num_threads(1)  # for nets this small a second thread is only something to wait for
    recipe = OTHER_LESSONS.get(entry["alias"], FIRST_LESSONS)
    if "timm" in entry:  # by its name timm would fetch pretrained weights
        call = {"model_name": entry["timm"], **entry["kwargs"]}
        entry = {"factory": "timm:create_model", "kwargs": call, "input": entry["input"]}
    model, network = resolve_model(ZooEntry.model_validate(entry))
    device = torch.device("cpu")
    loader = Loader(
        open_images(DigitsData(source="digits", split="train")),
        [model.input.view],
        device,
        cache=str(cache),
    )
    rows = np.arange(part, len(loader), parts)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    learner = Learner.of(Member(model, network, device), recipe, steps)
    network.train()
    sources = Sources([learner], CONTROL, seed=0)
    step = 0
    for epoch in range(recipe.epochs):
        order = np.random.default_rng(derived_seed("demo", epoch)).permutation(rows)
        for batch in loader.batches(order, recipe.batch_size):
            train_step(sources, batch, step)
            step += 1
    return network.state_dict()


def demo_spec(store: str) -> Spec:
    """The demo's sweep, with its zoo trained."""
    return load_spec(prepare_demo(store))
