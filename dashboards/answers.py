"""The headline: for each model what came out, and one honest sentence over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.figures import Interval
from dashboards.wording import count, listed, signed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One model's row. The numbers are those of the first partner named in `partners`."""

    model: str
    top1_before: float
    partners: tuple[str, ...]
    standing: str
    delta: Interval | None
    control: Interval | None
    net: Interval | None
    recovered: float | None


def answers(
    gains: Sequence[Row],
    controls: Sequence[Row],
    baselines: Sequence[Row],
    names: Mapping[str, str],
) -> tuple[Answer, ...]:
    """A row for each model with a baseline, in the order of `names` (model_id to shown name).

    `standing`: "best" (one partner stands out), "tie" (several cannot be told apart), "highest"
    (of several, without a test), "only" (no other to compare with), or nothing (none trained).
    """
    top1 = {r["model_id"]: r["top1"] for r in baselines}
    alone = {r["model_id"]: r for r in controls}
    return tuple(
        _answer(
            name,
            top1[model_id],
            sorted((r for r in gains if r["model_id"] == model_id), key=lambda r: -r["delta_top1"]),
            alone.get(model_id),
            names,
        )
        for model_id, name in names.items()
    )


def _answer(
    name: str, top1: float, ranked: list[Row], alone: Row | None, names: Mapping[str, str]
) -> Answer:
    control = interval(alone, "delta") if alone else None
    if not ranked:
        return Answer(name, top1, (), "", None, control, None, None)
    held = [r for r in ranked if r["best"]]
    if len(ranked) == 1:
        chosen, standing = ranked, "only"
    elif not held:
        chosen, standing = ranked[:1], "highest"
    else:
        chosen, standing = held, "tie" if len(held) > 1 else "best"
    first = chosen[0]
    return Answer(
        name,
        top1,
        tuple(partner_name(r, names) for r in chosen),
        standing,
        interval(first, "delta"),
        control,
        interval(first, "net"),
        first["recovered"],
    )


def partner_name(row: Row, names: Mapping[str, str]) -> str:
    """`A`, or `A + B` for a group, as the page calls them."""
    both = zip(row["partner_ids"], row["partners"], strict=True)
    return " + ".join(names.get(model_id, alias) for model_id, alias in both)


def standing(row: Row) -> str:
    """One of "best", "tie" or nothing: whether this partner set may be its model's best."""
    return "tie" if row["tie"] else "best" if row["best"] else ""


def interval(row: Row, which: str) -> Interval | None:
    """The "delta" or "net" of a row of gains; None where it has none."""
    value = row["delta_top1" if which == "delta" else "net_delta"]
    return None if value is None else Interval(value, row[f"{which}_low"], row[f"{which}_high"])


def verdict(
    gains: Sequence[Row], controls: Sequence[Row], names: Mapping[str, str], selection: str
) -> tuple[str, tuple[str, ...]]:
    """What came out over all models, in one sentence, and what to bear in mind with it."""
    if not gains:
        trained = "Only controls have finished" if controls else "Only baselines are there"
        return f"{trained}: no pairing has been trained yet, so there is nothing to compare.", ()
    known = [r for r in gains if r["net_delta"] is not None]
    if selection == "best_val":
        return (
            "The epochs were chosen on the very images reported here: these gains are too high, "
            "and no interval can be given.",
            ("Look at the last epoch, or at epochs chosen on held-out images, to decide.",),
        )
    if not known:
        return (
            "Nothing can be said about partners: no control has finished, and without one a gain "
            "may be plain further training.",
            (),
        )
    notes = _notes(gains, known)
    up = [r for r in known if r["net_low"] > 0]
    down = [r for r in known if r["net_high"] < 0]
    below = (
        f"in {len(down)} of {len(known)} cases the learner ends below its control" if down else ""
    )
    if not up:
        if not below:
            return (
                "No partner helps any model by more than training alone does: "
                "every net Δ interval includes 0.",
                notes,
            )
        return f"No partner helps any model by more than training alone does; {below}.", notes
    helped = {r["model_id"] for r in up}
    models = {r["model_id"] for r in known}
    most = []
    for model_id in [i for i in names if i in helped]:
        top = max((r for r in up if r["model_id"] == model_id), key=lambda r: r["net_delta"])
        most.append(
            f"{names[model_id]} (with {partner_name(top, names)}, {signed(top['net_delta'])} pp)"
        )
    gain = "gains" if len(helped) == 1 else "gain"
    sentence = (
        f"{len(helped)} of {count(len(models), 'model')} {gain} more with a partner than alone: "
        f"{listed(most, 4)}"
    )
    return f"{sentence}; {below}." if below else f"{sentence}.", notes


def _notes(gains: Sequence[Row], known: Sequence[Row]) -> tuple[str, ...]:
    notes = []
    if any(r["tie"] for r in gains):
        notes.append(
            "In a tie the numbers are those of the first partner named, which has the highest Δ."
        )
    if len(known) > 1:
        notes.append(
            f"{len(known)} net Δ intervals at 95%: about {len(known) * 0.025:.1f} of them would "
            "lie above 0 by chance alone."
        )
    if len(known) < len(gains):
        notes.append(
            f"{count(len(gains) - len(known), 'result')} of {len(gains)} without a control of "
            "the same seed: no net Δ there."
        )
    if any(r["seeds"] == 1 for r in known):
        notes.append(
            "Some results come from one seed: their intervals speak of the images drawn, not of "
            "how another seed would come out."
        )
    return tuple(notes)
