"""What can be said of each gain: the terminal, the report, the app and the card say this, no more.

Pure functions of answers and of the table `jobs`. docs/statistics.md has the definitions.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.formatting import count, difference, difference_unit, digits_of, with_span
from bikd_ray.store.read import pc
from bikd_ray.vocabulary import CHOSEN_ON_VAL, UNTOUCHED

Row = Mapping[str, Any]

LEVEL = 0.05
"""Of the q-values below which a net Δ is told from 0."""

IMPROVES = "improves"
MORE = "better than alone"
LESS = "loses less than alone"
HARMED = "harmed"
NOTHING = "no difference found"
NO_CONTROL = "no control"
ON_VAL = "chosen on val"

SHORT = {LESS: "loses less, do not train", NOTHING: "no difference"}
"""Verdicts that a table says in fewer words."""

TOLD = (IMPROVES, MORE, LESS, HARMED)
"""Verdicts of gains whose net Δ is told from 0: only these are coloured, bold or filled."""

AGAINST_UNTOUCHED = (
    "Train has no labels, so there is no control by cross-entropy: net Δ is against the untouched "
    "models, and holds what further training alone would give."
)

NAMED = 4
"""Models that a sentence names."""

CAUSES = (
    (
        ("CUDA out of memory", "OutOfMemoryError"),
        "CUDA out of memory",
        "set resources.micro_batch or gpus_per_job",
    ),
    (("No space left on device",), "no space left on a disk", "make room"),
)
"""What an error holds, how that is called, and what helps before --retry-failed."""


@dataclass(frozen=True)
class Cause:
    """Why jobs failed. remedy: what to do, empty where only the error itself can tell."""

    what: str
    jobs: int
    remedy: str


def judged(gains: pa.Table, sign: int = 1) -> pa.Table:
    """Rows of GAINS of one setting, q-values filled: with `verdict`, in the order of preference.

    sign: -1 where a lower metric is better.

    The models stay in their order. Of a model's partner sets come first those that improve it,
    then those that are better than alone, then those with which it loses less; then the set that
    holds the best, the highest net Δ, the highest Δ, and last the partners' ids, in whose order
    the rows have to come. The first row names the best partner wherever one is named.
    """
    column = {
        name: np.asarray(gains[name].to_numpy(), float)
        for name in ("net_delta", "q_value", "delta", "delta_low", "delta_high")
    }
    net, delta = sign * column["net_delta"], sign * column["delta"]
    worst = column["delta_low"] if sign > 0 else -column["delta_high"]
    on_val = np.asarray(pc.equal(gains["selection"], CHOSEN_ON_VAL))
    told = column["q_value"] < LEVEL
    cases = [
        (on_val, ON_VAL),
        (np.isnan(net), NO_CONTROL),
        (told & (net < 0), HARMED),
        (told & (net > 0) & (worst > 0), IMPROVES),
        (told & (net > 0) & (delta > 0), MORE),
        (told & (net > 0), LESS),
    ]
    verdict = np.select([case for case, _ in cases], [name for _, name in cases], NOTHING)
    rank = np.select([verdict == name for name in (IMPROVES, MORE, LESS)], [0, 1, 2], 3)
    models = pc.dictionary_encode(gains["model_id"].combine_chunks()).indices
    keys = (
        -np.round(delta, 9),
        -np.round(np.where(np.isnan(net), -np.inf, net), 9),
        ~np.asarray(gains["best"].to_numpy(), bool),
        rank,
        np.asarray(models),
    )
    at = gains.schema.get_field_index("verdict")
    filled = gains.set_column(at, gains.schema.field(at), pa.array(verdict.astype(str)))
    return filled.take(np.lexsort(keys))


def clearness(row: Row, sign: int = 1) -> tuple[Any, ...]:
    """Sort key of rows of GAINS of several settings, the clearest verdict first.

    As `judged` ranks the partner sets of one setting, less the set that holds the best, which no
    test spans settings for: what it is, then the highest net Δ, then Δ, then the objective's name.
    sign: -1 where a lower metric is better.
    """
    net = row["net_delta"]
    ranked = (IMPROVES, MORE, LESS)
    rank = ranked.index(row["verdict"]) if row["verdict"] in ranked else len(ranked)
    return (rank, net is None, -sign * (net or 0.0), -sign * row["delta"], row["objective"])


def short(row: Row) -> str:
    """The verdict of a row of GAINS in few words, for a table; empty for a control."""
    return SHORT.get(row["verdict"], row["verdict"] or "")


def standing(row: Row) -> str:
    """One of "best", "tie" or nothing: whether this partner set may be its model's best."""
    return "tie" if row["tie"] else "best" if row["best"] else ""


