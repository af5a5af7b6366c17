"""What was swept, and how every job went."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dashboards.wording import NONE, count, listed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One job; `error` is the first line of why it failed, `trace` the rest."""

    status: str
    objective: str
    members: str
    seed: int
    seconds: str
    error: str
    trace: str


def runs(jobs: Sequence[Row]) -> tuple[Run, ...]:
    """All jobs, the failed ones first."""
    order = sorted(
        jobs, key=lambda j: (j["status"] == "done", j["objective"], j["members"], j["seed"])
    )
    return tuple(_run(job) for job in order)


def _run(job: Row) -> Run:
    error, _, trace = (job["error"] or "").strip().partition("\n")
    return Run(
        job["status"],
        job["objective"],
        " + ".join(job["members"]),
        job["seed"],
        duration(job["seconds"]),
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
    values = {k: v for k, v in json.loads(recipe).items() if v != "none"}
    if values.get("train_fraction") == 1:
        del values["train_fraction"]
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def facts(
    baselines: Sequence[Row], pairs: Sequence[Row], jobs: Sequence[Row], written: datetime
) -> tuple[tuple[str, str], ...]:
    """(term, description) of what the store holds, for the page's head."""
    done = [j for j in jobs if j["status"] == "done"]
    joint = {(j["data_id"], frozenset(j["member_ids"])) for j in done if len(j["member_ids"]) > 1}
    trained = {key for key in joint if len(key[1]) == 2}
    known = {(p["data_id"], frozenset((p["model_id_a"], p["model_id_b"]))) for p in pairs}
    pairings = f"{len(trained)} of {count(len(trained | known), 'pair')} trained"
    if len(joint) > len(trained):
        pairings += f", {count(len(joint) - len(trained), 'larger group')}"
    failed = len(jobs) - len(done)
    sizes = {b["data_id"]: b["n"] for b in baselines}
    recipes = {j["recipe_id"]: recipe_text(j["recipe"]) for j in jobs}
    objectives = sorted({j["objective"] for j in jobs} - {"ce"})
    if any(j["objective"] == "ce" for j in jobs):
        objectives.append("ce (control)")
    seconds = sum(j["seconds"] or 0 for j in jobs)
    entries = [
        ("Models", f"{len({b['model_id'] for b in baselines})}"),
        ("Pairings", pairings),
        ("Jobs", f"{len(done):,} done, {failed:,} failed"),
        ("Seeds", listed([str(s) for s in sorted({j["seed"] for j in jobs})], 12)),
        ("Val images", " · ".join(f"{n:,}" for n in sizes.values())),
        ("Data", " · ".join(sizes)),
        ("Objective", ", ".join(objectives)),
        ("Time of all jobs", duration(seconds) if jobs else ""),
        ("Written", f"{written:%Y-%m-%d %H:%M} UTC"),
        *(("Recipe", f"{text} ({recipe_id})") for recipe_id, text in sorted(recipes.items())),
    ]
    return tuple((term, text) for term, text in entries if text)
