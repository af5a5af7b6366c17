"""The demo of videos: three tiny networks that see a clip differently, and who should teach whom.

Moving digits (`bikd_ray/data/clips/moving_digits.py`): who moves is looked at, which one frame does
not tell. One network sees the last frame alone, one a short window, one a long window at half the
size; each takes its first lessons from its own third of the training videos, and the sweep has all
of them, in pairs and all three together.

Sizes and recipes were chosen by the values before the sweep and by its duration, never by a Δ.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import ImageSet
from bikd_ray.errors import UserError
from bikd_ray.identity import derived_seed
from bikd_ray.specs import CONTROL, MovingDigitsData, Recipe, ZooEntry
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.tasks import task_of
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.step import Sources, train_step
from bikd_ray.weights import pack_state
from bikd_ray.zoo import resolve_model

NAME = "saliency"
COLOURS = {"mean": [0.3, 0.3, 0.3], "std": [0.2, 0.2, 0.2]}

ZOO: dict[str, dict[str, Any]] = {
    "Still": {"kwargs": {"frames": 1}, "input": {"size": 64, "width": 96}},
    "Short": {
        "kwargs": {"frames": 4},
        "input": {"size": 64, "width": 96, "window": {"frames": 4}},
    },
    "Long": {
        "kwargs": {"frames": 8},
        "input": {"size": 32, "width": 48, "window": {"frames": 8, "stride": 2}},
    },
}
TRAIN = {"source": "moving_digits", "split": "train", "videos": 60}
FIRST_LESSONS = Recipe(epochs=60, batch_size=8, optimizer="adam", lr=3e-3, weight_decay=0.0)

SPEC: dict[str, Any] = {
    "data": {
        "train": TRAIN,
        "val": {"source": "moving_digits", "split": "val", "videos": 30, "eval_stride": 4},
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
        "epochs": 6,
        "batch_size": 8,
        "optimizer": "adam",
        "lr": 3e-4,
        "weight_decay": 0.0,
    },
    "seeds": [0, 1],
}


def prepare_videos(store: str) -> Path:
    """Teach the zoo where the store lacks it and write the spec of the sweep beside it.

    Returns the path of the spec. Raises UserError for a store that is not a folder.
    """
    place, task = StoreFS.at(store), task_of(NAME)
    if not place.is_local:
        raise UserError(f"the demo's store must be a folder, got {store}")
    videos = task.to_learn(task.open(MovingDigitsData.model_validate(TRAIN)))
    zoo = []
    for number, (name, how) in enumerate(ZOO.items()):
        entry = {
            "factory": "bikd_pipelines.clip_nets:ClipNet",
            "alias": name,
            **how,
            "input": {**how["input"], **COLOURS},
        }
        file = f"{NAME}/{name}.safetensors"
        if not place.exists(file):
            print(f"bikd: {name} takes its first lessons …", file=sys.stderr)
            rows = np.arange(number, len(videos.labels), len(ZOO))
            place.write(file, pack_state(_first_lessons(entry, videos, rows)))
        zoo.append({**entry, "checkpoint": file})
    spec = {"name": NAME, "task": NAME, "zoo": zoo, **SPEC, "store": "."}
    text = "# The sweep of `bikd demo --task saliency`; change it and run it with `bikd sweep`.\n"
    place.write(f"{NAME}.yaml", (text + yaml.safe_dump(spec, sort_keys=False)).encode())
    return Path(place.root) / f"{NAME}.yaml"


def _first_lessons(
    entry: dict[str, Any], videos: ImageSet, rows: np.ndarray
) -> dict[str, torch.Tensor]:
    """KL − CC on one clip of each of these videos an epoch, from random weights."""
    torch.set_num_threads(1)  # for nets this small a second thread is only something to wait for
    task, device, recipe = task_of(NAME), torch.device("cpu"), FIRST_LESSONS
    model, network = resolve_model(ZooEntry.model_validate(entry), task)
    loader = Loader(videos, [model.input.view], device, task=task)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    learner = Learner.of(Member(model, network, device), recipe, steps)
    network.train()
    sources = Sources([learner], CONTROL, seed=0, task=task)
    step = 0
    for epoch in range(recipe.epochs):
        order = np.random.default_rng(derived_seed("demo", epoch)).permutation(rows)
        for batch in loader.batches(order, recipe.batch_size, epoch):
            train_step(sources, batch, step)
            step += 1
    return network.state_dict()
