"""What came out of a store at one look, and which command comes next."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.formatting import count, difference, digits_of
from bikd_ray.store.family import SETTING
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.verdicts import (
    HARMED,
    IMPROVES,
    LESS,
    MORE,
    TOLD,
    clearness,
    detectable,
    failed_sentence,
)
from bikd_ray.tasks import DEFAULT

Row = dict[str, Any]


def by_setting(
    store: Store, gains: pa.Table, metric: str | None
) -> list[tuple[tuple[str, str, str], pa.Table]]:
    """(data_id, recipe_id, objective) and its rows of GAINS; that with the clearest row first."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for i, row in enumerate(gains.select([*SETTING]).to_pylist()):
        found.setdefault((row["data_id"], row["recipe_id"], row["objective"]), []).append(i)
    parts = [(key, gains.take(at)) for key, at in found.items()]

    def clearest(part: tuple[tuple[str, str, str], pa.Table]) -> tuple:
        (data_id, *_), rows = part
        sign = store.metric(data_id, metric).sign
        return min(clearness(row, sign) for row in rows.to_pylist())

    return sorted(parts, key=clearest)


@dataclass(frozen=True)
class Step:
    """Something to do next: why, and the command or the lines of a spec, as they are typed."""

    why: str
    type: str


@dataclass(frozen=True)
class Asked:
    """What a summary is about; see `Store.gains`."""

    objective: str | None = None
    selection: str = "last"
    metric: str | None = None
    eval_set: str = VAL

    def gains(self, store: Store) -> pa.Table:
        return store.gains(self.objective, self.selection, self.metric, self.eval_set)

    def controls(self, store: Store) -> pa.Table:
        return store.controls(self.selection, metric=self.metric, eval_set=self.eval_set)


def firsts(gains: pa.Table) -> list[Row]:
    """The first row of GAINS of each model and setting: told ones first, the clearest on top."""
    keys = [*SETTING, "model_id"]
    numbered = gains.select(keys).append_column("row", pa.array(np.arange(len(gains))))
    first = numbered.group_by(keys).aggregate([("row", "min")])["row_min"]
    found = gains.take(first.take(pc.sort_indices(first))).to_pylist()

    def rank(row: Row) -> tuple:
        told = row["verdict"] in TOLD
        place = TOLD.index(row["verdict"]) if told else len(TOLD)
        return (*(row[name] for name in SETTING), place, -abs(row["net_delta"] or 0) * told)

    return sorted(found, key=rank)


def search_notes(store: Store) -> Callable[[str, str, str], str] | None:
    """`search_note` of a store, where something was searched."""
    if not len(store.index("decisions")):
        return None  # and what searches is not loaded
    from bikd_ray.store.searches import search_note

    return partial(search_note, store)


def searched(store: Store, rows: Sequence[Row]) -> list[str]:
    """What to bear in mind where a search has chosen; rows: of one setting, or none."""
    note_of = search_notes(store)
    note = note_of(*(rows[0][name] for name in SETTING)) if rows and note_of else ""
    return [note] if note else []


def next_steps(store: Store, gains: pa.Table, asked: Asked, spec: str) -> list[Step]:
    """At most four, the most useful first."""
    rows, at = firsts(gains), ["--store", store.uri]
    repeat = _command("bikd", "sweep", spec)
    if not rows:
        return [*_failed(store, at, spec), *_nothing_yet(store, repeat)]
    steps = [
        *_export(store, rows, asked, at, spec),
        *_seeds(rows, repeat),
        *_no_control(gains, repeat),
        *(_groups(gains, repeat) or _others(store, gains, rows, repeat)),
        *_nothing_helps(store, gains, rows, repeat),
        *_leave_out(rows),
        *_failed(store, at, spec),
    ]
    look = Step("Look at every pair, model and run:", _command("bikd", "dashboard", *at))
    return [*steps[:4], look]


def _command(*words: str) -> str:
    return shlex.join(words)


def _better(row: Row) -> float:
    """The size of a net Δ that is told; which way is better is its verdict's business."""
    return abs(row["net_delta"])


