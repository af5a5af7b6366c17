"""One pair, opened: what both know, what each learned and forgot, and in which classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from bikd_dashboards.figures import TICK
from bikd_dashboards.formatting import label
from bikd_dashboards.theme import BLUE, GREY, LIGHT, PURPLE, VERMILION
from bikd_dashboards.units import difference_title
from bikd_ray.analysis.cases import Case
from bikd_ray.formatting import count, difference
from bikd_ray.metrics import Metric

Row = Mapping[str, Any]

CLASSES = 24
"""Classes that are drawn: of more, those with the largest gains and losses."""

SHARES = {"both": "both right", "one": "exactly one right", "none": "both wrong"}


def cases_figure(cases: Sequence[Case]) -> go.Figure:
    """A stacked bar for each moment."""
    colours = dict(zip(SHARES, (BLUE, PURPLE, GREY), strict=True))
    figure = go.Figure(
        [
            go.Bar(
                x=[c.when for c in cases],
                y=[getattr(c, share) for c in cases],
                name=title,
                marker={"color": colours[share], "opacity": 0.85},
                hovertext=[_hover(c, share) for c in cases],
                hoverinfo="text",
            )
            for share, title in SHARES.items()
        ]
    )
    figure.update_layout(
        template=LIGHT,
        height=320,
        barmode="stack",
        bargap=0.25,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(title="share", tickformat=".0%", range=[0, 1])
    return figure


def _hover(case: Case, share: str) -> str:
    text = f"{case.when}: {SHARES[share]} {getattr(case, share):.1%}"
    if share == "one" and case.teacher is not None:
        text += f"<br>the teacher {case.teacher:.1%}, the student {case.one - case.teacher:.1%}"
    return text


def flips_figure(flips: Sequence[tuple[str, str, Row]]) -> go.Figure:
    """Images learned (right of 0) and forgotten (left), with the partner and alone.

    flips: for each learner its name, the other's, and its row of `Store.flips` with it.
    """
    rows: list[tuple[str, tuple[float, float, float, float]]] = []
    for name, partner, r in flips:
        learned, forgot = r["gained_known"], r["lost_known"]
        parts = (learned, r["gained"] - learned, forgot, r["lost"] - forgot)
        rows.append((f"{name} with {partner}", parts))
        if r["control_gained"] is not None:
            rows.append((f"{name}, alone", (0.0, r["control_gained"], 0.0, r["control_lost"])))
    kinds = (
        ("learned, the partner knew it", 1, BLUE, ""),
        ("learned otherwise", 1, BLUE, "/"),
        ("forgot, the partner knew it", -1, VERMILION, ""),
        ("forgot otherwise", -1, VERMILION, "/"),
    )
    figure = go.Figure(
        [
            go.Bar(
                y=list(range(len(rows))),
                x=[sign * parts[i] for _, parts in rows],
                orientation="h",
                name=title,
                marker={"color": colour, "pattern": {"shape": shape, "solidity": 0.35}},
                hovertext=[
                    f"<b>{label(name)}</b><br>{title}: {count(round(parts[i]), 'image')}"
                    for name, parts in rows
                ],
                hoverinfo="text",
            )
            for i, (title, sign, colour, shape) in enumerate(kinds)
        ]
    )
    figure.update_layout(
        template=LIGHT,
        height=150 + 40 * len(rows),
        barmode="relative",
        bargap=0.35,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    figure.update_xaxes(title="images, mean of the seeds", zeroline=True, zerolinewidth=1.5)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"{label(name, 30)} " for name, _ in rows],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def class_title(row: Row) -> str:
    """What a class is called; a name that is a number, or none, is one of several numbers here."""
    name = row["name"] or str(row["label"])
    return f"class {name}" if name.isdecimal() else name


@dataclass(frozen=True)
class ClassBar:
    title: str
    n: int
    delta: float
    control: float | None


@dataclass(frozen=True)
class Classes:
    model: str
    partner: str
    gains: tuple[ClassBar, ...]
    left_out: int


def classes_info(model: str, partner: str, rows: Sequence[Row]) -> Classes:
    """Δ class by class, the largest gain first. rows: of `Store.classes`, one partner set."""
    ranked = sorted(rows, key=lambda r: -r["delta"])
    half = CLASSES // 2
    shown = ranked if len(ranked) <= CLASSES else [*ranked[:half], *ranked[-half:]]
    gains = (ClassBar(class_title(r), r["n"], r["delta"], r["control_delta"]) for r in shown)
    return Classes(model, partner, tuple(gains), len(ranked) - len(shown))


def classes_figure(info: Classes, metric: Metric) -> go.Figure:
    """A bar for each class, and a mark where training alone has brought it."""
    figure = go.Figure(
        go.Bar(
            x=[c.delta for c in info.gains],
            y=list(range(len(info.gains))),
            orientation="h",
            name=f"with {label(info.partner, TICK)}",
            marker={"color": [BLUE if c.delta >= 0 else VERMILION for c in info.gains]},
            hovertext=[
                f"{label(c.title)}, n = {c.n:,}<br>Δ {difference(c.delta, metric.unit)}"
                + ("" if c.control is None else f"<br>alone {difference(c.control, metric.unit)}")
                for c in info.gains
            ],
            hoverinfo="text",
        )
    )
    control = [(i, c.control) for i, c in enumerate(info.gains) if c.control is not None]
    if control:
        figure.add_trace(
            go.Scatter(
                x=[delta for _, delta in control],
                y=[place for place, _ in control],
                mode="markers",
                name="alone (control)",
                marker={"symbol": "line-ns-open", "size": 12, "line": {"width": 3}, "color": GREY},
                hoverinfo="skip",
            )
        )
    figure.update_layout(
        template=LIGHT,
        height=110 + 22 * len(info.gains),
        showlegend=bool(control),
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        bargap=0.3,
    )
    figure.update_xaxes(
        title=f"Δ {difference_title(metric)} of the class", zeroline=True, zerolinewidth=1.5
    )
    figure.update_yaxes(
        tickvals=list(range(len(info.gains))),
        ticktext=[f"{label(c.title, TICK)} " for c in info.gains],
        range=[len(info.gains) - 0.5, -0.5],
        showgrid=False,
    )
    return figure
