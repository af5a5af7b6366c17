"""Class by class what two models gained from each other, as one heatmap.

Axes: M lines (a learner with its partner, or alone), C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from bikd_dashboards.figures import ROOMY, TICK
from bikd_dashboards.formatting import label
from bikd_dashboards.pair import class_title
from bikd_dashboards.theme import DIVERGING, LIGHT
from bikd_dashboards.units import difference_title
from bikd_ray.formatting import difference, signed
from bikd_ray.metrics import Metric

Row = Mapping[str, Any]


def class_map_figure(lines: Sequence[tuple[str, str, Sequence[Row]]], metric: Metric) -> go.Figure:
    """lines: for each learner its name, its partner's, and its rows of `Store.classes` with it."""
    names = {row["label"]: class_title(row) for _, _, rows in lines for row in rows}
    labels = sorted(names)
    titles, values = [], []
    for name, partner, rows in lines:
        of = {row["label"]: row for row in rows}
        titles.append(f"{label(name, TICK)} with {label(partner, TICK)}")
        values.append([of[c]["delta"] if c in of else None for c in labels])
        if any(row["control_delta"] is not None for row in rows):
            titles.append(f"{label(name, TICK)} alone")
            values.append([of[c]["control_delta"] if c in of else None for c in labels])
    value_MC = np.array(values, float)
    reach = float(np.nanmax(np.abs(value_MC))) or 1.0
    few = len(labels) <= ROOMY // 2
    spaced = {"xgap": 2, "ygap": 2} if len(labels) <= 2 * ROOMY else {}
    written = {"text": [[signed(v, 1) for v in line] for line in values]} if few else {}
    figure = go.Figure(
        go.Heatmap(
            z=value_MC.tolist(),
            coloraxis="coloraxis",
            hovertext=[
                [
                    f"{title}<br>{label(names[c])}: Δ {difference(v, metric.unit)}"
                    for c, v in zip(labels, line, strict=True)
                ]
                for title, line in zip(titles, values, strict=True)
            ],
            hoverinfo="text",
            hoverongaps=False,
            texttemplate="%{text}" if few else None,
            **written,
            **spaced,
        )
    )
    figure.update_layout(
        template=LIGHT,
        height=120 + 40 * len(titles),
        coloraxis={
            "colorscale": DIVERGING,
            "cmin": -reach,
            "cmax": reach,
            "colorbar": {
                "orientation": "h",
                "thickness": 8,
                "len": 0.7,
                "y": 0,
                "yanchor": "top",
                "ypad": 14,
                "outlinewidth": 0,
                "nticks": 5,
                "title": {"text": f"Δ {difference_title(metric)}", "side": "bottom"},
            },
        },
    )
    axis = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    some = range(0, len(labels), max(1, len(labels) // ROOMY))
    figure.update_xaxes(
        **axis,
        side="top",
        title="class",
        tickvals=list(some),
        ticktext=[label(names[labels[i]].removeprefix("class "), 12) for i in some],
    )
    figure.update_yaxes(
        **axis,
        tickvals=list(range(len(titles))),
        ticktext=[f"{title} " for title in titles],
        range=[len(titles) - 0.5, -0.5],
    )
    return figure
