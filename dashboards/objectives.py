"""Objectives side by side: the same learner with the same partner, taught in different ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa

from dashboards.answers import interval
from dashboards.figures import TICK, Interval, pc
from dashboards.theme import GREY, LIGHT, LINES, SYMBOLS
from dashboards.wording import label, signed, span

CONTROL = "ce"
MARKS = tuple(symbol for symbol in SYMBOLS if symbol != "square")
"""The square is the control's."""


@dataclass(frozen=True)
class Line:
    """One learner with one partner; `gains` has Δ for each objective that trained it."""

    learner: str
    partner: str
    gains: tuple[tuple[str, Interval], ...]

    @property
    def spread(self) -> float:
        values = [gain.value for _, gain in self.gains]
        return max(values) - min(values)


@dataclass(frozen=True)
class Summary:
    """One objective against the first one, over the learners and partners that both trained.

    Δ and net Δ are means; ahead and behind count the cases in which its Δ is the higher or the
    lower one.
    """

    objective: str
    cases: int
    delta: float
    net: float | None
    shared: int
    difference: float | None
    ahead: int
    behind: int


@dataclass(frozen=True)
class Objectives:
    names: tuple[str, ...]
    lines: tuple[Line, ...]
    summaries: tuple[Summary, ...]
    left_out: int = 0


def objectives_info(
    gains: pa.Table, controls: pa.Table, names: Mapping[str, str], most: int = 40
) -> Objectives:
    """Every learner and partner that several objectives (the control included) have trained.

    gains: rows of one data set, recipe and selection, all objectives. most: lines to keep, those
    whose objectives differ most.
    """
    wanted = ["model_id", "partner_ids", "objective"]
    wanted += ["delta_top1", "delta_low", "delta_high", "net_delta"]
    one = gains.filter(pc.equal(pc.list_value_length(gains["partner_ids"]), 1)).select(wanted)
    order = _order(one["objective"].unique().to_pylist())
    found: dict[tuple[str, str], dict[str, tuple[Interval, float | None]]] = {}
    for row in one.to_pylist():
        gain = Interval(row["delta_top1"], row["delta_low"], row["delta_high"])
        key = row["model_id"], row["partner_ids"][0]
        found.setdefault(key, {})[row["objective"]] = gain, row["net_delta"]
    alone = {r["model_id"]: interval(r, "delta") for r in controls.to_pylist()}
    lines = []
    for (learner, partner), by in found.items():
        values = [(name, by[name][0]) for name in order if name in by]
        control = alone.get(learner)
        if control is not None:
            values.append((CONTROL, control))
        if len(values) > 1 and learner in names and partner in names:
            lines.append(Line(names[learner], names[partner], tuple(values)))
    shown = sorted(lines, key=lambda line: -line.spread)[:most] if len(lines) > most else lines
    place = {name: i for i, name in enumerate(names.values())}
    shown = sorted(shown, key=lambda line: (place[line.learner], place[line.partner]))
    labels = (*order, *([CONTROL] if alone else []))
    return Objectives(
        labels, tuple(shown), _summaries([*found.values()], order), len(lines) - len(shown)
    )


def _order(labels: Sequence[str]) -> list[str]:
    """With bikd first: the others are measured against it."""
    return sorted(labels, key=lambda name: (name.split("(")[0] != "bikd", name))


def _summaries(
    cases: Sequence[Mapping[str, tuple[Interval, float | None]]], order: Sequence[str]
) -> tuple[Summary, ...]:
    out = []
    for name in order:
        mine = [by[name] for by in cases if name in by]
        net = [value for _, value in mine if value is not None]
        both = [
            by[name][0].value - by[order[0]][0].value
            for by in cases
            if name in by and order[0] in by and name != order[0]
        ]
        out.append(
            Summary(
                name,
                len(mine),
                sum(gain.value for gain, _ in mine) / len(mine),
                sum(net) / len(net) if net else None,
                len(both),
                sum(both) / len(both) if both else None,
                sum(d > 0 for d in both),
                sum(d < 0 for d in both),
            )
        )
    return tuple(out)


def objectives_figure(info: Objectives) -> go.Figure:
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
            go.Scatter(
                x=[gain.value for _, gain, _ in rows],
                y=[y for y, _, _ in rows],
                mode="markers",
                name="ce (control)" if control else label(name),
                marker={
                    "symbol": [symbol if g.clear else f"{symbol}-open" for _, g, _ in rows],
                    "color": colour,
                    "size": 9,
                    "line": {"width": 2, "color": colour},
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [0 if g.high is None else g.high - g.value for _, g, _ in rows],
                    "arrayminus": [0 if g.low is None else g.value - g.low for _, g, _ in rows],
                    "color": colour,
                    "thickness": 1.6,
                    "width": 0,
                },
                hovertext=[_hover(name, g, line) for _, g, line in rows],
                hoverinfo="text",
            )
        )
    figure.update_layout(
        template=LIGHT,
        height=120 + (16 * count + 14) * len(info.lines),
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        showlegend=True,
        hovermode="closest",
    )
    figure.update_xaxes(zeroline=True, zerolinewidth=1.5, title="Δ top-1, percentage points")
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


def _hover(objective: str, gain: Interval, line: Line) -> str:
    if objective == CONTROL:
        who = f"<b>{label(line.learner)}</b> alone (control)"
    else:
        who = f"<b>{label(line.learner)}</b> with <b>{label(line.partner)}</b>"
    lines = [who, f"{label(objective)}: Δ {signed(gain.value)} pp"]
    if gain.low is not None:
        lines.append(f"95% interval {span(gain.low, gain.high)}")
    return "<br>".join(lines)
