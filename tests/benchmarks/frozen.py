"""A job with frozen teachers against the student's own control: what the lessons cost.

python -m tests.benchmarks.frozen [--rounds 3] [--epochs 5] [--objectives kl_dp …]
                                  [--device cuda] [--precision bf16]

A student (ResNet-10-T) learns from a larger teacher (ResNet-14-T) on handwritten digits, by every
objective with frozen models, with and without `resources.frozen_cache`, and so does the control.
Jobs are run in turns after one that computes what is kept, decoded images included; printed are the
medians of the CPU seconds (on CUDA: of the seconds) of whole jobs, measuring included, and the
medians of the rounds' ratios to the control.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from bikd_ray.plan import Job, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Resources
from bikd_ray.train import fit
from bikd_ray.zoo import build

OBJECTIVES = ("self", "kd", "kl_dp", "kl_dp_supervised")
SIZE = {"cpu": 32, "cuda": 224}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    given = parser.parse_args()
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        recipe = {"epochs": given.epochs, "batch_size": 64, "precision": given.precision}
        jobs = _jobs(Path(folder), recipe, SIZE[given.device])
        kept = str(Path(folder) / "frozen")
        for name in given.objectives:
            _seconds(jobs[name], kept, device)
        ways = [(name, cache) for name in ("ce", *given.objectives) for cache in ("none", kept)]
        found: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
        for number in range(given.rounds):
            for name, cache in reversed(ways) if number % 2 else ways:
                found[name, cache].append(_seconds(jobs[name], cache, device))
    print(f"{given.device}, {given.precision}, {given.epochs} epochs of 1,437 images")
    print("| objective | s | / ce | s, kept | / ce, both kept |\n|---|---|---|---|---|")
    for name in ("ce", *given.objectives):
        cells = []
        for cache in ("none", kept):
            own, alone = found[name, cache], found["ce", cache]
            ratio = statistics.median(a / b for a, b in zip(own, alone, strict=True))
            cells += [f"{statistics.median(own):.1f}", f"{ratio:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def _jobs(folder: Path, recipe: dict[str, Any], size: int) -> dict[str, Job]:
    """The job of the student by each objective."""
    names = ("resnet10t", "resnet14t")
    spec = {
        "name": "frozen",
        "zoo": [
            {
                "factory": "timm:create_model",
                "alias": name,
                "kwargs": {"model_name": name, "num_classes": 10},
                "input": {"size": size, "crop_pct": 1.0},
            }
            for name in names
        ],
        "data": {s: {"source": "digits", "split": s} for s in ("train", "val")}
        | {"cache": str(folder / "views")},
        "objectives": list(OBJECTIVES),
        "recipe": recipe,
        "seeds": [0],
        "store": str(folder / "store"),
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    loaded = load_spec(path)
    zoo, data = resolve(loaded)
    jobs = [job for job in all_jobs(loaded, zoo, data) if job.names[0] == names[0]]
    return {job.objective.name: job for job in jobs}


def _seconds(job: Job, cache: str, device: torch.device) -> float:
    networks = [build(member.entry) for member in job.members]
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    for _ in fit(job, networks, device, resources=Resources(frozen_cache=cache)):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