def _export(
    store: Store, rows: Iterable[Row], asked: Asked, at: list[str], spec: str
) -> list[Step]:
    helped = sorted(
        (r for r in rows if r["verdict"] in (IMPROVES, MORE)),
        key=lambda r: clearness(r, store.metric(r["data_id"], asked.metric).sign),
    )
    if not helped:
        return []
    best = helped[0]
    net = difference(best["net_delta"], best["unit"])
    why = f"Take home what gained most: {best['model']} with {best['partner']}, net Δ {net}."
    ties = _tied(store, best, asked)
    if ties:
        cheap, others = ties
        why += f" It ties with {others}"
        why += f"; {cheap} is the cheapest of them." if cheap else "."
    where = (pc.field("model_id") == best["model_id"]) & pc.field("weights").is_valid()
    where &= pc.field("objective") == best["objective"]
    kept = store.table("results", ["partner_ids", "recipe_id"], where).to_pylist()
    if not any(r["partner_ids"] == best["partner_ids"] for r in kept):
        lines = "resources: {keep_weights: best}   # in the spec, then:"
        lines += f"\n{_command('bikd', 'sweep', spec, '--store', 'ANOTHER')}"
        return [Step(f"{why} Its weights were not kept:", lines)]
    given = ["--partner", best["partner"], "--objective", best["objective"]]
    if searched(store, [best]):  # which has chosen by a half, and export does, too
        why = f"Take home {best['model']}, with the partner that the search chose or without:"
        given = given[2:]
    if asked.selection != "last":
        given += ["--selection", asked.selection]
    out = "".join(c if c.isalnum() else "-" for c in f"{best['model']}-taught")
    return [Step(why, _command("bikd", "export", best["model"], *given, "--out", out, *at))]


def _tied(store: Store, best: Row, asked: Asked) -> tuple[str, str] | None:
    """(the cheapest of a tie by its partners' FLOPs, the others' names), where there is a tie."""
    if not best["tie"]:
        return None
    rows = store.partners(
        best["model_id"], best["objective"], asked.selection, asked.metric, asked.eval_set
    ).to_pylist()
    alike = [r for r in rows if r["tie"] and all(r[n] == best[n] for n in SETTING)]
    models = store.table("models", ["model_id", "flops"]).to_pylist()
    flops = {row["model_id"]: row["flops"] for row in models}
    costs = {r["partner"]: [flops.get(i) for i in r["partner_ids"]] for r in alike}
    known = {
        name: sum(one for one in cost if one is not None)
        for name, cost in costs.items()
        if None not in cost
    }
    cheap = min(known, key=lambda name: known[name]) if len(known) == len(alike) else ""
    others = [r["partner"] for r in alike if r["partner"] != best["partner"]]
    few = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return cheap, few


def _seeds(rows: Iterable[Row], repeat: str) -> list[Step]:
    if all(row["seeds"] > 1 for row in rows):
        return []
    why = "One seed cannot say how another would come out; add some (done jobs are kept):"
    return [Step(why, f"seeds: [0, 1, 2]   # in the spec, then:\n{repeat}")]


def _no_control(gains: pa.Table, repeat: str) -> list[Step]:
    missing = gains["net_delta"].null_count
    if not missing:
        return []
    why = f"{count(missing, 'gain')} without a control: only that tells it from further training."
    return [Step(why, f"controls: true   # in the spec, then:\n{repeat}")]


def _groups(gains: pa.Table, repeat: str) -> list[Step]:
    """Several partners that improve one model may do so together."""
    found: dict[str, list[Row]] = {}
    for row in gains.filter(pc.equal(gains["verdict"], IMPROVES)).to_pylist():
        if len(row["partner_ids"]) == 1:
            found.setdefault(row["model_id"], []).append(row)
    several = [rows for rows in found.values() if len(rows) > 1]
    tried = set(pc.list_value_length(gains["partner_ids"]).unique().to_pylist())
    if not several or tried != {1}:
        return []
    rows = max(several, key=lambda rows: _better(rows[0]))[:2]
    names = [rows[0]["model"], *(row["partner"] for row in rows)]
    why = f"{count(len(rows), 'partner')} improve {names[0]} each; together they may do more:"
    return [Step(why, f"pairings: {{list: [[{', '.join(names)}]]}}   # in the spec\n{repeat}")]


