"""Objectives side by side: the same learner with the same partner, taught in different ways."""

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa

from bikd_dashboards.figures import TICK, Interval
from bikd_dashboards.formatting import label
from bikd_dashboards.headline import interval
from bikd_dashboards.marks import hover_text, interval_marks
from bikd_dashboards.theme import GREY, LIGHT, LINES, SYMBOLS
from bikd_dashboards.units import difference_title
from bikd_ray.metrics import Metric
from bikd_ray.store.contrasts import ObjectiveSummary, most_different, ordered, summaries
from bikd_ray.store.pairings import one_partner

CONTROL = "ce"
MARKS = tuple(symbol for symbol in SYMBOLS if symbol != "square")
"""The square is the control's."""


@dataclass(frozen=True)
class ObjectiveLine:
    """One learner with one partner; `gains` has Δ for each objective that trained it."""

    learner: str
    partner: str
    gains: tuple[tuple[str, Interval], ...]


@dataclass(frozen=True)
class Objectives:
    names: tuple[str, ...]
    lines: tuple[ObjectiveLine, ...]
    summaries: tuple[ObjectiveSummary, ...]
    left_out: int = 0


def objectives_info(
    gains: pa.Table, controls: pa.Table, names: Mapping[str, str], most: int = 40
) -> Objectives:
    """Every learner and partner that several objectives (the control included) have trained.

    gains: rows of one data set, recipe and selection, all objectives. most: lines to keep, those
    whose objectives differ most.
    """
    single, partner = one_partner(gains)
    columns = ["model_id", "objective", "delta", "delta_low", "delta_high", "net_delta", "unit"]
    one = single.select(columns).append_column("partner", partner)
    order = ordered(one["objective"].unique().to_pylist())
    alone = {r["model_id"]: interval(r, "delta") for r in controls.to_pylist()}
    kept, left_out = most_different(one, {i: c.value for i, c in alone.items() if c}, most)
    found: dict[tuple[str, str], dict[str, Interval]] = {}
    for row in kept.to_pylist():
        gain = Interval(row["delta"], row["delta_low"], row["delta_high"], unit=row["unit"])
        found.setdefault((row["model_id"], row["partner"]), {})[row["objective"]] = gain
    place = {model_id: i for i, model_id in enumerate(names)}
    lines = []
    for learner, partner in sorted(found, key=lambda pair: [place[i] for i in pair]):
        by = found[learner, partner]
        values = [(name, by[name]) for name in order if name in by]
        control = alone.get(learner)
        values += [(CONTROL, control)] if control else []
        lines.append(ObjectiveLine(names[learner], names[partner], tuple(values)))
    labels = (*order, *([CONTROL] if alone else []))
    return Objectives(labels, tuple(lines), summaries(one, order), left_out)


def objectives_figure(info: Objectives, metric: Metric) -> go.Figure:
    """A row for each learner and partner, a mark for each objective, open where zero is inside."""
    figure = go.Figure()
    count = len(info.names)
    for slot, name in enumerate(info.names):
        control = name == CONTROL
        colour = GREY if control else LINES[slot % len(LINES)]
        symbol = "square" if control else MARKS[slot % len(MARKS)]
        rows = [
            (i + (slot - (count - 1) / 2) * 0.7 / count, gain, line)
            for i, line in enumerate(info.lines)
            for objective, gain in line.gains
            if objective == name
        ]
        figure.add_trace(
            interval_marks(
                "x",
                [gain for _, gain, _ in rows],
                [y for y, _, _ in rows],
                [_hover(name, gain, line) for _, gain, line in rows],
                symbol,
                colour,
                size=9,
                thickness=1.6,
                mode="markers",
                marker_color=colour,
                name="ce (control)" if control else label(name),
            )
        )
    figure.update_layout(
        template=LIGHT,
        height=120 + (16 * count + 14) * len(info.lines),
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        showlegend=True,
        hovermode="closest",
    )
    figure.update_xaxes(zeroline=True, zerolinewidth=1.5, title=f"Δ {difference_title(metric)}")
    figure.update_yaxes(
        tickvals=list(range(len(info.lines))),
        ticktext=[
            f"<b>{label(line.learner, TICK)}</b> <br>with {label(line.partner, TICK)} "
            for line in info.lines
        ],
        range=[len(info.lines) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )
    return figure


def _hover(objective: str, gain: Interval, line: ObjectiveLine) -> str:
    if objective == CONTROL:
        who = f"<b>{label(line.learner)}</b> alone (control)"
    else:
        who = f"<b>{label(line.learner)}</b> with <b>{label(line.partner)}</b>"
    return hover_text(who, f"{label(objective)}: Δ {gain.text}", gain)
