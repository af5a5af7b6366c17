"""What segmentation costs a sweep: a joint step, and a validation beside the plain way to do it.

OMP_NUM_THREADS=1 python -m tests.benchmarks.scenes [--rounds 9] [--images 16] [--many 200]
python -m tests.benchmarks.scenes --device cuda --precision bf16

First comes the peak memory of a validation of 50 images, and of so many.

The step is that of two models of two families: tiny ones on a CPU, and on CUDA Mask2Former with
ResNet-50 and with Swin-T at 512 px, 4 images, 150 classes. A round takes the models' own steps and
the joint one in turns; the median of the rounds' ratios is printed.

The validation is of photos of 512 x 683 in 150 classes, by a pixel model and by a mask model that
compute next to nothing. The plain loop takes one image at a time: the map at full size to the host,
argmax, a confusion matrix. The least times of each are printed, of a CPU those of the process.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bikd_ray.data.loader import Batch, Loader
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Recipe, ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.tasks.segmentation import CONTENT, LABELS
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.zoo import build, resolve_model
from tests.benchmarks.step import measure

CLASSES, QUERIES = 150, 100
TASK = task_of("segmentation")
SIZE = {"cpu": 64, "cuda": 512}
BACKBONES = {
    "R50": {"model_type": "resnet", "out_features": [f"stage{i}" for i in range(1, 5)]},
    "Swin-T": {
        "model_type": "swin",
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "out_features": [f"stage{i}" for i in range(1, 5)],
    },
}


class Photos:
    """Made-up photos of one size with masks."""

    notes: tuple[str, ...] = ()
    source_id = "made-up photos"
    num_classes, classes = CLASSES, None

    def __init__(self, count: int, height: int, width: int) -> None:
        self.labels = np.zeros(count, np.int64)
        self.shape = height, width

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        random = np.random.default_rng(index)
        pixels = random.integers(0, 256, (*self.shape, 3), np.uint8)
        labels = random.integers(0, CLASSES, [-(-side // 32) for side in self.shape], np.uint8)
        labels = labels.repeat(32, 0).repeat(32, 1)[: self.shape[0], : self.shape[1]]
        return Image.fromarray(pixels), labels

    def image(self, index: int) -> Image.Image:
        return self.pair(index)[0]

    def where(self, index: int) -> str:
        return f"photo {index}"


class Pixels(nn.Module):
    """Logits at a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CLASSES, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)


