"""The pair heatmap. An info builder makes plain values of tables, a figure builder draws them.

The tables come from `bikd_ray.store.Store` and hold one combination of data, recipe, objective
and selection. `names` maps each model_id to the name to show, in the order to show it.

Axes of arrays: L learners (rows), P partners (columns).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute

from bikd_dashboards.formatting import label
from bikd_dashboards.theme import DIVERGING, LIGHT, NEUTRAL, REVERSED, SEQUENTIAL
from bikd_ray.formatting import difference, difference_unit, digits_of, plain, signed, span
from bikd_ray.metrics import Metric
from bikd_ray.store.pairings import one_partner
from bikd_ray.store.verdicts import TOLD

pc: Any = pyarrow.compute  # most of its functions are made at import, where no checker sees them

ALONE, ALONE_ID = "alone", ""
OWN = "old self"
ROOMY = 30
"""Models up to which every cell has its number; above, cells are for the eye and the hover."""
SATURATED = 0.8
"""Share of the coloured cells below which a diverging scale ends."""
ARRAYS = ("value_LP", "low_LP", "high_LP", "seeds_LP", "n_LP", "told_LP", "expected_LP")
TICK = 24
"""Characters of a model's name on an axis; the whole name stands in the hover."""


GAINED = ("net_delta", "delta")
"""Of COMPARED those of which a search's model expects something."""

HATCHED = "\u2571\u2571\u2571"
"""Strokes in a cell that was not trained."""

OF_METRIC = "of the metric"
"""A unit: that of a difference of the metric which a page shows."""


