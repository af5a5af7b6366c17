"""From a folder of JPEGs to batches that a model can take: images/s of our loader and of timm's.

python tests/benchmarks/loader.py

The 128 JPEGs (500 x 375 pixels, quality 90, about 90 kB) are smooth random colours, made on the
spot. Evaluation is timm's bicubic centre crop of .875, training its random crop, flip and colour
jitter with the same settings on both sides; every pass decodes every image. All ways end at the
normalised float32 batch of every model: timm's `create_loader` normalises in the process that
decodes, and with its prefetcher in the process that takes the batches, as we do. For two models
timm needs two loaders, and its time is the sum of both; ours decodes once. `224, 224` are two
models on one view. With 0 workers one process does all, with 1 another one decodes.

The ways take turns, after a first pass of each that is not counted. Images/s are medians over
these rounds, and a ratio is the median of the rounds' own ratios: other work on the machine slows
the ways of one round alike.
"""

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader  # type: ignore[attr-defined]

from bikd_ray.data.folder import FolderImages
from bikd_ray.data.loader import Loader
from bikd_ray.data.views import Normalise
from bikd_ray.plan import ResolvedInput

IMAGES, BATCH, ROUNDS = 128, 32, 3
ZOOS = ((224,), (224, 224), (224, 160))
CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        size = write_images(Path(scratch), IMAGES)
        print(f"{IMAGES} JPEGs of {size / 1e3:.0f} kB on average")
        print("images/s    workers  models        ours  timm, prefetcher  ratio  timm, none  ratio")
        for training in (False, True):
            for workers in (0, 1):
                _compare(scratch, training, workers)
                gc.collect()  # else timm's forked processes find our old ones, and complain


def _compare(root: str, training: bool, workers: int) -> None:
    ways: dict[object, Callable[[], int]] = {}
    for sizes in ZOOS:
        ways[sizes] = _ours(root, sizes, training, workers)
    for prefetcher, size in ((True, 224), (False, 224), (True, 160)):
        ways[prefetcher, size] = _timms(root, size, prefetcher, training, workers)
    seconds_R = _seconds(ways)
    for sizes in ZOOS:
        ours_R = seconds_R[sizes]
        shared_R = sum(seconds_R[True, size] for size in sizes)
        line = f"{'training' if training else 'evaluation':10s}  {workers:7d}  "
        line += f"{', '.join(map(str, sizes)):8s}  {_rate(ours_R):8.0f}"
        for timms_R in [shared_R, seconds_R[False, 224]][: 2 if sizes == (224,) else 1]:
            line += f"  {_rate(timms_R):15.0f}  {np.median(timms_R / ours_R):5.2f}"
        print(line, flush=True)


def _ours(root: str, sizes: tuple[int, ...], training: bool, workers: int) -> Callable[[], int]:
    inputs = [ResolvedInput(size, MEAN, STD, 0.875, "bicubic") for size in sizes]
    normalise = [(how.view, Normalise(how, CPU)) for how in inputs]
    loader = Loader(
        FolderImages(root),
        [how.view for how in inputs],
        CPU,
        cache="none",
        workers=workers,
        augment="timm" if training else "none",
    )

    def one_pass() -> int:
        order = np.random.permutation(IMAGES) if training else np.arange(IMAGES)
        seen = 0
        for batch in loader.batches(order, BATCH):
            models = [scale(batch.views[view]) for view, scale in normalise]
            seen += len(models[0])
        return seen

    return one_pass


def _timms(
    root: str, size: int, prefetcher: bool, training: bool, workers: int
) -> Callable[[], int]:
    loader = create_loader(
        ImageDataset(root),
        (3, size, size),
        BATCH,
        is_training=training,
        interpolation="bicubic",
        crop_pct=0.875,
        color_jitter=0.4,
        mean=MEAN,
        std=STD,
        num_workers=workers,
        use_prefetcher=prefetcher,
        device=CPU,
    )
    return lambda: sum(len(images) for images, _ in loader)


def _seconds(ways: dict[object, Callable[[], int]]) -> dict[object, np.ndarray]:
    """Seconds [R] that each way took in every round."""
    taken = {way: [] for way in ways}
    for _ in range(1 + ROUNDS):
        for way, one_pass in ways.items():
            start = time.perf_counter()
            assert one_pass() == IMAGES
            taken[way].append(time.perf_counter() - start)
    return {way: np.array(each[1:]) for way, each in taken.items()}


def _rate(seconds_R: np.ndarray) -> float:
    return IMAGES / float(np.median(seconds_R))


def write_images(root: Path, count: int) -> float:
    """Colours that change over a quarter of the image, with finer ones on them; mean bytes."""
    rng = np.random.default_rng(0)

    def smooth(cells: int) -> Image.Image:
        coarse = rng.integers(0, 256, (3 * cells, 4 * cells, 3), np.uint8)
        return Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)

    (root / "any").mkdir(parents=True)
    paths = [root / "any" / f"{number}.jpg" for number in range(count)]
    for path in paths:
        Image.blend(smooth(4), smooth(93), 0.3).save(path, quality=90)
    return float(np.mean([path.stat().st_size for path in paths]))


if __name__ == "__main__":
    main()
