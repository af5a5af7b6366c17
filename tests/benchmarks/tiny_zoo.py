"""A zoo of twelve tiny networks on the bundled digits, each taught some of the classes well, and
the spec of a sweep over it: a map of 156 jobs that takes minutes.

    python tests/benchmarks/tiny_zoo.py DIR [--models 12] [--seeds 2] [--epochs 2]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from bikd_pipelines.demo import STORIES, Lessons, take
from bikd_ray.data.sources import open_images
from bikd_ray.specs import DigitsData

SIZE = 8
INPUT = {
    "size": SIZE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "crop_pct": 1.0,
    "interpolation": "bicubic",
}


def mlp(width: int = 32, depth: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    size = 3 * SIZE * SIZE
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 10))


def conv(width: int = 8, norm: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


KINDS = (
    ("mlp", {"width": 16}),
    ("conv", {"width": 6}),
    ("mlp", {"width": 48}),
    ("conv", {"width": 8, "norm": False}),
    ("mlp", {"width": 32, "depth": 2}),
    ("conv", {"width": 10}),
)


def share_of(number: int, label_N: np.ndarray) -> np.ndarray:
    """Many images of three classes and a few of the rest, other ones for every network."""
    random = np.random.default_rng(number)
    strong = {(3 * number + k) % 10 for k in range(3)}
    rows = []
    for label in range(10):
        mine = random.permutation(np.flatnonzero(label_N == label))
        rows.append(mine[: 24 if label in strong else 8])
    return np.sort(np.concatenate(rows))


def made(folder: Path, models: int, seeds: int, epochs: int) -> Path:
    """Teach the zoo and write `sweep.yaml`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    images = open_images(DigitsData(source="digits", split="train"))
    label_N = np.asarray(images.labels)
    zoo = []
    for number in range(models):
        kind, kwargs = KINDS[number % len(KINDS)]
        name = f"{kind}{number:02d}"
        entry = {
            "alias": name,
            "factory": f"tests.benchmarks.tiny_zoo:{kind}",
            "kwargs": kwargs,
            "input": INPUT,
        }
        file = folder / f"{name}.safetensors"
        if not file.exists():
            torch.manual_seed(number)
            told, rows = STORIES["control"], share_of(number, label_N)
            how = told.task, told.taught, told.lessons(name)
            file.write_bytes(take(Lessons(entry, *how, rows, folder / "views")))
        zoo.append({**entry, "checkpoint": file.name})
    digits = {split: {"source": "digits", "split": split} for split in ("train", "val")}
    spec = {
        "name": "tiny",
        "zoo": zoo,
        "data": {**digits, "cache": "views"},
        "recipe": {"epochs": epochs, "batch_size": 64, "lr": 3e-4},
        "similarity": "none",
        "seeds": list(range(seeds)),
        "store": "map",
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder / "sweep.yaml"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    print(made(given.folder, given.models, given.seeds, given.epochs), file=sys.stdout)
