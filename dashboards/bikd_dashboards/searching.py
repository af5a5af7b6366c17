"""How far a search for best partners is: what each model's best is, and the regret by the cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from bikd_dashboards.blocks import Block, Link, Plot, Table, TableColumn, Tag, Text
from bikd_dashboards.headline import interval
from bikd_dashboards.snapshot import SettingView
from bikd_dashboards.theme import BLUE, GREY, LIGHT
from bikd_dashboards.units import units
from bikd_ray.formatting import NONE, difference_unit, digits_of, number, signed
from bikd_ray.store.verdicts import standing

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """One look of a search at what is stored. share: of the map's work, done or under way.
    regret: expected, mean over the targets; None before there is a model of gains.
    """

    share: float
    regret: float | None
    settled: int
    targets: int


def looks(decisions: Sequence[Row]) -> list[Look]:
    """decisions: rows of the table of one setting, in the order of time."""
    by_look: dict[str, list[Row]] = {}
    for row in decisions:
        by_look.setdefault(row["decision_id"], []).append(row)
    found = []
    for rows in by_look.values():
        known = [row["expected_regret"] for row in rows if row["expected_regret"] is not None]
        share = rows[0]["cost_done"] / rows[0]["cost_map"] if rows[0]["cost_map"] else 1.0
        regret = float(np.mean(known)) if known else None
        found.append(Look(share, regret, sum(bool(row["settled"]) for row in rows), len(rows)))
    return found


def regret_figure(found: Sequence[Look], aim: float, unit: str) -> go.Figure:
    """Expected regret over the share of the map's work; the aim as a line."""
    known = [one for one in found if one.regret is not None]
    figure = go.Figure(
        go.Scatter(
            x=[100 * one.share for one in known],
            y=[one.regret for one in known],
            mode="lines+markers",
            line={"color": BLUE, "width": 1.5},
            marker={"color": BLUE, "size": 6},
            hovertext=[
                f"{one.settled} of {one.targets} settled<br>expected regret {one.regret:.3f} {unit}"
                f"<br>{100 * one.share:.0f}% of the map"
                for one in known
            ],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.add_hline(
        y=aim,
        line={"color": GREY, "width": 1, "dash": "dot"},
        annotation_text=f"settled at {aim:g}",
        annotation_position="top right",
    )
    figure.update_layout(template=LIGHT, height=300)
    most = max((100 * one.share for one in known), default=100.0)
    figure.update_xaxes(title="work done, % of the map", range=[0, 1.08 * most])
    figure.update_yaxes(title=f"expected regret, {unit}".rstrip(", "), rangemode="tozero", nticks=6)
    return figure


def search_blocks(view: SettingView) -> list[Block]:
    """What a search has decided about a setting, where one has."""
    rows = view.decisions
    if not rows:
        return []
    found = looks(rows)
    last_id = rows[-1]["decision_id"]
    last = sorted(
        (row for row in rows if row["decision_id"] == last_id),
        key=lambda row: (
            list(view.names).index(row["model_id"]) if row["model_id"] in view.names else -1
        ),
    )
    unit, digits = difference_unit(view.metric.unit), digits_of(view.metric.unit)
    end, aim = found[-1], rows[-1]["regret"]
    share = f"{100 * end.share:.0f}% of the map"
    if end.regret is None:
        told = f"The search is at its first partners, {share}."
    else:
        regret = np.ceil(10**digits * end.regret - 1e-9) / 10**digits
        told = (
            f"{end.settled} of {end.targets} models are settled at {share}: what their best "
            f"partners are expected to lose against the truly best is {regret:.{digits}f} {unit} "
            "on average, by the model of gains."
        )
    shown = last[: view.limits.rows]
    table = Table(
        "Search",
        f"What the search says of each model, {unit}. A settled one is expected to lose at most "
        f"{aim:g}. Untrained better: the chance that some partner that was not trained is better "
        "by more than that.",
        (
            TableColumn("Model"),
            TableColumn("Best so far"),
            TableColumn("Settled"),
            TableColumn("Expected regret", number=True),
            TableColumn("Untrained better", number=True),
        ),
        tuple(
            (
                Link(_name(view, r["model_id"]), "model", (("model", r["model_id"]),)),
                _best(view, r),
                Tag("settled") if r["settled"] else "",
                number(r["expected_regret"], digits),
                NONE if r["chance_untrained"] is None else f"{r['chance_untrained']:.0%}",
            )
            for r in shown
        ),
        f"{len(last) - len(shown):,} more left out." if len(last) > len(shown) else "",
    )
    blocks: list[Block] = [Text("The search", "head"), Text(told), table]
    if sum(one.regret is not None for one in found) > 1:
        blocks.append(
            Plot(
                "search-regret",
                "Expected regret by cost",
                regret_figure(found, aim, unit),
                told,
                most=700,
                meaning="A mark for each look of the search at what is stored. Expected regret: "
                "what the partner that seems best loses against the truly best one, mean over the "
                "models; from the images that decide.",
            )
        )
    return blocks


def _best(view: SettingView, row: Row) -> str | Link:
    best = row["winner_id"]
    if best is None:
        return NONE
    pair = (("pair", f"{row['model_id']}~{best}"),)
    return Link(_name(view, best), "pairs", pair)


def _name(view: SettingView, model_id: str) -> str:
    return view.names.get(model_id) or model_id


def partners_table(view: SettingView, model_id: str) -> list[Block]:
    """What a search says of the partners of a model, on the units that chose none of them; nothing
    where none has searched, or all partners are trained.
    """
    rows = view.searched(model_id)
    if not rows:
        return []
    first, digits = rows[0], digits_of(view.metric.unit)
    how = (
        f"Chosen on {first['decided_on']:,} images, measured on the other {first['n']:,} (the "
        "figure above has all of them): these intervals hold whatever the search did."
        if first["half"]
        else f"Chosen and measured on the same {first['n']:,} images, with intervals for that."
    )
    shown = rows[: view.limits.rows]
    return [
        Text("What the search says", "head"),
        Table(
            "What the search says",
            f"{units(view.metric)}. {how} Expected Δ and the chance to be the best partner are the "
            "model's of gains, also of partners that were not trained.",
            (
                TableColumn("Partner"),
                TableColumn("Net Δ", number=True),
                TableColumn("Δ", number=True),
                TableColumn("Expected Δ", number=True),
                TableColumn("Chance best", number=True),
                TableColumn("Seeds", number=True),
            ),
            tuple(
                (
                    _partner(view, r),
                    interval(r, "net") if r["trained"] else NONE,
                    interval(r, "delta") if r["trained"] else "not trained",
                    signed(r["expected_delta"], digits),
                    NONE if r["chance_best"] is None else f"{r['chance_best']:.0%}",
                    str(r["seeds"] or ""),
                )
                for r in shown
            ),
            f"{len(rows) - len(shown):,} more left out." if len(rows) > len(shown) else "",
        ),
    ]


def _partner(view: SettingView, row: Row) -> tuple[Any, ...] | str:
    name = _name(view, row["partner_id"])
    if not row["trained"]:
        return name
    pair = Link(name, "pairs", (("pair", f"{row['model_id']}~{row['partner_id']}"),))
    return (pair, " ", Tag(standing(row)) if standing(row) else "")
