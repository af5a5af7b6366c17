"""Whether the bundled videos can be learnt: three tiny networks, their pairs and all three.

    python tests/benchmarks/moving_digits.py [--pairs]

One network sees the last frame alone, one a short window, one a long window at half the size. Each
takes its first lessons from its own third of the training videos; with --pairs they then go on
alone, in pairs and all three together (Bi-KD), in plain PyTorch. CC and NSS on every fourth frame
of val stand beside those of the mean training map, the centre bias. Times are of the CPU.
"""

import argparse
import copy
import time
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bikd_ray.data.clips.loader import ClipLoader
from bikd_ray.data.clips.moving_digits import MovingDigits
from bikd_ray.data.clips.source import scored_samples, training_samples
from bikd_ray.data.clips.windows import ClipView, Window
from bikd_ray.tasks.saliency_maps import confidence, divergence, task_loss
from bikd_ray.tasks.saliency_metrics import measure_batch
from bikd_ray.transfer.objectives import OBJECTIVES

SIZE, BATCH, CPU = (64, 96), 8, torch.device("cpu")
FIRST_EPOCHS, FIRST_LR, EPOCHS, LR = 60, 3e-3, 6, 3e-4
VIEWS = {
    "last frame": ClipView(Window(1, 1, 0), *SIZE),
    "short window": ClipView(Window(4, 1, -3), *SIZE),
    "long window": ClipView(Window(8, 2, -14), SIZE[0] // 2, SIZE[1] // 2),
}
TRAIN, VAL = MovingDigits("train", videos=60), MovingDigits("val", videos=30)


class TinyClipNet(nn.Module):
    """Frames [B, 3, T, H, W] to a map [B, 64, 96]: two strided stages, one that takes all frames
    together, and a second scale that sees more of them at once.
    """

    def __init__(self, frames: int, width: int = 12) -> None:
        super().__init__()
        deep = 3 if frames >= 3 else 1
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (1, 5, 5), (1, 2, 2), (0, 2, 2)),
            nn.ReLU(),
            nn.Conv3d(width, width, (deep, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(width, 2 * width, (frames - deep + 1, 3, 3), 1, (0, 1, 1)),
            nn.ReLU(),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Conv2d(4 * width, 2 * width, 3, 1, 1), nn.ReLU(), nn.Conv2d(2 * width, 1, 1)
        )

    def forward(self, frames_B3THW: Tensor) -> Tensor:
        fine = self.stem(frames_B3THW)[:, :, 0]
        coarse = functional.interpolate(self.coarse(fine), fine.shape[-2:], mode="bilinear")
        logits = self.head(torch.cat([fine, coarse], 1))
        return functional.interpolate(logits, SIZE, mode="bilinear").sigmoid()[:, 0]


def answer(network: nn.Module, pixels: Tensor) -> Tensor:
    return network(pixels.float().div(255).sub(0.3).div(0.2))


def score(networks: dict[str, nn.Module]) -> dict[str, tuple[float, float]]:
    """CC and NSS of each."""
    loader = ClipLoader(VAL, [VIEWS[name] for name in networks], CPU)
    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    with torch.no_grad():
        for batch in loader.batches(scored_samples(VAL.videos, 4), 40):
            for name, network in networks.items():
                maps = answer(network, batch.views[VIEWS[name]])
                values = measure_batch(maps, batch.target)
                found[name].append(torch.stack([values["cc"], values["nss"]]))
    return {
        name: tuple(torch.cat(parts, 1).nanmean(1).tolist())  # type: ignore[misc]
        for name, parts in found.items()
    }


def train(networks: dict[str, nn.Module], epochs: int, lr: float, seed: int, part: slice) -> None:
    """Own losses and, of several, the lessons of whoever has the lowest on a clip."""
    names, live = list(networks), list(networks.values())
    loader = ClipLoader(TRAIN, [VIEWS[name] for name in names], CPU, grid=SIZE)
    optimizers = [torch.optim.Adam(network.parameters(), lr) for network in live]
    for epoch in range(epochs):
        samples = training_samples(TRAIN.videos, seed, epoch)[part]
        samples = np.random.default_rng([seed, epoch]).permutation(samples)
        for batch in loader.batches(samples, BATCH):
            truth = batch.target["map"]
            views = (batch.views[VIEWS[name]] for name in names)
            maps = [answer(network, x) for network, x in zip(live, views, strict=True)]
            loss_KB = torch.stack([task_loss(one, truth) for one in maps])
            total = loss_KB.mean(1).sum()
            if len(live) > 1:
                sure_KB = confidence(loss_KB.detach(), truth)
                weights_SKB = OBJECTIVES["bikd"].lessons(sure_KB, len(live), "auto").weights_SKN
                for s, k in ((s, k) for s in range(len(live)) for k in range(len(live)) if s != k):
                    lesson_B = divergence(maps[s].detach(), maps[k])
                    total = total + (weights_SKB[s, k] * lesson_B).mean()
            for optimizer in optimizers:
                optimizer.zero_grad()
            total.backward()
            for optimizer in optimizers:
                optimizer.step()


class CentreBias(nn.Module):
    """The mean of all training maps, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        maps = [TRAIN.truth(v, t).map for v, t in scored_samples(TRAIN.videos, 8).tolist()]
        self.map = torch.from_numpy(np.mean(maps, axis=0))

    def forward(self, frames: Tensor) -> Tensor:
        return self.map.expand(len(frames), *SIZE)


def shown(name: str, scores: dict[str, tuple[float, float]], started: float) -> None:
    values = ", ".join(f"{key} CC {cc:.3f} NSS {nss:.3f}" for key, (cc, nss) in scores.items())
    print(f"{name}: {values} ({time.process_time() - started:.1f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", action="store_true")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    started = time.process_time()
    shown("centre bias", score({"last frame": CentreBias()}), started)
    first: dict[str, nn.Module] = {}
    for index, name in enumerate(VIEWS):
        started = time.process_time()
        torch.manual_seed(0)
        first[name] = TinyClipNet(VIEWS[name].window.frames)
        train({name: first[name]}, FIRST_EPOCHS, FIRST_LR, 99, slice(index, None, 3))
        shown("first lessons", score({name: first[name]}), started)
    groups: Sequence[tuple[str, ...]] = [
        group for size in (1, 2, 3) for group in combinations(VIEWS, size)
    ]
    for group in groups if pairs else ():
        started = time.process_time()
        networks = {name: copy.deepcopy(first[name]) for name in group}
        train(networks, EPOCHS, LR, 0, slice(None))
        shown(" + ".join(group), score(networks), started)


if __name__ == "__main__":
    main()
