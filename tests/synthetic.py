"""Stores whose truth is known: right and wrong answers are drawn, nothing is trained."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.bits import pack
from bikd_ray.analysis.pairs import counts
from bikd_ray.store.read import MERGED
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import serialised

DATA, RECIPE = "d4f1c09a77e0b312", "9be1a0c3550d7f42"
_EVERY = ("data_id", "attempt")
OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n\nTraceback …"


@dataclass(frozen=True)
class World:
    """What is true. alone: points that a model gains with any job, a control too. effects: what a
    partner adds to that, by (learner, partner). failed: pairs whose every job failed.
    """

    names: Sequence[str]
    effects: Mapping[tuple[str, str], float] = field(default_factory=dict)
    alone: Mapping[str, float] = field(default_factory=dict)
    failed: Iterable[tuple[str, str]] = ()
    n: int = 1000
    seeds: int = 3
    churn: float = 0.02  # images that change sides by chance, both ways
    seed: int = 0
    sets: Sequence[str] = ()  # measured on too: there what a job gains has the other sign
    losses: bool = False  # nll as well: 0.2 where right, 2.2 where wrong
    own: float | None = None  # points over alone that a model's own frozen start gives it

    def id_of(self, name: str) -> str:
        return f"id-{list(self.names).index(name):03d}"


def made(folder: Path, world: World) -> str:
    """Write the store of a world; returns its URI."""
    random = np.random.default_rng(world.seed)
    ease_N = random.normal(0.8, 1, world.n)
    before = {name: ease_N + random.normal(0, 0.5, world.n) > 0 for name in world.names}

    def after(name: str, points: float, on: str = "val") -> np.ndarray:
        right = before[name]
        points *= 1 if on == "val" else -1
        turned = random.random(world.n) < world.churn
        low, high = np.flatnonzero(~right), np.flatnonzero(right)
        out = right ^ (turned & (random.random(world.n) < 0.5))
        some = round(abs(points) * world.n / 100)
        out[random.permutation(low if points > 0 else high)[:some]] = points > 0
        return out

    def scored(right: np.ndarray, on: str) -> list[tuple[dict, float]]:
        """Of each metric: columns of its rows, and its value."""
        at = {"eval_set": on, "unit_set_id": "s"}
        found = [({**at, "metric": "top1", "bits": pack(right)}, 100 * right.mean())]
        if world.losses:
            loss = np.where(right, 0.2, 2.2).astype("<f4")
            row = {**at, "metric": "nll", "scores": loss.tobytes()}
            found.append((row, float(loss.mean())))
        return found

    jobs, results, curves = [], [], []
    lone = [((name,), "ce") for name in world.names]
    if world.own is not None:
        lone += [((name,), "self(temperature=4.0)") for name in world.names]
    pairings = [(pair, "bikd") for pair in combinations(world.names, 2)]
    failed = {frozenset(pair) for pair in world.failed}
    for members, objective in [*lone, *pairings]:
        for seed in range(world.seeds):
            run = {
                "job_id": f"j{len(jobs):06d}",
                "objective": objective,
                "seed": seed,
                "recipe_id": RECIPE,
                "data_id": DATA,
                "attempt": f"{0x19A00000000 + len(jobs):012x}-00000000",
            }
            down = frozenset(members) in failed
            jobs.append(
                {
                    **run,
                    "sweep": "made",
                    "members": members,
                    "member_ids": [world.id_of(m) for m in members],
                    "recipe": json.dumps({"epochs": 1}),
                    "status": "failed" if down else "done",
                    "error": OUT_OF_MEMORY if down else None,
                    "seconds": 1.0,
                }
            )
            for name in () if down else members:
                mates = [m for m in members if m != name]
                points = world.alone.get(name, 0.0)
                points += sum(world.effects.get((name, mate), 0.0) for mate in mates)
                points += (world.own or 0.0) if objective.startswith("self") else 0.0
                right = after(name, points)
                top1 = 100 * before[name].mean()
                who = {"model": name, "model_id": world.id_of(name), "weights_id": f"w-{name}"}
                about = {
                    **run,
                    **who,
                    "partners": mates,
                    "partner_ids": [world.id_of(m) for m in mates],
                    "role": "peer" if mates else "control",
                    "selection": "last",
                    "epoch": 1,
                    "n": world.n,
                }
                for on in ("val", *world.sets):
                    there = right if on == "val" else after(name, points, on)
                    was = scored(before[name], on)
                    for (_, old), (row, new) in zip(was, scored(there, on), strict=True):
                        row |= {"before": old, "after": new, "delta": new - old}
                        if row["metric"] == "top1":
                            row["gained"] = int((there & ~before[name]).sum())
                            row["lost"] = int((before[name] & ~there).sum())
                            row["ensemble_before"] = top1 + 4 if mates and on == "val" else None
                        results.append({**about, **row})
                curves += [
                    {**run, **who, "epoch": epoch, "score": top1 + random.random()}
                    for epoch in (0, 1)
                ]
    alike = [
        {
            **{k: job[k] for k in ("job_id", "objective", "seed", "recipe_id", *_EVERY)},
            "model_a": job["members"][0],
            "model_b": job["members"][1],
            "model_id_a": job["member_ids"][0],
            "model_id_b": job["member_ids"][1],
            "cca_before": random.random(),
            "cca_after": random.random(),
        }
        for job in jobs
        if job["status"] == "done" and len(job["members"]) == 2
    ]
    first = {"data_id": DATA, "attempt": f"{0x19900000000:012x}-00000000", "eval_set": "val"}
    models = [
        {"model": m, "model_id": world.id_of(m), "weights_id": f"w-{m}", **first}
        for m in world.names
    ]
    baselines = [
        {**row, "n": world.n, "value": value, **columns}
        for m, row in zip(world.names, models, strict=True)
        for on in ("val", *world.sets)
        for columns, value in scored(before[m], on)
    ]
    pairs = [
        {
            "model_a": a,
            "model_b": b,
            "model_id_a": world.id_of(a),
            "model_id_b": world.id_of(b),
            "metric": "top1",
            **counts(before[a], before[b]),
            "disagreement": 0.1,
            "ensemble": 85.0,
            **first,
        }
        for a, b in combinations(world.names, 2)
    ]
    label_N = np.arange(world.n) % 10
    for row in models:
        for on in ("val", *world.sets):
            about = {k: row[k] for k in ("model", "model_id", "weights_id", *first)}
            same = {k: [v] * world.n for k, v in {**about, "eval_set": on}.items()}
            table = {"sample": range(world.n), "label": label_N.tolist(), **same}
            _write(folder, "predictions", f"{row['model_id']}-{on}", table)
    for table, rows in (
        ("models", models),
        ("baselines", baselines),
        ("pairs", pairs),
        ("jobs", jobs),
        ("results", results),
        ("curves", curves),
        ("similarities", alike),
    ):
        if rows:
            names = dict.fromkeys(name for row in rows for name in row)
            columns = {name: [row.get(name) for row in rows] for name in names}
            _write(folder, table, f"{MERGED}0{first['attempt']}", columns)
    return str(folder)


def _write(folder: Path, table: str, name: str, columns: Mapping[str, Any]) -> None:
    size = len(next(iter(columns.values())))
    schema = SCHEMAS[table]
    found = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(size, f.type)
        for f in schema
    ]
    path = folder / table / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialised(pa.Table.from_arrays(found, schema=schema)))


def zoo(models: int) -> list[str]:
    return [f"model-{i:03d}" for i in range(models)]