def delta_text(gain: Row) -> str:
    """Δ of a row of GAINS with its 95% interval, where it has a fair one."""
    digits = digits_of(gain["unit"])
    return with_span(gain["delta"], gain["delta_low"], gain["delta_high"], digits)


def net_text(gain: Row) -> str:
    """As `delta_text`, net Δ."""
    digits = digits_of(gain["unit"])
    return with_span(gain["net_delta"], gain["net_low"], gain["net_high"], digits)


def over_self_text(gain: Row) -> str:
    """What a partner gives beyond the model's own old self, with its 95% interval."""
    digits = digits_of(gain["unit"])
    return with_span(gain["over_self"], gain["over_self_low"], gain["over_self_high"], digits)


def _own(row: Row) -> float | None:
    """Of a row of GAINS, what the model's own frozen start gives as a teacher, over the control."""
    if row.get("over_self") is None or row["net_delta"] is None:
        return None
    return row["net_delta"] - row["over_self"]


def _is_part(own: float, row: Row) -> bool:
    """Whether the own old self gives less than the partner, and both help or both harm."""
    return 0 < own * row["net_delta"] < row["net_delta"] ** 2


def own_sentence(row: Row) -> str:
    """How much of the net Δ of a row of GAINS is left for the partner; empty without `self`."""
    own = _own(row)
    if own is None:
        return ""
    net, alone = (difference(value, row["unit"]) for value in (row["net_delta"], own))
    if _is_part(own, row):
        return (
            f"of {net} over the control, {alone} are what its own old self gives, and "
            f"{over_self_text(row)} what the partner adds to that"
        )
    return (
        f"its own old self gives {alone} over the control; with the partner it is "
        f"{over_self_text(row)} beside that"
    )


def detectable(row: Row) -> str:
    """The smallest net Δ that a row of GAINS could have shown, with its unit."""
    text = f"{row['detectable']:.{digits_of(row['unit'])}f} {difference_unit(row['unit'])}"
    return text.rstrip()


def in_words(row: Row) -> str:
    """The verdict of a row of GAINS, with what a person has to know with it."""
    if row["verdict"] == LESS:
        return f"{LESS}: do not train it"
    if row["verdict"] == NOTHING and row["detectable"] is not None:
        return f"{NOTHING} (one comparison detects {detectable(row)} with 80% power)"
    return row["verdict"]


