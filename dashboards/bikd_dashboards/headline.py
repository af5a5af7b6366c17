"""The headline table: for each model what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_dashboards.figures import Interval, pc
from bikd_ray.store.verdicts import (
    HARMED,
    LESS,
    SHORT,
    TOLD,
    failed_sentence,
    partners_of,
    short,
)

Row = Mapping[str, Any]

SHOWN = 4
"""Partners of a tie that are named."""


@dataclass(frozen=True)
class Headline:
    """One model's row. The numbers are those of the first partner named in `partners`.

    others: partners of the same tie that are not named. own: when its own old self teaches it,
    where the sweep has that. partner_ids: as `partners`; empty for a
    group.
    """

    model: str
    before: float
    partners: tuple[str, ...]
    others: int
    standing: str
    delta: Interval | None
    control: Interval | None
    net: Interval | None
    model_id: str = ""
    partner_ids: tuple[str, ...] = ()
    verdict: str = ""
    own: Interval | None = None


def headlines(
    gains: pa.Table,
    controls: Sequence[Row],
    baselines: Sequence[Row],
    names: Mapping[str, str],
    jobs: pa.Table,
) -> tuple[Headline, ...]:
    """A row for each model with a baseline: those with the clearest gain first, then those that
    should not be trained so, then the rest in the order of `names` (model_id to shown name).

    `standing`: "best" (one partner stands out), "tie" (several cannot be told apart), "highest"
    (of several, without a test, or where even the best does not help), "only" (no other to compare
    with), or nothing (none trained).
    """
    before = {r["model_id"]: r["value"] for r in baselines}
    alone = {r["model_id"]: r for r in controls}
    trained = {found["values"]: found["counts"] for found in _counts(gains["model_id"])}
    held = gains.filter(gains["best"])
    tied = {found["values"]: found["counts"] for found in _counts(held["model_id"])}
    # where a test names candidates the rest may not be shown; without one all are candidates
    untested = gains.filter(pc.invert(pc.is_in(gains["model_id"], held["model_id"].unique())))
    ranked: dict[str, list[Row]] = {}
    for row in _first(pa.concat_tables([held, untested])).to_pylist():
        ranked.setdefault(row["model_id"], []).append(row)
    answers = [
        _answer(
            name,
            before[model_id],
            ranked.get(model_id, []),
            trained.get(model_id, 0),
            tied.get(model_id, 0),
            alone.get(model_id),
            names,
            _untrained(model_id, jobs) if model_id not in trained else "",
        )
        for model_id, name in names.items()
    ]
    return tuple(sorted(answers, key=_clearest))


def _clearest(answer: Headline) -> tuple[int, float]:
    """Told verdicts before the others, and of those of one verdict the highest net Δ first."""
    told = [SHORT.get(verdict, verdict) for verdict in TOLD]
    if answer.verdict not in told or answer.net is None:
        return len(told), 0.0
    return told.index(answer.verdict), -abs(answer.net.value)


def _counts(column: pa.ChunkedArray) -> list[Row]:
    return pc.value_counts(column).to_pylist()


def _first(gains: pa.Table) -> pa.Table:
    """The first SHOWN rows of each model, in their order."""
    ids = gains["model_id"].combine_chunks().dictionary_encode().indices
    ids = np.asarray(ids, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    sizes = np.bincount(ids)
    place = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return gains.take(order[place < SHOWN])


def _untrained(model_id: str, jobs: pa.Table) -> str:
    """Why a model has no result with a partner."""
    if not pc.any(pc.equal(jobs["status"], "failed")).as_py():
        return "not trained yet"
    own = [model_id in members for members in jobs["member_ids"].to_pylist()]
    return failed_sentence(jobs.filter(pa.array(own, pa.bool_()))) or "not trained yet"


def _answer(
    name: str,
    before: float,
    ranked: list[Row],
    trained: int,
    tied: int,
    alone: Row | None,
    names: Mapping[str, str],
    untrained: str,
) -> Headline:
    control = interval(alone, "delta") if alone else None
    if not ranked:
        return Headline(name, before, (), 0, "", None, control, None, verdict=untrained)
    if trained == 1:
        standing, chosen = "only", 1
    elif not tied:
        standing, chosen = "highest", 1
    else:
        standing, chosen = "tie" if tied > 1 else "best", tied
    first, shown = ranked[0], ranked[: min(chosen, SHOWN)]
    if standing == "best" and first["verdict"] in (LESS, HARMED):
        standing = "highest"  # nobody should take it for a recommendation
    return Headline(
        name,
        before,
        tuple(partners_of(r, names) for r in shown),
        chosen - len(shown),
        standing,
        interval(first, "delta"),
        control,
        interval(first, "net"),
        first["model_id"],
        tuple(r["partner_ids"][0] if len(r["partner_ids"]) == 1 else "" for r in shown),
        short(first),
        interval(first, "self"),
    )


def interval(row: Row, which: str) -> Interval | None:
    """The "delta", "net", "self" or "over_self" of a row of gains; None where it has none."""
    value = row.get({"net": "net_delta", "self": "self_delta"}.get(which, which))
    told = which == "net" and row.get("verdict") in TOLD
    low, high = row.get(f"{which}_low"), row.get(f"{which}_high")
    return None if value is None else Interval(value, low, high, told, row["unit"])
