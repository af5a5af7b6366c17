"""Our figures beside the paper's, for what a store holds."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from bikd_pipelines.paper.figures import BY_ORIGIN, MODELS, figures
from bikd_ray.specs import Objective
from bikd_ray.store import Store
from bikd_ray.store.answer_schemas import GAINS

Row = dict[str, Any]

OBJECTIVES = {
    "bikd": {
        Objective(ties=ties, detach_teacher=detach).label
        for ties in ("auto", "first", "last", "drop")
        for detach in (True, False)
    },
    "kl_dp": {"kl_dp", "kl_dp_supervised"},
}
"""The paper's objectives, and the labels of ours that are readings of the same method."""


def paper_name(model: Mapping[str, Any]) -> str | None:
    """The paper's name of a row of the store's `models`, or None if it is none of the paper's.

    The origin of its weights decides: timm's name with its tag, the torch hub entry, or the file
    name of the checkpoint. A name without a tag means whatever the installed timm makes of it, and
    is not enough. Where the origin says nothing (a factory, a folder, somebody's repository, a
    checkpoint of another name) the alias decides.
    """
    origin = weights_origin(model)
    if origin in BY_ORIGIN:
        return BY_ORIGIN[origin]
    if origin and not model["checkpoint"]:  # other weights, whatever they are called
        return None
    return model["model"] if model["model"] in MODELS else None


def weights_origin(model: Mapping[str, Any]) -> str | None:
    """What tells whose weights a model has; None where nothing does."""
    if model["checkpoint"]:
        return model["checkpoint"].rpartition("/")[2]
    kind, _, name = (model["source"] or "").partition(":")
    if kind == "timm":
        name = name.removeprefix("hf-hub:timm/")
        return None if ":" in name else name  # hf-hub:SOMEBODY/… or local-dir:…
    return name.rpartition(":")[2] if kind == "hub" else None


OURS = (
    "before",
    "after",
    "delta",
    "delta_low",
    "delta_high",
    "control_delta",
    "net_delta",
    "net_low",
    "net_high",
    "ensemble_before",
    "recovered",
    "seeds",
    "n",
    "metric",
    "unit",
    "eval_set",
    "interval",
    "selection",
    "data_id",
    "recipe_id",
    "model_id",
    "partner_ids",
)
"""Columns of GAINS; they mean here what they mean there."""

BESIDE = pa.schema(
    [
        ("table", pa.string()),
        ("model", pa.string()),
        ("partner", pa.string()),
        ("objective", pa.string()),
        *(
            (f"paper_{name}", pa.float64())
            for name in ("before", "after", "delta", "std", "ensemble", "recovered")
        ),
        ("our_model", pa.string()),
        ("our_objective", pa.string()),
        *(GAINS.field(name) for name in OURS),
    ]
)

TITLES = {
    "2 kl_dp": "Table 2, KL+DP: a frozen model teaches, the other learns",
    "2 bikd": "Table 2, Bi-KD: mean ± standard deviation of 3 seeds",
    "3 bikd": "Table 3, Bi-KD: one run, the ensemble, % recovered (Eq. 14)",
    "6a bikd": "Table 6a, Bi-KD among K models",
    "4 bikd": "Table 4, Bi-KD on ADE20K, mIoU: mean ± standard deviation of 5 runs",
}
"""By table and objective."""


def compared(store: Store, selection: str = "last") -> pa.Table:
    """The paper's figures with ours, in the paper's order; columns `BESIDE`.

    A figure has a row for each data set, recipe, objective and input that the store has of it,
    and one row with nulls for ours where it has none.
    """
    ours = _ours(store, selection)
    rows = []
    for figure in figures():
        theirs: Row = {
            "table": figure.table,
            "model": figure.model,
            "partner": " + ".join(figure.partners),
            "objective": figure.objective,
            "paper_before": figure.before,
            "paper_after": figure.after,
            "paper_delta": figure.delta,
            "paper_std": figure.std,
            "paper_ensemble": figure.ensemble,
            "paper_recovered": figure.recovered,
            "unit": "%",
        }
        key = (figure.model, frozenset(figure.partners), figure.objective)
        rows += [theirs | _gained(row) for row in ours.get(key, ())] or [theirs]
    return pa.Table.from_pylist(rows, BESIDE)


def parts(table: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """The tables that `beside` holds, one after the other: (title, number, rows)."""
    rows = table.to_pylist()
    for key, title in TITLES.items():
        found = [row for row in rows if f"{row['table']} {row['objective']}" == key]
        yield title, key.split()[0], pa.Table.from_pylist(found, BESIDE)


def _ours(store: Store, selection: str) -> dict[tuple[str, frozenset[str], str], list[Row]]:
    """The store's gains by the paper's names: (model, partners, objective)."""
    stored = store.table("models").to_pylist()
    names = {row["model_id"]: paper_name(row) for row in stored}
    meaning = {label: name for name, labels in OBJECTIVES.items() for label in labels}
    found = defaultdict(list)
    for row in store.gains(selection=selection).to_pylist():
        model, *partners = (names.get(i) for i in (row["model_id"], *row["partner_ids"]))
        objective = meaning.get(row["objective"])
        if model and objective and None not in partners:
            found[model, frozenset(partners), objective].append(row)
    return found


def _gained(row: Row) -> Row:
    ours = {name: row[name] for name in OURS}
    return {**ours, "our_model": row["model"], "our_objective": row["objective"]}
