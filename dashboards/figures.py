"""Pair heatmaps and forest plots. An info builder makes plain values of tables, a figure builder
draws them.

The tables come from `bikd_ray.store.Store` and hold one combination of data, recipe, objective
and selection. `names` maps each model_id to the name to show, in the order to show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa

from dashboards.theme import DIVERGING, LIGHT, SEQUENTIAL
from dashboards.wording import count, label, plain, signed, span

ALONE = "alone"
TICK = 24
"""Characters of a model's name on an axis; the whole name stands in the hover."""


@dataclass(frozen=True)
class Metric:
    """A number of a pair. `learner`: it belongs to the row's model, else to the pair as a whole.
    `tested`: it has a 95% interval that may include zero. `diverging`: zero is its middle.
    """

    title: str
    unit: str
    meaning: str
    learner: bool = False
    tested: bool = False
    diverging: bool = False
    digits: int = 2

    def text(self, value: float | None) -> str:
        return signed(value, self.digits) if self.diverging else plain(value, self.digits)


METRICS: dict[str, Metric] = {
    "net_delta": Metric(
        "net Δ top-1",
        "pp",
        "What the partner adds: the learner's gain with this partner minus its gain when trained "
        "alone, same recipe, images and seeds.",
        learner=True,
        tested=True,
        diverging=True,
    ),
    "delta_top1": Metric(
        "Δ top-1",
        "pp",
        "The learner's top-1 after training with this partner minus before. Compare along the row "
        "with the column “alone”: what is equal there is not the partner's doing.",
        learner=True,
        tested=True,
        diverging=True,
    ),
    "recovered": Metric(
        "recovered",
        "%",
        "Share of the way from the learner's own top-1 to that of the pair's ensemble that it "
        "went. Empty where the ensemble is not better than the learner.",
        learner=True,
        diverging=True,
        digits=0,
    ),
    "ensemble_top1": Metric(
        "ensemble top-1",
        "%",
        "Top-1 of the averaged probabilities of both models before any training.",
        digits=1,
    ),
    "error_overlap": Metric(
        "error overlap",
        "",
        "Of the images that at least one of the two gets wrong, the share that both get wrong. "
        "Low: they know different things.",
    ),
    "disagreement": Metric(
        "disagreement", "", "Share of images for which the two predict different classes."
    ),
    "kappa": Metric(
        "Cohen's κ",
        "",
        "Agreement on which images are hard, beyond chance. 1: the same ones, 0: unrelated.",
    ),
}


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; the ends are None where the method allows none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether there is an interval and zero lies outside of it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Cell:
    row: int
    column: int
    interval: Interval
    n: int
    seeds: int | None = None
    muted: bool = False


@dataclass(frozen=True)
class Heatmap:
    metric: str
    learners: tuple[str, ...]
    partners: tuple[str, ...]
    cells: tuple[Cell, ...]


def heatmap_info(
    metric: str, gains: pa.Table, controls: pa.Table, pairs: pa.Table, names: Mapping[str, str]
) -> Heatmap:
    """The matrix of one metric of `METRICS`: row = learner, column = partner.

    Δ top-1 has a last column with the controls. Groups of three or more are left out.
    """
    about = METRICS[metric]
    found: dict[tuple[str, str], tuple[Interval, int, int | None]] = {}
    if about.learner:
        ends = {"delta_top1": ("delta_low", "delta_high"), "net_delta": ("net_low", "net_high")}
        low, high = ends.get(metric, ("", ""))
        rows = [(r["partner_ids"][0], r) for r in gains.to_pylist() if len(r["partner_ids"]) == 1]
        if metric == "delta_top1":
            rows += [(ALONE, r) for r in controls.to_pylist()]
        for partner, r in rows:
            if r[metric] is not None:
                interval = Interval(r[metric], r.get(low), r.get(high))
                found[r["model_id"], partner] = (interval, r["n"], r["seeds"])
    else:
        for r in pairs.to_pylist():
            if r[metric] is not None:
                a, b = r["model_id_a"], r["model_id_b"]
                found[a, b] = found[b, a] = (Interval(r[metric]), r["n"], None)
    shown = {i for pair in found for i in pair}
    ids = [i for i in names if i in shown]
    columns = [*ids, ALONE] if ALONE in shown else ids
    cells = tuple(
        Cell(row, column, interval, n, seeds, about.tested and not interval.clear)
        for row, learner in enumerate(ids)
        for column, partner in enumerate(columns)
        if (learner, partner) in found
        for interval, n, seeds in [found[learner, partner]]
    )
    learners = tuple(names[i] for i in ids)
    return Heatmap(metric, learners, (*learners, *columns[len(ids) :]), cells)


