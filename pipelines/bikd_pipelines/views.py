"""What people see of each answer: its columns, and what to say where it has no rows."""

from collections.abc import Callable
from typing import Any

from bikd_pipelines import light_arrow  # noqa: F401  # isort: skip  (before Arrow)

import pyarrow as pa

from bikd_pipelines import search_views
from bikd_pipelines.layout import Column, Row
from bikd_pipelines.values import as_text
from bikd_ray.formatting import (
    NONE,
    difference_unit,
    digits_of,
    number,
    recovered,
    signed,
    with_span,
)
from bikd_ray.store.verdicts import (
    TOLD,
    delta_text,
    net_text,
    over_self_text,
    short,
    standing,
)
from bikd_ray.tasks.classification_metrics import TOP1


def every_column(table: pa.Table) -> list[Column]:
    """The columns of a table that has no view, as they are."""
    return [
        Column(field.name, _shown(field.name), words=not _is_number(field.type))
        for field in table.schema
    ]


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _shown(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        if value is None:
            return NONE
        if isinstance(value, bool):
            return "yes" if value else ""
        if isinstance(value, float):
            return f"{value:.3g}" if 1e-9 < abs(value) < 0.01 else f"{value:.2f}"
        return as_text(value) or ""

    return cell


def _verdict(row: Row) -> str:
    return short(row) or NONE


def _is_told(row: Row) -> bool:
    return row["verdict"] in TOLD


def _partner(row: Row) -> str:
    return f"← {row['partner']}" if row["role"] == "student" else row["partner"]


def _number(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: number(row[name], digits)


def _measured(name: str) -> Callable[[Row], str]:
    """A value of the row's metric."""
    return lambda row: number(row[name], digits_of(row["unit"]))


def _gain(side: str) -> Callable[[Row], str]:
    value, low, high = f"delta_{side}", f"delta_low_{side}", f"delta_high_{side}"
    return lambda row: with_span(row[value], row[low], row[high], digits_of(row["unit"]))


def _scaled(name: str, unit: float, digits: int) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{row[name] / unit:.{digits}f}"


def _effect(name: str) -> Callable[[Row], str]:
    low, high = f"{name}_low", f"{name}_high"
    return lambda row: with_span(row[name], row[low], row[high], digits_of(row["unit"]))


def _printed(row: Row) -> str:
    spread = "" if row["paper_std"] is None else f" ± {row['paper_std']:.3f}"
    return f"{signed(row['paper_delta'], 3)}{spread}"


def _pupil(row: Row) -> str:
    return f"{row['model']} {'←' if row['objective'] == 'kl_dp' else '+'} {row['partner']}"


def _pupil_of_videos(row: Row) -> str:
    return f"{row['model']} + {row['partner']}"


def _run(row: Row) -> str:
    if row["seeds"] is None:
        return "–"
    return f"{row['our_objective']} {row['recipe_id'][:6]} ×{row['seeds']}"


def _short_weights(row: Row) -> str:
    identity = row["weights"] or ""
    return identity if " " in identity else identity[:6]


def _name(key: str = "model", **how: Any) -> Column:
    """A column of names, which stands again in each part of a table that is too wide."""
    return Column(key, lambda row: row[key], words=True, head=True, **how)


def _same(title: str, cell: Callable[[Row], str], drop: int = 0, **how: Any) -> Column:
    return Column(title, cell, drop, same=True, words=True, **how)


_SEEDS = Column("seeds", lambda r: str(r["seeds"]), 5, same=True)
_OBJECTIVE = _same("objective", lambda r: r["objective"] or NONE, apart=True)
_RECIPE = _same("recipe", lambda r: (r["recipe_id"] or NONE)[:6], apart=True)
_DATA = _same("data", lambda r: r["data_id"][:6], apart=True)
_METRIC = _same(
    "metric",
    lambda r: f"{r['metric']}{', ' + difference_unit(r['unit']) if r['unit'] else ''}",
    apart=True,
)
_SET = _same("on", lambda r: r["eval_set"], apart=True)
_SETTING = [_METRIC, _SET, _OBJECTIVE, _RECIPE, _DATA]
_SELF = Column("self", lambda r: signed(r["self_delta"], digits_of(r["unit"])), 7, same=True)
_OVER_SELF = Column("over self [95%]", over_self_text, 3)
_CONTROL = Column("control", lambda r: signed(r["control_delta"], digits_of(r["unit"])), 6)

VIEWS: dict[str, list[Column]] = {
    **search_views.VIEWS,
    "check": [
        _same("kind", lambda r: r["kind"]),
        Column("name", lambda r: r["name"], words=True, head=True),
        Column("params M", _scaled("params", 1e6, 2)),
        Column("GFLOPs", _scaled("flops", 1e9, 2)),
        Column("mem. GB", _scaled("memory", 1e9, 2)),
        Column(f"{TOP1.title} %", _number(TOP1.name, 1)),
        Column("input", lambda r: r["input"] or NONE, words=True),
        Column("weights", _short_weights, words=True),
        Column("licence", lambda r: r["licence"] or "", words=True),
    ],
    "partners": [
        Column("partner", _partner, words=True, head=True),
        Column("net Δ [95%]", net_text, strong=_is_told),
        Column("verdict", _verdict, words=True, strong=_is_told),
        Column("q", _number("q_value", 3), 4),
        Column("Δ [95%]", delta_text, 1),
        _CONTROL,
        _SELF,
        _OVER_SELF,
        Column("best?", standing, 2),
        Column("recovered %", lambda r: recovered(r["recovered"], 1), 8),
        _SEEDS,
        *_SETTING,
    ],
    "pairs": [
        Column("a", lambda r: r["model_a"], words=True, head=True),
        Column("b", lambda r: r["model_b"], words=True, head=True),
        Column("Δ a [95%]", _gain("a")),
        Column("Δ b [95%]", _gain("b")),
        Column("a before", _measured("score_a"), 3),
        Column("b before", _measured("score_b"), 3),
        Column("ensemble", _measured("ensemble"), 2),
        Column("error overlap", _number("error_overlap", 3), 4),
        Column("disagreement", _number("disagreement", 3), 5),
        Column("κ", _number("kappa", 3), 6),
        _OBJECTIVE,
        _RECIPE,
        _DATA,
    ],
    "paper 2": [
        Column("model", _pupil, words=True, head=True),
        Column("Δ", _printed),
        Column("ours [95%]", delta_text),
        Column("net Δ [95%]", net_text),
        _same("run", _run, 1),
    ],
    "paper 4": [
        Column("model", _pupil, words=True, head=True),
        Column("before", _number("paper_before", 2)),
        Column("ours", _number("before", 2)),
        Column("Δ", _printed),
        Column("ours [95%]", delta_text),
        Column("net Δ [95%]", net_text),
        _same("run", _run, 1),
    ],
    "paper 3": [
        Column("model", _pupil, words=True, head=True),
        Column("Δ", _printed),
        Column("ours", lambda r: signed(r["delta"])),
        Column("ens.", _number("paper_ensemble", 2)),
        Column("ours", _number("ensemble_before", 2)),
        Column("rec. %", lambda r: f"{r['paper_recovered']:g}"),
        Column("ours", lambda r: recovered(r["recovered"], 1)),
        _same("run", _run, 1),
    ],
    "paper 6a": [
        _name(),
        Column("K", lambda r: str(1 + len(r["partner"].split(" + ")))),
        Column("Δ", _printed),
        Column("ours [95%]", delta_text),
        Column("net Δ [95%]", net_text),
        _same("run", _run, 1),
    ],
    "paper videos": [
        Column("model", _pupil_of_videos, words=True, head=True),
        _same("data", lambda r: r["data"]),
        Column("metric", lambda r: r["metric"], words=True, head=True),
        Column("before", _number("paper_before", 3)),
        Column("ours", _number("before", 3)),
        Column("Δ", lambda r: signed(r["paper_delta"], 3)),
        Column("ours [95%]", delta_text),
        Column("net Δ [95%]", net_text),
    ],
    "groups": [
        _name(),
        Column("models", lambda r: str(r["size"]), head=True),
        Column("groups", lambda r: str(r["groups"])),
        Column("net Δ [95%]", net_text),
        Column("Δ [95%]", delta_text),
        _CONTROL,
        _SEEDS,
        *_SETTING,
    ],
    "teachers": [
        _name(),
        Column("teaches [95%]", _effect("teaches")),
        Column("students", lambda r: str(r["students"]), 4),
        Column("learns [95%]", _effect("learns")),
        Column("teachers", lambda r: str(r["teachers"]), 4),
        _same("of", lambda r: "net Δ" if r["measure"] == "net_delta" else "Δ"),
        *_SETTING,
    ],
    "flips": [
        _name(),
        Column("partner", _partner, words=True, head=True),
        Column("gained", _number("gained", 1)),
        Column("it knew", _number("gained_known", 1), 3),
        Column("control", _number("control_gained", 1), 2),
        Column("lost", _number("lost", 1)),
        Column("it had known", _number("lost_known", 1), 3),
        Column("control lost", _number("control_lost", 1), 2),
        Column("of", lambda r: f"{r['n']:,}", same=True),
        *_SETTING,
    ],
    "curves": [
        _name(),
        Column("partner", lambda r: r["partner"] or NONE, words=True, head=True),
        Column("epoch", lambda r: str(r["epoch"]), head=True),
        Column("score", _number("score", 2)),
        Column("train score", _number("train_score", 2), 2),
        Column("loss", _number("loss", 3), 3),
        Column("kl", _number("kl", 4), 4),
        Column("taught", _number("teacher_share", 2), 5),
        _SEEDS,
        _OBJECTIVE,
        _RECIPE,
        _DATA,
    ],
    "merged": [
        Column("table", lambda r: r["table"], words=True),
        Column("files merged", lambda r: f"{r['files']:,}"),
        Column("into", lambda r: str(r["into"])),
        Column("MB", _scaled("bytes", 1e6, 1)),
    ],
    "classes": [
        Column("partner", _partner, words=True, head=True),
        Column("class", lambda r: str(r["label"]), head=True),
        Column("name", lambda r: r["name"] or "", 4, words=True),
        Column("n", lambda r: str(r["n"]), 3),
        Column("before", _measured("before")),
        Column("Δ", lambda r: signed(r["delta"], digits_of(r["unit"]))),
        _CONTROL,
        _SEEDS,
        *_SETTING,
    ],
    "jobs": [
        Column("members", lambda r: r["members"], words=True, head=True),
        Column("objective", lambda r: r["objective"], words=True),
        Column("done", lambda r: str(r["done"])),
        Column("to do", lambda r: NONE if r["to_do"] is None else str(r["to_do"]), 1),
        Column("failed", lambda r: str(r["failed"])),
    ],
    "failures": [
        Column("job", lambda r: r["job_id"], words=True, head=True),
        Column("members", lambda r: " + ".join(r["members"]), words=True),
        Column("objective", lambda r: r["objective"], words=True),
        Column("seed", lambda r: str(r["seed"])),
        Column("error", lambda r: (r["error"] or "").partition("\n")[0], words=True),
    ],
}

EMPTY = {
    **search_views.EMPTY,
    "partners": "no finished job with a partner; see bikd status",
    "pairs": "no pair has been measured yet; run bikd baseline SPEC",
    "matrix": "no pair has been measured yet; run bikd baseline SPEC",
    "groups": "no finished job with a partner; see bikd status",
    "teachers": "no finished job of a pair, so nobody has taught yet; see bikd status",
    "flips": "no finished job with a partner; see bikd status",
    "classes": "no finished job with a partner; see bikd status",
    "curves": "no finished job; see bikd status",
    "jobs": "no job has run yet; run bikd sweep SPEC",
    "failures": "no job has failed",
    "baselines": "no model has been measured yet; run bikd baseline SPEC",
    "findings": "nothing is wrong",
    "merged": "nothing to merge",
}
"""What to say where an answer has no rows, and what to do."""


HEADLINE = [
    _name(),
    Column("best partner", lambda r: _partner(r) + (" (tie)" if r["tie"] else ""), words=True),
    Column("verdict", _verdict, words=True, strong=_is_told),
    Column("net Δ [95%]", net_text, strong=_is_told),
    Column("Δ", lambda r: signed(r["delta"], digits_of(r["unit"])), 2),
    Column("control", lambda r: signed(r["control_delta"], digits_of(r["unit"])), 4),
    Column("self", lambda r: signed(r["self_delta"], digits_of(r["unit"])), 3, same=True),
    Column("before", _measured("before"), 7),
    *_SETTING,
]
