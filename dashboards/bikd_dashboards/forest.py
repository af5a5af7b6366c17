"""One model's partners, ranked, with intervals: what to choose and whether it matters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import plotly.graph_objects as go
import pyarrow as pa

from bikd_dashboards.figures import ALONE, OWN, TICK, Interval, pc
from bikd_dashboards.formatting import label
from bikd_dashboards.headline import interval
from bikd_dashboards.marks import hover_text, interval_marks
from bikd_dashboards.theme import BLUE, GREY, LIGHT
from bikd_dashboards.units import difference_title
from bikd_ray.formatting import count
from bikd_ray.metrics import Metric
from bikd_ray.store.verdicts import partners_of, standing


@dataclass(frozen=True)
class Partner:
    """A partner set with what the model gained; `standing` is "best", "tie" or nothing."""

    name: str
    delta: Interval
    net: Interval | None
    standing: str
    seeds: int
    n: int


@dataclass(frozen=True)
class Forest:
    model: str
    partners: tuple[Partner, ...]
    control: Interval | None
    left_out: int = 0  # between the best and the last of them
    own: Interval | None = None  # taught by its own frozen start, where the sweep has it


def forest_info(
    model_id: str,
    gains: pa.Table,
    controls: pa.Table,
    names: Mapping[str, str],
    most: int | None = None,
) -> Forest:
    """The partners of one model as they come, best first, and its control.

    Tables and `names` as in `bikd_dashboards.figures`; groups have a partner like "A + B". most: of
    more partners the best are kept, and the last few.
    """
    mine = gains.filter(pc.equal(gains["model_id"], model_id))
    total = len(mine)
    if most is not None and total > most:
        last = most // 5
        mine = pa.concat_tables([mine.slice(0, most - last), mine.slice(total - last)])
    partners = tuple(
        Partner(
            partners_of(r, names),
            Interval(r["delta"], r["delta_low"], r["delta_high"], unit=r["unit"]),
            interval(r, "net"),
            standing(r) if total > 1 else "",
            r["seeds"],
            r["n"],
        )
        for r in mine.to_pylist()
    )
    own = controls.filter(pc.equal(controls["model_id"], model_id)).to_pylist()
    control = interval(own[0], "delta") if own else None
    taught = next((r for r in mine.to_pylist() if r["self_delta"] is not None), None)
    itself = interval(taught, "self") if taught else None
    return Forest(names[model_id], partners, control, total - len(partners), itself)


@dataclass(frozen=True)
class Frame:
    """What the forests of one page share, so that they can be compared down a column: the range
    of the x axis, in the metric's unit, and the room for names on the left, in pixels.
    """

    low: float
    high: float
    left: int


def frame(forests: Iterable[Forest]) -> Frame:
    """The frame that holds every interval, zero, and every name."""
    values, letters = [0.0], [len(ALONE), len(OWN)]
    for forest in forests:
        for p in forest.partners:
            values += _ends(p.delta) + _ends(p.net)
            letters.append(min(len(p.name), TICK) + (len(p.standing) + 3 if p.standing else 0))
        values += _ends(forest.control) + _ends(forest.own)
    room = 0.06 * (max(values) - min(values)) or 1.0
    return Frame(min(values) - room, max(values) + room, 14 + 8 * max(letters))


def _ends(interval: Interval | None) -> list[float]:
    if interval is None:
        return []
    return [x for x in (interval.low, interval.value, interval.high) if x is not None]


def forest_figure(info: Forest, shared: Frame, metric: Metric) -> go.Figure:
    """Two marks for each partner: net Δ (diamond, filled where it is told from zero), and below
    it Δ (circle). Last come the rows of the model's own frozen start as teacher and of the
    control, whose Δ is a dashed line through all.
    """
    figure = go.Figure()
    net = [(i - 0.14, p.net, _about(p)) for i, p in enumerate(info.partners) if p.net]
    delta = [(i + 0.14, p.delta, _about(p)) for i, p in enumerate(info.partners)]
    if net:
        figure.add_trace(_marks("net Δ", "diamond", BLUE, net, size=11, thickness=2.4))
    figure.add_trace(_marks("Δ", "circle", GREY, delta, size=8, thickness=1.4))
    ticks = [_tick(p) for p in info.partners]
    for name, gain, symbol, what in (
        (OWN, info.own, "triangle-up", "its own frozen start teaches"),
        (ALONE, info.control, "square", "control"),
    ):
        if gain:
            row = (len(ticks), gain, f"<b>{name}</b> ({what})")
            figure.add_trace(_marks(f"{name}, Δ", symbol, GREY, [row], size=9))
            ticks.append(f"<i>{name}</i> ")
    if info.control:
        figure.add_vline(info.control.value, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.update_layout(
        template=LIGHT,
        height=112 + 44 * len(ticks),
        margin={"l": shared.left},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"},
        hovermode="closest",
    )
    figure.update_xaxes(
        range=[shared.low, shared.high],
        zeroline=True,
        zerolinewidth=1.5,
        title=difference_title(metric),
    )
    figure.update_yaxes(
        tickvals=list(range(len(ticks))),
        ticktext=ticks,
        range=[len(ticks) - 0.4, -0.6],
        automargin=False,
        showgrid=False,
        zeroline=False,
    )
    return figure


def _tick(partner: Partner) -> str:
    name = label(partner.name, TICK)
    return f"<b>{name}</b> ({partner.standing}) " if partner.standing else f"{name} "


def _about(partner: Partner) -> str:
    sample = f"{count(partner.seeds, 'seed')}, n = {partner.n:,}"
    return f"with <b>{label(partner.name)}</b> ({sample})"


def _marks(
    name: str, symbol: str, colour: str, rows: list[tuple[float, Interval, str]], **size: float
) -> go.Scatter:
    """One kind of mark; rows: where on the y axis, what to draw, what it is about."""
    hover = [hover_text(about, f"{name} {i.text}", i) for _, i, about in rows]
    at, gains = [y for y, _, _ in rows], [i for _, i, _ in rows]
    how = {"mode": "markers", "name": name, "showlegend": True, "marker_color": colour, **size}
    return interval_marks("x", gains, at, hover, symbol, colour, **how)
