"""Marks with 95% intervals, as several figures draw them."""

from collections.abc import Sequence
from typing import Any, Literal

import plotly.graph_objects as go

from bikd_dashboards.figures import Interval


def interval_marks(
    axis: Literal["x", "y"],
    gains: Sequence[Interval],
    at: Sequence[float],
    hover: Sequence[str],
    symbol: str,
    colour: str,
    size: int = 10,
    thickness: float = 1.8,
    **trace: Any,
) -> go.Scatter:
    """One kind of mark, filled where it is told from zero, with its interval along an axis.

    at: where each stands on the other axis. trace: what else the trace is told, such as
    marker_color where no line between the marks gives them theirs.
    """
    values = [gain.value for gain in gains]
    x, y = (values, [*at]) if axis == "x" else ([*at], values)
    error = {
        "type": "data",
        "symmetric": False,
        "array": [0 if g.high is None else g.high - g.value for g in gains],
        "arrayminus": [0 if g.low is None else g.value - g.low for g in gains],
        "color": colour,
        "thickness": thickness,
        "width": 0,
    }
    marker = {
        "symbol": [symbol if g.told else f"{symbol}-open" for g in gains],
        "size": size,
        "line": {"width": 2, "color": colour},
    }
    told = {"hovertext": [*hover], "hoverinfo": "text", f"error_{axis}": error, **trace}
    return go.Scatter(x=x, y=y, marker=marker, **told)


def hover_text(about: str, text: str, gain: Interval) -> str:
    """What a mark says: what it is about, its number in words, and its interval if it has one."""
    bounds = [] if gain.low is None else [f"95% interval {gain.ends}"]
    return "<br>".join([about, text, *bounds])
