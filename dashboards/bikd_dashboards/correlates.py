"""Does what a pair knows before training predict what its models gain? Here, in this store."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from bikd_dashboards.figures import ALONE_ID, Heatmap, HeatmapMetric
from bikd_dashboards.formatting import label
from bikd_dashboards.theme import BLUE, GREY, LIGHT, SEQUENTIAL
from bikd_ray.analysis.correlation import LEAST, Correlation, centred, correlation
from bikd_ray.formatting import count, listed, plain, with_span

CLOUD = 2_000
"""Points up to which each is drawn; more are counted in a grid."""

COST = "cost"

REASONS = {
    "error_overlap": ("error overlap", "Low: the two fail on different images or pixels."),
    "ensemble_gain": ("ensemble gain", "High: together they would be much better than alone."),
    "accuracy_gap": (
        "partner less learner, before",
        "Right of 0: the partner is better.",
    ),
    COST: (
        "partner's GFLOPs an image",
        "A high mark on the left is a cheap partner that helps.",
    ),
}
"""What may explain a gain: axis, and how to read it."""


@dataclass(frozen=True, eq=False)
class Scatter:
    """One point for each learner and partner [M]; `within` compares only points of one learner."""

    reason: str
    gain: HeatmapMetric
    net: bool
    x_M: np.ndarray
    y_M: np.ndarray
    muted_M: np.ndarray
    learners_M: tuple[str, ...]
    partners_M: tuple[str, ...]
    models: int
    overall: Correlation | None
    within: Correlation | None


def scatter_info(reason: str, gain: Heatmap, x: Heatmap | np.ndarray) -> Scatter:
    """The gains of a matrix against a reason of `REASONS`.

    x: the heatmap of the reason; or a number of each model [L]: its metric for the accuracy gap,
    its cost for COST.
    """
    models = len(gain.learners)
    x_LL = np.full((models, models), np.nan)
    if isinstance(x, Heatmap):
        at = {model_id: i for i, model_id in enumerate(x.learner_ids)}
        rows = np.array([at.get(i, -1) for i in gain.learner_ids], int)
        there = rows >= 0
        x_LL[np.ix_(there, there)] = x.value_LP[np.ix_(rows[there], rows[there])]
    else:
        x_LL = x[None, :] - (0 if reason == COST else x[:, None])
        x_LL = np.broadcast_to(x_LL, (models, models)).copy()
        np.fill_diagonal(x_LL, np.nan)
    y_LL = gain.value_LP[:, :models]
    learner_M, partner_M = np.nonzero(~np.isnan(x_LL) & ~np.isnan(y_LL))
    x_M, y_M = x_LL[learner_M, partner_M], y_LL[learner_M, partner_M]
    ends = np.stack([learner_M, partner_M])
    few = len(x_M) <= CLOUD
    return Scatter(
        reason,
        gain.about,
        gain.what == "net_delta",
        x_M,
        y_M,
        gain.muted_LP[learner_M, partner_M],
        tuple(gain.learners[i] for i in learner_M) if few else (),
        tuple(gain.learners[i] for i in partner_M) if few else (),
        models,
        correlation(x_M, y_M, ends),
        correlation(centred(x_M, learner_M), centred(y_M, learner_M), ends),
    )


def says(info: Scatter) -> str:
    """The answer of one scatter in words."""
    if info.overall is None:
        return "Too few pairs have been trained to correlate anything."
    parts = [f"Over {count(len(info.x_M), 'case')} of {count(info.models, 'model')}: "]
    parts.append(_r(info.overall))
    if info.within is not None:
        parts.append(f"; among the partners of one learner: {_r(info.within)}")
    if info.overall.low is None:
        return "".join([*parts, f". No interval: that takes at least {LEAST} models."])
    told = "It helps to tell good partners from bad ones here."
    return "".join(
        [*parts, ". ", told if predicts(info) else "It cannot tell partners apart here."]
    )


def predicts(info: Scatter) -> bool:
    """Whether the interval of r, where there can be one among the partners of one learner,
    excludes 0.
    """
    ours = info.within or info.overall
    if ours is None or ours.low is None or ours.high is None:
        return False
    return ours.low > 0 or ours.high < 0


def conclusion(found: Mapping[str, Scatter]) -> str:
    """What all scatters together say, in a sentence; found: by what they are called."""
    infos = [*found.values()]
    models = max(info.models for info in infos)
    if all(info.overall is None or info.overall.low is None for info in infos):
        return f"Cannot tell: {count(models, 'model')} are too few; it takes at least {LEAST}."
    names = [name.lower() for name, info in found.items() if predicts(info)]
    gain = infos[0].gain.title
    if not names:
        return f"Nothing known before training predicts {gain} among the partners of a model here."
    return (
        f"What predicts {gain} among the partners of a model here (95%, each by itself): "
        f"{listed(names)}."
    )


def _r(found: Correlation) -> str:
    return f"r = {with_span(found.value, found.low, found.high)}"


def scatter_figure(info: Scatter) -> go.Figure:
    """Points, filled where the gain's interval leaves 0 out; of very many their counts."""
    figure = go.Figure()
    if len(info.x_M) > CLOUD:
        counts, x, y = np.histogram2d(info.x_M, info.y_M, bins=(70, 50))
        figure.add_trace(
            go.Heatmap(
                x=np.round((x[1:] + x[:-1]) / 2, 4).tolist(),
                y=np.round((y[1:] + y[:-1]) / 2, 3).tolist(),
                z=np.where(counts.T > 0, counts.T, np.array(None)).tolist(),
                colorscale=SEQUENTIAL,
                hovertemplate="%{z} cases near (%{x:.2f}, %{y:.2f})<extra></extra>",
                hoverongaps=False,
                showscale=False,
            )
        )
    else:
        for muted in (False, True):
            figure.add_trace(_points(info, np.flatnonzero(info.muted_M == muted), muted))
    if info.reason == "accuracy_gap":
        figure.add_vline(0, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_layout(template=LIGHT, height=330, showlegend=False, hovermode="closest")
    figure.update_xaxes(title=REASONS[info.reason][0], zeroline=False, nticks=7)
    figure.update_yaxes(
        title=", ".join(filter(None, (info.gain.title, info.gain.unit))),
        zeroline=True,
        zerolinewidth=1.5,
    )
    return figure


def _points(info: Scatter, at: np.ndarray, muted: bool) -> go.Scatter:
    colour = BLUE if info.net else GREY
    many = len(info.x_M) > 300
    return go.Scatter(
        x=np.round(info.x_M[at], 4).tolist(),
        y=np.round(info.y_M[at], 5).tolist(),
        mode="markers",
        marker={
            "symbol": "circle-open" if muted else "circle",
            "size": 5 if many else 9,
            "color": colour,
            "opacity": 0.5 if many else 0.9,
        },
        hovertext=[
            f"<b>{label(info.learners_M[i])}</b> with <b>{label(info.partners_M[i])}</b><br>"
            f"{info.gain.title} {info.gain.text(float(info.y_M[i]))} {info.gain.unit}<br>"
            f"{REASONS[info.reason][0]} {_x(info, i)}"
            for i in at
        ],
        hoverinfo="text",
    )


def _x(info: Scatter, i: int) -> str:
    value = float(info.x_M[i])
    return f"{value:.3g}" if info.reason == COST else plain(value)


def single_partners(gain: Heatmap) -> bool:
    """Whether there is anything to compare: a gain with a partner that is no control."""
    columns = [i for i, p in enumerate(gain.partner_ids) if p != ALONE_ID]
    return bool(gain.known_LP[:, columns].any())
