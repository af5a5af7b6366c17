"""The whole way on data and a zoo that come with the package.

Four tiny networks of four families learn to read handwritten digits, each from its own share of the
training images; then a sweep asks which of them should teach which. There are two stories:

`cheap-labels`: half of the images, correctly labelled, taught ResNet, a tenth each taught the
others; the sweep has the other half, and 45% of its labels are wrong. What is right must come from
a partner.

`control`: each network knows its own quarter of the images, and the sweep has all of them. Every
model gains, and gains as much without a partner.

`segmentation` (a task of its own): scenes of digits with a class for each pixel; three networks
answer pixels and one queries, each knows half of some scenes, and the sweep has new ones.

`saliency` (a task of its own): videos of which one frame does not tell who moves, and who moves is
looked at; three networks see the last frame alone, a short window and a long one at half the size,
each knows a third of the videos, and the sweep has all of them, in pairs and all three together.

Sizes and recipes were chosen by the accuracies before the sweep and by its duration, never by a Δ
(LOG.md).
"""

import io
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bikd_ray.cache_dir import usable_cpus
from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import ImageSet
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.specs import (
    CONTROL,
    DataSource,
    DigitScenesData,
    DigitsData,
    MovingDigitsData,
    Recipe,
    ZooEntry,
)
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.tasks import DEFAULT, task_of
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
DIGITS = DigitsData(source="digits", split="train")


@dataclass(frozen=True)
class Story:
    """One demo. share: the training images, by their numbers, that teach a network its first
    lessons, from its name and how many images there are. spec: what the sweep's spec says beside
    zoo and store. files: what lies beside it, by path, from the training images. taught: the images
    of the first lessons, and lessons: how each network has them.
    """

    share: Callable[[str, int], np.ndarray]
    spec: Mapping[str, Any]
    files: Callable[[ImageSet], dict[str, bytes]] = lambda images: {}
    task: str = DEFAULT
    zoo: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: ZOO)
    taught: DataSource = DIGITS
    lessons: Callable[[str], Recipe] = lambda name: OTHER_LESSONS.get(name, FIRST_LESSONS)

    def entry(self, name: str) -> dict[str, Any]:
        """A network of its zoo as a spec has it, less its weights."""
        entry = {"alias": name, **self.zoo[name]}
        if self.task != DEFAULT:
            return entry
        return {**entry, "input": INPUT, "kwargs": {**entry["kwargs"], "num_classes": 10}}


@dataclass(frozen=True)
class Lessons:
    """A network's first ones. entry: of the zoo, without weights. rows: of the images `taught` that
    it learns from. cache: a folder for decoded images.
    """

    entry: dict[str, Any]
    task: str
    taught: DataSource
    recipe: Recipe
    rows: np.ndarray
    cache: Path


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

