"""What a reader must know of the paper's figures and of ours beside them."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from bikd_pipelines.paper.arithmetic import deviations, identity_share
from bikd_pipelines.paper.compare import weights_origin
from bikd_pipelines.paper.figures import BY_ORIGIN, IMAGES, figures
from bikd_ray.specs import PRESETS, Recipe
from bikd_ray.store import Store

Row = dict[str, Any]


def notes(store: Store, table: pa.Table, selection: str) -> list[str]:
    """One line each, for `beside(store, selection)`: of the paper's side, then of ours."""
    rows = [row for row in table.to_pylist() if row["delta"] is not None]
    nothing = (
        f"the store {store.uri} has no results of the paper's pairings yet (selection {selection})"
        "; docs/paper.md says how to get them"
    )
    return [*_of_the_paper(), *(_of_ours(store, rows) if rows else [nothing])]


def _of_the_paper() -> Iterator[str]:
    yield (
        "Δ in percentage points. The paper shows each model at the best of its 20 epochs, chosen "
        "on the images that it shows. Like it: --selection best_val, without intervals; fair: last"
    )
    yield "It has no control; net Δ = Δ − control is what the partner adds to training alone"
    wrong, rows = deviations(), len(figures("3"))
    yield f"{len(wrong)} of its numbers do not follow from the others ({rows} rows of Table 3):"
    yield from (f"  {line}" for line in wrong)
    share = identity_share("3")
    yield (
        f"In Table 3, which model it is explains {share.explained:.0%} of the variance of Δ "
        f"({share.models} models with several partners, {share.values} values; by chance "
        f"{share.by_chance:.0%}): whose partner it was matters little"
    )


def _of_ours(store: Store, rows: list[Row]) -> Iterator[str]:
    far = max(rows, key=lambda row: abs(row["before"] - row["paper_before"]))
    yield (
        "Ours before training is within "
        f"{abs(far['before'] - far['paper_before']):.2f} pp of the paper's "
        f"(farthest: {far['model']}, {far['before']:.3f} to {far['paper_before']:.3f})"
    )
    if other := sorted({row["n"] for row in rows} - {IMAGES}):
        counts = ", ".join(f"{n:,}" for n in other)
        yield f"Some of ours are of {counts} val images, the paper's all of {IMAGES:,}"
    jobs = store.table("jobs").select(["recipe_id", "recipe"]).to_pylist()
    stored = {job["recipe_id"]: job["recipe"] for job in jobs}
    used = sorted({row["recipe_id"] for row in rows})
    recipes = "; ".join(f"{recipe_id[:6]} is {_recipe(stored[recipe_id])}" for recipe_id in used)
    yield f"run: objective, recipe and seeds; recipe {recipes}"
    models = {row["model_id"]: row for row in store.table("models").to_pylist()}
    ours = {i for row in rows for i in (row["model_id"], *row["partner_ids"])}
    named = {models[i]["model"] for i in ours if weights_origin(models[i]) not in BY_ORIGIN}
    if named:
        yield f"Taken for the paper's by their names alone: {', '.join(sorted(named))}"


def _recipe(stored: str) -> str:
    """A stored recipe in words: a preset's name, or what differs from the paper's."""
    usual = Recipe().model_dump(mode="json")
    changed = {k: v for k, v in json.loads(stored).items() if v != usual.get(k)}
    known = next((name for name, preset in PRESETS.items() if preset == changed), None)
    return known or "paper with " + ", ".join(f"{k} {v}" for k, v in changed.items())
