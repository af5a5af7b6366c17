"""One pair, opened from its cell."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from bikd_dashboards.along import along_figure, along_info
from bikd_dashboards.blocks import Block, Downloads, Grid, Plot, Table, TableColumn, Text
from bikd_dashboards.class_map import class_map_figure
from bikd_dashboards.curves import curves_figure, curves_info
from bikd_dashboards.figures import COMPARED, about, pc
from bikd_dashboards.gallery import gallery
from bikd_dashboards.headline import interval
from bikd_dashboards.pair import (
    cases_figure,
    classes_figure,
    classes_info,
    flips_figure,
)
from bikd_dashboards.snapshot import SettingView
from bikd_dashboards.units import units
from bikd_ray.analysis.cases import cases
from bikd_ray.formatting import digits_of, percent, plain, signed
from bikd_ray.store.pairings import with_partner
from bikd_ray.store.verdicts import in_words, net_text, own_sentence, short

ALIKE = ("error_overlap", "disagreement", "kappa", "ensemble", "cca_before", "cca_after")


def pair_blocks(view: SettingView, a: str, b: str) -> list[Block]:
    """Curves, flips, classes and case shares of two models, by their ids."""
    name_a, name_b = view.names[a], view.names[b]
    rows = [(m, p, with_partner(view.gains, m, p)) for m, p in ((a, b), (b, a))]
    rows = [(m, p, found.to_pylist()[0]) for m, p, found in rows if len(found)]
    pair = _pair(view, a, b)
    blocks: list[Block] = [Text(f"{name_a} and {name_b}", "head")]
    if pair:
        known = [
            f"{about(m, view.metric).title} {plain(pair[m])}"
            if m in COMPARED
            else f"ensemble {plain(pair[m], digits_of(view.metric.unit))}"
            for m in ALIKE
            if pair[m] is not None
        ]
        over = f"{pair['n']:,} val {view.metric.units}"
        blocks.append(Text(f"Over {over} before training: {', '.join(known)}."))
    if not rows:
        return [*blocks, Text("This pair has not been trained with this setting yet.")]
    said = [
        f"{view.names[m]} with {view.names[p]}: {in_words(r)}"
        + f", net Δ {net_text(r)}" * (r["net_delta"] is not None)
        + f" ({own_sentence(r)})" * bool(own_sentence(r))
        for m, p, r in rows
    ]
    blocks.insert(1, Text("; ".join(said) + "."))
    blocks.append(_table(view, rows))
    plots = [*_curves(view, rows), *_along(view, rows)]
    flips = [(m, p, with_partner(view.flips(m), m, p).to_pylist()) for m, p, _ in rows]
    drawn = [(view.names[m], view.names[p], r[0]) for m, p, r in flips if r]
    if drawn:
        says = "; ".join(
            f"{n}: learned {r['gained']:.0f}, forgot {r['lost']:.0f}" for n, _, r in drawn
        )
        plots.append(
            Plot(
                f"flips-{a}-{b}",
                "Images learned and forgotten",
                flips_figure(drawn),
                says,
                meaning="Plain: the partner had the image right before; hatched: it had not. "
                "Alone is not split.",
            )
        )
    after = view.snapshot.store.pair_after(a, b, **asdict(view.setting))
    moments = cases(pair, _epochs(view, a, b), after)
    if len(moments) > 1:
        says = "; ".join(f"{c.when}: both right {c.both:.0%}, one {c.one:.0%}" for c in moments)
        plots.append(
            Plot(
                f"cases-{a}-{b}",
                "What the two know",
                cases_figure(moments),
                says,
                meaning="Before and after on the val images; epochs on the training images.",
            )
        )
    classes = [(m, p, with_partner(view.classes(m), m, p).to_pylist()) for m, p, _ in rows]
    lines = [(view.names[m], view.names[p], found) for m, p, found in classes if found]
    if lines and view.metric.pooled:
        plots.append(
            Plot(
                f"class-map-{a}-{b}",
                f"{view.metric.title} of every class",
                class_map_figure(lines, view.metric),
                f"Δ {view.metric.title} of each class: "
                + "; ".join(_classes_say(name, partner, found) for name, partner, found in lines),
                meaning="Without intervals, and not corrected for the number of classes.",
            )
        )
    for model, partner, found in classes:
        if found:
            info = classes_info(view.names[model], view.names[partner], found)
            left = f" {info.left_out:,} classes in between left out." if info.left_out else ""
            plots.append(
                Plot(
                    f"classes-{model}-{partner}",
                    f"{info.model}: class by class",
                    classes_figure(info, view.metric),
                    f"Δ {view.metric.title} of {info.model} with {info.partner} for "
                    f"{len(info.gains)} classes",
                    meaning=f"Without intervals: many classes, few images each.{left}",
                )
            )
    files = [Downloads(("classes",), (a, b))] if any(found for *_, found in classes) else []
    galleries = filter(None, (gallery(view, m, p) for m, p, _ in rows))
    return [*blocks, Grid(tuple(plots)), *galleries, *files]


def _classes_say(name: str, partner: str, rows: list[dict[str, Any]]) -> str:
    up, down = (sum(sign * row["delta"] > 0 for row in rows) for sign in (1, -1))
    return f"{name} with {partner} better in {up}, worse in {down} of {len(rows)}"


def _pair(view: SettingView, a: str, b: str) -> dict[str, Any] | None:
    table = view.pairs
    for x, y in ((a, b), (b, a)):
        mine = pc.and_(pc.equal(table["model_id_a"], x), pc.equal(table["model_id_b"], y))
        for row in table.filter(mine).to_pylist():
            return row
    return None


def _table(view: SettingView, rows: list[tuple[str, str, dict[str, Any]]]) -> Table:
    digits = digits_of(view.metric.unit)
    own = any(r["over_self"] is not None for _, _, r in rows)
    return Table(
        "What each gained",
        units(view.metric),
        (
            TableColumn("Learner"),
            TableColumn("Verdict"),
            TableColumn("Net Δ", number=True),
            TableColumn("q", number=True),
            TableColumn("Δ", number=True),
            TableColumn("Alone", number=True),
            *([TableColumn("Old self", number=True)] if own else []),
            *([TableColumn("Over its old self", number=True)] if own else []),
            TableColumn("Before", number=True),
            TableColumn("After", number=True),
            TableColumn("Recovered"),
        ),
        tuple(
            (
                view.names[m],
                short(r),
                interval(r, "net"),
                plain(r["q_value"], 3),
                interval(r, "delta"),
                signed(r["control_delta"], digits),
                *([interval(r, "self"), interval(r, "over_self")] if own else []),
                plain(r["before"], digits),
                plain(r["after"], digits),
                percent(r["recovered"]),
            )
            for m, _, r in rows
        ),
    )


def _curves(view: SettingView, rows: list[tuple[str, str, dict[str, Any]]]) -> list[Plot]:
    plots = []
    for model, partner, row in rows:
        own = view.curves(model)
        mates = with_partner(own, model, partner)
        alone = own.filter(pc.equal(pc.list_value_length(own["partner_ids"]), 0))
        info = curves_info(row["model"], "score", view.primary, pa.concat_tables([mates, alone]))
        if info.lines:
            name = view.names[model]
            plots.append(
                Plot(
                    f"curve-{model}-{partner}",
                    f"{name}: val {view.primary.title}",
                    curves_figure(info),
                    f"Val {view.primary.title} of {name} over the epochs",
                    meaning="Dashed: alone.",
                )
            )
    return plots


def _along(view: SettingView, rows: list[tuple[str, str, dict[str, Any]]]) -> list[Plot]:
    """Where the units are videos, the one in which each learner moved most."""
    plots = []
    for model, partner, _ in rows:
        info = along_info(view.names[partner], view.metric, view.along(model, [partner]))
        if info:
            name, title = view.names[model], view.metric.title
            plots.append(
                Plot(
                    f"along-{model}-{partner}",
                    f"{name}: {title} along video {info.video}",
                    along_figure(info),
                    f"{title} of {name} on {len(info.frames)} frames of video {info.video}, before "
                    f"and after",
                    meaning="The val video in which it moved most, against alone; means of the "
                    "seeds.",
                )
            )
    return plots


def _epochs(view: SettingView, a: str, b: str) -> list[dict[str, Any]]:
    rows = []
    for model, partner in ((a, b), (b, a)):
        rows += with_partner(view.curves(model), model, partner).to_pylist()
    return rows
