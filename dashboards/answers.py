"""The headline: for each model what came out, and one honest sentence over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dashboards.figures import Interval, pc
from dashboards.wording import count, listed, signed

Row = Mapping[str, Any]

SHOWN = 6
"""Partners of a tie that are named."""
NAMED = 4
"""Models that the sentence names."""


@dataclass(frozen=True)
class Answer:
    """One model's row. The numbers are those of the first partner named in `partners`.

    others: partners of the same tie that are not named. partner_ids: as `partners`; empty for a
    group.
    """

    model: str
    top1_before: float
    partners: tuple[str, ...]
    others: int
    standing: str
    delta: Interval | None
    control: Interval | None
    net: Interval | None
    recovered: float | None
    model_id: str = ""
    partner_ids: tuple[str, ...] = ()


def answers(
    gains: pa.Table, controls: Sequence[Row], baselines: Sequence[Row], names: Mapping[str, str]
) -> tuple[Answer, ...]:
    """A row for each model with a baseline, in the order of `names` (model_id to shown name).

    `standing`: "best" (one partner stands out), "tie" (several cannot be told apart), "highest"
    (of several, without a test), "only" (no other to compare with), or nothing (none trained).
    """
    top1 = {r["model_id"]: r["top1"] for r in baselines}
    alone = {r["model_id"]: r for r in controls}
    trained = {found["values"]: found["counts"] for found in _counts(gains["model_id"])}
    held = gains.filter(gains["best"])
    tied = {found["values"]: found["counts"] for found in _counts(held["model_id"])}
    # where a test names candidates the rest may not be shown; without one all are candidates
    untested = gains.filter(pc.invert(pc.is_in(gains["model_id"], held["model_id"].unique())))
    ranked: dict[str, list[Row]] = {}
    for row in _first(pa.concat_tables([held, untested])).to_pylist():
        ranked.setdefault(row["model_id"], []).append(row)
    return tuple(
        _answer(
            name,
            top1[model_id],
            ranked.get(model_id, []),
            trained.get(model_id, 0),
            tied.get(model_id, 0),
            alone.get(model_id),
            names,
        )
        for model_id, name in names.items()
    )


def _counts(column: pa.ChunkedArray) -> list[Row]:
    return pc.value_counts(column).to_pylist()


def _first(gains: pa.Table) -> pa.Table:
    """The SHOWN rows with the highest Δ of each model."""
    rows = gains.sort_by([("model_id", "ascending"), ("delta_top1", "descending")])
    ids = rows["model_id"].combine_chunks().dictionary_encode().indices
    ids = np.asarray(ids, dtype=np.int64)
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else np.array([], int)
    place = np.arange(len(ids)) - np.repeat(starts, np.diff(np.r_[starts, len(ids)]))
    return rows.filter(pa.array(place < SHOWN))


def _answer(
    name: str,
    top1: float,
    ranked: list[Row],
    trained: int,
    tied: int,
    alone: Row | None,
    names: Mapping[str, str],
) -> Answer:
    control = interval(alone, "delta") if alone else None
    if not ranked:
        return Answer(name, top1, (), 0, "", None, control, None, None)
    if trained == 1:
        standing, chosen = "only", 1
    elif not tied:
        standing, chosen = "highest", 1
    else:
        standing, chosen = "tie" if tied > 1 else "best", tied
    first, shown = ranked[0], ranked[: min(chosen, SHOWN)]
    return Answer(
        name,
        top1,
        tuple(partner_name(r, names) for r in shown),
        chosen - len(shown),
        standing,
        interval(first, "delta"),
        control,
        interval(first, "net"),
        first["recovered"],
        first["model_id"],
        tuple(r["partner_ids"][0] if len(r["partner_ids"]) == 1 else "" for r in shown),
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
    gains: pa.Table, controls: pa.Table, names: Mapping[str, str], selection: str
) -> tuple[str, tuple[str, ...]]:
    """What came out over all models, in one sentence, and what to bear in mind with it."""
    if not len(gains):
        trained = "Only controls have finished" if len(controls) else "Only baselines are there"
        return f"{trained}: no pairing has been trained yet, so there is nothing to compare.", ()
    known = gains.filter(pc.is_valid(gains["net_delta"]))
    if selection == "best_val":
        return (
            "The epochs were chosen on the very images reported here: these gains are too high, "
            "and no interval can be given.",
            ("Look at the last epoch, or at epochs chosen on held-out images, to decide.",),
        )
    if not len(known):
        return (
            "Nothing can be said about partners: no control has finished, and without one a gain "
            "may be plain further training.",
            (),
        )
    notes = _notes(gains, known)
    up = known.filter(pc.greater(known["net_low"], 0))
    down = pc.sum(pc.less(known["net_high"], 0)).as_py()
    below = (
        f"in {down:,} of {len(known):,} cases the learner ends below its control" if down else ""
    )
    if not len(up):
        if not below:
            return (
                "No partner helps any model by more than training alone does: "
                "every net Δ interval includes 0.",
                notes,
            )
        return f"No partner helps any model by more than training alone does; {below}.", notes
    up = up.sort_by([("net_delta", "descending")])
    helped = dict.fromkeys(up["model_id"].to_pylist())
    models = len(known["model_id"].unique())
    most = []
    for model_id in [i for i in names if i in helped][:NAMED]:
        top = up.filter(pc.equal(up["model_id"], model_id)).slice(0, 1).to_pylist()[0]
        most.append(
            f"{names[model_id]} (with {partner_name(top, names)}, {signed(top['net_delta'])} pp)"
        )
    rest = len(helped) - len(most)
    told = f"{', '.join(most)} and {rest} more" if rest else listed(most)
    gain = "gains" if len(helped) == 1 else "gain"
    sentence = f"{len(helped)} of {count(models, 'model')} {gain} more with a partner than alone: "
    return f"{sentence}{told}; {below}." if below else f"{sentence}{told}.", notes


def _notes(gains: pa.Table, known: pa.Table) -> tuple[str, ...]:
    notes = []
    if pc.any(gains["tie"]).as_py():
        notes.append(
            "In a tie the numbers are those of the first partner named, which has the highest Δ."
        )
    if len(known) > 1:
        notes.append(
            f"{len(known):,} net Δ intervals at 95%: about {len(known) * 0.025:,.1f} of them would "
            "lie above 0 by chance alone."
        )
    if len(known) < len(gains):
        notes.append(
            f"{count(len(gains) - len(known), 'result')} of {len(gains):,} without a control of "
            "the same seed: no net Δ there."
        )
    if pc.any(pc.equal(known["seeds"], 1)).as_py():
        notes.append(
            "Some results come from one seed: their intervals speak of the images drawn, not of "
            "how another seed would come out."
        )
    return tuple(notes)
