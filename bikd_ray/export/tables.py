"""The tables of a card: what a checkpoint gained over all images, and what it lost by class."""

from collections.abc import Sequence
from typing import Any

from bikd_ray.export.summary import Row, SelectedResult
from bikd_ray.formatting import (
    NONE,
    difference_unit,
    digits_of,
    number,
    recovered,
    signed,
    with_span,
)
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.verdicts import delta_text, net_text, over_self_text
from bikd_ray.vocabulary import UNTOUCHED

LOSSES = 10
"""Classes that a card lists, of those that lost."""


def results(choice: SelectedResult) -> str:
    """The checkpoint beside the mean of all seeds, and how to read that."""
    result, gain, seeds = choice.result, choice.gain, choice.seeds
    n, metric = result["n"], choice.metric
    digits = digits_of(metric.unit)
    named = f"{metric.title}, {metric.unit}" if metric.unit else metric.title

    def both(show: Any) -> list[str]:
        return [show(gain), *([show(seeds)] if seeds else [])]

    def once(text: str) -> list[str]:
        return [text, *(["–"] if seeds else [])]

    def images(count: int) -> str:
        return f"{count:,} ({100 * count / n:.2f}%)"

    mean = [f"mean of {seeds['seeds']} seeds"] if seeds else []
    rows = [
        ["", "this checkpoint", *mean],
        ["---", *["---:"] * (1 + len(mean))],
        [f"{named} before", *both(lambda r: number(r["before"], digits))],
        [f"{named} after", *both(lambda r: number(r["after"], digits))],
        [f"Δ {metric.title} [95%]", *both(delta_text)],
        ["control: Δ without a partner", *both(lambda r: signed(r["control_delta"], digits))],
        ["net Δ [95%]", *both(net_text)],
        *_beside_self(seeds),
        ["ensemble before", *both(lambda r: number(r["ensemble_before"], digits))],
        [
            "recovered of the ensemble's lead, %",
            *both(lambda r: recovered(r["recovered"], 1) or NONE),
        ],
    ]
    if metric.binary:
        rows += [
            ["wrong before, right now", *once(images(result["gained"]))],
            ["right before, wrong now (negative flips)", *once(images(result["lost"]))],
        ]
        if choice.classes:
            least = min(row["delta"] for row in choice.classes)
            rows.append(["worst class, Δ", *once(signed(least, digits))])
    rows += [
        [_measure(row, choice), *once(_change(row, choice))]
        for row in choice.measured
        if (row["eval_set"], row["metric"]) != (VAL, metric.name)
    ]
    if not gain["partner"]:
        rows = [row for row in rows if not row[0].startswith(("ensemble", "recovered"))]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n" + _reading(choice)


def _beside_self(seeds: Row | None) -> list[list[str]]:
    """What the model's own old self gives, which only all seeds together say."""
    if not seeds or seeds["over_self"] is None:
        return []
    digits = digits_of(seeds["unit"])
    own = with_span(seeds["self_delta"], seeds["self_low"], seeds["self_high"], digits)
    return [
        ["self: Δ when its own old self teaches [95%]", "–", own],
        ["Δ − self [95%]", "–", over_self_text(seeds)],
    ]


def _reading(choice: SelectedResult) -> str:
    units = choice.metric.units
    if choice.gain["delta_low"] is None:
        text = (
            f"The epoch was chosen on the same {units}, which makes Δ look larger than it is; no "
            "interval would be fair."
        )
    else:
        text = f"Intervals of this checkpoint count which {units} were drawn, not which seed."
    unit = difference_unit(choice.metric.unit)
    said = {"pp": "Differences are in percentage points. ", "": ""}
    return f"{said.get(unit, f'Differences are in {unit}. ')}{text} " + plain(" ".join(choice.why))


def chosen_among(rows: Sequence[Row]) -> str:
    """Each kind on both halves: what was chosen by, and what is claimed. rows: of KINDS."""
    first = rows[0]
    digits, unit = digits_of(first["unit"]), difference_unit(first["unit"])
    lines = [
        f"| | chosen by Δ | Δ [95%], {unit} | net Δ [95%] | the chosen one less this [95%] |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        who = "untouched" if row["kind"] == UNTOUCHED else row["kind"]
        if row["partner"]:
            who += f", with {plain(row['partner'])}"
        spans = [
            with_span(row[name], row[f"{of}_low"], row[f"{of}_high"], digits)
            for name, of in (("delta", "delta"), ("net_delta", "net"), ("behind", "behind"))
        ]
        who = f"**{who}**" if row["chosen"] else who
        lines.append(f"| {' | '.join((who, signed(row['decided_delta'], digits), *spans))} |")
    how = (
        f"Chosen by Δ on {first['decided_on']:,} images; all else is measured on the other "
        f"{first['n']:,}, which chose nothing."
        if first["half"]
        else f"Chosen and measured on the same {first['n']:,} images, so the chosen one looks "
        "better than it is."
    )
    return "\n".join(lines) + f"\n\n{how}"


def _measure(row: Row, choice: SelectedResult) -> str:
    metric = choice.metrics[row["metric"]]
    where = "" if row["eval_set"] == VAL else f" on {plain(row['eval_set'])}"
    unit = f", {metric.unit}" if metric.unit else ""
    better = "" if metric.higher_is_better else " (lower is better)"
    return f"{metric.title}{where}{unit}{better}"


def _change(row: Row, choice: SelectedResult) -> str:
    """`0.512 → 0.498, Δ −0.014 [−0.020, −0.008]`."""
    unit = choice.metrics[row["metric"]].unit
    digits = digits_of(unit)
    change = f"{number(row['before'], digits)} → {number(row['after'], digits)}"
    return change if row["delta"] is None else f"{change}, Δ {delta_text({**row, 'unit': unit})}"


def classes(choice: SelectedResult, names: tuple[str, ...] | None) -> str:
    """How many classes gained and lost, and those that lost most; names in label order."""
    if not choice.classes:
        return "Not known: the store has no predictions of the base model."
    rows = choice.classes
    lost = sorted((r for r in rows if r["delta"] < 0), key=lambda r: r["delta"])
    won = sum(r["delta"] > 0 for r in rows)
    each = sorted(r["n"] for r in rows)
    few = f"{each[0]:,}" if each[0] == each[-1] else f"{each[0]:,} to {each[-1]:,}"
    text = (
        f"Of {len(rows):,} classes {won:,} gained, {len(lost):,} lost and "
        f"{len(rows) - won - len(lost):,} stayed as they were, on {few} images each."
    )
    if not lost:
        return text
    shown = [
        f"| {plain(names[r['label']]) if names else r['label']} | {r['n']:,} "
        f"| {r['before']:.2f} | {r['after']:.2f} | {signed(r['delta'])} "
        f"| {signed(r['control_delta'])} |"
        for r in lost[:LOSSES]
    ]
    head = "| class | images | before, % | after, % | Δ | control |\n|---|---:|---:|---:|---:|---:|"
    title = "Those that lost" if len(lost) <= LOSSES else f"The {LOSSES} that lost most"
    return "\n".join([f"{text} {title}:", "", head, *shown])


def plain(text: str) -> str:
    """A name as Markdown shows it, whatever signs it has."""
    line = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>#|" else sign for sign in line)


def code(text: str) -> str:
    """Text between backticks."""
    return f"`{' '.join(text.replace('`', '').split())}`"
