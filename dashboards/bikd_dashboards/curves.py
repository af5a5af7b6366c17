"""Learning curves: what a model did over the epochs, with each partner and alone."""

from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa

from bikd_dashboards.formatting import label
from bikd_dashboards.theme import GREY, LIGHT, LINES, SYMBOLS
from bikd_ray.formatting import count
from bikd_ray.metrics import Metric

MEASURES = {
    "score": ("val {metric}", "On the val set; epoch 0 is the untouched model."),
    "loss": ("own loss", "Mean of the model's own loss on the training samples."),
    "kl": (
        "divergence, nats",
        "Mean divergence from whichever model taught each training sample; alone there is none.",
    ),
    "teacher_share": (
        "teacher share",
        "Share of training samples on which this model was the one that taught the others.",
    ),
}
"""Column of the curves: what the axis says, and what it means."""


@dataclass(frozen=True)
class CurveLine:
    """One partner's curve (mean over seeds); the control has no slot. Slots fix the colours."""

    partner: str
    slot: int | None
    epochs: tuple[int, ...]
    values: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Curves:
    model: str
    measure: str
    title: str
    lines: tuple[CurveLine, ...]


def curves_info(model: str, measure: str, primary: Metric, curves: pa.Table) -> Curves:
    """The lines of one model for one of `MEASURES`, the control last.

    primary: the metric that `score` is.

    curves: rows of `Store.curves()` with one data set, recipe and objective, and its control.
    Epochs without the measure are left out, and so is a line without any, and the share of a model
    that never teaches, as with frozen partners.
    """
    rows = curves.to_pylist()
    slots = {p: i for i, p in enumerate(sorted({r["partner"] for r in rows} - {""}))}
    found: dict[str, list[tuple[int, float, int]]] = {p: [] for p in [*slots, ""]}
    for r in rows:
        if r["model"] == model and r[measure] is not None:
            found[r["partner"]].append((r["epoch"], r[measure], r["seeds"]))
    lines = []
    for partner, points in found.items():
        frozen = measure == "teacher_share" and not any(value for _, value, _ in points)
        no_partner = partner == "" and measure in ("kl", "teacher_share")
        if points and not frozen and not no_partner:
            epochs, values, seeds = zip(*sorted(points), strict=True)
            lines.append(CurveLine(partner, slots.get(partner), epochs, values, seeds))
    named = ", ".join(filter(None, (primary.title, primary.unit)))
    return Curves(model, measure, MEASURES[measure][0].format(metric=named), tuple(lines))


def curves_figure(info: Curves) -> go.Figure:
    """A line with markers for each partner, the control dashed and grey."""
    title = info.title
    figure = go.Figure([_line(line, title) for line in info.lines])
    figure.update_layout(
        template=LIGHT,
        height=300 + 20 * (len(info.lines) // 3),
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        showlegend=True,
        hovermode="closest",
    )
    figure.update_xaxes(title="epoch", showgrid=False, showline=True, zeroline=False, nticks=8)
    if max((e for line in info.lines for e in line.epochs), default=0) <= 10:
        figure.update_xaxes(dtick=1)
    figure.update_yaxes(title=title, zeroline=False, nticks=6)
    if info.measure == "teacher_share":
        figure.update_yaxes(tickformat=".0%")
    return figure


def _line(line: CurveLine, title: str) -> go.Scatter:
    control = line.slot is None
    slot = line.slot or 0
    name = "alone (control)" if control else f"with {line.partner}"
    return go.Scatter(
        x=line.epochs,
        y=line.values,
        name=label(name, 34),
        mode="lines+markers",
        line={
            "color": GREY if control else LINES[slot % len(LINES)],
            "width": 2,
            "dash": "dash" if control else "solid",
        },
        marker={"symbol": "circle-open" if control else SYMBOLS[slot % len(SYMBOLS)], "size": 6},
        hovertext=[
            f"<b>{label(name)}</b><br>epoch {e}: {v:.4g} ({title})<br>{count(s, 'seed')}"
            for e, v, s in zip(line.epochs, line.values, line.seeds, strict=True)
        ],
        hoverinfo="text",
    )
