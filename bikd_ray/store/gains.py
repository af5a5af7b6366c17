"""The arithmetic behind the answers: a learner's results of several seeds to rows with intervals.

Everything comes from the scores: a difference is a contrast of vectors of the same units, paired
seed by seed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.classes import class_gains
from bikd_ray.analysis.scores import Scores
from bikd_ray.analysis.significance import (
    Estimates,
    best_set,
    contrast,
    cross_fitted,
    differences,
    false_discovery,
    rivals,
)
from bikd_ray.metrics import Metric
from bikd_ray.store.answer_schemas import FLIPS, GAINS
from bikd_ray.store.parts import class_values, parts_of
from bikd_ray.store.series import ModelSeries, Row, Seeds
from bikd_ray.vocabulary import CHOSEN_ON_VAL


class Vectors:
    """Vectors of scores of one learner: its untouched self is 0, then rows as they come."""

    def __init__(self, learner: ModelSeries) -> None:
        self.learner = learner
        self.rows = [learner.baseline]
        every = [learner.control, learner.own, *learner.by_partners.values()]
        self.seeds = sorted({seed for found in every for seed in found})

    def at(self, found: Seeds) -> list[int]:
        """[S]: where the vectors of some seeds are; -1 for seeds without one."""
        places = []
        for seed in self.seeds:
            places.append(len(self.rows) if seed in found else -1)
            self.rows += [found[seed]] if seed in found else []
        return places

    def control(self) -> np.ndarray:
        """[S]: where those of the control are; the untouched self, in all seeds, if that is it."""
        if self.learner.untouched:
            return np.zeros(len(self.seeds), int)
        return np.array(self.at(self.learner.control))

    @property
    def scores(self) -> Scores:
        parts = parts_of(self.learner, self.rows)
        return Scores.of(self.rows, self.learner.n, self.learner.metric, parts)


def gain_table(learner: ModelSeries) -> pa.Table:
    """`answers.GAINS` of a learner: a row for each partner set; no q_value and no verdict."""
    vectors = Vectors(learner)
    control_S = vectors.control()
    self_S = np.array(vectors.at(learner.own))
    at_PS = np.array([vectors.at(seeds) for seeds in learner.by_partners.values()])
    scores, fair = vectors.scores, learner.fair
    delta = _from(learner, differences(scores, at_PS, np.zeros_like(control_S)))
    net = _net(learner, differences(scores, at_PS, control_S))
    beside: dict[str, Any] = {}
    if learner.own:
        own = _from(learner, differences(scores, self_S, np.zeros_like(self_S)))
        over = _net(learner, differences(scores, at_PS, self_S))
        beside = _repeated(_bounds(("self_delta", "self_low", "self_high"), own, fair))
        beside |= _bounds(("over_self", "over_self_low", "over_self_high"), over, fair)
    best_P = best_set(rivals(scores, at_PS)) if fair else np.zeros(len(at_PS), bool)
    firsts = [next(iter(seeds.values())) for seeds in learner.by_partners.values()]
    ensemble_P = np.array([row["ensemble_before"] for row in firsts], float)
    sign = learner.metric.sign
    room_P = sign * (ensemble_P - learner.baseline["value"])
    recovered_P = np.full(len(room_P), np.nan)
    np.divide(100 * sign * delta.mean, room_P, out=recovered_P, where=room_P > 0)
    seeds_P = (at_PS >= 0).sum(1)
    columns = {
        **learner.about,
        **_bounded("delta", delta, fair),
        **_bounded("net", net, fair),
        "control_delta": _alone(scores, at_PS, control_S),
        **beside,
        "crossfit_delta": cross_fitted(scores, at_PS, 0) if fair else None,
        "p_value": net.p_value if fair else None,
        "detectable": net.detectable if fair else None,
        "after": learner.baseline["value"] + delta.mean,
        "recovered": recovered_P,
        "ensemble_before": ensemble_P,
        "best": best_P,
        "tie": best_P & (best_P.sum() > 1),
        "seeds": seeds_P,
        "net_seeds": net.seeds,
        "interval": np.where(seeds_P > 1, "images and seeds", "images") if fair else None,
        **_mates(learner),
    }
    return table_of(GAINS, columns, len(at_PS))


def p_values(learner: ModelSeries) -> np.ndarray:
    """[P]: those of `gain_table`, in its order, for a part of its work."""
    if not learner.fair:
        return np.full(len(learner.by_partners), np.nan)
    vectors = Vectors(learner)
    control_S = vectors.control()
    at_PS = np.array([vectors.at(seeds) for seeds in learner.by_partners.values()])
    return differences(vectors.scores, at_PS, control_S).p_value


def net_columns(result: Row, control: Row | None, metric: Metric) -> Row:
    """The columns of GAINS that hold net Δ, of one result and the control of its seed."""
    if control is None:
        return dict.fromkeys(("control_delta", "net_delta", "net_low", "net_high"))
    scores = Scores.of([control, result], result["n"], metric)
    net = _between(metric, differences(scores, np.array([1]), np.array([0])))
    columns = _bounded("net", net, result["selection"] != CHOSEN_ON_VAL)
    return {"control_delta": control["delta"], **{k: _number(v) for k, v in columns.items()}}


def _from(learner: ModelSeries, delta: Estimates) -> Estimates:
    """A Δ of a learner, whose percentage stays within 0 and 100."""
    if learner.metric.unit != "%":
        return delta
    return delta.within(-learner.baseline["value"], 100 - learner.baseline["value"])


def _net(learner: ModelSeries, net: Estimates) -> Estimates:
    """A net Δ of a learner; against its untouched self it is Δ."""
    return _from(learner, net) if learner.untouched else _between(learner.metric, net)


def _between(metric: Metric, difference: Estimates) -> Estimates:
    """A difference of two values of a metric; percentages stay within 0 and 100."""
    return difference.within(-100, 100) if metric.unit == "%" else difference


def _alone(scores: Scores, at_PS: np.ndarray, control_S: np.ndarray) -> np.ndarray:
    """[P]: the control's gain over the seeds that a candidate has, too, in the metric's unit."""
    totals_V = scores.totals
    paired_PS = (at_PS >= 0) & (control_S >= 0)
    seeds_P = paired_PS.sum(1)
    gained_PS = np.where(paired_PS, totals_V[control_S] - totals_V[0], 0)
    return scores.scale * gained_PS.sum(1) / np.where(seeds_P > 0, scores.n * seeds_P, np.nan)


def _mates(learner: ModelSeries) -> dict[str, list]:
    """Columns of an answer that say who the partners were, a row for each set of them."""
    firsts = [next(iter(seeds.values())) for seeds in learner.by_partners.values()]
    return {
        "partner": [" + ".join(row["partners"]) for row in firsts],
        "role": [row["role"] for row in firsts],
        "partners": [row["partners"] for row in firsts],
        "partner_ids": list(learner.by_partners),
    }


def table_of(schema: pa.Schema, columns: Mapping[str, Any], rows: int) -> pa.Table:
    """An answer from its columns: one value for all rows, or one for each; NaN becomes null.

    Columns that are not given are null.
    """

    def column(field: pa.Field) -> pa.Array:
        given = columns.get(field.name)
        if isinstance(given, np.ndarray):
            return pa.array(given, field.type, from_pandas=True)
        if isinstance(given, list):
            return pa.array(given, field.type)
        return pa.repeat(pa.scalar(given, field.type), rows)

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def with_q_values(gains: pa.Table, others: np.ndarray | None = None) -> pa.Table:
    """The same with `q_value`, over all rows of one data set, recipe, objective and selection.

    others: the p-values of the rows of this setting that are not in `gains`.
    """
    p = gains["p_value"].to_numpy()
    at = gains.schema.get_field_index("q_value")
    every = p if others is None else np.concatenate([p, others])
    q = pa.array(false_discovery(every)[: len(p)], pa.float64(), from_pandas=True)
    return gains.set_column(at, gains.schema.field(at), q)


def growth_rows(learner: ModelSeries) -> list[Row]:
    """Rows of `answers.GROWTH`: the mean over all groups of one size that a learner was in."""
    rows = []
    for size in sorted({len(partners) for partners in learner.by_partners}):
        groups = [found for p, found in learner.by_partners.items() if len(p) == size]
        vectors = Vectors(learner)
        control_S = vectors.control()
        at_GS = np.array([vectors.at(found) for found in groups])
        scores = vectors.scores
        there_GS = at_GS >= 0
        some_S, paired_S = there_GS.any(0), there_GS.any(0) & (control_S >= 0)
        each = np.eye(len(vectors.rows))
        share_GS = there_GS / np.maximum(1, there_GS.sum(0))
        together_SV = np.zeros((len(control_S), len(each)))
        np.add.at(together_SV, (np.arange(len(control_S)), at_GS), share_GS)
        alone_SV, before_V = each[control_S], each[0]
        delta = _from(learner, contrast(scores, (together_SV - before_V)[some_S]))
        net = _net(learner, contrast(scores, (together_SV - alone_SV)[paired_S]))
        alone = contrast(scores, (alone_SV - before_V)[paired_S])
        bounds = _bounded("delta", delta, learner.fair) | _bounded("net", net, learner.fair)
        rows.append(
            {
                **learner.about,
                "size": 1 + size,
                "groups": len(groups),
                "role": next(iter(groups[0].values()))["role"],
                "control_delta": _number(alone.mean),
                **{k: _number(v) for k, v in bounds.items()},
                "seeds": int(some_S.sum()),
            }
        )
    return rows


def class_rows(learner: ModelSeries, labels_N: np.ndarray | None) -> list[Row]:
    """Rows of `answers.CLASSES`: class by class for each partner set, means over the seeds.

    labels_N: of a binary metric; None: the classes come from counts.
    """
    rows = []
    for partner_ids, seeds in learner.by_partners.items():
        first = next(iter(seeds.values()))
        after = list(seeds.values())
        controls = [learner.control[seed] for seed in seeds if seed in learner.control]
        controls = [learner.baseline] if learner.untouched else controls
        rows += [
            {
                **learner.about,
                "partner": " + ".join(first["partners"]),
                "role": first["role"],
                **row,
                "seeds": len(seeds),
                "partners": first["partners"],
                "partner_ids": list(partner_ids),
            }
            for row in (
                class_values(learner, after, controls)
                if labels_N is None
                else class_columns(labels_N, learner.baseline, after, controls)
            )
        ]
    return rows


def class_columns(
    labels_N: np.ndarray, baseline: Row, results: Iterable[Row], controls: Iterable[Row]
) -> list[Row]:
    """The columns of `answers.CLASSES` that `class_gains` gives, of a binary metric."""
    before, after, alone = (
        [row["bits"] for row in rows] for rows in ([baseline], results, controls)
    )
    return [
        {
            "label": gain.label,
            "n": gain.n,
            "before": gain.before,
            "after": gain.after,
            "delta": gain.delta,
            "control_delta": gain.control,
        }
        for gain in class_gains(labels_N, before[0], after, alone)
    ]


def flip_table(learner: ModelSeries, known: Mapping[tuple[str, str], Row]) -> pa.Table:
    """`answers.FLIPS` of a learner, of a binary metric.

    known: (data_id, model_id) -> baseline, of partners too.
    """
    before = _bits(learner.baseline)
    alone = [_bits(row) for row in learner.control.values()]
    alone = [before] if learner.untouched else alone
    knew_P = []
    for partner_ids in learner.by_partners:
        partners = [known.get((learner.data_id, i)) for i in partner_ids]
        knew = [_bits(partner) for partner in partners if partner]
        knew_P.append(np.bitwise_or.reduce([np.zeros_like(before), *knew]))
    counts_P = np.array([len(seeds) for seeds in learner.by_partners.values()])
    jobs = [row for seeds in learner.by_partners.values() for row in seeds.values()]
    after_R = np.stack([_bits(row) for row in jobs])
    knew_R = np.repeat(knew_P, counts_P, axis=0)
    first_P = np.cumsum(counts_P) - counts_P
    gained_R, lost_R = after_R & ~before, before & ~after_R

    def per_job(bits_R: np.ndarray) -> np.ndarray:
        ones_R = np.bitwise_count(bits_R).sum(1, dtype=np.int64)
        return np.add.reduceat(ones_R, first_P) / counts_P

    columns = {
        **learner.about,
        "gained": per_job(gained_R),
        "gained_known": per_job(gained_R & knew_R),
        "lost": per_job(lost_R),
        "lost_known": per_job(lost_R & knew_R),
        "control_gained": _ones(a & ~before for a in alone),
        "control_lost": _ones(before & ~a for a in alone),
        "seeds": counts_P,
        **_mates(learner),
    }
    order = np.argsort(columns["lost"] - columns["gained"], kind="stable")
    return table_of(FLIPS, columns, len(order)).take(order)


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _bits(row: Row) -> np.ndarray:
    return np.frombuffer(row["bits"], np.uint8)


def _ones(vectors: Iterable[np.ndarray]) -> float | None:
    return mean(float(np.bitwise_count(v).sum()) for v in vectors)


def _bounded(name: str, estimate: Estimates, fair: bool) -> dict[str, np.ndarray | None]:
    """`name`_delta (or delta) with its bounds, which an unfair choice of epoch has not."""
    value = "delta" if name == "delta" else f"{name}_delta"
    return _bounds((value, f"{name}_low", f"{name}_high"), estimate, fair)


def _bounds(
    names: tuple[str, str, str], estimate: Estimates, fair: bool
) -> dict[str, np.ndarray | None]:
    value, low, high = names
    return {
        value: estimate.mean,
        low: estimate.low if fair else None,
        high: estimate.high if fair else None,
    }


def _repeated(columns: Mapping[str, np.ndarray | None]) -> dict[str, float | None]:
    """The same of one estimate, for every row."""
    return {name: _number(value) for name, value in columns.items()}


def _number(value: np.ndarray | float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
