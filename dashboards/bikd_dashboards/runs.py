"""What was swept, and how every job went."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from bikd_dashboards.figures import pc
from bikd_ray.formatting import NONE, count, listed
from bikd_ray.metrics import Metric
from bikd_ray.store.pairings import trained_groups

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunRow:
    """One job; `error` is the first line of why it failed, `trace` the rest."""

    status: str
    objective: str
    members: str
    seed: int
    seconds: str
    device: str
    throughput: str
    memory: str
    error: str
    trace: str


def runs(jobs: pa.Table, most: int | None = None) -> tuple[RunRow, ...]:
    """The jobs, failed ones first, then by objective and members; at most so many."""
    names = pc.binary_join(jobs["members"], " + ")
    failed = pc.equal(jobs["status"], "failed")
    keyed = jobs.append_column("failed", failed).append_column("names", names)
    order = [("failed", "descending"), ("objective", "ascending"), ("names", "ascending")]
    ranked = keyed.sort_by([*order, ("seed", "ascending"), ("job_id", "ascending")])
    return tuple(_run(job) for job in ranked.slice(0, most).to_pylist())


def _run(job: Row) -> RunRow:
    error, _, trace = (job["error"] or "").strip().partition("\n")
    used = json.loads(job["resources"] or "{}")
    speed, memory = used.get("images_per_s"), used.get("peak_memory")
    return RunRow(
        job["status"],
        job["objective"],
        " + ".join(job["members"]),
        job["seed"],
        duration(job["seconds"]),
        used.get("device", NONE),
        NONE if speed is None else f"{speed:,.0f} samples/s",
        NONE if memory is None else f"{memory / 2**30:.1f} GiB",
        error,
        trace.strip(),
    )


def duration(seconds: float | None) -> str:
    """`0.4 s`, `42 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def recipe_text(recipe: str) -> str:
    """A recipe's JSON as one line, without the settings that say "none" or "all of it"."""
    values = {k: v for k, v in json.loads(recipe).items() if v not in ("none", None, {}, 0)}
    if values.get("train_fraction") == 1:
        del values["train_fraction"]
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def brief(baselines: pa.Table, pairs: pa.Table, jobs: pa.Table, units: str = Metric.units) -> str:
    """`4 models · 6 of 6 pairs trained · 130 jobs done · 5 seeds · 898 val images`."""
    done = jobs.filter(pc.equal(jobs["status"], "done"))
    failed = len(jobs) - len(done)
    sizes = sorted(set(baselines["n"].to_pylist()))
    parts = [
        count(len(baselines["model_id"].unique()), "model"),
        _pairings(done, pairs),
        f"{count(len(done), 'job')} done" + (f", {failed:,} failed" if failed else ""),
        count(len(jobs["seed"].unique()), "seed") if len(jobs) else "",
        f"{' and '.join(f'{n:,}' for n in sizes)} val {units}" if sizes else "",
    ]
    return " · ".join(filter(None, parts))


def _pairings(done: pa.Table, pairs: pa.Table) -> str:
    trained = trained_groups(done, pairs)
    larger = f", {count(trained.larger, 'larger group')}" if trained.larger else ""
    return f"{trained.pairs:,} of {count(trained.of, 'pair')} trained{larger}"


def facts(
    baselines: pa.Table,
    pairs: pa.Table,
    jobs: pa.Table,
    recipes: Mapping[str, str],
    written: datetime,
    units: str = Metric.units,
) -> tuple[tuple[str, str], ...]:
    """(term, description) of what the store holds, for the page's head.

    pairs: of the table `pairs`. recipes: recipe_id to what it says. units: what is measured.
    """
    done = jobs.filter(pc.equal(jobs["status"], "done"))
    sizes = {b["data_id"]: b["n"] for b in baselines.select(["data_id", "n"]).to_pylist()}
    objectives = set(jobs["objective"].unique().to_pylist())
    named = sorted(objectives - {"ce"}) + ["ce (control)"] * ("ce" in objectives)
    seconds = pc.sum(jobs["seconds"]).as_py() or 0
    seeds = sorted(jobs["seed"].unique().to_pylist())
    entries = [
        ("Models", f"{len(baselines['model_id'].unique()):,}"),
        ("Pairings", _pairings(done, pairs)),
        ("Jobs", f"{len(done):,} done, {len(jobs) - len(done):,} failed"),
        ("Seeds", listed([str(s) for s in seeds], 12)),
        (f"Val {units}", " · ".join(f"{n:,}" for n in sizes.values())),
        ("Data", " · ".join(sizes)),
        ("Objective", ", ".join(named)),
        ("Time of all jobs", duration(seconds) if len(jobs) else ""),
        ("Written", f"{written:%Y-%m-%d %H:%M} UTC"),
        *(("Recipe", f"{text} ({recipe_id})") for recipe_id, text in sorted(recipes.items())),
    ]
    return tuple((term, text) for term, text in entries if text)
