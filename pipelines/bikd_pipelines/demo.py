"""The whole way on data and a zoo that come with the package.

Four tiny networks of four families learn to read handwritten digits, each from its own share of the
training images; then a sweep asks which of them should teach which. There are two stories:

`cheap-labels`: half of the images, correctly labelled, taught ResNet, a tenth each taught the
others; the sweep has the other half, and 45% of its labels are wrong. What is right must come from
a partner.

`control`: each network knows its own quarter of the images, and the sweep has all of them. Every
model gains, and gains as much without a partner.

Sizes and recipes were chosen by the accuracies before the sweep and by its duration, never by a Δ
(LOG.md).
"""

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import ImageSet, open_images
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.specs import CONTROL, DigitsData, Recipe, ZooEntry
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
"""How each network learns alone, on its own share of the training images."""

WRONG = 0.45
"""The share of cheap labels that name another digit than the image shows."""

VAL = {"source": "digits", "split": "val"}


@dataclass(frozen=True)
class Story:
    """One demo. share: the training images, by their numbers, that teach a network its first
    lessons, from its name and how many images there are. spec: what the sweep's spec says beside
    zoo and store. files: what lies beside it, by path, from the training images.
    """

    share: Callable[[str, int], np.ndarray]
    spec: Mapping[str, Any]
    files: Callable[[ImageSet], dict[str, bytes]] = lambda images: {}


def _good_half(name: str, images: int) -> np.ndarray:
    """Every second image for the expert, and of these a fifth of its own for each beginner."""
    half = np.arange(0, images, 2)
    beginners = [other for other in ZOO if other != EXPERT]
    return half if name == EXPERT else half[beginners.index(name) :: 5]


def _quarter(name: str, images: int) -> np.ndarray:
    return np.arange(list(ZOO).index(name), images, len(ZOO))


def cheap_labels(label_N: np.ndarray, draw: int = 0) -> np.ndarray:
    """Labels [N] of ten classes of which a share WRONG is wrong, each other digit equally likely.

    draw: which images, and which labels they get.
    """
    random = np.random.default_rng(draw)
    wrong = random.permutation(len(label_N))[: round(WRONG * len(label_N))]
    cheap_N = label_N.copy()
    cheap_N[wrong] = (label_N[wrong] + random.integers(1, 10, len(wrong))) % 10
    return cheap_N


def cheaply_labelled(images: ImageSet, draw: int = 0) -> dict[str, bytes]:
    """The half that taught nobody: a PNG of each image, and a table of their labels as CSV."""
    rows = range(1, len(images.labels), 2)
    label_N = images.labels[1::2]
    lines, files = ["file,label,truth"], {}
    for row, label, truth in zip(rows, cheap_labels(label_N, draw), label_N, strict=True):
        png = io.BytesIO()
        images.image(row).save(png, "PNG")
        files[f"{CHEAP}/images/{row:03d}.png"] = png.getvalue()
        lines.append(f"{row:03d}.png,{label},{truth}")
    files[f"{CHEAP}/labels.csv"] = ("\n".join(lines) + "\n").encode()
    return files


EXPERT = "ResNet"
CHEAP = "cheap-labels"
SOFT = 4.0
"""Temperature of the frozen teachers: the expert's and, for a fair comparison, of the old self."""

STORIES = {
    CHEAP: Story(
        share=_good_half,
        files=cheaply_labelled,
        spec={
            "data": {
                "train": {
                    "source": "folder",
                    "path": f"{CHEAP}/images",
                    "labels": f"{CHEAP}/labels.csv",
                },
                "val": VAL,
                "cache": "views",
            },
            "objectives": [
                {"name": "kd", "temperature": SOFT},
                "bikd",
                {"name": "self", "temperature": SOFT},
            ],
            "recipe": {"epochs": 5, "batch_size": 32, "optimizer": "adam", "lr": 1e-3},
            "seeds": [0, 1, 2, 3, 4],
        },
    ),
    "control": Story(
        share=_quarter,
        spec={
            "data": {
                "train": {"source": "digits", "split": "train"},
                "val": VAL,
                "cache": "views",
            },
            "recipe": {"epochs": 3, "batch_size": 64, "optimizer": "adam", "lr": 3e-4},
            "seeds": [0, 1, 2],
        },
    ),
}


def prepare_demo(store: str, story: str = CHEAP) -> Path:
    """Teach a story's zoo where the store lacks it and write the spec of the sweep beside it.

    Returns the path of the spec: an ordinary file that `bikd sweep` runs as well. Raises
    UserError for a store that is not a folder.
    """
    place, told = StoreFS.at(store), STORIES[story]
    if not place.is_local:
        raise UserError(f"the demo's store must be a folder, got {store}")
    images = open_images(DigitsData(source="digits", split="train"))
    for file, content in told.files(images).items():
        if not place.exists(file):
            place.write(file, content)
    zoo = []
    for name, how in ZOO.items():
        file = f"{story}/{name}.safetensors"
        entry = {"alias": name, **how, "input": INPUT}
        entry["kwargs"] = {**entry["kwargs"], "num_classes": 10}
        if not place.exists(file):
            print(f"bikd: {name} takes its first lessons …", file=sys.stderr)
            rows = told.share(name, len(images.labels))
            state = _first_lessons(entry, images, rows, Path(place.root) / "views")
            place.write(file, pack_state(state))
        zoo.append({**entry, "checkpoint": file})
    spec = {"name": story, "zoo": zoo, **told.spec, "store": "."}
    text = f"# The sweep of `bikd demo --story {story}`; change it and run it with `bikd sweep`.\n"
    place.write(f"{story}.yaml", (text + yaml.safe_dump(spec, sort_keys=False)).encode())
    return Path(place.root) / f"{story}.yaml"


def _first_lessons(
    entry: dict[str, Any], images: ImageSet, rows: np.ndarray, cache: Path
) -> dict[str, torch.Tensor]:
    """Cross-entropy on these rows of the images, from random weights."""
    torch.set_num_threads(1)  # for nets this small a second thread is only something to wait for
    recipe = OTHER_LESSONS.get(entry["alias"], FIRST_LESSONS)
    if "timm" in entry:  # by its name timm would fetch pretrained weights
        call = {"model_name": entry["timm"], **entry["kwargs"]}
        entry = {"factory": "timm:create_model", "kwargs": call, "input": entry["input"]}
    model, network = resolve_model(ZooEntry.model_validate(entry))
    device = torch.device("cpu")
    loader = Loader(images, [model.input.view], device, cache=str(cache))
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
