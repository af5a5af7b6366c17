"""What clips cost: one decode for three models against three, and the metrics of a frame.

    python tests/benchmarks/clips.py [--frames 600] [--clips 12] [--repeats 3]

Writes a folder of frames of 640×360 (and a video file, where PyAV is installed), reads random clips
of three published models' windows, and scores frames at that size. Times are of the CPU, the least
of the repeats.

How much one decode can save follows from counting. A target has 48 frames in the three windows
together and 96 one by one, so that decoding is halved; TMFI-Net and ViNet-S share their view, so
that 64 frames are resized instead of 96. Of a video file all frames before are decoded as well,
once instead of three times.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.reel import Reel
from bikd_ray.plan import View
from bikd_ray.tasks.saliency_metrics import at_size, measure
from bikd_ray.zoo.saliency import SALIENCY_MODELS
from tests.clips import save, write_frames_file

VIEWS = tuple(
    View(model.size[0], 1.0, "bilinear", "squash", None, model.size[1], model.window)
    for model in SALIENCY_MODELS.values()
)
"""Of TMFI-Net, ViNet-S and ViNet-A."""

HEIGHT, WIDTH = 360, 640


def picture(number: int) -> np.ndarray:
    """uint8 [H, W, 3]: waves that move, as compressible as a film."""
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    waves = [np.sin((x + k * y + 5 * number) / (17 + 9 * k)) for k in range(3)]
    noise = np.random.default_rng(number).normal(0, 4, (HEIGHT, WIDTH, 3))
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


def read(root: Path, targets: Iterable[int], views: Sequence[View], *, alone: bool) -> None:
    """As a loader does: equal views once. alone: random clips, each from a source just opened."""
    source, kinds = ClipFiles(str(root)), list(dict.fromkeys(views))
    reel = Reel(source)
    for target in targets:
        reel = Reel(ClipFiles(str(root))) if alone else reel
        reel.clips(0, target, kinds, alone=alone)


def decoding(root: Path, frames: int, clips: int, stride: int, repeats: int, name: str) -> None:
    """Random clips, as training has them, or with a stride the targets of an evaluation."""
    random = np.random.default_rng(0).integers(0, frames, clips).tolist()
    targets, what = (range(0, frames, stride), "target") if stride else (random, "random clip")
    once, apart = seconds(
        lambda: read(root, targets, VIEWS, alone=not stride),
        lambda: [read(root, targets, [view], alone=not stride) for view in VIEWS],
        repeats=repeats,
    )
    each = 1000 / len(targets)
    print(f"{name}: {each * once:.0f} ms a {what} of three models from one decode, "
          f"{each * apart:.0f} ms from three: {apart / once:.2f}×", flush=True)  # fmt: skip


def evaluation(root: Path, frames: int) -> None:
    """What an evaluation's reel holds at most, in a short video and in a long one."""
    peaks = []
    for count in (frames // 4, frames):
        reel = Reel(ClipFiles(str(root)))
        tracemalloc.start()
        for target in range(0, count, 4):
            reel.clips(0, target, VIEWS)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    print(f"evaluation: {peaks[0]:.0f} MiB at most of {frames // 4} frames, {peaks[1]:.0f} MiB of "
          f"{frames}", flush=True)  # fmt: skip


def metrics(frames: int = 16) -> None:
    truth, found = torch.rand(frames, HEIGHT, WIDTH), torch.rand(frames, 224, 384)
    fixated = torch.zeros(frames, HEIGHT * WIDTH, dtype=torch.bool)
    fixated[:, torch.randperm(HEIGHT * WIDTH)[:60]] = True
    fixated = fixated.view(frames, HEIGHT, WIDTH)

    def work() -> None:
        for at in range(0, frames, 4):
            part = slice(at, at + 4)
            measure(at_size(found[part], (HEIGHT, WIDTH)), truth[part], fixated[part])

    a_frame = seconds(work, repeats=3)[0] / frames
    print(f"metrics: {1000 * a_frame:.1f} ms a frame of {WIDTH}×{HEIGHT} on one core; "
          f"60,000 frames on two: {60_000 * a_frame / 120:.1f} min")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    how = given.frames, given.clips
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("folder", "file"):
            own = Path(folder) / kind / "a"
            for number in range(1, given.frames + 1):
                if kind == "folder":
                    save(own / "images" / f"{number:04}.jpg", picture(number))
                save(own / "maps" / f"{number:04}.png", np.full((HEIGHT, WIDTH), 9, np.uint8))
        if find_spec("av"):
            numbers = range(1, given.frames + 1)
            path = Path(folder) / "file" / "a" / "clip.mp4"
            write_frames_file(path, map(picture, numbers), "mpeg4", "yuv420p")
        kinds = {"folder of frames": "folder"} | ({"video file": "file"} if find_spec("av") else {})
        for name, kind in kinds.items():
            for stride in (0, 4):
                decoding(Path(folder) / kind, *how, stride, given.repeats, name)
        evaluation(Path(folder) / "folder", given.frames)
    metrics()


if __name__ == "__main__":
    main()
