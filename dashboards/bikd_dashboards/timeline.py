"""When each job ran: one bar a job, in as many rows as ran at once."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import plotly.graph_objects as go
import pyarrow as pa

from bikd_dashboards.formatting import label
from bikd_dashboards.theme import BLUE, GREY, LIGHT, VERMILION

TIMELINE = 3_000
"""Jobs up to which a timeline is drawn."""


@dataclass(frozen=True)
class Bar:
    """One job; begin, end: seconds since 1970. control: it had no partner."""

    lane: int
    begin: float
    end: float
    members: str
    objective: str
    seed: int
    failed: bool
    control: bool


@dataclass(frozen=True)
class Timeline:
    """busy: the share of lanes times duration in which a job ran."""

    bars: tuple[Bar, ...]
    lanes: int
    busy: float


def ended(attempt: str) -> float:
    """When an attempt was stored, seconds since 1970: an attempt begins with that, in hexadecimal
    milliseconds.
    """
    return int(attempt.partition("-")[0], 16) / 1000


def timeline(jobs: pa.Table) -> Timeline:
    """jobs: rows of the table `jobs`. Each takes the first lane that is free when it begins: the
    store does not hold which slot it ran in.
    """
    columns = ["attempt", "seconds", "members", "member_ids", "objective", "seed", "status"]
    rows = [row for row in jobs.select(columns).to_pylist() if row["seconds"] is not None]
    spans = [
        (ended(r["attempt"]) - r["seconds"], ended(r["attempt"]), i) for i, r in enumerate(rows)
    ]
    free: list[int] = []
    running: list[tuple[float, int]] = []
    bars, lanes = [], 0
    for begin, end, i in sorted(spans):
        while running and running[0][0] <= begin + SLACK:
            heapq.heappush(free, heapq.heappop(running)[1])
        if not free:
            heapq.heappush(free, lanes)
            lanes += 1
        lane = heapq.heappop(free)
        heapq.heappush(running, (end, lane))
        row = rows[i]
        bars.append(
            Bar(
                lane,
                begin,
                end,
                " + ".join(row["members"]),
                row["objective"],
                row["seed"],
                row["status"] == "failed",
                len(row["member_ids"]) == 1,
            )
        )
    return Timeline(tuple(bars), lanes, _busy(bars, lanes))


SLACK = 0.05
"""Seconds by which two jobs of one slot may seem to overlap."""


def _busy(bars: Sequence[Bar], lanes: int) -> float:
    if not bars:
        return 0.0
    whole = max(bar.end for bar in bars) - min(bar.begin for bar in bars)
    return min(1.0, sum(bar.end - bar.begin for bar in bars) / (lanes * whole)) if whole else 1.0


def timeline_figure(slots: Timeline) -> go.Figure:
    """Bars by what they were: with a partner, a control, failed."""
    kinds = (
        ("with a partner", BLUE, lambda b: not b.failed and not b.control),
        ("control", GREY, lambda b: not b.failed and b.control),
        ("failed", VERMILION, lambda b: b.failed),
    )
    figure = go.Figure()
    for name, colour, wanted in kinds:
        bars = [bar for bar in slots.bars if wanted(bar)]
        if bars:
            figure.add_trace(
                go.Bar(
                    y=[bar.lane for bar in bars],
                    base=[_moment(bar.begin) for bar in bars],
                    x=[1000 * (bar.end - bar.begin) for bar in bars],
                    orientation="h",
                    name=name,
                    marker={"color": colour, "line": {"width": 0}},
                    hovertext=[_hover(bar) for bar in bars],
                    hoverinfo="text",
                )
            )
    figure.update_layout(
        template=LIGHT,
        height=110 + 26 * slots.lanes,
        barmode="overlay",
        bargap=0.25,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    figure.update_xaxes(type="date", title="UTC")
    figure.update_yaxes(
        tickvals=list(range(slots.lanes)),
        ticktext=[f"slot {i + 1} " for i in range(slots.lanes)],
        range=[slots.lanes - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _hover(bar: Bar) -> str:
    text = f"<b>{label(bar.members)}</b><br>{label(bar.objective)}, seed {bar.seed}"
    return f"{text}<br>{bar.end - bar.begin:,.1f} s{', failed' if bar.failed else ''}"
