"""What a sweep costs beside its jobs: against the same jobs one after another in one process.

python tests/benchmarks/sweep.py [--jobs 40] [--images 1500] [--epochs 4]
python tests/benchmarks/sweep.py --jobs 1000 --empty [--slots 16]

Small convolutional networks on made-up images, with one thread each. The sweep has a slot for each
CPU; ideal is the time of the jobs one after another, divided by the slots. Side by side each job
is slower, since they share the machine's memory: plain processes at once, one for each slot and
without Ray, show how much of that is the machine's. --empty: jobs that train one step on 16
images, so that nearly all is engine; nothing else is run then, and printed are jobs for each second
and the command's memory. --slots: as many as if the machine had so many CPUs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Spec
from tests.conftest import CLASSES, write_images
from tests.jobs import result_of

WIDTHS = {"narrow": 12, "middle": 16, "wide": 20, "widest": 24}
SIZE = 32


def net(width: int, plain: bool = False) -> nn.Module:
    """A zoo factory; plain: as cheap as a network can be."""
    if plain:
        return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, width), nn.ReLU(),
                             nn.Linear(width, CLASSES))  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 1, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, CLASSES),
    )  # fmt: skip


def spec_in(folder: Path, jobs: int, images: int, epochs: int, empty: bool) -> Path:
    """A spec of all pairs and controls of four networks, and as many seeds as it takes."""
    kwargs = {"plain": True} if empty else {}
    zoo = [
        {"factory": "tests.benchmarks.sweep:net", "alias": alias,
         "kwargs": {"width": width, **kwargs}, "input": {"size": SIZE, "crop_pct": 1.0}}
        for alias, width in WIDTHS.items()
    ]  # fmt: skip
    sets = {"train": 16 if empty else images, "val": 16 if empty else images // 3}
    for seed, (split, count) in enumerate(sets.items()):
        write_images(folder / f"{split}.parquet", count, seed)
    sources = {s: {"source": "parquet", "path": str(folder / f"{s}.parquet")} for s in sets}
    spec = Spec.model_validate(
        {
            "name": "benchmark",
            "zoo": zoo,
            "data": {**sources, "cache": str(folder / "views")},
            "recipe": {"epochs": 1 if empty else epochs, "batch_size": 64, "lr": 1e-3},
            "seeds": list(range(-(-jobs // 10))),
            "similarity": "none" if empty else "cca",
            "resources": {"cpus_per_job": 1, "keep_weights": "none" if empty else "best"},
            "store": str(folder / "store"),
        }
    )
    path = folder / "spec.yaml"
    path.write_text(spec.model_dump_json())  # JSON is YAML
    return path


def plain_process(path: Path, jobs: int, first: int, step: int) -> None:
    """Print the seconds of every `step`-th of a spec's first jobs, done here with one thread."""
    from bikd_ray.resolve import plan_jobs
    from bikd_ray.sweep.events import JobRequest
    from bikd_ray.sweep.job import run_job

    torch.set_num_threads(1)
    planned = list(plan_jobs(load_spec(path), "/nowhere"))[:jobs]
    store = str(path.parent / f"alone-{first}-{step}")
    list(run_job(JobRequest(planned[0], "", store), torch.device("cpu")))  # decodes, warms up
    start = time.monotonic()
    for job in planned[first::step]:
        end = result_of(JobRequest(job, "", store, ("last",)))
        assert end.error is None, end.error
    print(time.monotonic() - start)


def plain(path: Path, jobs: int, processes: int) -> list[float]:
    """Seconds of so many processes at once that share the jobs, each without Ray."""
    again = [sys.executable, __file__, "--plain", str(path), "--jobs", str(jobs)]
    running = [
        subprocess.Popen([*again, "--part", str(k), str(processes)], stdout=subprocess.PIPE)
        for k in range(processes)
    ]
    said = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running)
    return [float(seconds) for seconds in said]


