"""The arithmetic behind the answers: a learner's results of several seeds to rows with intervals.

Everything comes from the packed bits of `correct`: a difference is a contrast of bit vectors of
the same images, paired seed by seed.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bikd_ray.analysis.bits import gram, stack, unpack
from bikd_ray.analysis.significance import (
    Estimates,
    best_set,
    contrast,
    cross_fitted,
    differences,
    false_discovery,
)
from bikd_ray.store.learners import Learner, Row, Seeds


class Vectors:
    """Correctness vectors of one learner: its untouched self is 0, then rows as they come."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.rows = [learner.baseline]
        every = [learner.control, *learner.by_partners.values()]
        self.seeds = sorted({seed for found in every for seed in found})

    def at(self, found: Seeds) -> list[int]:
        """[S]: where the vectors of some seeds are; -1 for seeds without one."""
        places = []
        for seed in self.seeds:
            places.append(len(self.rows) if seed in found else -1)
            self.rows += [found[seed]] if seed in found else []
        return places

    @property
    def bits_VB(self) -> np.ndarray:
        return stack([row["correct"] for row in self.rows])


def gain_rows(learner: Learner) -> list[Row]:
    """Rows of `answers.GAINS`: one for each partner set, the largest gain first; no q_value yet."""
    vectors = Vectors(learner)
    control_S = np.array(vectors.at(learner.control))
    at_PS = np.array([vectors.at(seeds) for seeds in learner.by_partners.values()])
    bits, n = vectors.bits_VB, learner.n
    counts = gram(bits)
    before_S = np.zeros_like(control_S)
    delta = differences(counts, n, at_PS, before_S)
    net = differences(counts, n, at_PS, control_S)
    alone = differences(counts, n, np.where(at_PS >= 0, control_S, -1), before_S)
    best_P = np.zeros(len(at_PS), bool)
    if learner.fair:
        best_P = best_set(differences(counts, n, at_PS[:, None], at_PS[None]))
    common = {
        **learner.about,
        "self_delta": mean(row["delta_top1"] for row in learner.own.values()),
        "crossfit_delta": cross_fitted(bits, n, at_PS, 0) if learner.fair else None,
    }
    net_p, detectable = net.p_value, net.detectable
    columns = {
        **_bounded("delta", delta, learner.fair),
        "control_delta": alone.mean,
        **_bounded("net", net, learner.fair),
        "p_value": net_p if learner.fair else None,
        "detectable": detectable if learner.fair else None,
        "top1_after": learner.baseline["top1"] + delta.mean,
    }
    rows = []
    for p, (partner_ids, seeds) in enumerate(learner.by_partners.items()):
        first = next(iter(seeds.values()))
        gain, ensemble = float(delta.mean[p]), first["ensemble_top1_before"]
        room = ensemble - learner.baseline["top1"] if ensemble is not None else 0
        counted = "images and seeds" if len(seeds) > 1 else "images"
        rows.append(
            {
                **common,
                **{k: _number(v if v is None else v[p]) for k, v in columns.items()},
                "partner": " + ".join(first["partners"]),
                "role": first["role"],
                "recovered": 100 * gain / room if room > 0 else None,
                "ensemble_top1_before": ensemble,
                "best": bool(best_P[p]),
                "tie": bool(best_P[p] and best_P.sum() > 1),
                "seeds": len(seeds),
                "net_seeds": int(net.seeds[p]),
                "interval": counted if learner.fair else None,
                "partners": first["partners"],
                "partner_ids": list(partner_ids),
            }
        )
    return sorted(rows, key=lambda row: -row["delta_top1"])


def add_q_values(rows: Sequence[Row]) -> None:
    """Fill in `q_value`, over rows of one data set, recipe and objective."""
    known = [np.nan if row["p_value"] is None else row["p_value"] for row in rows]
    for row, q in zip(rows, false_discovery(np.array(known)), strict=True):
        row["q_value"] = _number(q)


