"""What clips cost: one decode for three models against three, and the memory of long videos.

    python -m tests.benchmarks.clips [--frames 600] [--clips 12] [--repeats 3]

Writes videos of 640×360: a folder of JPEG frames and, where PyAV is installed, files of MPEG-4 and
H.264. Reads random clips of three published models' windows, each of another video than the one
before, and an evaluation's targets one after the other. Times are of the CPU, the least of the
repeats. Memory is the peak of a process of its own, of short and of long videos.

How much one decode can save follows from counting. A target has 48 frames in the three windows
together and 96 one by one, so that decoding is halved; TMFI-Net and ViNet-S share their view, so
that 64 frames are resized instead of 96. A folder of frames can therefore never reach 2×. Of a
video file all frames before are decoded as well, once instead of three times: up to 3×.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bikd_ray.data.clips.clip_set import ClipSet
from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.reel import Reel
from bikd_ray.data.loader import Loader
from bikd_ray.plan import View
from bikd_ray.specs import ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.zoo import resolve_model
from bikd_ray.zoo.saliency import SALIENCY_MODELS
from tests.clips import mask, save, write_frames_file

VIEWS = tuple(
    View(model.size[0], 1.0, "bilinear", "squash", None, model.size[1], model.window)
    for model in SALIENCY_MODELS.values()
)
"""Of TMFI-Net, ViNet-S and ViNet-A."""

HEIGHT, WIDTH = 360, 640


@cache
def noise_of_all() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)


def picture(number: int) -> np.ndarray:
    """uint8 [H, W, 3]: waves that move, as compressible as a film."""
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    waves = [np.sin((x + k * y + 5 * number) / (17 + 9 * k)) for k in range(3)]
    noise = np.roll(noise_of_all(), 7919 * number)
    return (127 + 90 * np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8)


def seconds(*works: Callable[[], object], repeats: int = 1) -> list[float]:
    """The least CPU time of each, taken in turns so that none has a quiet machine to itself."""
    least = [float("inf")] * len(works)
    for _ in range(repeats):
        for place, work in enumerate(works):
            started = time.process_time()
            work()
            least[place] = min(least[place], time.process_time() - started)
    return least


def read(
    sources: Sequence[ClipFiles], targets: Iterable[int], views: Sequence[View], *, alone: bool
) -> None:
    """As a loader does: equal views once. alone: random clips, each of the other video."""
    kinds = list(dict.fromkeys(views))
    for source in sources:
        reel = Reel(source)
        for number, target in enumerate(targets):
            reel.clips(number % 2 if alone else 0, target, kinds, alone=alone)


def decoding(root: Path, frames: int, clips: int, stride: int, repeats: int, name: str) -> None:
    """Random clips, as training has them, or with a stride the targets of an evaluation."""
    random = np.random.default_rng(0).integers(0, frames, clips).tolist()
    targets, what = (range(0, frames, stride), "target") if stride else (random, "random clip")
    source = ClipFiles(str(root))
    once, apart = seconds(
        lambda: read([source], targets, VIEWS, alone=not stride),
        lambda: [read([source], targets, [view], alone=not stride) for view in VIEWS],
        repeats=repeats,
    )
    each = 1000 / len(targets)
    print(f"{name}: {each * once:.0f} ms a {what} of three models from one decode, "
          f"{each * apart:.0f} ms from three: {apart / once:.2f}×", flush=True)  # fmt: skip


def epoch(root: str) -> float:
    """Peak memory, MiB, of passes over the videos, one random clip each, for three models."""
    clips = ClipSet(ClipFiles(root), size=(256, 456), to_learn=True)
    task, cpu = task_of("saliency"), torch.device("cpu")
    loader = Loader(clips, VIEWS, cpu, task=task, whole=True)
    for number in range(2):
        for batch in loader.batches(np.arange(len(clips.labels)), 4, number):
            assert len(batch.views) == 2
    return peak()


def evaluation(root: str) -> float:
    """Peak memory, MiB, of measuring three models with the published windows on one video."""
    task, cpu = task_of("saliency"), torch.device("cpu")
    members = []
    for number, view in enumerate(VIEWS):
        assert view.window is not None
        window = {"frames": 32, "stride": view.window.stride, "first": view.window.first}
        entry = {
            "factory": "tests.tiny_clip_net:TinyClipNet",
            "alias": f"m{number}",
            "kwargs": {"frames": 32, "width": 2},
            "input": {"size": view.size, "width": view.width, "window": window},
        }
        model, network = resolve_model(ZooEntry.model_validate(entry), task)
        members.append(Member(model, network, cpu))
    clips = ClipSet(ClipFiles(root), size=(256, 456), stride=4, videos=np.array([0]))
    loader = Loader(clips, [m.model.input.view for m in members], cpu, task=task)
    found = evaluate(members, loader, task=task)
    assert len(found.rows) == len(clips.labels)
    return peak()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(work: Callable[[str], float], short: Path, long: Path, lengths: str) -> None:
    """Each in a process of its own, since a peak is of a whole process."""
    spawn = multiprocessing.get_context("spawn")
    found = []
    for root in (short, long):
        with ProcessPoolExecutor(1, spawn) as pool:
            found.append(pool.submit(work, str(root)).result())
    print(f"{work.__name__} of three models, {lengths}: {found[0]:.0f} and {found[1]:.0f} MiB at "
          f"most ({long.parent.name})", flush=True)  # fmt: skip


def write(root: Path, frames: int, codec: str | None) -> Path:
    """Two equal videos, the second by links."""
    for number in range(1, frames + 1):
        if codec is None:
            save(root / "a" / "images" / f"{number:04}.jpg", picture(number))
        save(root / "a" / "maps" / f"{number:04}.png", np.full((HEIGHT, WIDTH), 9, np.uint8))
        save(root / "a" / "fixations" / f"{number:04}.png", mask(number))
    if codec is not None:
        numbers = range(1, frames + 1)
        write_frames_file(root / "a" / "clip.mp4", map(picture, numbers), codec, "yuv420p")
    for path in sorted((root / "a").rglob("*.*")):
        copy = root / "b" / path.relative_to(root / "a")
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, copy)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    short = given.frames // 10
    lengths = f"videos of {short} and of {given.frames} frames"
    kinds = {"frames": None}
    if find_spec("av"):
        kinds |= {"MPEG-4": "mpeg4", "H.264": "libx264"}
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in kinds.items():
            long = write(Path(folder) / name / "long", given.frames, codec)
            for stride in (0, 4):
                decoding(long, given.frames, given.clips, stride, given.repeats, name)
            if codec != "mpeg4":
                few = write(Path(folder) / name / "short", short, codec)
                memory(epoch, few, long, lengths)
                memory(evaluation, few, long, lengths)


if __name__ == "__main__":
    main()