class Clock:
    """Seconds of what goes on in the command's process, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last: dict[str, tuple[float, float]] = {}  # when it began and ended last
        self.ends: list[tuple[int, float, float]] = []  # slot, when an outcome came, its seconds
        self.memory: list[int] = []  # bytes of the command's process, at each outcome

    def wrap(self, fs: Any, name: str, title: str) -> None:
        inner: Callable = getattr(fs, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(title):
                return inner(*args, **kwargs)

        setattr(fs, name, timed)

    @contextmanager
    def measure(self, title: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        end = time.monotonic()
        self.seconds[title] += end - start
        self.last[title] = start, end


def sweep(path: Path, jobs: int, slots: int | None = None) -> Clock:
    """Run the sweep, and time its parts. slots: of a Ray that has so many CPUs."""
    from bikd_ray.store.write import Writer
    from bikd_ray.sweep import connection, engine
    from bikd_ray.sweep.events import JobResult
    from bikd_ray.sweep.recorder import Recorder

    clock = Clock()

    class Timed(Recorder):
        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info):
            message = result.get("message")
            if isinstance(message, JobResult):
                clock.ends.append((result["pid"], time.monotonic(), message.job["seconds"]))
                clock.memory.append(psutil.Process().memory_info().rss)
            super().on_trial_result(iteration, trials, trial, result, **info)

    engine.Recorder = Timed
    clock.wrap(engine, "resolve", "models and images read")
    clock.wrap(connection.ray, "init", "Ray start")
    clock.wrap(engine, "keep_all", "weights kept")
    clock.wrap(engine, "run_baselines", "baselines")
    clock.wrap(engine, "run_pairs", "pair statistics")
    clock.wrap(engine, "_run_trials", "window")
    clock.wrap(engine, "compact", "compaction")
    clock.wrap(connection.ray, "shutdown", "Ray shutdown")
    clock.wrap(Writer, "commit_job", "commits")
    if slots:
        connection.ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False)
    with clock.measure("all"):
        report = engine.run_sweep(load_spec(path), limit=jobs)
    assert report.done == jobs, report
    return clock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        plain_process(given.plain, given.jobs, *given.part)
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = spec_in(Path(scratch), given.jobs, given.images, given.epochs, given.empty)
        if given.empty:
            show_driver(sweep(path, given.jobs, given.slots))
            return
        alone = plain(path, given.jobs, 1)
        clock = sweep(path, given.jobs, given.slots)
        slots = len({slot for slot, *_ in clock.ends})
        show(clock, given.jobs, alone, plain(path, given.jobs, slots))


def show_driver(clock: Clock) -> None:
    """Print how many jobs a second it handles, and its memory, by tenths of the sweep."""
    at, size = [at for _, at, _ in clock.ends], -(-len(clock.ends) // 10)
    print("| jobs | jobs/s | the command's memory, GB |\n|---|---|---|")
    for first in range(0, len(at) - size, size):
        last = first + size
        rate, memory = size / (at[last] - at[first]), max(clock.memory[first : last + 1])
        print(f"| {first:,}–{last:,} | {rate:.0f} | {memory / 1e9:.2f} |")
    print(f"from the first job's end to the last one's {at[-1] - at[0]:.1f} s, "
          f"{(len(at) - 1) / (at[-1] - at[0]):.0f} jobs/s; in all {clock.seconds['all']:.1f} s, of "
          f"which compaction {clock.seconds['compaction']:.1f} s")  # fmt: skip


def show(clock: Clock, jobs: int, alone: list[float], at_once: list[float]) -> None:
    """Print the split, and the ratios to the same jobs without Ray."""
    took, ends = clock.seconds, clock.ends
    slots = defaultdict(list)
    for slot, at, seconds in ends:
        slots[slot].append((at, seconds))
    began = min(at - seconds for at, seconds in (s[0] for s in slots.values()))
    last = max(at for _, at, _ in ends)
    own = sum(seconds for *_, seconds in ends)
    busy = sum(s[-1][0] - s[0][0] + s[0][1] for s in slots.values())
    idle = len(slots) * (last - began) - busy  # while another slot still starts or finishes
    n = len(slots)
    print(f"{jobs} jobs on {n} slots, {own / jobs:.2f} s each: {took['all']:.1f} s in all")
    print(f"from the first job's start to the last one's end {last - began:.1f} s")
    for name in ("models and images read", "Ray start", "weights kept", "baselines",
                 "pair statistics"):  # fmt: skip
        print(f"  {name:36}{took[name]:7.1f} s")
    print(f"  {'start of the first slot':36}{began - clock.last['window'][0]:7.1f} s")
    print(f"  {'jobs, over the slots':36}{own / n:7.1f} s")
    print(f"  {'between jobs, over the slots':36}{(busy - own) / n:7.1f} s"
          f"  ({(busy - own) / (jobs - n):.3f} s each)")  # fmt: skip
    print(f"  {'one slot without work':36}{idle / n:7.1f} s")
    print(f"  {'(commits, beside the jobs)':36}{took['commits']:7.1f} s"
          f"  ({1000 * took['commits'] / jobs:.1f} ms each)")  # fmt: skip
    print(f"  {'end of Tune and of the slots':36}{clock.last['window'][1] - last:7.1f} s")
    for name in ("compaction", "Ray shutdown"):
        print(f"  {name:36}{took[name]:7.1f} s")
    slots_ran, ideal = last - began, sum(alone) / n
    print(f"one after another {sum(alone):.1f} s; divided by the slots {ideal:.1f} s")
    print(f"plain processes at once {sum(at_once):.1f} s; {sum(at_once) / n:.1f} s each")
    print(f"  {'machine, slower side by side':36}{(sum(at_once) - sum(alone)) / n:7.1f} s")
    print(f"  {'Ray beside the jobs':36}{(own - sum(at_once)) / n:7.1f} s")
    print(f"ratio while slots run {slots_ran / ideal:.3f}")
    print(f"… to plain processes at once {n * slots_ran / sum(at_once):.3f}")
    print(f"… to the jobs' own seconds in the slots {n * slots_ran / own:.3f}")
    print(f"ratio with every start and end {took['all'] / ideal:.3f}")


if __name__ == "__main__":
    main()
