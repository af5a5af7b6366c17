"""How much of it is good: the gain against the number of models and against the epochs."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa

from bikd_dashboards.figures import Interval, pc
from bikd_dashboards.headline import interval
from bikd_dashboards.marks import hover_text, interval_marks
from bikd_dashboards.theme import BLUE, GREY, LIGHT
from bikd_dashboards.units import difference_title
from bikd_ray.formatting import count
from bikd_ray.metrics import Metric


@dataclass(frozen=True)
class Size:
    """The mean over all groups of one size that a model was in."""

    models: int
    groups: int
    delta: Interval
    net: Interval | None


@dataclass(frozen=True)
class Sizes:
    model: str
    sizes: tuple[Size, ...]
    control: Interval | None


def sizes_info(model_id: str, name: str, growth: pa.Table, control: Interval | None) -> Sizes:
    """The gain of one model for each K that it was trained with.

    growth: rows of `Store.groups()` of one setting.
    """
    rows = growth.filter(pc.equal(growth["model_id"], model_id)).sort_by("size").to_pylist()
    found = (
        Size(
            r["size"],
            r["groups"],
            Interval(r["delta"], r["delta_low"], r["delta_high"], unit=r["unit"]),
            interval(r, "net"),
        )
        for r in rows
    )
    return Sizes(name, tuple(found), control)


def sizes_figure(info: Sizes, metric: Metric) -> go.Figure:
    """Net Δ and Δ with their intervals over K; the control is K = 1."""
    figure = go.Figure()
    delta = [(s.models + 0.06, s.delta, s) for s in info.sizes]
    net = [(s.models - 0.06, s.net, s) for s in info.sizes if s.net]
    if net:
        figure.add_trace(_marks("net Δ", "diamond", BLUE, net))
    figure.add_trace(_marks("Δ", "circle", GREY, delta))
    if info.control:
        figure.add_trace(_marks("alone", "square", GREY, [(1.0, info.control, None)]))
    figure.update_layout(
        template=LIGHT,
        height=300,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        showlegend=True,
        hovermode="closest",
    )
    most = max((s.models for s in info.sizes), default=2)
    figure.update_xaxes(
        title="K, models that train together",
        tickvals=list(range(1, most + 1)),
        range=[0.5, most + 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title=difference_title(metric), zeroline=True, zerolinewidth=1.5, nticks=6)
    return figure


def _marks(
    name: str, symbol: str, colour: str, rows: Sequence[tuple[float, Interval, Size | None]]
) -> go.Scatter:
    hover = [hover_text(_about(size), f"{name} {i.text}", i) for _, i, size in rows]
    at, gains = [x for x, _, _ in rows], [i for _, i, _ in rows]
    line = {"color": colour, "width": 1.5, "dash": "dot"}
    how = {"mode": "lines+markers", "name": name, "line": line}
    return interval_marks("y", gains, at, hover, symbol, colour, **how)


def _about(size: Size | None) -> str:
    return f"K = {size.models}, {count(size.groups, 'group')}" if size else "K = 1, the control"
