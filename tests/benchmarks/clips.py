"""What clips cost: one decode for three models against three, and the metrics of a frame.

    python tests/benchmarks/clips.py [--frames 600] [--clips 12]

Writes a folder of frames of 640×360 (and a video file, where PyAV is installed), reads random clips
of three published models' windows, and scores frames at that size. Times are of the CPU.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.reel import Reel
from bikd_ray.plan import View, Window
from bikd_ray.tasks.saliency_metrics import at_size, measure
from tests.clips import save, write_frames_file

VIEWS = tuple(
    View(height, 1.0, "bilinear", "squash", None, width, window)
    for height, width, window in (
        (224, 384, Window(32, 1, -31)),
        (224, 384, Window(32, 1, -31)),
        (256, 456, Window(32, 2, -31)),
    )
)
"""Of TMFI-Net, ViNet-S and ViNet-A."""

HEIGHT, WIDTH = 360, 640


def picture(number: int) -> np.ndarray:
    """uint8 [H, W, 3]: waves that move, as compressible as a film."""
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    waves = [np.sin((x + k * y + 5 * number) / (17 + 9 * k)) for k in range(3)]
    noise = np.random.default_rng(number).normal(0, 4, (HEIGHT, WIDTH, 3))
    return (127 + 90 * np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def decoding(root: Path, clips: int, name: str) -> None:
    source = ClipFiles(str(root))
    targets = np.random.default_rng(0).integers(0, source.videos[0].count, clips).tolist()
    once = seconds(lambda: [Reel(source).clips(0, t, VIEWS, alone=True) for t in targets])
    apart = seconds(
        lambda: [Reel(source).clips(0, t, [v], alone=True) for v in VIEWS for t in targets]
    )
    print(f"{name}: {1000 * once / clips:.0f} ms a clip of three models from one decode, "
          f"{1000 * apart / clips:.0f} ms from three: {apart / once:.2f}×")  # fmt: skip


def evaluation(root: Path, frames: int, stride: int) -> None:
    source = ClipFiles(str(root))
    samples, reel = range(0, frames, stride), Reel(source)
    tracemalloc.start()
    spent = seconds(lambda: [reel.clips(0, at, VIEWS) and None for at in samples])
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    print(f"evaluation of {frames} frames, stride {stride}: {1000 * spent / len(samples):.0f} ms a "
          f"target, {peak:.0f} MiB at most")  # fmt: skip


def metrics(frames: int = 16) -> None:
    truth, found = torch.rand(frames, HEIGHT, WIDTH), torch.rand(frames, 224, 384)
    fixated = torch.zeros(frames, HEIGHT * WIDTH, dtype=torch.bool)
    fixated[:, torch.randperm(HEIGHT * WIDTH)[:60]] = True
    fixated = fixated.view(frames, HEIGHT, WIDTH)

    def work() -> None:
        for at in range(0, frames, 4):
            part = slice(at, at + 4)
            measure(at_size(found[part], (HEIGHT, WIDTH)), truth[part], fixated[part])

    work()
    a_frame = seconds(work) / frames
    print(f"metrics: {1000 * a_frame:.1f} ms a frame of {WIDTH}×{HEIGHT} on one core; "
          f"60,000 frames on two: {60_000 * a_frame / 120:.1f} min")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--clips", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("folder", "file"):
            own = Path(folder) / kind / "a"
            for number in range(1, given.frames + 1):
                if kind == "folder":
                    save(own / "images" / f"{number:04}.jpg", picture(number))
                save(own / "maps" / f"{number:04}.png", np.full((HEIGHT, WIDTH), 9, np.uint8))
        decoding(Path(folder) / "folder", given.clips, "folder of frames")
        evaluation(Path(folder) / "folder", given.frames, 1)
        evaluation(Path(folder) / "folder", given.frames, 8)
        if find_spec("av"):
            numbers = range(1, given.frames + 1)
            path = Path(folder) / "file" / "a" / "clip.mp4"
            write_frames_file(path, map(picture, numbers), "mpeg4", "yuv420p")
            decoding(Path(folder) / "file", given.clips, "video file")
    metrics()


if __name__ == "__main__":
    main()
