"""Objectives side by side: the same learner with the same partner, taught in different ways.

Tables here are gains of one data set, recipe and selection and of all objectives, with one partner
each: columns of GAINS, and `partner`, its model_id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bikd_ray.store.read import pc


@dataclass(frozen=True)
class ObjectiveSummary:
    """One objective against the first one, over the learners and partners that both trained.

    Δ and net Δ are means; ahead and behind count the cases in which its Δ is the higher or the
    lower one.
    """

    objective: str
    cases: int
    delta: float
    net: float | None
    shared: int
    difference: float | None
    ahead: int
    behind: int


def most_different(one: pa.Table, alone: Mapping[str, float], most: int) -> tuple[pa.Table, int]:
    """The rows of so many learners and partners, those whose values lie widest apart, and how
    many others have several values too.

    alone: model_id to its control's Δ, which is one of its values.
    """
    if not len(one):
        return one, 0
    pair = pc.binary_join_element_wise(one["model_id"], one["partner"], " ").combine_chunks()
    code_M = np.asarray(pair.dictionary_encode().indices)
    known = pa.array(alone, pa.string())
    control = pa.array(alone.values(), pa.float64())
    control_M = np.asarray(control.take(pc.index_in(one["model_id"].combine_chunks(), known)))
    delta_M = np.asarray(one["delta"])
    low_P = np.full(code_M.max() + 1, np.inf)
    high_P = -low_P
    for values_M in (delta_M, control_M):
        np.fmin.at(low_P, code_M, values_M)
        np.fmax.at(high_P, code_M, values_M)
    several_P = np.bincount(code_M) > 1
    several_P[code_M[~np.isnan(control_M)]] = True
    ranked = np.argsort(np.where(several_P, low_P - high_P, np.inf), kind="stable")
    total = int(several_P.sum())
    shown = ranked[: min(most, total)]
    return one.filter(pa.array(np.isin(code_M, shown))), total - len(shown)


def ordered(labels: Sequence[str]) -> list[str]:
    """With bikd first: the others are measured against it."""
    return sorted(labels, key=lambda name: (name.split("(")[0] != "bikd", name))


def summaries(one: pa.Table, order: Sequence[str]) -> tuple[ObjectiveSummary, ...]:
    """One for each objective of `ordered`, each against the first."""
    if not order:
        return ()
    keys = ["model_id", "partner"]
    first = one.filter(pc.equal(one["objective"], order[0])).select([*keys, "delta"])
    joined = one.join(first.rename_columns([*keys, "first"]), keys, join_type="left outer")
    out = []
    for name in order:
        mine = joined.filter(pc.equal(joined["objective"], name))
        less = pc.drop_null(pc.subtract(mine["delta"], mine["first"]))
        less = less if name != order[0] else less.slice(0, 0)
        out.append(
            ObjectiveSummary(
                name,
                len(mine),
                pc.mean(mine["delta"]).as_py(),
                pc.mean(mine["net_delta"]).as_py(),
                len(less),
                pc.mean(less).as_py(),
                pc.sum(pc.greater(less, 0)).as_py() or 0,
                pc.sum(pc.less(less, 0)).as_py() or 0,
            )
        )
    return tuple(out)