class Masks(nn.Module):
    """Queries of a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = nn.Conv2d(3, QUERIES, 4, 4)
        self.classes = nn.Parameter(torch.randn(QUERIES, CLASSES + 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        masks = self.masks(images)
        classes = self.classes.expand(len(images), -1, -1)
        return {"class_queries_logits": classes, "masks_queries_logits": masks}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--many", type=int, default=200)
    given = parser.parse_args()
    device = torch.device(given.device)
    print(f"{given.device}, {given.precision}, {torch.get_num_threads()} threads")
    _memory(device, given.many)  # peaks are of all that came before
    _step(device, Recipe(precision=given.precision), given.rounds)
    for kind in (Pixels, Masks):
        _validation(kind, device, given.images)


def _models(device: torch.device) -> list[ResolvedModel]:
    how = {"size": SIZE[device.type], "multiple": 8 if device.type == "cpu" else 32}
    if device.type == "cpu":
        nets = ("UNet", "Masks")
        entries = [{"factory": f"bikd_pipelines.scene_nets:{name}", "alias": name} for name in nets]
    else:
        entries = [
            {
                "factory": "bikd_ray.zoo.segmentation:from_config",
                "alias": name,
                "kwargs": {"name": name, "config": {**_MASK2FORMER, "backbone_config": backbone}},
            }
            for name, backbone in BACKBONES.items()
        ]
    return [
        resolve_model(ZooEntry.model_validate({**entry, "input": how}), TASK)[0]
        for entry in entries
    ]


_MASK2FORMER = {"model_type": "mask2former", "num_labels": CLASSES}


def _step(device: torch.device, recipe: Recipe, rounds: int) -> None:
    zoo = _models(device)
    count, size = {"cpu": 16, "cuda": 4}[device.type], SIZE[device.type]
    labels = torch.randint(zoo[0].num_classes, (count, size // 8, size // 8), dtype=torch.uint8)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    target = {LABELS: labels, CONTENT: torch.full((count, 2), size)}
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8)
    batch = Batch(
        {zoo[0].input.view: pixels.to(device)},
        {name: tensor.to(device) for name, tensor in target.items()},
        torch.arange(count),
        count,
        count,
    )
    ratio, own, joint = measure(zoo, recipe, device, batch, rounds, TASK)
    names = " + ".join(model.name for model in zoo)
    print(
        f"step of {names}, {count} images of {size}²: own {1e3 * own:.0f} ms, joint "
        f"{1e3 * joint:.0f} ms, ratio {ratio:.3f}",
        flush=True,
    )


def _member(kind: type[nn.Module], device: torch.device) -> Member:
    entry = {"factory": f"{__name__}:{kind.__name__}", "alias": kind.__name__}
    if __name__ == "__main__":
        entry["factory"] = f"tests.benchmarks.scenes:{kind.__name__}"
    model, _ = resolve_model(ZooEntry.model_validate(entry), TASK)
    return Member(model, build(model.entry), device)


def _validation(kind: type[nn.Module], device: torch.device, count: int) -> None:
    member, photos = _member(kind, device), Photos(count, 512, 683)

    def ours() -> dict[str, np.ndarray]:
        loader: Any = Loader(photos, [member.model.input.view], device, cache="none", task=TASK)  # type: ignore[arg-type]
        (found,) = evaluate([member], loader, task=TASK).outcomes
        return found.statistics

    def plain() -> np.ndarray:
        loader: Any = Loader(photos, [member.model.input.view], device, cache="none", task=TASK)  # type: ignore[arg-type]
        matrix = np.zeros((CLASSES, CLASSES), np.int64)
        for batch in loader.batches(np.arange(count), 1):
            for one in range(len(batch.index)):
                part = batch.part(slice(one, one + 1))
                with torch.no_grad():
                    map_CHW = _full_size(member.output(part), part.target[LABELS].shape[1:])
                answer = map_CHW.cpu().numpy().argmax(0)
                labels = part.target[LABELS][0].cpu().numpy()
                known = labels != 255
                codes = answer[known] * CLASSES + labels[known]
                matrix += np.bincount(codes, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
        return matrix

    (statistics, fast), (matrix, slow) = _least(ours, device), _least(plain, device)
    assert np.array_equal(statistics["right"].sum(0), np.diag(matrix))
    print(
        f"validation by {kind.__name__}: {1e3 * fast / count:.0f} ms an image, plain "
        f"{1e3 * slow / count:.0f} ms: {slow / fast:.2f} times as fast",
        flush=True,
    )


def _full_size(output: Any, size: tuple[int, int]) -> Tensor:
    """As one writes it: a photo of 683 is padded to 704."""
    padded = size[0], -(-size[1] // 32) * 32
    if isinstance(output, Tensor):
        return F.interpolate(output.float(), padded, mode="bilinear")[0, :, :, : size[1]]
    masks = F.interpolate(output["masks_queries_logits"].float(), padded, mode="bilinear")
    masks = masks[0, :, :, : size[1]].sigmoid()
    classes = output["class_queries_logits"][0].float().softmax(-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", classes, masks)


def _least(work: Callable[[], Any], device: torch.device, times: int = 3) -> tuple[Any, float]:
    """Of a CPU process time, so that other work on the machine counts less."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    least = float("inf")
    found = None
    for _ in range(times):
        began = clock()
        found = work()
        least = min(least, clock() - began)
    return found, least


def _memory(device: torch.device, many: int) -> None:
    member = _member(Pixels, device)
    for count in (50, many):
        photos = Photos(count, 256, 341)
        loader = Loader(photos, [member.model.input.view], device, cache="none", task=TASK)  # type: ignore[arg-type]
        evaluate([member], loader, task=TASK)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory of {count} images of 256 x 341: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
