"""An epoch with its validation against a plain loop written after the reference's way.

python tests/benchmarks/epoch.py [--device cuda] [--train 640] [--val 128]

Both ways train the same two models with Bi-KD from a folder of JPEGs and then measure them. The
plain loop is as the reference code of Jain et al. (TMLR 2025) goes about it: timm's loaders with
one process, validation in batches of one, full precision, and the value of every tensor that it
logs read at every step. Ours decodes each image once for both models, keeps it
for the next epoch, measures in batches and reads its sums at log points. The first epoch of ours
decodes all images; the second is the one that a job of 20 epochs has 19 of.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import ImageDataset, create_loader  # type: ignore[attr-defined]
from torch import Tensor, nn

from bikd_ray.data.folder import FolderImages
from bikd_ray.data.loader import DISK_FRACTIONS, Loader
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Objective, Recipe
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.train.step import EpochSums, Sources, train_step
from bikd_ray.zoo import build
from tests.benchmarks.loader import write_images
from tests.benchmarks.step import learner_of, models

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--train", type=int, default=640)
    parser.add_argument("--val", type=int, default=128)
    given = parser.parse_args()
    device, zoo = torch.device(given.device), models(given.device)[:2]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_images(folder / "train", given.train)
        write_images(folder / "val", given.val)
        plain = plain_way(folder, zoo, device)
        first, later = our_way(folder, zoo, device)
    print(f"{given.device}, {given.train} and {given.val} images, batch {BATCH}, K = 2")
    print(f"{'':22s}  {'training':>9s}  {'validation':>10s}  {'both':>7s}")
    for name, (train, val) in (("plain", plain), ("ours, decoding", first), ("ours", later)):
        print(f"{name:22s}  {train:7.1f} s  {val:8.1f} s  {train + val:5.1f} s")
    for name, (train, val) in (("plain / ours, decoding", first), ("plain / ours", later)):
        both = sum(plain) / (train + val)
        print(f"{name:22s}  {plain[0] / train:7.2f} x  {plain[1] / val:8.2f} x  {both:5.2f} x")


def our_way(
    folder: Path, zoo: list[ResolvedModel], device: torch.device
) -> list[tuple[float, float]]:
    """(seconds of training, of validation) of two epochs."""
    views = [m.input.view for m in zoo]
    how: dict[str, Any] = {"cache": str(folder / "views")}
    learners = [learner_of(m, Recipe(), device) for m in zoo]
    sources = Sources(learners, Objective(), seed=0)
    found = []
    for epoch in (1, 2):
        start = time.perf_counter()
        train = Loader(FolderImages(str(folder / "train")), views, device, **how)
        tally = EpochSums.zero(len(learners), device)
        order = np.random.default_rng(epoch).permutation(len(train))
        for step, batch in enumerate(train.batches(order, BATCH, epoch)):
            tally.add(train_step(sources, batch, step), step)
        tally.first_bad_K.tolist()
        middle = time.perf_counter()
        val = Loader(
            FolderImages(str(folder / "val")),
            views,
            device,
            disk_fraction=DISK_FRACTIONS["val"],
            **how,
        )
        evaluate([learner.measured for learner in learners], val)
        found.append((middle - start, time.perf_counter() - middle))
    return found


def plain_way(folder: Path, zoo: list[ResolvedModel], device: torch.device) -> tuple[float, float]:
    """(seconds of training, of validation) of one epoch."""
    networks = [Member(m, build(m.entry), device).network for m in zoo]
    optimizers = [torch.optim.Adam(n.parameters(), lr=1e-6, weight_decay=1e-5) for n in networks]
    size = zoo[0].input.size
    start = time.perf_counter()
    for network in networks:
        network.train()
    for images, labels in loader(folder / "train", size, BATCH, True, device):
        loss_of(networks, optimizers, images, labels)
    middle = time.perf_counter()
    right = [0] * len(networks)
    for network in networks:
        network.eval()
    with torch.no_grad():
        for images, labels in loader(folder / "val", size, 1, False, device):
            for k, network in enumerate(networks):
                right[k] += (network(images).argmax(1) == labels).sum().item()
    return middle - start, time.perf_counter() - middle


def loader(folder: Path, size: int, batch: int, training: bool, device: torch.device) -> Any:
    return create_loader(
        ImageDataset(str(folder)),
        (3, size, size),
        batch,
        is_training=training,
        no_aug=training,
        num_workers=1,
        device=device,
        persistent_workers=False,
    )


def loss_of(
    networks: list[nn.Module], optimizers: list[Any], images: Tensor, labels: Tensor
) -> None:
    """A step of two models, each masked loss written out."""
    first, second = (network(images) for network in networks)
    p, q = first.softmax(1), second.softmax(1)
    at = labels[:, None]
    teaches = (p.gather(1, at) > q.gather(1, at)).squeeze(1)
    ce = [nn.functional.cross_entropy(z, labels) for z in (first, second)]
    to_second = (p.detach() * (p.detach().log() - q.log())).sum(1)[teaches].sum() / len(labels)
    to_first = (q.detach() * (q.detach().log() - p.log())).sum(1)[~teaches].sum() / len(labels)
    total = ce[0] + ce[1] + to_first + to_second
    for optimizer in optimizers:
        optimizer.zero_grad()
    total.backward()
    for optimizer in optimizers:
        optimizer.step()
    for logged in (total, *ce, to_first, to_second):
        logged.item()


if __name__ == "__main__":
    main()
