"""The pages, for the report and the app alike: each turns a setting and some choices into blocks.

Nothing is pooled: a view is one combination of data, recipe, objective and selection.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bikd_dashboards.blocks import (
    Block,
    Cell,
    ChoiceBox,
    Downloads,
    Failure,
    Grid,
    Link,
    Notes,
    Plot,
    Shade,
    Steps,
    Strip,
    Table,
    TableColumn,
    Tag,
    Text,
)
from bikd_dashboards.correlates import (
    COST,
    REASONS,
    conclusion,
    says,
    scatter_figure,
    scatter_info,
    single_partners,
)
from bikd_dashboards.figures import (
    COMPARED,
    Heatmap,
    HeatmapMetric,
    Interval,
    heatmap_figure,
    heatmap_info,
    pc,
)
from bikd_dashboards.headline import Headline, headlines
from bikd_dashboards.model_page import model_page
from bikd_dashboards.objectives import objectives_figure, objectives_info
from bikd_dashboards.ordering import ORDERS, order
from bikd_dashboards.pair_page import pair_blocks
from bikd_dashboards.runs import runs
from bikd_dashboards.searching import search_blocks
from bikd_dashboards.snapshot import SettingView
from bikd_dashboards.timeline import TIMELINE, timeline, timeline_figure
from bikd_dashboards.units import units
from bikd_ray.formatting import NONE, count, digits_of, plain, signed
from bikd_ray.metrics import Metric
from bikd_ray.store.advice import Asked, next_steps
from bikd_ray.store.verdicts import TOLD, causes, headline

SMALL = 8
"""Models up to which the first page has the whole matrix."""

UNTRAINED = (
    " Hatched: not trained; the colour is what the search's model of gains expects of it, grey "
    "where it says nothing."
)

Chosen = Mapping[str, str]
Draw = Callable[[SettingView, Chosen], list[Block]]


@dataclass(frozen=True)
class Page:
    """draw: what to show of a view. opened: what one of its choices opens below it.
    whole: it says the same for every setting.
    """

    key: str
    title: str
    draw: Draw
    opened: Draw | None = None
    whole: bool = False


def overview(view: SettingView, chosen: Chosen) -> list[Block]:
    """The headline: for each model the best partner or a tie."""
    jobs = view.jobs
    sentence, notes = headline(view.gains, view.controls, jobs, view.names)
    notes = (*notes, *([view.search_note] if view.search_note else []))
    rows = headlines(view.gains, view.controls.to_pylist(), view.baselines, view.names, jobs)
    ends = [x for a in rows if a.net for x in (a.net.low, a.net.high) if x is not None]
    reach = max(map(abs, ends), default=1.0)
    shown = rows
    left_out = ""
    if len(rows) > view.limits.rows:
        shown = sorted(rows, key=lambda a: -(a.net.value if a.net else -1e9))[: view.limits.rows]
        left_out = (
            f"The {len(shown):,} models with the highest net Δ of {len(rows):,}; "
            "the file has all of them."
        )
    table = Table(
        "Headline table",
        units(view.metric),
        (
            TableColumn("Model"),
            TableColumn("Before", number=True),
            TableColumn("Best partner"),
            TableColumn("Verdict"),
            TableColumn("Net Δ", number=True),
            TableColumn("Net Δ around 0"),
            TableColumn("Δ", number=True),
            TableColumn("Alone (control)", number=True),
            *([TableColumn("Old self (self)", number=True)] if any(a.own for a in rows) else []),
        ),
        tuple(_headline(a, reach, view.metric, any(a.own for a in rows)) for a in shown),
        left_out,
    )
    blocks: list[Block] = [Text(view.label, "label"), Text(sentence, "verdict")]
    blocks += _small_matrix(view)
    blocks += [Notes(notes)] if notes else []
    blocks += [table, *search_blocks(view)]
    return [*blocks, *_next(view), Downloads(("gains", "controls", "baselines"))]


def _next(view: SettingView) -> list[Block]:
    """What to do now, as `bikd summary` says it; the look at these pages goes without saying."""
    setting, measure = view.setting, view.snapshot.measure
    asked = Asked(setting.objective, setting.selection, measure["metric"], measure["eval_set"])
    steps = next_steps(view.snapshot.store, view.gains, asked, "SPEC")
    items = tuple((s.why, s.type) for s in steps if not s.type.startswith("bikd dashboard"))
    return [Text("Next", "head"), Steps(items)] if items else []


def _small_matrix(view: SettingView) -> list[Block]:
    """Who helps whom, at one look: net Δ of each learner (row) with each single partner."""
    single = view.gains.filter(pc.equal(pc.list_value_length(view.gains["partner_ids"]), 1))
    there = {*single["model_id"].unique().to_pylist()}
    there |= {*pc.list_flatten(single["partner_ids"]).unique().to_pylist()}
    ids = [i for i in view.names if i in there]
    if not 2 < len(ids) <= SMALL:
        return []
    found = {(r["model_id"], r["partner_ids"][0]): r for r in single.to_pylist()}
    digits, sign = digits_of(view.metric.unit), view.metric.sign

    def cell(learner: str, partner: str) -> Cell:
        row = found.get((learner, partner))
        if row is None or row["net_delta"] is None:
            return "" if learner == partner else NONE
        told = row["verdict"] in TOLD
        better = sign * row["net_delta"] > 0
        tone = ("better" if better else "worse") if told else "none"
        link = Link(signed(row["net_delta"], digits), "pairs", (("pair", f"{learner}~{partner}"),))
        return Shade(link, tone)

    return [
        Table(
            "Who helps whom",
            f"Net Δ, {units(view.metric).removesuffix(', 95% intervals')}: rows learn, columns "
            "teach. Coloured where it differs from 0 (q < 0.05).",
            (TableColumn("Learner"), *(TableColumn(view.names[i], number=True) for i in ids)),
            tuple((view.names[i], *(cell(i, j) for j in ids)) for i in ids),
        )
    ]


def _headline(
    answer: Headline, reach: float, metric: Metric, own: bool
) -> tuple[Cell | tuple[Cell, ...], ...]:
    named: tuple[Cell, ...] = (NONE,)
    if answer.partners:
        known = answer.standing in ("best", "tie")
        named = (Tag(answer.standing) if known else f"({answer.standing})",)
        for i, (name, other) in enumerate(zip(answer.partners, answer.partner_ids, strict=True)):
            pair = (("pair", f"{answer.model_id}~{other}"),)
            named += (", " if i else " ", Link(name, "pairs", pair) if other else name)
        named += (f" and {answer.others:,} more",) if answer.others else ()
    net = answer.net
    return (
        Link(answer.model, "model", (("model", answer.model_id),))
        if answer.model_id
        else answer.model,
        plain(answer.before, digits_of(metric.unit)),
        named,
        answer.verdict,
        net,
        Strip(net, reach) if net and net.low is not None else "",
        answer.delta,
        answer.control,
        *([answer.own] if own else []),
    )


def heatmap(view: SettingView, what: str) -> Heatmap:
    """The whole matrix of a view, worked out once."""
    key = ("heatmap", view.setting, what)
    inputs = (view.metric, view.gains, view.controls, view.pairs, view.names, view.expected)
    return view.snapshot.once(key, lambda: heatmap_info(what, *inputs))


def pairs(view: SettingView, chosen: Chosen) -> list[Block]:
    """The heatmap of one metric, and the pair that was opened."""
    shown = {m: (view, m) for m in COMPARED if heatmap(view, m).known_LP.any()}
    if not shown:
        return [Text("No pair has been compared yet.")]
    first, *rest = shown.items()
    beside = {f"net_delta.{of.metric.name}": (of, "net_delta") for of in _beside(view)}
    shown = dict([first, *beside.items(), *rest])
    what = chosen.get("show", "")
    what = what if what in shown else next(iter(shown))
    by = chosen.get("order", "")
    by = by if by in ORDERS else next(iter(ORDERS))
    info, total = heatmap(*shown[what]), 0
    if len(info.learners) > view.limits.matrix:
        total = len(info.learners)
        best = heatmap(*first[1])
        ids = [best.learner_ids[i] for i in order(best, "gain")]
        place = {model_id: i for i, model_id in enumerate(info.learner_ids)}
        kept = [place[i] for i in ids if i in place][: view.limits.matrix]
        info = info.taken(order(info, "before")[sorted(kept)])
    key = ("orders", view.setting, view.limits, what)
    orders = view.snapshot.once(key, lambda: {name: order(info, name) for name in ORDERS})
    titles = tuple((name, _titled(heatmap(*of).about)) for name, of in shown.items())
    blocks: list[Block] = [
        ChoiceBox("show", "Show", titles, what),
        ChoiceBox("order", "Order by", tuple(ORDERS.items()), by),
        Text("Choose a cell to open its pair."),
        heatmap_plot(info.taken(orders[by]), orders),
    ]
    if total:
        left = total - len(info.learners)
        blocks.append(
            Text(
                f"{count(left, 'model')} of {total:,} left out: shown are those that gain most on "
                "average. bikd dashboard shows all."
            )
        )
    return [*blocks, Downloads(("pairs", "gains", "flips", "teachers"))]


def _beside(view: SettingView) -> list[SettingView]:
    """The same setting by the next of a data set's metrics, where something was trained; none where
    the primary one is a share of right answers, beside which another says little.
    """
    every = view.snapshot.store.metrics.get(view.setting.data_id, ())
    if not every or every[0].binary:
        return []
    others = [metric.name for metric in every if metric.name != view.metric.name][:1]
    found = [
        SettingView(
            view.snapshot.measured(name, view.snapshot.measure["eval_set"]),
            view.setting,
            view.limits,
        )
        for name in others
    ]
    return [of for of in found if heatmap(of, "net_delta").known_LP.any()]


def _titled(about: HeatmapMetric) -> str:
    """Such as: ensemble gain, pp."""
    return ", ".join(filter(None, (about.title, about.unit)))


def opened(view: SettingView, chosen: Chosen) -> list[Block]:
    """The pair that was chosen, as `id~id`; nothing without one."""
    a, _, b = chosen.get("pair", "").partition("~")
    if a == b or not {a, b} <= view.names.keys():
        return []
    return pair_blocks(view, a, b)


def heatmap_plot(info: Heatmap, orders: dict) -> Plot:
    """The heatmap with what it says to who cannot see it."""
    of, columns = info.about, len(info.partners)
    known = info.value_LP[info.known_LP]
    text = (
        f"Heatmap of {of.title}, {count(len(info.learners), 'model')}: from "
        f"{of.text(float(known.min()))} to {of.text(float(known.max()))} {of.unit}"
    )
    if of.tested:
        told = int((info.known_LP & ~info.muted_LP).sum())
        text = f"{text.rstrip()}; {told:,} of {known.size:,} cells differ from 0"
    untrained = int(info.untrained_LP.sum())
    if untrained:
        text = f"{text.rstrip()}; {count(untrained, 'cell')} not trained, hatched"
    roomy = columns <= 30
    return Plot(
        f"heatmap-{info.what}-{info.metric.name}",
        of.title,
        heatmap_figure(info),
        text.rstrip(),
        96 + 50 * columns if roomy else 290,
        190 + 104 * columns if roomy else 1100,
        of.meaning + (UNTRAINED if untrained else ""),
        opens=True,
        legend=of.tested,
        orders=orders,
    )


def why(view: SettingView, chosen: Chosen) -> list[Block]:
    """Whether what differs between two models predicts what they gain."""
    gain = heatmap(view, "net_delta")
    if not single_partners(gain):
        gain = heatmap(view, "delta")
    if not single_partners(gain):
        return [Text("No pair has been trained yet: there is no gain to explain.")]
    before = {r["model_id"]: r["value"] for r in view.baselines}
    plots, found = [], {}
    titles = {"accuracy_gap": "Gap before", COST: "Cost of the partner"}
    for reason, (axis, meaning) in REASONS.items():
        if reason == "accuracy_gap":
            x = np.array([before[i] for i in gain.learner_ids])
        elif reason == COST:
            x = np.array([view.flops.get(i, np.nan) for i in gain.learner_ids]) / 1e9
            if np.isnan(x).all():
                continue
        else:
            x = heatmap(view, reason)
        info = scatter_info(reason, gain, x)
        if not len(info.x_M):
            continue
        title = titles.get(reason, axis.split(",")[0].capitalize())
        found[title], told = info, says(info)
        plots.append(
            Plot(f"why-{reason}", title, scatter_figure(info), told, meaning=f"{meaning} {told}")
        )
    shown = gain.about.title
    return [
        Text(conclusion(found), "verdict"),
        Text(
            f"Does diversity predict {shown} here? One mark for each learner and partner; filled "
            "where net Δ differs from 0 (q < 0.05). Intervals of r are 95%, over the models: "
            "pairs that share a model count as related. Learners differ much more than partners "
            "do, so use the second r, among the partners of one learner, to choose a partner."
        ),
        Grid(tuple(plots)),
        *_teachers(view),
        Downloads(("pairs", "gains", "teachers")),
    ]


def _teachers(view: SettingView) -> list[Block]:
    """Who teaches well and who learns well, whatever the partner."""
    rows = view.teachers.to_pylist()
    if not any(r["teaches"] is not None for r in rows):
        return []
    rows.sort(key=lambda r: -view.metric.sign * (r["teaches"] or 0.0))
    shown, share = rows[: view.limits.rows], rows[0]
    told = ""
    if share["learner_share"] is not None and np.isfinite(share["learner_share"]):
        told = (
            f" The learner explains {share['learner_share']:.0%} of the variance in gains, the "
            f"teacher {share['teacher_share']:.0%} more."
        )

    def effect(row: dict, name: str) -> Interval | None:
        value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
        return None if value is None else Interval(value, low, high, unit=row["unit"])

    return [
        Text("Who teaches, who learns", "head"),
        Table(
            "Teachers",
            f"{units(view.metric)}, each by itself: of many some exclude 0 by chance.{told}",
            (
                TableColumn("Model"),
                TableColumn("Teaches", number=True),
                TableColumn("Students", number=True),
                TableColumn("Learns", number=True),
                TableColumn("Teachers", number=True),
            ),
            tuple(
                (
                    view.names.get(r["model_id"], r["model"]),
                    effect(r, "teaches"),
                    f"{r['students']}",
                    effect(r, "learns"),
                    f"{r['teachers']}",
                )
                for r in shown
            ),
            f"{len(rows) - len(shown):,} more left out; the file has all of them."
            if len(rows) > len(shown)
            else "",
        ),
    ]


def objectives(view: SettingView, chosen: Chosen) -> list[Block]:
    """The objectives against bikd, pair by pair."""
    info = objectives_info(view.of_every_objective, view.controls, view.names)
    if not info.summaries:
        return [Text("No pairing has been trained yet.")]
    first, digits = info.names[0], digits_of(view.metric.unit)
    table = Table(
        "Objectives",
        f"Means over learners and partners, {units(view.metric)}. Only learner–partner pairs "
        f"trained with both objectives are compared with {first}.",
        (
            TableColumn("Objective"),
            TableColumn("Cases", number=True),
            TableColumn("Mean Δ", number=True),
            TableColumn("Mean net Δ", number=True),
            TableColumn(f"Δ − Δ({first})", number=True),
            TableColumn("Ahead : behind", number=True),
        ),
        tuple(
            (
                s.objective,
                f"{s.cases:,}",
                signed(s.delta, digits),
                signed(s.net, digits),
                signed(s.difference, digits),
                f"{s.ahead:,} : {s.behind:,}" if s.shared else NONE,
            )
            for s in info.summaries
        ),
    )
    blocks: list[Block] = [
        Text(
            "The same learner with the same partner, taught in different ways, beside training "
            "alone. In kd and kl_dp the partner is frozen and only the learner learns."
        ),
        table,
    ]
    if len(info.summaries) == 1:
        text = f"Only {first} is here: name others under objectives in the spec to compare them."
        blocks.append(Text(text))
    if info.lines:
        of = count(len(info.lines), "learner and partner pair")
        text = f"Δ {view.metric.title} by objective for {of}"
        blocks.append(
            Plot(
                "objectives",
                "Learner and partner",
                objectives_figure(info, view.metric),
                text,
                320,
                1000,
            )
        )
    if info.left_out:
        text = f"{info.left_out:,} more left out: shown are those whose objectives differ most."
        blocks.append(Text(text))
    return [*blocks, Downloads(("gains", "controls"))]


def runs_page(view: SettingView, chosen: Chosen) -> list[Block]:
    """Every job, failed ones first."""
    jobs = view.snapshot.runs
    if not len(jobs):
        return [Text("No job has run yet.")]
    found = runs(jobs, view.limits.runs)
    failed = pc.sum(pc.equal(jobs["status"], "failed")).as_py()
    left_out = f"{len(jobs) - len(found):,} more jobs left out; the file has all of them."
    why = causes(jobs.filter(pc.equal(jobs["status"], "failed"))["error"].to_pylist())
    grouped = Table(
        "Why jobs failed",
        "Failures by cause, the most frequent first.",
        (TableColumn("Cause"), TableColumn("Jobs", number=True), TableColumn("What helps")),
        tuple((c.what, f"{c.jobs:,}", c.remedy or "see its traceback below") for c in why[:20]),
        f"{len(why) - 20:,} more causes left out." if len(why) > 20 else "",
    )
    return [
        *([grouped] if why else []),
        *_timeline(jobs),
        Table(
            "Runs table",
            f"{count(len(jobs), 'job')}, {failed:,} failed; failed ones first.",
            (
                TableColumn("Members"),
                TableColumn("Status"),
                TableColumn("Objective"),
                TableColumn("Seed", number=True),
                TableColumn("Time", number=True),
                TableColumn("Device"),
                TableColumn("Throughput", number=True),
                TableColumn("GPU memory", number=True),
                TableColumn("Error"),
            ),
            tuple(
                (
                    r.members,
                    Tag(r.status),
                    r.objective,
                    f"{r.seed}",
                    r.seconds,
                    r.device,
                    r.throughput,
                    r.memory,
                    Failure(r.error, r.trace) if r.error else "",
                )
                for r in found
            ),
            left_out if len(found) < len(jobs) else "",
        ),
        Downloads(("jobs",)),
    ]


def _timeline(jobs: pa.Table) -> list[Block]:
    slots = timeline(jobs) if len(jobs) <= TIMELINE else None
    if slots is None or not slots.lanes:
        return []
    return [
        Plot(
            "timeline",
            "When each job ran",
            timeline_figure(slots),
            f"{count(len(slots.bars), 'job')} on {count(slots.lanes, 'slot')} at once, "
            f"{slots.busy:.0%} of the time busy",
            meaning="A job ends when its rows are written, and began its seconds before; rows "
            f"hold jobs that ran at once. Slots were busy {slots.busy:.0%} of the time; gaps are "
            "starts, waits and pauses between sweeps.",
        )
    ]


PAGES: dict[str, Page] = {
    page.key: page
    for page in (
        Page("overview", "Overview", overview),
        Page("pairs", "Pairs", pairs, opened),
        Page("model", "Model", model_page),
        Page("why", "Why", why),
        Page("objectives", "Objectives", objectives),
        Page("runs", "Runs", runs_page, whole=True),
    )
}
