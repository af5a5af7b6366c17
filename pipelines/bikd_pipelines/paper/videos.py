"""What the paper prints of video saliency, Tables 5 and 6b, with ours beside it.

CC and NSS only, of one run, at the epoch that was best on the videos shown; before and after are
each model's own authors' scripts, which differ in resizing, blur and frames without a truth.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bikd_pipelines.paper.compare import OBJECTIVES, OURS
from bikd_ray.store import Store
from bikd_ray.store.answer_schemas import GAINS
from bikd_ray.store.read import pc

Row = dict[str, Any]

TMFI, S, A = "TMFI-Net", "ViNet-S", "ViNet-A"
DHF1K, HOLLYWOOD2 = "dhf1k", "hollywood2"

BEFORE = {
    (DHF1K, TMFI): (0.552, 3.188),
    (DHF1K, S): (0.529, 3.008),
    (DHF1K, A): (0.525, 3.019),
    (HOLLYWOOD2, TMFI): (0.737, 4.054),
    (HOLLYWOOD2, S): (0.728, 3.941),
    (HOLLYWOOD2, A): (0.756, 4.119),
}
"""CC and NSS of Table 5, by data set and model."""


@dataclass(frozen=True)
class VideoFigure:
    """One model of one table, after Bi-KD: CC and NSS."""

    table: str
    data: str
    model: str
    partners: tuple[str, ...]
    after: tuple[float, float]


FIGURES = (
    VideoFigure("5", DHF1K, TMFI, (A,), (0.558, 3.216)),
    VideoFigure("5", DHF1K, A, (TMFI,), (0.536, 3.077)),
    VideoFigure("5", HOLLYWOOD2, TMFI, (A,), (0.750, 4.148)),
    VideoFigure("5", HOLLYWOOD2, A, (TMFI,), (0.762, 4.198)),
    VideoFigure("6b", DHF1K, TMFI, (A, S), (0.561, 3.224)),
    VideoFigure("6b", DHF1K, A, (TMFI, S), (0.540, 3.087)),
    VideoFigure("6b", DHF1K, S, (TMFI, A), (0.533, 3.038)),
)

METRICS = ("cc", "nss")

ORIGINS = {"tmfi_net": TMFI, "vinet_s": S, "vinet_a": A}
"""By the zoo's names of the networks."""

TITLES = {
    "5": "Table 5, Bi-KD of TMFI-Net and ViNet-A: one run, at its best epoch on these videos",
    "6b": "Table 6b, Bi-KD of three models on DHF1K",
}

BESIDE = pa.schema(
    [
        ("table", pa.string()),
        ("data", pa.string()),
        ("model", pa.string()),
        ("partner", pa.string()),
        *((f"paper_{name}", pa.float64()) for name in ("before", "after", "delta")),
        *(GAINS.field(name) for name in OURS),
    ]
)


def compared(store: Store, selection: str = "last") -> pa.Table:
    """The paper's figures with ours, in the paper's order: a row a metric, and for each recipe and
    data set that the store has of it; columns `BESIDE`.
    """
    rows = []
    for metric, place in zip(METRICS, (0, 1), strict=True):
        ours = _ours(store, selection, metric)
        for figure in FIGURES:
            before, after = BEFORE[figure.data, figure.model][place], figure.after[place]
            theirs: Row = {
                "table": figure.table,
                "data": figure.data,
                "model": figure.model,
                "partner": " + ".join(figure.partners),
                "paper_before": before,
                "paper_after": after,
                "paper_delta": round(after - before, 3),
                "metric": metric,
                "unit": "",
            }
            key = (figure.data, figure.model, frozenset(figure.partners))
            found = ours.get(key, ())
            rows += [theirs | {name: row[name] for name in OURS} for row in found] or [theirs]
    return pa.Table.from_pylist(rows, BESIDE)


def parts(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Title and rows of each table."""
    for number, title in TITLES.items():
        yield title, table.filter(pc.equal(table["table"], number))


def _ours(
    store: Store, selection: str, metric: str
) -> dict[tuple[str, str, frozenset[str]], list[Row]]:
    """The store's gains of Bi-KD by the paper's data set, model and partners."""
    found: dict[tuple[str, str, frozenset[str]], list[Row]] = defaultdict(list)
    layouts = _layouts(store)
    known = store.table("metrics", ["metric"])["metric"].to_pylist()
    if not layouts or metric not in known:
        return found
    names = {
        row["model_id"]: ORIGINS.get((row["source"] or "").removeprefix("saliency:"))
        for row in store.table("models").to_pylist()
    }
    for row in store.gains(selection=selection, metric=metric).to_pylist():
        model, *partners = (names.get(i) for i in (row["model_id"], *row["partner_ids"]))
        layout = layouts.get(row["data_id"])
        if model and layout and None not in partners and row["objective"] in OBJECTIVES["bikd"]:
            mates = frozenset(partner for partner in partners if partner)
            found[layout, model, mates].append(row)
    return found


def _layouts(store: Store) -> dict[str, str]:
    """data_id to the layout of its val videos, where it is one of the paper's."""
    jobs = store.table("jobs", ["data_id", "data"]).to_pylist()
    found = {row["data_id"]: json.loads(row["data"] or "{}") for row in jobs}
    layouts = {data_id: data.get("val", {}).get("layout") for data_id, data in found.items()}
    return {data_id: name for data_id, name in layouts.items() if name in (DHF1K, HOLLYWOOD2)}
