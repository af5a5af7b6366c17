"""A joint step of K models against the sum of their own steps, which is all that it should cost.

python -m tests.benchmarks.step [--device cuda] [--precision bf16] [--rounds 15] [--batch 32]
python -m tests.benchmarks.step --trace trace.json [--device cuda] [--precision bf16]

Each round takes the models' own cross-entropy steps and the joint Bi-KD step of the same models, in
turns, on the same images of 1,000 classes, through the step that a sweep takes. Printed are the
medians and the median of the rounds' ratios. On a CPU the models are small and the images 64 px; on
CUDA they are ResNet-50, ViT-B/16 and PiT-S at 224 px.

--trace: five joint steps of three models under the profiler instead; the file is for Perfetto or
chrome://tracing. Printed is where the time went, and every operation that made the host wait for
the device: in the steps, and at the log point after them.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile, record_function

from bikd_ray.data.loader import Batch
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import CONTROL, Objective, Recipe, ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Task
from bikd_ray.train.member import Learner, Member, fast_layout
from bikd_ray.train.step import EpochSums, Sources, train_step
from bikd_ray.zoo import build, resolve_model

CLASSES = 1000
ZOO = {
    "cpu": [
        {"model_name": "resnet18"},
        {"model_name": "vit_tiny_patch16_224", "img_size": 64},
        {"model_name": "convnext_atto"},
        {"model_name": "mobilenetv3_small_100"},
    ],
    "cuda": [
        {"model_name": "resnet50"},
        {"model_name": "vit_base_patch16_224"},
        {"model_name": "pit_s_224"},
        {"model_name": "resnet50d"},
    ],
}
SIZE = {"cpu": 64, "cuda": 224}
STEPS = 5  # in a trace
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "Synchronize", "Memcpy DtoH")
"""Parts of the names of what makes the host wait."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--trace", type=Path)
    given = parser.parse_args()
    device, count = (
        torch.device(given.device),
        given.batch or {"cpu": 32, "cuda": 128}[given.device],
    )
    recipe = Recipe(precision=given.precision)
    zoo = models(given.device)
    print(f"{given.device}, {given.precision}, batch {count}, {torch.get_num_threads()} threads")
    if given.trace:
        trace(zoo[:3], recipe, device, count, given.trace)
        return
    print(f"{'K':>2s}  {'own steps':>10s}  {'joint step':>10s}  {'ratio':>6s}  models")
    for k in (2, 3, 4):
        batch = batch_of(zoo[:k], device, count)
        ratio, own, joint = measure(zoo[:k], recipe, device, batch, given.rounds)
        names = ", ".join(m.name for m in zoo[:k])
        print(
            f"{k:2d}  {1e3 * own:7.1f} ms  {1e3 * joint:7.1f} ms  {ratio:6.3f}  {names}", flush=True
        )


def models(device: str) -> list[ResolvedModel]:
    """Random weights of timm's architectures."""
    how = {"size": SIZE[device], "crop_pct": 1.0}
    found = []
    for kwargs in ZOO[device]:
        entry = {
            "factory": "timm:create_model",
            "alias": kwargs["model_name"],
            "kwargs": {**kwargs, "num_classes": CLASSES},
            "input": how,
        }
        found.append(resolve_model(ZooEntry.model_validate(entry))[0])
    return found


def learner_of(model: ResolvedModel, recipe: Recipe, device: torch.device) -> Learner:
    network = build(model.entry)
    member = Member(model, network, device, fast_layout(network, device, recipe.precision))
    network.train()
    return Learner.of(member, recipe, 10**6)


def measure(
    zoo: list[ResolvedModel],
    recipe: Recipe,
    device: torch.device,
    batch: Batch,
    rounds: int,
    task: Task | None = None,
) -> tuple[float, float, float]:
    """(ratio, seconds of all own steps, seconds of the joint step)."""
    task = task or task_of()

    def sources(models: list[ResolvedModel], objective: Objective) -> Sources:
        learners = [learner_of(m, recipe, device) for m in models]
        how = {"precision": recipe.precision, "task": task.joined(models)}
        return Sources(learners, objective, 0, **how)

    alone, joint = [sources([m], CONTROL) for m in zoo], sources(zoo, Objective())
    owns, joints = [], []
    for number in range(rounds + 2):
        both = timed(joint, batch, number, device) if number % 2 else 0.0
        own = sum(timed(source, batch, number, device) for source in alone)
        both = both or timed(joint, batch, number, device)
        if number >= 2:  # the first ones make the optimisers' state and choose kernels
            owns.append(own)
            joints.append(both)
    ratios = [j / o for j, o in zip(joints, owns, strict=True)]
    return statistics.median(ratios), statistics.median(owns), statistics.median(joints)


def batch_of(zoo: list[ResolvedModel], device: torch.device, count: int) -> Batch:
    """Made-up images, as the models see them."""
    size = zoo[0].input.size
    views = {
        m.input.view: torch.randint(256, (count, 3, size, size), dtype=torch.uint8) for m in zoo
    }
    labels = torch.randint(CLASSES, (count,))
    return Batch(
        {view: uint8.to(device) for view, uint8 in views.items()},
        labels.to(device),
        torch.arange(count),
        count,
        count,
    )


def trace(
    zoo: list[ResolvedModel], recipe: Recipe, device: torch.device, count: int, path: Path
) -> None:
    """Print where the time of joint steps goes and what waits; the trace is written to `path`."""
    learners = [learner_of(m, recipe, device) for m in zoo]
    joint = Sources(learners, Objective(), 0, precision=recipe.precision)
    batch, tally = batch_of(zoo, device, count), EpochSums.zero(len(zoo), device)

    def steps(first: int) -> None:
        for number in range(first, first + STEPS):
            tally.add(train_step(joint, batch, number), number)

    steps(0)
    with profile() as seen:
        with record_function("steps"):
            steps(STEPS)
        with record_function("log point"):
            tally.to("cpu").loss_K.tolist()
    seen.export_chrome_trace(str(path))
    events = seen.events() or ()
    spans = {e.name: e.time_range for e in events if e.name in ("steps", "log point")}
    waits = Counter(
        (event.name, _operation(event), where)
        for event in events
        for where, span in spans.items()
        if any(name in event.name for name in WAITING)
        and span.start <= event.time_range.start < span.end
    )
    print(f"waits for the device: {'' if waits else 'none'}")
    for (name, by, where), times in sorted(waits.items()):
        print(f"  {times:5d} x {name} by {by} in the {where}")
    print(seen.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=12))


def _operation(event: Any) -> str:
    """What was called for the sake of which this event took place."""
    while event.cpu_parent is not None and event.cpu_parent.name.startswith("aten::"):
        event = event.cpu_parent
    return event.name


def timed(sources: Sources, batch: Batch, step: int, device: torch.device) -> float:
    """Seconds of a step with what is measured of it: of one thread on a CPU its own time, of which
    other work on the machine takes nothing.
    """
    own = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own else time.perf_counter
    tally = EpochSums.zero(len(sources.learners), device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    tally.add(train_step(sources, batch, step), step)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
