"""What saliency costs beside its networks: a joint step against own steps, metrics of frames.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.saliency [--rounds 7] [--frames 300]
    … --pysaliency /tmp/venv/bin/python        the same frames by another implementation as well

Each round takes the models' own steps and the joint Bi-KD step of the same models, in turns, on the
same made-up clips; printed are the medians and the median of the rounds' ratios, in processor time.
The networks are published ones, on small frames for want of time but with maps of 256×456, and the
demo's, so small that maps of 64×96 are a large part of their steps.

Metrics are all five of frames of 640×360 with 60 fixations each, from maps of 224×384: resized,
blurred and measured as an evaluation does it, in processor time. For pysaliency give a Python that
has it (0.2.22 needs NumPy below 2.4): it gets the resized and blurred maps, and the values are
compared. Its SIM is another metric: it does not stretch maps to their minimum and maximum.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from bikd_pipelines.demo import CLIP_ZOO
from bikd_ray.data.loader import Batch
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Recipe, ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.tasks.saliency_maps import normalised, resized
from bikd_ray.tasks.saliency_metrics import METRICS, blurred, measure
from bikd_ray.zoo import resolve_model
from tests.benchmarks.step import measure as measure_steps

T = TypeVar("T")

SALIENCY = task_of("saliency")
CPU = torch.device("cpu")
PUBLISHED: list[dict[str, Any]] = [
    {"saliency": "vinet_s", "input": {"size": 64, "width": 96}},
    {"saliency": "tmfi_net", "input": {"size": 32, "width": 32}},
]
DEMO = [{"alias": name, **entry} for name, entry in CLIP_ZOO.items()]

HEIGHT, WIDTH, FIXATIONS = 360, 640, 60
OTHER = """
import json, sys, time
import numpy as np
from pysaliency.metrics import CC, NSS, SIM, MIT_KLDiv
from pysaliency.roc import general_roc

given = np.load(sys.argv[1])
ready = given["found"][0].astype(float), given["fixated"][0]
general_roc(ready[0][ready[1]], ready[0][~ready[1]], judd=1)  # is compiled here
values, began = [], time.process_time()
for found, truth, fixated in zip(given["found"], given["truth"], given["fixated"]):
    found, truth = found.astype(float), truth.astype(float)
    ys, xs = np.nonzero(fixated)
    area = general_roc(found[ys, xs], found[~fixated], judd=1)[0]
    values.append([CC(found, truth), np.mean(NSS(found, xs, ys)), SIM(found, truth),
                   MIT_KLDiv(found, truth), area])
print(json.dumps({"seconds": time.process_time() - began, "values": values}))
"""


def resolved(entries: list[dict[str, Any]]) -> list[ResolvedModel]:
    return [resolve_model(ZooEntry.model_validate(entry), SALIENCY)[0] for entry in entries]


def clips_of(zoo: list[ResolvedModel], count: int, size: tuple[int, int]) -> Batch:
    """Made-up clips, as the models see them, and maps to learn from."""
    views = {m.input.view: m.input.view.shape for m in zoo}
    return Batch(
        {view: torch.randint(256, (count, *s), dtype=torch.uint8) for view, s in views.items()},
        {"truth": torch.rand(count, *size) ** 8},
        torch.arange(count),
        count,
        count,
    )


def steps(rounds: int) -> None:
    large, small = (256, 456), (64, 96)
    sets = (
        ("published", PUBLISHED, large, 2, 2),
        ("demo", DEMO, small, 2, 8),
        ("demo", DEMO, small, 3, 8),
    )
    print(f"{'K':>2s}  {'own steps':>10s}  {'joint step':>10s}  {'ratio':>6s}  models")
    for kind, entries, size, k, count in sets:
        zoo = resolved(entries[:k])
        batch = clips_of(zoo, count, size)
        ratio, own, joint = measure_steps(zoo, Recipe(), CPU, batch, rounds, SALIENCY)
        names = ", ".join(m.name for m in zoo)
        print(f"{k:2d}  {1e3 * own:7.1f} ms  {1e3 * joint:7.1f} ms  {ratio:6.3f}  {kind}: {names}, "
              f"{count} clips", flush=True)  # fmt: skip


def frames_of(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, Batch]:
    """Maps as a network answers them, and frames to measure them on: bumps where people look."""
    y, x = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    truth = np.zeros((count, HEIGHT, WIDTH), np.float32)
    fixated = np.zeros((count, HEIGHT, WIDTH), bool)
    for n in range(count):
        for cy, cx in rng.random((4, 2)) * (HEIGHT, WIDTH):
            truth[n] += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 12.74**2))
        share = truth[n].ravel().astype(float) / truth[n].sum(dtype=float)
        fixated[n].flat[rng.choice(share.size, FIXATIONS, replace=False, p=share / share.sum())] = 1
    answers = resized(torch.from_numpy(truth), (224, 384)) + 0.3 * torch.rand(count, 224, 384)
    each = {name: torch.zeros(count, dtype=torch.int64) for name in ("unit", "video", "frame")}
    target = {
        "map": [*torch.from_numpy(truth)],
        "fixated": [*torch.from_numpy(fixated)],
        "blur": torch.ones(count, dtype=torch.bool),
        **each,
    }
    return answers.clamp(0, 1), Batch({}, target, torch.arange(count), count, count)


def metrics(frames: int, other: str | None) -> None:
    answers, batch = frames_of(frames, np.random.default_rng(0))
    parts = [slice(at, at + 16) for at in range(0, frames, 16)]
    spent, found = timed(lambda: [measured(answers[part], batch.part(part)) for part in parts])
    told("ours, resized and blurred", spent, frames)
    shown = blurred(normalised(resized(answers, (HEIGHT, WIDTH))))
    truth, fixated = (torch.stack(batch.target[name]) for name in ("map", "fixated"))
    spent, _ = timed(lambda: [measure(shown[p], truth[p], fixated[p]) for p in parts])
    told("ours, of maps that are ready", spent, frames)
    if other is None:
        return
    ours = torch.stack([torch.cat([one[name] for one in found]) for name in METRICS], 1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npz"
        np.savez(path, found=shown.numpy(), truth=truth.numpy(), fixated=fixated.numpy())
        run = [other, "-c", OTHER, str(path)]
        said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    theirs = json.loads(said.splitlines()[-1])
    told("pysaliency, of maps that are ready", theirs["seconds"], frames)
    apart = np.abs(np.array(theirs["values"]) - ours).max(0)
    names = ", ".join(f"{name} {most:.1e}" for name, most in zip(METRICS, apart, strict=True))
    print(f"furthest apart: {names}")


def measured(answers: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    return SALIENCY.measure(SALIENCY.answer(answers, batch), batch)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def told(what: str, spent: float, frames: int) -> None:
    each = spent / frames
    print(f"{what}: {1000 * each:.1f} ms a frame of {WIDTH}×{HEIGHT} (of {frames}), "
          f"{1 / each:.0f} a second and core; 60,000 on two cores: {60_000 * each / 120:.1f} min",
          flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--pysaliency", metavar="PYTHON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps(given.rounds)
    metrics(given.frames, given.pysaliency)


if __name__ == "__main__":
    main()