def _others(store: Store, gains: pa.Table, rows: Iterable[Row], repeat: str) -> list[Step]:
    """Pairs that were not trained yet, with who helped most."""
    helped = [row for row in rows if row["verdict"] in (IMPROVES, MORE)]
    if not helped:
        return []
    single = gains.filter(pc.equal(pc.list_value_length(gains["partner_ids"]), 1))
    partners = pc.list_flatten(single["partner_ids"]).to_pylist()
    trained = set(map(frozenset, zip(single["model_id"].to_pylist(), partners, strict=True)))
    known = {
        frozenset((row["model_id_a"], row["model_id_b"]))
        for row in store.pairs_before().select(["model_id_a", "model_id_b"]).to_pylist()
    }
    left = known - trained
    if not left:
        return []
    best = max(helped, key=_better)
    why = f"{count(len(left), 'pair')} of {len(known):,} not trained yet; "
    why += f"{best['partner']} helped most:"
    return [
        Step(
            why, f"pairings: {{anchors: {{models: [{best['partner']}]}}}}   # in the spec\n{repeat}"
        )
    ]


def _nothing_helps(store: Store, gains: pa.Table, rows: Iterable[Row], repeat: str) -> list[Step]:
    if any(row["verdict"] in (IMPROVES, MORE, LESS) for row in rows):
        return []
    known = gains.filter(pc.greater(gains["detectable"], 0))
    if not len(known):
        return []
    order = pc.sort_indices(known["detectable"])
    (middle,) = known.take(order.slice(len(known) // 2, 1)).to_pylist()
    digits = digits_of(middle["unit"])
    half = f"{middle['detectable'] / 2:.{digits}f}"
    units = store.metric(middle["data_id"], middle["metric"]).units
    objectives = {label.partition("(")[0] for label in known["objective"].unique().to_pylist()}
    steps = [
        Step(
            f"Nothing is told from 0. A val set of {middle['n']:,} {units} finds a net Δ of "
            f"{detectable(middle)}; to find {half} takes about {4 * middle['n']:,}.",
            "data: {val: …}   # a larger set, in the spec, then:\n" + repeat,
        )
    ]
    if "kd" not in objectives:
        of_task = {row["data_id"]: row["task"] for row in store.table("metrics").to_pylist()}
        plain = of_task.get(middle["data_id"], DEFAULT) != DEFAULT  # may have no temperature
        kd = "kd" if plain else "{name: kd, temperature: 4.0}"
        steps.append(
            Step(
                "Or let frozen partners teach: kd helps where labels are few or wrong.",
                f"objectives: [{kd}, self]   # in the spec, then:\n{repeat}",
            )
        )
    return steps


def _leave_out(rows: Iterable[Row]) -> list[Step]:
    helped = {row["model"] for row in rows if row["verdict"] in (IMPROVES, MORE)}
    bad = [row["model"] for row in rows if row["verdict"] in (LESS, HARMED)]
    bad = [model for model in dict.fromkeys(bad) if model not in helped]
    if not bad:
        return []
    few = ", ".join(bad[:4]) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")
    return [Step(f"Leave out as a learner (it only loses, or is harmed): {few}.", "")]


def _failed(store: Store, at: list[str], spec: str) -> list[Step]:
    failed = store.failures()
    if not failed:
        return []
    again = _command("bikd", "sweep", spec, "--retry-failed")
    why = f"{count(len(failed), 'job')} failed; see why, then try again:"
    return [Step(why, f"{_command('bikd', 'status', '--failed', *at)}\n{again}")]


def _nothing_yet(store: Store, repeat: str) -> list[Step]:
    if failed_sentence(store.table("jobs")):
        return []
    if not store.models():
        return [Step("Nothing has run yet:", repeat)]
    return [Step("No pairing has been trained yet:", repeat)]
