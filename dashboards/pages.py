"""A store as one page: plain values for a template to lay out, nothing pooled.

Each combination of data, recipe, objective and selection is a group with its own answers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bikd_ray.store import Store
from dashboards.answers import Answer, answers, interval, partner_name, standing, verdict
from dashboards.curves import MEASURES, Curves, curves_info
from dashboards.figures import METRICS, Heatmap, Interval, heatmap_info
from dashboards.forest import Forest, forest_info
from dashboards.runs import Run, facts, recipe_text, runs

SELECTIONS = {
    "last": "last epoch",
    "best_select": "epoch chosen on held-out images",
    "best_val": "epoch chosen on the reported images",
}


@dataclass(frozen=True)
class Setting:
    """What must not be pooled. Nothing trained yet: no objective, perhaps no recipe."""

    data_id: str
    recipe_id: str | None
    objective: str | None
    selection: str

    @property
    def key(self) -> str:
        """For a link."""
        parts = (self.objective, self.selection, self.recipe_id, self.data_id)
        return ".".join(part for part in parts if part)


@dataclass(frozen=True)
class Gain:
    """One learner with one partner set, a row of the table of all numbers."""

    model: str
    partner: str
    delta: Interval | None
    net: Interval | None
    recovered: float | None
    standing: str
    seeds: int


@dataclass(frozen=True)
class Group:
    setting: Setting
    label: str
    verdict: str
    notes: tuple[str, ...]
    answers: tuple[Answer, ...]
    gains: tuple[Gain, ...]
    heatmaps: tuple[Heatmap, ...]
    forests: tuple[Forest, ...]
    curves: tuple[Curves, ...]


@dataclass(frozen=True)
class Page:
    sweeps: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]
    runs: tuple[Run, ...]
    gains: pa.Table
    pairs: pa.Table


def page(store: Store, written: datetime | None = None) -> Page:
    """All that a report of this store shows. written: when, now unless given (UTC).

    `gains` and `pairs` are the tables to download: as the store answers, over all selections
    and for the last epoch.
    """
    jobs = store.table("jobs").to_pylist()
    baselines, pairs, curves = store.baselines(), store.pairs(), store.curves()
    gains = pa.concat_tables([store.gains(selection=s) for s in SELECTIONS])
    controls = pa.concat_tables([store.controls(s) for s in SELECTIONS])
    settings = _settings(gains, controls, baselines)
    recipes = {j["recipe_id"]: recipe_text(j["recipe"]) for j in jobs}
    groups = tuple(
        _group(setting, label, gains, controls, pairs, curves, baselines)
        for setting, label in zip(settings, _labels(settings, recipes), strict=True)
    )
    return Page(
        sweeps=tuple(dict.fromkeys(j["sweep"] for j in jobs if j["sweep"])),
        facts=facts(baselines.to_pylist(), pairs.to_pylist(), jobs, written or datetime.now(UTC)),
        groups=groups,
        runs=runs(jobs),
        gains=gains,
        pairs=pairs,
    )


def _settings(gains: pa.Table, controls: pa.Table, baselines: pa.Table) -> list[Setting]:
    """Every combination with results; else what has a control alone, else a baseline alone."""
    found = [
        Setting(r["data_id"], r["recipe_id"], r["objective"], r["selection"])
        for r in gains.select(["data_id", "recipe_id", "objective", "selection"]).to_pylist()
    ]
    trained = {(s.data_id, s.recipe_id, s.selection) for s in found}
    for r in controls.select(["data_id", "recipe_id", "selection"]).to_pylist():
        if (r["data_id"], r["recipe_id"], r["selection"]) not in trained:
            found.append(Setting(r["data_id"], r["recipe_id"], None, r["selection"]))
    begun = {s.data_id for s in found}
    for data_id in baselines["data_id"].to_pylist():
        if data_id not in begun:
            found.append(Setting(data_id, None, None, "last"))
    order = list(SELECTIONS)
    return sorted(
        dict.fromkeys(found),
        key=lambda s: (
            order.index(s.selection),
            s.objective or "~",
            s.recipe_id or "",
            s.data_id,
        ),
    )


def _labels(settings: Sequence[Setting], recipes: Mapping[str, str]) -> list[str]:
    """What tells each setting from the others, in words."""
    several_recipes = len({s.recipe_id for s in settings}) > 1
    several_data = len({s.data_id for s in settings}) > 1
    labels = []
    for s in settings:
        parts = [s.objective or ("controls only" if s.recipe_id else "baselines only")]
        parts += [SELECTIONS[s.selection]] if s.recipe_id else []
        if several_recipes and s.recipe_id:
            parts.append(f"{recipes.get(s.recipe_id, 'recipe')} ({s.recipe_id[:6]})")
        if several_data:
            parts.append(f"data {s.data_id[:6]}")
        labels.append(" · ".join(parts))
    return labels


def shown_names(baselines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """model_id to name, the most accurate first; equal names get the start of their id."""
    ranked = sorted(baselines, key=lambda r: -r["top1"])
    often = Counter(r["model"] for r in ranked)
    return {
        r["model_id"]: r["model"]
        if often[r["model"]] == 1
        else f"{r['model']} ({r['model_id'][:6]})"
        for r in ranked
    }


def _where(table: pa.Table, **values: str | None) -> pa.Table:
    for name, value in values.items():
        table = table.filter(pc.field(name) == value)
    return table


def _group(
    setting: Setting,
    label: str,
    gains: pa.Table,
    controls: pa.Table,
    pairs: pa.Table,
    curves: pa.Table,
    baselines: pa.Table,
) -> Group:
    data = {"data_id": setting.data_id}
    run = {**data, "recipe_id": setting.recipe_id}
    mine = _where(gains, **run, objective=setting.objective, selection=setting.selection)
    alone = _where(controls, **run, selection=setting.selection)
    known = _where(baselines, **data).to_pylist()
    names = shown_names(known)
    rows = mine.to_pylist()
    sentence, notes = verdict(rows, alone.to_pylist(), names, setting.selection)
    heatmaps = (heatmap_info(m, mine, alone, _where(pairs, **data), names) for m in METRICS)
    forests = (forest_info(model_id, mine, alone, names) for model_id in names)
    own = (pc.field("objective") == setting.objective) | (pc.field("partner") == "")
    epochs = _where(curves, **run).filter(own)
    drawn = (curves_info(r["model"], m, epochs) for m in MEASURES for r in known)
    return Group(
        setting,
        label,
        sentence,
        notes,
        answers(rows, alone.to_pylist(), known, names),
        tuple(_gain(r, names) for r in rows),
        tuple(h for h in heatmaps if h.cells),
        tuple(f for f in forests if f.partners),
        tuple(c for c in dict.fromkeys(drawn) if c.lines),
    )


def _gain(row: Mapping[str, Any], names: Mapping[str, str]) -> Gain:
    return Gain(
        names[row["model_id"]],
        partner_name(row, names),
        interval(row, "delta"),
        interval(row, "net"),
        row["recovered"],
        standing(row),
        row["seeds"],
    )
