"""One model: its partners ranked, how much of it is good, and how it learned."""

from collections.abc import Mapping

import pyarrow as pa

from bikd_dashboards.blocks import (
    Block,
    ChoiceBox,
    Downloads,
    Grid,
    Link,
    Plot,
    Table,
    TableColumn,
    Tag,
    Text,
)
from bikd_dashboards.curves import MEASURES, curves_figure, curves_info
from bikd_dashboards.figures import Interval, pc
from bikd_dashboards.forest import Forest, Partner, forest_figure, forest_info, frame
from bikd_dashboards.group_size import sizes_figure, sizes_info
from bikd_dashboards.headline import interval
from bikd_dashboards.searching import partners_table
from bikd_dashboards.snapshot import SettingView
from bikd_dashboards.units import units
from bikd_ray.formatting import count, listed, percent, plain
from bikd_ray.metrics import Metric
from bikd_ray.store.hidden import Hidden, Measure
from bikd_ray.store.verdicts import partners_of, short, standing


def model_page(view: SettingView, chosen: Mapping[str, str]) -> list[Block]:
    """The model chosen, or the first that was trained."""
    ids = trained(view)
    if not ids:
        return [Text("No model has been trained with a partner yet.")]
    model_id = chosen.get("model", "")
    model_id = model_id if model_id in ids else ids[0]
    options = tuple((i, view.names[i]) for i in ids)
    return [ChoiceBox("model", "Model", options, model_id), *about(view, model_id)]


def trained(view: SettingView) -> list[str]:
    """Models with a partner, as they come in `names`."""
    there = set(view.gains["model_id"].unique().to_pylist())
    return [i for i in view.names if i in there]


def about(view: SettingView, model_id: str) -> list[Block]:
    """All that is known of one model."""
    name = view.names[model_id]
    info = forest_info(model_id, view.gains, view.controls, view.names, view.limits.partners)
    plots = [_forest(info, view.metric)]
    sizes = sizes_info(model_id, name, view.sizes(model_id), info.control)
    if len(sizes.sizes) + bool(sizes.control) > 1:
        says = "; ".join(
            f"K = {s.models}: {f'net Δ {s.net.text}, ' if s.net else ''}Δ {s.delta.text}"
            for s in sizes.sizes
        )
        plots.append(
            Plot(
                f"dose-{model_id}",
                "Gain against the number of models",
                sizes_figure(sizes, view.metric),
                f"{name}: {says}",
                meaning="The mean over all groups of that size; K = 1 is training alone.",
            )
        )
    return [
        Text(
            "Blue is net Δ, what the partner adds: compare it with 0. Filled: it differs from 0 "
            "(q < 0.05, corrected for all comparisons). Grey is Δ: compare it with the dashed line "
            "(alone). Lines are 95% intervals."
        ),
        Grid(tuple(plots)),
        *_left_out(info.left_out, "partner"),
        *partners_table(view, model_id),
        *_curves(view, model_id, name),
        _table(view, model_id),
        *_hidden(view, model_id),
        Downloads(("gains", "groups", "curves")),
    ]


def _forest(info: Forest, metric: Metric) -> Plot:
    ranked = [f"{p.name} {_net_first(p)}" for p in info.partners]
    says = f"Gains of {info.model} in {metric.title} with each partner: {listed(ranked, 12)}"
    for what, gain in (("with its own old self", info.own), ("alone", info.control)):
        says += f"; {what} Δ {gain.text}" if gain else ""
    shared = frame([info])
    figure = forest_figure(info, shared, metric)
    return Plot("forest", f"{info.model}: partners ranked", figure, says, shared.left + 180)


def _net_first(partner: Partner) -> str:
    net = f"net Δ {partner.net.text} (" if partner.net else ""
    return f"{net}Δ {partner.delta.text}{')' * bool(net)}"


def _left_out(number: int, noun: str) -> list[Block]:
    if not number:
        return []
    return [Text(f"{count(number, noun)} between the best and the last left out of the figure.")]


def _curves(view: SettingView, model_id: str, name: str) -> list[Block]:
    rows = view.curves(model_id)
    ranked = view.gains.filter(pc.equal(view.gains["model_id"], model_id))
    ranked = ranked["partner"].to_pylist()
    kept, total = ranked[: view.limits.lines], len(ranked)
    rows = rows.filter(pc.is_in(rows["partner"], value_set=pa.array([*kept, ""], pa.string())))
    plots = []
    for measure, (_, meaning) in MEASURES.items():
        first = rows["model"][0].as_py() if len(rows) else name
        info = curves_info(first, measure, view.primary, rows)
        title = info.title
        if info.lines:
            says = f"{title} of {name} over the epochs, {count(len(info.lines), 'line')}"
            key = f"curve-{model_id}-{measure}"
            plots.append(Plot(key, title, curves_figure(info), says, meaning=meaning))
    if not plots:
        return []
    few = f" The first {len(kept)} partners of {total:,}." if total > len(kept) else ""
    return [
        Text("Over the epochs", "head"),
        Text(f"Mean over seeds; dashed: alone.{few}"),
        Grid(tuple(plots)),
    ]


def _hidden(view: SettingView, model_id: str) -> list[Block]:
    """What the mean gains hide: flips, the worst class, other metrics, other sets."""
    measures, rows = view.hidden(model_id)
    shown = [m for m in measures if "." not in m.name]
    if not shown or not rows:
        return []
    return [
        Table(
            "What the average hides",
            "Means over the seeds; Δ unless it is a share. A negative flip: right before, wrong "
            "after. Sets have 95% intervals; for those of a metric choose it above.",
            (TableColumn("Partner"), *(TableColumn(m.head, number=True) for m in shown)),
            tuple(
                (
                    partners_of(one.row, view.names),
                    *(_with_ends(one, m) for m in shown),
                )
                for one in rows[: view.limits.rows]
            ),
            folded=True,
        )
    ]


def _with_ends(one: Hidden, measure: Measure) -> Interval | str:
    value, (low, high) = one.values.get(measure.name), one.ends.get(measure.name, (None, None))
    if value is None or low is None:
        return measure.text(value)
    return Interval(value, low, high, unit=measure.unit)


def _table(view: SettingView, model_id: str) -> Table:
    rows = view.gains.filter(pc.equal(view.gains["model_id"], model_id))
    shown = rows.slice(0, view.limits.rows).to_pylist()
    left = len(rows) - len(shown)
    own = any(r["over_self"] is not None for r in shown)
    return Table(
        "All partners",
        units(view.metric),
        (
            TableColumn("Partner"),
            TableColumn("Verdict"),
            TableColumn("Net Δ", number=True),
            TableColumn("q", number=True),
            TableColumn("Δ", number=True),
            *([TableColumn("Over its old self", number=True)] if own else []),
            TableColumn("Recovered"),
            TableColumn("Seeds", number=True),
        ),
        tuple(
            (
                (
                    Link(
                        partners_of(r, view.names),
                        "pairs",
                        (("pair", f"{model_id}~{r['partner_ids'][0]}"),),
                    )
                    if len(r["partner_ids"]) == 1
                    else partners_of(r, view.names),
                    " ",
                    Tag(standing(r)) if standing(r) else "",
                ),
                short(r),
                interval(r, "net"),
                plain(r["q_value"], 3),
                interval(r, "delta"),
                *([interval(r, "over_self")] if own else []),
                percent(r["recovered"]),
                f"{r['seeds']}",
            )
            for r in shown
        ),
        f"{left:,} more left out; the file has all of them." if left else "",
        folded=True,
    )