def growth_rows(learner: Learner) -> list[Row]:
    """Rows of `answers.GROWTH`: the mean over all groups of one size that a learner was in."""
    rows = []
    for size in sorted({len(partners) for partners in learner.by_partners}):
        groups = [found for p, found in learner.by_partners.items() if len(p) == size]
        vectors = Vectors(learner)
        control_S = np.array(vectors.at(learner.control))
        at_GS = np.array([vectors.at(found) for found in groups])
        counts = gram(vectors.bits_VB)
        there_GS = at_GS >= 0
        some_S, paired_S = there_GS.any(0), there_GS.any(0) & (control_S >= 0)
        each = np.eye(len(vectors.rows))
        share_GS = there_GS / np.maximum(1, there_GS.sum(0))
        together_SV = (share_GS[..., None] * each[at_GS]).sum(0)
        alone_SV, before_V = each[control_S], each[0]
        delta = contrast(counts, learner.n, (together_SV - before_V)[some_S])
        net = contrast(counts, learner.n, (together_SV - alone_SV)[paired_S])
        alone = contrast(counts, learner.n, (alone_SV - before_V)[paired_S])
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


def class_rows(learner: Learner, labels_N: np.ndarray) -> list[Row]:
    """Rows of `answers.CLASSES`: class by class for each partner set, means over the seeds."""
    counts = np.bincount(labels_N)

    def percent(found: Iterable[Row]) -> np.ndarray:
        right_N = np.mean([unpack(row["correct"], learner.n) for row in found], axis=0)
        return 100 * np.bincount(labels_N, right_N) / np.maximum(1, counts)

    before, rows = percent([learner.baseline]), []
    for partner_ids, seeds in learner.by_partners.items():
        after, first = percent(seeds.values()), next(iter(seeds.values()))
        paired = [learner.control[seed] for seed in seeds if seed in learner.control]
        alone = percent(paired) - before if paired else None
        rows += [
            {
                **learner.about,
                "partner": " + ".join(first["partners"]),
                "label": int(label),
                "n": int(counts[label]),
                "top1_before": before[label],
                "top1_after": after[label],
                "delta_top1": after[label] - before[label],
                "control_delta": None if alone is None else alone[label],
                "seeds": len(seeds),
                "partners": first["partners"],
                "partner_ids": list(partner_ids),
            }
            for label in np.flatnonzero(counts)
        ]
    return rows


def flip_rows(learner: Learner, known: Mapping[tuple[str, str], Row]) -> list[Row]:
    """Rows of `answers.FLIPS`. known: (data_id, model_id) -> baseline, of the partners too."""
    before = _bits(learner.baseline)
    alone = [_bits(row) for row in learner.control.values()]
    rows = []
    for partner_ids, seeds in learner.by_partners.items():
        first = next(iter(seeds.values()))
        partners = [known.get((learner.data_id, i)) for i in partner_ids]
        knew = np.zeros_like(before)
        for partner in partners:
            knew = knew | _bits(partner) if partner else knew
        after = [_bits(row) for row in seeds.values()]
        rows.append(
            {
                **learner.about,
                "partner": " + ".join(first["partners"]),
                "role": first["role"],
                "gained": _ones(a & ~before for a in after),
                "gained_known": _ones(a & ~before & knew for a in after),
                "lost": _ones(before & ~a for a in after),
                "lost_known": _ones(before & ~a & knew for a in after),
                "control_gained": _ones(a & ~before for a in alone),
                "control_lost": _ones(before & ~a for a in alone),
                "seeds": len(seeds),
                "partners": first["partners"],
                "partner_ids": list(partner_ids),
            }
        )
    return sorted(rows, key=lambda row: row["lost"] - row["gained"])


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _bits(row: Row) -> np.ndarray:
    return np.frombuffer(row["correct"], np.uint8)


def _ones(vectors: Iterable[np.ndarray]) -> float | None:
    return mean(float(np.bitwise_count(v).sum()) for v in vectors)


def _bounded(name: str, estimate: Estimates, fair: bool) -> dict[str, np.ndarray | None]:
    """`name`_delta (or delta_top1) with its bounds, which an unfair choice of epoch has not."""
    return {
        "delta_top1" if name == "delta" else f"{name}_delta": estimate.mean,
        f"{name}_low": estimate.low if fair else None,
        f"{name}_high": estimate.high if fair else None,
    }


def _number(value: np.ndarray | float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
