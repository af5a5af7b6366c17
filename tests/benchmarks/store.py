"""A large store: how long its answers and its compaction take, and how much memory.

python tests/benchmarks/store.py [--pairings 5000] [--images 50000] [--rows 1000000] [--keep DIR]

Two stores are made up. One is as a sweep leaves it: three files for each job, every pairing and
every control with three seeds. The other holds many more results of 1,000 images in merged files,
each with rows of four metrics.
Each model has right the images that are easy enough for it, and training changes 3% of its answers.
Files have the names and schemas of real ones, and are written without waiting for the disk. Every
figure is of a process of its own. With --keep the stores are made once and stay in DIR.
"""

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from bikd_ray.store.compact import GROUP, ORDER, compact
from bikd_ray.store.queries import open_store
from bikd_ray.store.read import MERGED
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import serialised

SEEDS, EPOCHS, FEW_IMAGES = 3, 20, 1000
FEW_SCORES = 100  # of metrics that are not binary: a store of them all would fill the disk
LOT = 50_000_000  # correctness bits made at a time
MODEL = "model-000"
ALONE = -1  # in place of a partner: a control

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairings", type=int, default=5000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        single = folder / f"single-{given.pairings}-{given.images}"
        merged = folder / f"merged-{given.rows}"
        for path, pairings, images, whole in (
            (single, given.pairings, given.images, False),
            (merged, given.rows // (2 * SEEDS), FEW_IMAGES, True),
        ):
            if not path.exists():
                _alone(build, path, pairings, images, whole)
        copy = folder / "compacted"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(single, copy, copy_function=os.link)
        _print(given, single, merged, copy)
        shutil.rmtree(copy)


def _print(given: argparse.Namespace, single: Path, merged: Path, copy: Path) -> None:
    files = sum(1 for path in copy.rglob("*.parquet"))
    print(f"{files:,} files; load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    print(f"{'what':44s}  {'figure':>8s}  goal")
    cold, warm, peak = _alone(partners, copy)
    what = f"{given.pairings:,} pairings"
    _line(f"partners, {what}, cold", cold, "s")
    _line(f"partners, {what}, warm", warm, "s", 2)
    _line(f"partners, {what}, peak memory", peak, "GB", 1)
    seconds, peak = _alone(compaction, copy)
    _line(f"compaction of {files:,} files", seconds, "s", 30)
    _line("compaction, peak memory", peak, "GB", 1)
    cold, warm, peak = _alone(partners, copy)
    _line("partners, compacted, cold", cold, "s")
    _line("partners, compacted, warm", warm, "s", 0.2)
    _line("partners, compacted, peak memory", peak, "GB", 1)
    _line("bikd partners, compacted, as a command", _command(copy), "s", 1.5)
    cold, warm, peak = _alone(partners, merged)
    _line(f"partners, {given.rows:,} rows of {FEW_IMAGES:,} images, cold", cold, "s")
    _line(f"partners, {given.rows:,} rows, warm", warm, "s", 0.2)
    _line(f"partners, {given.rows:,} rows, peak memory", peak, "GB", 1)


def _line(what: str, figure: float, unit: str, goal: float | None = None) -> None:
    print(f"{what:44s}  {figure:5.2f} {unit:2s}  {f'< {goal} {unit}' if goal else ''}", flush=True)


def _alone(work: Callable[..., T], *arguments: object) -> T:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def partners(folder: Path) -> tuple[float, float, float]:
    """Seconds of a first answer and of later ones, and GB at most."""
    start = time.perf_counter()
    store = open_store(str(folder))
    assert len(store.partners(MODEL))
    cold, warm = time.perf_counter() - start, []
    for _ in range(3):
        start = time.perf_counter()
        store.partners(MODEL)
        warm.append(time.perf_counter() - start)
    return cold, statistics.median(warm), _peak()


def compaction(folder: Path) -> tuple[float, float]:
    """Seconds, and GB at most."""
    start = time.perf_counter()
    compact(str(folder))
    return time.perf_counter() - start, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _command(folder: Path) -> float:
    """Seconds of a command, from its start to its end; the best of three."""
    command = [sys.executable, "-m", "bikd_pipelines", "partners", MODEL, "--store", str(folder)]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# -- made-up results -------------------------------------------------------------------


def build(folder: Path, pairings: int, images: int, merged: bool) -> None:
    """Write a store of pairings and the controls of all models."""
    rng = np.random.default_rng(0)
    models = next(m for m in range(2, 10_000) if math.comb(m, 2) >= pairings)
    ease_N = rng.normal(0.8, 1, images).astype(np.float32)
    noise_MN = rng.normal(0, 0.4, (models, images)).astype(np.float32)
    before_MN = ease_N + noise_MN > 0
    pairs = np.array(list(islice(combinations(range(models), 2), pairings)))
    lone = np.stack([np.arange(models), np.full(models, ALONE)], axis=1)
    members_JK = np.repeat(np.concatenate([lone, pairs]), SEEDS, axis=0)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for table in ("models", "baselines", *ORDER):
        (partial / table).mkdir(parents=True)
    for model in range(models):
        for table, rows in _baseline(model, before_MN[model]).items():
            _write(partial, table, f"{model:016x}", rows)
    lot = max(1, LOT // images)
    for start in range(0, len(members_JK), lot):
        tables = _jobs(start, members_JK[start : start + lot], before_MN, rng)
        for table, rows in tables.items():
            if merged:
                rows = rows.sort_by([(name, "ascending") for name in ORDER[table]])
                _write(partial, table, f"{MERGED}{_attempt(start)}", rows, GROUP)
            else:
                _write_singly(partial, table, rows.sort_by("job_id"))
    partial.rename(folder)


def _write(folder: Path, table: str, name: str, rows: pa.Table, group: int = 64 << 20) -> None:
    (folder / table / f"{name}.parquet").write_bytes(serialised(rows, group))


def _write_singly(folder: Path, table: str, rows: pa.Table) -> None:
    """A file for each job, whose rows lie together."""
    jobs = rows["job_id"].to_numpy()
    ends = [*(np.flatnonzero(jobs[1:] != jobs[:-1]) + 1), len(jobs)]
    for start, end in zip([0, *ends], ends, strict=False):
        of_job = rows.slice(start, end - start)
        _write(folder, table, f"{jobs[start]}-{of_job['attempt'][0]}", of_job)


def _baseline(model: int, right_N: np.ndarray) -> dict[str, pa.Table]:
    who = {**_who(np.array([model])), "data_id": ["d"], "attempt": [_attempt(model)]}
    measured = {
        "eval_set": ["val"],
        "metric": ["top1"],
        "n": [len(right_N)],
        "value": [100 * right_N.mean()],
        "bits": [np.packbits(right_N).tobytes()],
        "unit_set_id": ["s"],
    }
    return {"models": _table("models", who), "baselines": _table("baselines", {**who, **measured})}


def _jobs(
    first: int, members_JK: np.ndarray, before_MN: np.ndarray, rng: np.random.Generator
) -> dict[str, pa.Table]:
    """The rows of some jobs, by table. Rows R are the members of all jobs."""
    jobs, (models, images) = len(members_JK), before_MN.shape
    lone_J = members_JK[:, 1] == ALONE
    here_R = (members_JK != ALONE).ravel()
    job_R = np.repeat(np.arange(jobs), 2)[here_R]
    model_R = members_JK.ravel()[here_R]
    partner_R = members_JK[:, ::-1].ravel()[here_R]
    run = {
        "job_id": [f"{_mixed(first + j):016x}" for j in range(jobs)],
        "attempt": [_attempt(first + j) for j in range(jobs)],
        "objective": np.where(lone_J, "ce", "bikd"),
        "seed": (first + np.arange(jobs)) % SEEDS,
        "recipe_id": ["r"] * jobs,
        "data_id": ["d"] * jobs,
    }
    run = {name: pa.array(values) for name, values in run.items()}
    run_R = {name: values.take(pa.array(job_R)) for name, values in run.items()}
    before_RN = before_MN[model_R]
    dice_RN = rng.integers(256, size=before_RN.shape, dtype=np.uint8)
    after_RN = before_RN ^ (dice_RN < np.where(before_RN, 3, 21).astype(np.uint8))
    top1_R, after_R = 100 * before_RN.mean(1), 100 * after_RN.mean(1)
    names = np.array([_name(m) for m in range(models)])
    results = {
        **run_R,
        **_who(model_R),
        "partners": _lists(names[partner_R], partner_R),
        "partner_ids": _lists(_ids("model", partner_R), partner_R),
        "role": np.where(partner_R == ALONE, "control", "peer"),
        "selection": ["last"] * len(model_R),
        "epoch": np.full(len(model_R), EPOCHS),
        "n": np.full(len(model_R), images),
        "before": top1_R,
        "after": after_R,
        "delta": after_R - top1_R,
        "gained": (after_RN & ~before_RN).sum(1),
        "lost": (before_RN & ~after_RN).sum(1),
        "ensemble_before": np.where(partner_R == ALONE, np.nan, top1_R + 3),
        "metric": ["top1"] * len(after_RN),
        "eval_set": ["val"] * len(after_RN),
        "bits": [row.tobytes() for row in np.packbits(after_RN, axis=1)],
        "unit_set_id": ["s"] * len(model_R),
    }
    results = _of_every_metric(results, rng)
    every = np.repeat(np.arange(len(model_R)), EPOCHS + 1)
    curves = {
        **{name: values.take(pa.array(every)) for name, values in run_R.items()},
        **_who(model_R[every]),
        "epoch": np.tile(np.arange(EPOCHS + 1), len(model_R)),
        "score": np.linspace(top1_R, after_R, EPOCHS + 1, axis=1).ravel(),
        "train_loss": rng.random(len(every)),
        "loss": rng.random(len(every)),
    }
    about = {
        **run,
        "members": _lists(names[model_R], members_JK),
        "member_ids": _lists(_ids("model", model_R), members_JK),
        "recipe": ["{}"] * jobs,
        "status": ["done"] * jobs,
        "seconds": np.full(jobs, 60.0),
    }
    made = {"results": results, "curves": curves, "jobs": about}
    return {table: _table(table, columns) for table, columns in made.items()}


def _of_every_metric(top1: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Rows of all metrics of each result: of top-5 as of top-1, of the others with FEW_SCORES."""
    rows = len(top1["metric"])
    noise = rng.random((rows, FEW_SCORES), np.float32)
    floats = [row.tobytes() for row in noise]
    own = {
        "top1": {},
        "top5": {},
        **{name: {"bits": [None] * rows, "scores": floats} for name in ("nll", "ece")},
    }
    found: dict[str, list[pa.Array]] = {name: [] for name in [*top1, "scores"]}
    for metric, columns in own.items():
        of_metric = {"scores": [None] * rows, **top1, **columns, "metric": [metric] * rows}
        for name, parts in found.items():
            kind = SCHEMAS["results"].field(name).type
            parts.append(pa.array(of_metric[name]).cast(kind))
    return {name: pa.concat_arrays(parts) for name, parts in found.items()}


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    """With nulls in the columns that are not given."""
    rows = len(next(iter(columns.values())))
    found = [
        pa.array(columns[f.name]).cast(f.type) if f.name in columns else pa.nulls(rows, f.type)
        for f in SCHEMAS[name]
    ]
    return pa.Table.from_arrays(found, schema=SCHEMAS[name])


def _lists(values: np.ndarray, members: np.ndarray) -> pa.Array:
    """One list for each row of members, without ALONE."""
    counts = (members != ALONE).reshape(len(members), -1).sum(1)
    kept = values if len(values) == counts.sum() else values[members != ALONE]
    return pa.ListArray.from_arrays(pa.array([0, *np.cumsum(counts)], pa.int32()), pa.array(kept))


def _who(model_R: np.ndarray) -> dict[str, Any]:
    names = {"model": [_name(m) for m in model_R]}
    return names | {f"{what}_id": _ids(what, model_R) for what in ("model", "weights")}


def _name(model: int) -> str:
    return f"model-{model:03d}"


def _ids(what: str, model_R: np.ndarray) -> np.ndarray:
    return np.array([f"{_mixed(len(what) << 32 | int(m) + 1):016x}" for m in model_R])


def _mixed(number: int) -> int:
    """64 bits that look like chance, as a hash's do."""
    return (number + 1) * 0x9E3779B97F4A7C15 % 2**64


def _attempt(number: int) -> str:
    return f"{0x19A000000000 + number:012x}-{number:08x}"


if __name__ == "__main__":
    main()