def heatmap_figure(info: Heatmap) -> go.Figure:
    """Coloured cells with their numbers; those not told from zero are pale and not bold."""
    about = METRICS[info.metric]
    values = [c.interval.value for c in info.cells]
    if about.diverging:
        reach = max(map(abs, values), default=0.0) or 1.0
        if info.metric == "recovered":
            reach = min(reach, 100.0)  # a tiny room to the ensemble makes shares of any size
        low, high, scale = -reach, reach, DIVERGING
    else:
        low, high, scale = min(values, default=0.0), max(values, default=1.0), SEQUENTIAL
        if low == high:
            low, high = low - 0.5, high + 0.5
    figure = go.Figure(
        [
            _cells(info, [c for c in info.cells if not c.muted], 1.0, "<b>{}</b>"),
            _cells(info, [c for c in info.cells if c.muted], 0.4, "{}"),
        ]
    )
    rows, columns = len(info.learners), len(info.partners)
    steep = max(map(len, info.partners), default=0) > 9
    figure.update_layout(
        template=LIGHT,
        height=110 + 46 * rows + (60 if steep else 0),
        coloraxis={
            "colorscale": scale,
            "cmin": low,
            "cmax": high,
            "colorbar": {
                "orientation": "h",
                "thickness": 8,
                "len": 0.7,
                "y": 0,
                "yanchor": "top",
                "ypad": 14,
                "outlinewidth": 0,
                "ticksuffix": f" {about.unit}" if about.unit else "",
                "nticks": 5,
            },
        },
    )
    axis = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    figure.update_xaxes(
        **axis,
        side="top",
        tickvals=list(range(columns)),
        ticktext=[label(p, TICK) for p in info.partners],
        tickangle=-40 if steep else 0,
        range=[-0.5, columns - 0.5],
        title="partner" if about.learner else None,
    )
    figure.update_yaxes(
        **axis,
        tickvals=list(range(rows)),
        ticktext=[f"{label(p, TICK)} " for p in info.learners],
        range=[rows - 0.5, -0.5],
        title="learner" if about.learner else None,
    )
    return figure


def _cells(info: Heatmap, cells: Sequence[Cell], opacity: float, form: str) -> go.Heatmap:
    def grid(empty: Any) -> list[list[Any]]:
        return [[empty] * len(info.partners) for _ in info.learners]

    about, value, text, hover = METRICS[info.metric], grid(None), grid(""), grid("")
    for cell in cells:
        value[cell.row][cell.column] = cell.interval.value
        text[cell.row][cell.column] = form.format(about.text(cell.interval.value))
        hover[cell.row][cell.column] = _hover(info, cell)
    return go.Heatmap(
        x=list(range(len(info.partners))),
        y=list(range(len(info.learners))),
        z=value,
        text=text,
        texttemplate="%{text}",
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        opacity=opacity,
        xgap=3,
        ygap=3,
        coloraxis="coloraxis",
    )


def _hover(info: Heatmap, cell: Cell) -> str:
    about = METRICS[info.metric]
    learner, partner = label(info.learners[cell.row]), label(info.partners[cell.column])
    if cell.column >= len(info.learners):
        who = f"<b>{learner}</b> alone (control)"
    else:
        who = f"<b>{learner}</b> {'with' if about.learner else 'and'} <b>{partner}</b>"
    lines = [who, f"{about.title} {about.text(cell.interval.value)} {about.unit}".rstrip()]
    if cell.interval.low is not None:
        lines.append(f"95% interval {span(cell.interval.low, cell.interval.high)}")
    seeds = f"{count(cell.seeds, 'seed')}, " if cell.seeds else ""
    return "<br>".join([*lines, f"{seeds}n = {cell.n:,}"])
