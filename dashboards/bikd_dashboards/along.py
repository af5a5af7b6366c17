"""What a model scores along one video, before and after it was taught."""

from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa

from bikd_dashboards.formatting import label
from bikd_dashboards.theme import BLUE, GREY, LIGHT, PURPLE
from bikd_ray.metrics import Metric
from bikd_ray.store.frames import most_moved


@dataclass(frozen=True)
class AlongLine:
    """One value a frame, None where the truth does not define it."""

    name: str
    column: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Along:
    """One video of a learner; video: its place in the set, frames: numbers in it, both from 1."""

    video: int
    title: str
    frames: tuple[int, ...]
    lines: tuple[AlongLine, ...]


STYLES = {
    "before": (GREY, "solid", "before"),
    "alone": (GREY, "dash", "alone (control)"),
    "partner": (PURPLE, "dot", "{partner}, before"),
    "after": (BLUE, "solid", "with {partner}"),
}
"""Column of `Store.along`: colour, dash and name of its line; the last lies on top."""


def along_info(partner: str, metric: Metric, rows: pa.Table) -> Along | None:
    """The video in which the learner moved most. rows: columns `answer_schemas.ALONG`. None where
    no video has several frames.
    """
    one = most_moved(rows)
    if one is None:
        return None
    frames = one.to_pydict()
    lines = [
        AlongLine(text.format(partner=partner), column, tuple(frames[column]))
        for column, (_, _, text) in STYLES.items()
        if one[column].null_count < len(one)
    ]
    title = ", ".join(filter(None, (metric.title, metric.unit)))
    numbers = tuple(frame + 1 for frame in frames["frame"])
    return Along(frames["video"][0] + 1, title, numbers, tuple(lines))


def along_figure(info: Along) -> go.Figure:
    """A line for each moment and model, over the frames."""
    figure = go.Figure([_line(info, line) for line in info.lines])
    figure.update_layout(
        template=LIGHT,
        height=330,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        showlegend=True,
        hovermode="closest",
    )
    figure.update_xaxes(title="frame", showgrid=False, showline=True, zeroline=False, nticks=8)
    figure.update_yaxes(title=info.title, zeroline=False, nticks=6)
    return figure


def _line(info: Along, line: AlongLine) -> go.Scatter:
    colour, dash, _ = STYLES[line.column]
    few = len(info.frames) <= 60
    return go.Scatter(
        x=info.frames,
        y=line.values,
        name=label(line.name, 34),
        mode="lines+markers" if few else "lines",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 5, "symbol": "circle" if dash == "solid" else "circle-open"},
        hovertext=[
            f"<b>{label(line.name)}</b><br>frame {frame}: {info.title} "
            + ("undefined" if value is None else f"{value:.4g}")
            for frame, value in zip(info.frames, line.values, strict=True)
        ],
        hoverinfo="text",
    )