@dataclass(frozen=True)
class HeatmapMetric:
    """A number of a pair. `learner`: it belongs to the row's model, else to the pair as a whole.
    `tested`: coloured only where net Δ is told from 0. `diverging`: zero is its middle.
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


_COMPARED: dict[str, HeatmapMetric] = {
    "net_delta": HeatmapMetric(
        "net Δ {metric}",
        OF_METRIC,
        "What the partner adds: the learner's gain with this partner minus its gain when trained "
        "alone, same recipe, data and seeds.",
        learner=True,
        tested=True,
        diverging=True,
    ),
    "delta": HeatmapMetric(
        "Δ {metric}",
        OF_METRIC,
        "The learner's {metric} after training with this partner minus before. Compare along the "
        "row with the column “alone”: what is equal there is not the partner's doing.",
        learner=True,
        tested=True,
        diverging=True,
    ),
    "recovered": HeatmapMetric(
        "recovered",
        "%",
        "Share of the way from the learner's own {metric} to that of the pair's ensemble that it "
        "went. Empty where the ensemble is not better than the learner, or the learner lost.",
        learner=True,
        tested=True,
        diverging=True,
        digits=0,
    ),
    "ensemble_gain": HeatmapMetric(
        "ensemble gain",
        OF_METRIC,
        "{metric} of the averaged probabilities of both models before any training, less the "
        "learner's own: the headroom the partner offers.",
        learner=True,
        diverging=True,
    ),
    "error_overlap": HeatmapMetric(
        "error overlap",
        "",
        "Of the images (of masks: the pixels) that at least one of the two gets wrong, the share "
        "that both get wrong. Low: they know different things.",
    ),
    "disagreement": HeatmapMetric(
        "disagreement",
        "",
        "Share of images (of masks: of pixels) for which the two predict different classes.",
    ),
    "kappa": HeatmapMetric(
        "Cohen's κ",
        "",
        "Agreement on what is hard, beyond chance. 1: the same ones, 0: unrelated.",
    ),
    "cca_before": HeatmapMetric(
        "CCA",
        "",
        "Mean canonical correlation of the two models' features before training. 1: one is a "
        "linear map of the other. Known where a job of the two has measured it.",
    ),
    "cca_after": HeatmapMetric(
        "CCA after",
        "",
        "Mean canonical correlation of the two models' features after training together. Higher "
        "than before: they have grown alike.",
    ),
}


COMPARED = tuple(_COMPARED)
"""What a matrix can show."""


def about(what: str, metric: Metric) -> HeatmapMetric:
    """One of COMPARED, in words for a metric."""
    known = _COMPARED[what]
    own = known.unit == OF_METRIC
    return replace(
        known,
        title=known.title.format(metric=metric.title),
        meaning=known.meaning.format(metric=metric.title),
        unit=difference_unit(metric.unit) if own else known.unit,
        digits=digits_of(metric.unit) if own else known.digits,
    )


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; the ends are None where the method allows none.

    told: whether it is told from 0 after the correction for all comparisons (q < 0.05). unit: of
    the metric whose difference it is.
    """

    value: float
    low: float | None = None
    high: float | None = None
    told: bool = False
    unit: str = "%"

    @property
    def text(self) -> str:
        """The value with its unit: `+0.42 pp`."""
        return difference(self.value, self.unit)

    @property
    def number(self) -> str:
        """The value with its sign, for a table whose caption has the unit."""
        return signed(self.value, digits_of(self.unit))

    @property
    def ends(self) -> str:
        """The interval in brackets; empty where there is none."""
        return span(self.low, self.high, digits_of(self.unit))


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A matrix of one of COMPARED; NaN where there is nothing.

    ids are those of the models, `learners` and `partners` their names; low and high are the ends
    of the 95% interval, seeds and n what it was measured with. expected is what a search's model
    expects of what it has not trained, infinite where it does not tell. The last partner may be
    ALONE, with the id ALONE_ID. told is 1 where net Δ is told from 0 (q < 0.05); detectable is the
    middle of what the cells could have shown.
    """

    what: str
    metric: Metric
    learner_ids: tuple[str, ...]
    partner_ids: tuple[str, ...]
    learners: tuple[str, ...]
    partners: tuple[str, ...]
    value_LP: np.ndarray
    low_LP: np.ndarray
    high_LP: np.ndarray
    seeds_LP: np.ndarray
    n_LP: np.ndarray
    told_LP: np.ndarray
    expected_LP: np.ndarray
    detectable: float = 0.0

    @property
    def about(self) -> HeatmapMetric:
        return about(self.what, self.metric)

    @property
    def known_LP(self) -> np.ndarray:
        return ~np.isnan(self.value_LP)

    @property
    def untrained_LP(self) -> np.ndarray:
        """Cells that a search has left untrained."""
        return ~np.isnan(self.expected_LP) & ~self.known_LP

    @property
    def muted_LP(self) -> np.ndarray:
        """Cells whose net Δ is not told from zero, where what is shown depends on it."""
        if not self.about.tested:
            return np.zeros_like(self.known_LP)
        return self.known_LP & (self.told_LP != 1)

    def taken(self, rows: np.ndarray) -> "Heatmap":
        """The models at these rows, in this order, on both axes; ALONE stays last."""
        columns = np.concatenate([rows, range(len(self.learners), len(self.partners))]).astype(int)
        arrays = {name: getattr(self, name)[np.ix_(rows, columns)] for name in ARRAYS}
        return replace(
            self,
            learner_ids=tuple(self.learner_ids[i] for i in rows),
            learners=tuple(self.learners[i] for i in rows),
            partner_ids=tuple(self.partner_ids[i] for i in columns),
            partners=tuple(self.partners[i] for i in columns),
            **arrays,
        )


def heatmap_info(
    what: str,
    metric: Metric,
    gains: pa.Table,
    controls: pa.Table,
    pairs: pa.Table,
    names: Mapping[str, str],
    expected: Mapping[tuple[str, str], float] | None = None,
) -> Heatmap:
    """The matrix of one of COMPARED: row = learner, column = partner.

    pairs: rows of the table `pairs`, with cca_before and cca_after where known. Δ has a
    last column with the controls. Groups of three or more are left out. expected: Δ of a learner
    with a partner that a search has left untrained, by their ids, and of its control by its own.
    """
    known = pa.array([*names, ALONE_ID], pa.string())
    shape = (len(names), len(names) + 1)
    arrays = {name.removesuffix("_LP"): np.full(shape, np.nan) for name in ARRAYS}

    def put(rows: pa.Table, learner: Any, partner: Any, **columns: Any) -> None:
        at = (pc.fill_null(pc.index_in(c, value_set=known), -1) for c in (learner, partner))
        row, column = (np.asarray(c) for c in at)
        there = (row >= 0) & (column >= 0)
        for name, values in columns.items():
            found = np.asarray(pc.cast(values, pa.float64()))
            arrays[name][row[there], column[there]] = found[there]

    if _COMPARED[what].learner and what != "ensemble_gain":
        ends = {"delta": ("delta_low", "delta_high"), "net_delta": ("net_low", "net_high")}
        fill = [one_partner(gains)]
        if what == "delta":
            fill.append((controls, pa.repeat(pa.scalar(ALONE_ID), len(controls))))
        for rows, partner in fill:
            bounds = zip(("low", "high"), ends.get(what, ()), strict=False)
            put(
                rows,
                rows["model_id"],
                partner,
                value=rows[what],
                seeds=rows["seeds"],
                n=rows["n"],
                told=pc.is_in(rows["verdict"], value_set=pa.array(TOLD)),
                **{name: rows[column] for name, column in bounds},
            )
    else:
        for learner, partner in ("ab", "ba"):
            value = (
                pc.subtract(pairs["ensemble"], pairs[f"score_{learner}"])
                if what == "ensemble_gain"
                else pairs[what]
            )
            ids = pairs[f"model_id_{learner}"], pairs[f"model_id_{partner}"]
            put(pairs, *ids, value=value, n=pairs["n"])
    told = expected or {}
    at = {model: i for i, model in enumerate(names)}
    for (learner, partner), gain in told.items() if what in GAINED else ():
        if learner != partner and learner in at and partner in at:
            less = 0.0 if what == "delta" else told.get((learner, learner), -np.inf)
            arrays["expected"][at[learner], at[partner]] = gain - less
    if what == "recovered":  # of a model that lost it says nothing
        arrays["value"][arrays["value"] < 0] = np.nan
    there = ~np.isnan(arrays["value"])
    shown = np.flatnonzero(there.any(1) | there[:, :-1].any(0))
    ids, titles = [*names], [*names.values()]
    whole = Heatmap(
        what,
        metric,
        tuple(ids),
        (*ids, ALONE_ID),
        tuple(titles),
        (*titles, ALONE),
        **{name: arrays[name.removesuffix("_LP")] for name in ARRAYS},
        detectable=_middle(gains["detectable"]),
    ).taken(shown)
    return whole if there[:, -1].any() else _without_alone(whole)


def _without_alone(info: Heatmap) -> Heatmap:
    return replace(
        info,
        partner_ids=info.partner_ids[:-1],
        partners=info.partners[:-1],
        **{name: getattr(info, name)[:, :-1] for name in ARRAYS},
    )


def _middle(values: pa.ChunkedArray) -> float:
    known = values.drop_null().to_numpy()
    return float(np.median(known)) if len(known) else 0.0


def _reach(info: Heatmap) -> float:
    """The end of a diverging scale: no less than what could have been found, and no more than
    most of the coloured cells need, as one large value would fade the others.
    """
    shown = np.abs(info.value_LP[info.known_LP & ~info.muted_LP])
    most = float(np.quantile(shown, SATURATED)) if shown.size else 0.0
    if info.what == "recovered":
        return min(most, 100.0) or 100.0
    return max(most, info.detectable) or 1.0


def heatmap_figure(info: Heatmap) -> go.Figure:
    """Coloured cells; those not told from zero are grey. Small ones have their numbers.

    A cell's x and y are the numbers of its column and row, so that a browser can draw a large
    matrix as an image; meta has what they stand for.
    """
    about = info.about
    known = info.value_LP[info.known_LP]
    if about.diverging:
        reach = _reach(info)
        low, high = -reach, reach
        scale = DIVERGING if info.metric.higher_is_better or info.what == "recovered" else REVERSED
    else:
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        scale = SEQUENTIAL
        if low == high:
            low, high = low - 0.5, high + 0.5
    rows, columns = len(info.learners), len(info.partners)
    roomy = columns <= ROOMY
    muted = info.muted_LP
    figure = go.Figure(
        [
            _cells(info, info.known_LP & ~muted, {"coloraxis": "coloraxis"}, "<b>{}</b>"),
            _cells(info, muted, {"coloraxis": "coloraxis2"}, "{}"),
            *(_hatched(info) if info.untrained_LP.any() else ()),
        ]
    )
    steep = max(map(len, info.partners), default=0) * columns > 80
    figure.update_layout(
        template=LIGHT,
        meta=_said(info),
        height=110 + 46 * rows + (60 if steep else 0) if roomy else min(900, 160 + 14 * rows),
        coloraxis2={"colorscale": NEUTRAL, "showscale": False},
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
    axis |= {"showticklabels": columns <= 2 * ROOMY}
    if not roomy:
        axis |= {"fixedrange": False, "tickfont": {"size": 9}}
        figure.update_layout(dragmode="pan")
    figure.update_xaxes(
        **axis,
        side="top",
        tickvals=list(range(columns)),
        ticktext=[label(p, TICK) for p in info.partners],
        tickangle=(-40 if roomy else -90) if steep else 0,
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


def _cells(info: Heatmap, shown_LP: np.ndarray, colours: dict[str, Any], form: str) -> go.Heatmap:
    about, roomy = info.about, len(info.partners) <= ROOMY
    rounded = np.round(info.value_LP, about.digits + 1).astype(np.float32)
    each: dict[str, Any] = {}
    if roomy:
        text = [[""] * len(info.partners) for _ in info.learners]
        for row, column in np.argwhere(shown_LP):
            text[row][column] = form.format(about.text(float(info.value_LP[row, column])))
        each = {"text": text, "texttemplate": "%{text}", "xgap": 3, "ygap": 3}
    return go.Heatmap(
        z=np.where(shown_LP, rounded, np.float32(np.nan)),
        hoverinfo="none",  # assets/cells.js makes the words of the one cell that is pointed at
        hoverongaps=False,
        **colours,
        **each,
    )


def _hatched(info: Heatmap) -> list[go.Heatmap]:
    """Cells that were not trained: pale, in the colour of what is expected, else grey."""
    told_LP = info.untrained_LP & np.isfinite(info.expected_LP)
    found = []
    for shown_LP, axis in (
        (told_LP, "coloraxis"),
        (info.untrained_LP & ~told_LP, "coloraxis2"),
    ):
        value_LP = np.where(np.isfinite(info.expected_LP), info.expected_LP, 0.0)
        one = _cells(replace(info, value_LP=value_LP), shown_LP, {"coloraxis": axis}, HATCHED)
        found.append(one.update(opacity=0.55))
    return found


def _said(info: Heatmap) -> dict[str, Any]:
    """What a cell says when it is pointed at, and which models it is of, for assets/cells.js.

    An array where cells differ, one number where they do not, None where there is nothing. Names
    are not escaped: they are set as text.
    """
    about, known = info.about, info.known_LP
    return {
        "title": about.title,
        "unit": about.unit,
        "digits": about.digits,
        "signed": about.diverging,
        "joint": " with " if about.learner else " and ",
        "learners": info.learners,
        "partners": info.partners,
        "learner_ids": info.learner_ids,
        "partner_ids": info.partner_ids,
        "low": _brief(info.low_LP, known),
        "high": _brief(info.high_LP, known),
        "seeds": _brief(info.seeds_LP, known),
        "n": _brief(info.n_LP, known),
    }


def _brief(values_LP: np.ndarray, known_LP: np.ndarray) -> np.ndarray | float | None:
    there = values_LP[known_LP]
    if np.isnan(there).all():
        return None
    return float(there[0]) if np.ptp(there) == 0 else values_LP.astype(np.float32)