def headline(
    gains: pa.Table,
    controls: pa.Table,
    jobs: pa.Table,
    names: Mapping[str, str] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """What came out over all models of one setting, in one sentence, and what to bear in mind.

    gains, controls: answers, judged. jobs: the table `jobs`. names: model_id to what a page calls
    it, where that is not the alias.
    """
    if not len(gains):
        if failed := failed_sentence(jobs):
            return failed, ()
        trained = "Only controls have finished" if len(controls) else "Only baselines are there"
        return f"{trained}: no pairing has been trained yet, so there is nothing to compare.", ()
    if pc.all(pc.equal(gains["selection"], CHOSEN_ON_VAL)).as_py():
        return (
            "The epochs were chosen on the very images reported here: these gains are too high, "
            "and no interval can be given.",
            ("Look at the last epoch, or at epochs chosen on held-out images, to decide.",),
        )
    known = gains.filter(pc.is_valid(gains["net_delta"]))
    if not len(known):
        return (
            "Nothing can be said about partners: no control has finished, and without one a gain "
            "may be plain further training.",
            (),
        )
    return _sentence(known, names or {}), _notes(gains, known)


def _sentence(known: pa.Table, names: Mapping[str, str]) -> str:
    verdicts, free = Counter(known["verdict"].to_pylist()), _untouched(known)
    models = len(known["model_id"].unique())
    firsts: dict[str, dict[str, Row]] = {IMPROVES: {}, MORE: {}, LESS: {}}
    seen: set[str] = set()
    told = known.filter(pc.is_in(known["verdict"], value_set=pa.array([*firsts])))
    for row in told.to_pylist():
        if row["model_id"] not in seen:
            seen.add(row["model_id"])
            firsts[row["verdict"]][row["model_id"]] = row
    parts = []
    if firsts[IMPROVES]:
        found = firsts[IMPROVES]
        verb = "improves" if len(found) == 1 else "improve"
        parts.append(
            f"{len(found):,} of {count(models, 'model')} {verb} with a partner "
            f"{'over before' if free else 'by more than alone'}: {_named(found, names)}"
        )
    else:
        parts.append(
            "No model is sure to be better than before"
            if free
            else "No partner helps any model by more than training alone does"
        )
        if seen:
            parts[0] = "No partner is sure to improve any model"
    if firsts[MORE]:
        parts.append(
            f"{count(len(firsts[MORE]), 'model')} {_is(firsts[MORE])} better than alone, but not "
            f"surely better than before: {_named(firsts[MORE], names)}"
        )
    if firsts[LESS]:
        parts.append(
            f"{count(len(firsts[LESS]), 'model')} only lose{'s' * (len(firsts[LESS]) == 1)} less "
            f"than alone, do not train {'it' if len(firsts[LESS]) == 1 else 'them'}: "
            f"{_named(firsts[LESS], names, numbers=False)}"
        )
    if verdicts[HARMED]:
        parts.append(
            f"in {verdicts[HARMED]:,} of {count(len(known), 'case')} "
            f"{'the learner ends worse' if free else 'the partner harms the learner'}"
        )
    if not seen and not verdicts[HARMED]:
        parts.append(
            f"none of {count(len(known), 'net Δ')} differs measurably from 0"
            if len(known) == 1
            else f"none of {len(known):,} net Δ survives the correction for {len(known):,} "
            "comparisons (q < 0.05)"
        )
        parts = [": ".join(parts)]
    return "; ".join(parts) + "." + (f" {AGAINST_UNTOUCHED}" if free else "")


def _untouched(gains: pa.Table) -> bool:
    """Whether train has no labels, so that net Δ is against the untouched models."""
    return "control" in gains.column_names and UNTOUCHED in gains["control"].to_pylist()


def _named(found: Mapping[str, Row], names: Mapping[str, str], numbers: bool = True) -> str:
    """The first NAMED models with their partners, the largest net Δ first."""
    ranked = sorted(found.values(), key=lambda row: -abs(row["net_delta"]))
    told = [
        f"{names.get(row['model_id'], row['model'])} (with {partners_of(row, names)}"
        + f", net Δ {difference(row['net_delta'], row['unit'])}{_of_which(row)}" * numbers
        + ")"
        for row in ranked[:NAMED]
    ]
    rest = len(ranked) - len(told)
    return ", ".join(told) + (f" and {rest:,} more" if rest else "")


def _of_which(row: Row) -> str:
    own = _own(row)
    if own is None:
        return ""
    text = difference(own, row["unit"])
    if _is_part(own, row):
        return f", of which its own old self gives {text}"
    return f", but its own old self gives {text}"


def partners_of(row: Row, names: Mapping[str, str]) -> str:
    """`A`, or `A + B` for a group, as a page calls them."""
    both = zip(row["partner_ids"], row["partners"], strict=True)
    return " + ".join(names.get(model_id, alias) for model_id, alias in both)


def _notes(gains: pa.Table, known: pa.Table) -> tuple[str, ...]:
    notes = []
    if pc.any(gains["tie"]).as_py():
        notes.append("For ties, numbers are for the first partner listed.")
    fair = np.sort(known["detectable"].to_numpy())
    fair = fair[~np.isnan(fair)]
    if len(fair):
        middle = {"detectable": fair[len(fair) // 2], "unit": known["unit"][0].as_py()}
        notes.append(
            f"This set and these seeds would detect a true net Δ of {detectable(middle)} with 80% "
            "power (median of the cases, each taken by itself)."
        )
    if len(known) > 1:
        notes.append(
            f"{len(known):,} net Δ are corrected together (q, Benjamini–Hochberg over this "
            "setting); only q < 0.05 counts as a difference."
        )
    beside = known.filter(pc.is_valid(known["over_self"]))
    if len(beside):
        low, high = (beside[f"over_self_{end}"] for end in ("low", "high"))
        apart = pc.sum(pc.or_(pc.greater(low, 0), pc.less(high, 0))).as_py() or 0
        notes.append(
            f"Beside self (a model's own frozen start teaches it): {apart:,} of "
            f"{count(len(beside), 'gain')} differ from what that gives (95%, each by itself)."
        )
    if _untouched(gains) and not len(beside):
        notes.append(
            "What training without a partner gives is not known: the objective self with "
            "ce_weight: 0 would tell."
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


# -- jobs that failed ------------------------------------------------------------------


def causes(errors: Iterable[str | None]) -> tuple[Cause, ...]:
    """Why jobs failed, the most frequent cause first; errors: one of each job."""
    found: Counter[tuple[str, str]] = Counter()
    for error in errors:
        text = error or "no error was stored"
        first = " ".join(text.strip().splitlines()[0].split())
        known = (c for c in CAUSES if any(sign in first for sign in c[0]))
        _, what, remedy = next(known, ((), first if len(first) <= 100 else f"{first[:99]}…", ""))
        found[what, remedy] += 1
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Cause(what, jobs, remedy) for (what, remedy), jobs in ranked)


def failed_sentence(jobs: pa.Table, whose: str = "") -> str:
    """What to say where every job with a partner failed; empty where one is done or none ran.

    jobs: rows of the table `jobs`. whose: of a model, for the sentence.
    """
    several = jobs.filter(pc.greater(pc.list_value_length(jobs["member_ids"]), 1))
    states = several["status"].to_pylist()
    if not states or set(states) != {"failed"}:
        return ""
    found = causes(several["error"].to_pylist())
    told = "; ".join(f"{cause.jobs:,} with {cause.what}" for cause in found[:3])
    if len(found) == 1:
        told = found[0].what
    if len(found) > 3:
        told += f"; {sum(cause.jobs for cause in found[3:]):,} for other reasons"
    remedies = " and ".join(dict.fromkeys(c.remedy for c in found if c.remedy))
    how = f"{remedies}, then" if remedies else "see bikd status --failed, then"
    number = f"All {len(states):,} jobs" if len(states) > 1 else "The only job"
    return f"{number}{whose} with a partner failed ({told}): {how} bikd sweep SPEC --retry-failed."


def all_failed(jobs: pa.Table) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[Cause, ...]]]:
    """(member_ids, members, causes) of the sets of models whose every job failed, by names."""
    errors: dict[tuple[str, ...], list[str | None]] = defaultdict(list)
    members: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in jobs.to_pylist():
        ids = tuple(sorted(row["member_ids"]))
        members[ids] = tuple(row["members"])
        if row["status"] == "failed":
            errors[ids].append(row["error"])
    done = {tuple(sorted(r["member_ids"])) for r in jobs.to_pylist() if r["status"] == "done"}
    return [
        (ids, members[ids], causes(errors[ids]))
        for ids in sorted(errors, key=lambda i: (members[i], i))
        if ids not in done and len(ids) > 1
    ]


def _is(found: Mapping[str, Row]) -> str:
    return "is" if len(found) == 1 else "are"