SCENES = {"source": "digit_scenes", "size": 24, "digits": [1, 2]}
SCENE_INPUT = {"size": 24, "multiple": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
SCENE_ZOO: dict[str, dict[str, Any]] = {
    name: {"factory": f"bikd_pipelines.scene_nets:{factory}", "input": SCENE_INPUT}
    for name, factory in (
        ("Dilated", "dilated"),
        ("Residual", "residual"),
        ("UNet", "UNet"),
        ("Masks", "Masks"),
    )
}

_SCENE_LESSONS = Recipe(
    epochs=8,
    batch_size=32,
    optimizer="adamw",
    lr=5e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=1,
)
SCENE_LESSONS = {
    "Dilated": _SCENE_LESSONS,
    "Residual": _SCENE_LESSONS,
    "UNet": _SCENE_LESSONS.model_copy(update={"epochs": 16}),
    "Masks": _SCENE_LESSONS.model_copy(update={"epochs": 12, "lr": 2e-3}),
}


def _every_second(name: str, images: int) -> np.ndarray:
    """The even scenes for two of the networks, the odd ones for the others."""
    return np.arange(list(SCENE_ZOO).index(name) % 2, images, 2)


CLIP_COLOURS = {"mean": [0.3] * 3, "std": [0.2] * 3}
CLIP_ZOO: dict[str, dict[str, Any]] = {
    name: {
        "factory": "bikd_pipelines.clip_nets:ClipNet",
        "kwargs": {"frames": frames},
        "input": {**how, **CLIP_COLOURS},
    }
    for name, frames, how in (
        ("Still", 1, {"size": 64, "width": 96}),
        ("Short", 4, {"size": 64, "width": 96, "window": {"frames": 4}}),
        ("Long", 8, {"size": 32, "width": 48, "window": {"frames": 8, "stride": 2}}),
    )
}
VIDEOS = {"source": "moving_digits", "split": "train", "videos": 60}
CLIP_LESSONS = Recipe(epochs=60, batch_size=8, optimizer="adam", lr=3e-3, weight_decay=0.0)


def _every_third(name: str, videos: int) -> np.ndarray:
    return np.arange(list(CLIP_ZOO).index(name), videos, len(CLIP_ZOO))


SEGMENTATION = "segmentation"
SALIENCY = "saliency"

STORIES = {
    SALIENCY: Story(
        task="saliency",
        zoo=CLIP_ZOO,
        taught=MovingDigitsData.model_validate(VIDEOS),
        lessons=lambda name: CLIP_LESSONS,
        share=_every_third,
        spec={
            "data": {
                "train": VIDEOS,
                "val": {"source": "moving_digits", "split": "val", "videos": 40, "eval_stride": 8},
            },
            "pairings": {
                "list": [
                    ["Still", "Short"],
                    ["Still", "Long"],
                    ["Short", "Long"],
                    ["Still", "Short", "Long"],
                ]
            },
            "recipe": {
                "epochs": 4,
                "batch_size": 8,
                "optimizer": "adam",
                "lr": 3e-4,
                "weight_decay": 0.0,
            },
            "seeds": [0, 1],
        },
    ),
    SEGMENTATION: Story(
        task="segmentation",
        zoo=SCENE_ZOO,
        taught=DigitScenesData.model_validate({**SCENES, "split": "train", "count": 4000}),
        lessons=SCENE_LESSONS.__getitem__,
        share=_every_second,
        spec={
            "data": {
                "train": {**SCENES, "split": "train", "count": 1000, "seed": 1},
                "val": {**SCENES, "split": "val", "count": 400},
                "cache": "views",
            },
            "recipe": {"epochs": 2, "batch_size": 32, "optimizer": "adamw", "lr": 3e-4},
            "seeds": [0, 1],
        },
    ),
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
    task = task_of(told.task)
    images = task.to_learn(task.open(told.taught))
    for file, content in told.files(images).items():
        if not place.exists(file):
            place.write(file, content)
    zoo, lessons = [], {}
    for name in told.zoo:
        file, entry = f"{story}/{name}.safetensors", told.entry(name)
        if not place.exists(file):
            print(f"bikd: {name} takes its first lessons …", file=sys.stderr)
            rows = told.share(name, len(images.labels))
            how = told.task, told.taught, told.lessons(name)
            lessons[file] = Lessons(entry, *how, rows, Path(place.root) / "views")
        zoo.append({**entry, "checkpoint": file})
    for file, state in _all_taken(lessons):
        place.write(file, state)
    of = {} if told.task == DEFAULT else {"task": told.task}
    spec = {"name": story, **of, "zoo": zoo, **told.spec, "store": "."}
    asked = f"--story {story}" if told.task == DEFAULT else f"--task {told.task}"
    text = f"# The sweep of `bikd demo {asked}`; change it and run it with `bikd sweep`.\n"
    place.write(f"{story}.yaml", (text + yaml.safe_dump(spec, sort_keys=False)).encode())
    return Path(place.root) / f"{story}.yaml"


def _all_taken(lessons: Mapping[str, Lessons]) -> Iterator[tuple[str, bytes]]:
    """(name, weights as safetensors), in processes side by side; they come out the same alone."""
    processes = min(len(lessons), usable_cpus())
    if processes < 2:
        yield from ((name, take(one)) for name, one in lessons.items())
        return
    # not forked: torch's threads do not survive it
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from zip(lessons, pool.map(take, lessons.values()), strict=True)


def take(lessons: Lessons) -> bytes:
    """Train a network by its own loss, from random weights; its weights as safetensors."""
    torch.set_num_threads(1)  # for nets this small a second thread is only something to wait for
    entry, recipe, task, rows = lessons.entry, lessons.recipe, task_of(lessons.task), lessons.rows
    images = task.to_learn(task.open(lessons.taught))
    if "timm" in entry:  # by its name timm would fetch pretrained weights
        call = {"model_name": entry["timm"], **entry["kwargs"]}
        entry = {"factory": "timm:create_model", "kwargs": call, "input": entry["input"]}
    model, network = resolve_model(ZooEntry.model_validate(entry), task)
    device = torch.device("cpu")
    view = model.input.view
    loader = Loader(images, [view], device, cache=str(lessons.cache), task=task, whole=True)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    learner = Learner.of(Member(model, network, device), recipe, steps)
    network.train()
    sources = Sources([learner], CONTROL, seed=0, task=task.joined([model]))
    step = 0
    for epoch in range(recipe.epochs):
        order = np.random.default_rng(derived_seed("demo", epoch)).permutation(rows)
        for batch in loader.batches(order, recipe.batch_size):
            train_step(sources, batch, step)
            step += 1
    return pack_state(network.state_dict())
