"""The arithmetic behind the answers: result rows of several seeds to one row with intervals.

Everything comes from the packed bits of `correct`: a difference is a contrast of bit vectors of
the same images, paired seed by seed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.bits import gram, stack, unpack
from bikd_ray.analysis.significance import Estimate, contrast
from bikd_ray.specs import CHOSEN_ON_VAL

Row = dict[str, Any]
Key = tuple[str, str, str]  # data_id, recipe_id, model_id

GAIN_FIELDS = [
    ("role", pa.string()),
    ("objective", pa.string()),
    ("delta_top1", pa.float64()),
    ("delta_low", pa.float64()),
    ("delta_high", pa.float64()),
    ("control_delta", pa.float64()),
    ("net_delta", pa.float64()),
    ("net_low", pa.float64()),
    ("net_high", pa.float64()),
    ("top1_before", pa.float64()),
    ("seeds", pa.int64()),
    ("n", pa.int64()),
    ("selection", pa.string()),
    ("data_id", pa.string()),
    ("recipe_id", pa.string()),
    ("model_id", pa.string()),
]
"""What every table of gains says."""

GAINS = pa.schema(
    [
        ("model", pa.string()),
        ("partner", pa.string()),
        ("role", pa.string()),
        ("objective", pa.string()),
        ("delta_top1", pa.float64()),
        ("delta_low", pa.float64()),
        ("delta_high", pa.float64()),
        ("control_delta", pa.float64()),
        ("self_delta", pa.float64()),
        ("net_delta", pa.float64()),
        ("net_low", pa.float64()),
        ("net_high", pa.float64()),
        ("recovered", pa.float64()),
        ("tie", pa.bool_()),
        ("best", pa.bool_()),
        ("top1_before", pa.float64()),
        ("top1_after", pa.float64()),
        ("ensemble_top1_before", pa.float64()),
        ("seeds", pa.int64()),
        ("net_seeds", pa.int64()),
        ("n", pa.int64()),
        ("interval", pa.string()),
        ("selection", pa.string()),
        ("data_id", pa.string()),
        ("recipe_id", pa.string()),
        ("model_id", pa.string()),
        ("partners", pa.list_(pa.string())),
        ("partner_ids", pa.list_(pa.string())),
    ],
    metadata={
        "interval": "what the interval of delta counts: the images drawn, or images and seeds",
        "role": "peer: both learn; student: the partner is frozen and teaches",
        "control_delta": "gain of the same training without a partner",
        "self_delta": "gain when taught by its own frozen start, where the sweep has it",
        "net_seeds": "seeds with a control; with 1, net intervals count images only",
        "tie": "in the set that holds the best partner with 95%, when that set has several",
        "best": "in the set that holds the best partner with 95%",
    },
)

GROWTH = pa.schema(
    [
        ("model", pa.string()),
        ("size", pa.int64()),
        ("groups", pa.int64()),
        *GAIN_FIELDS,
    ],
    metadata={"size": "models that train together", "groups": "how many such groups it was in"},
)

CLASSES = pa.schema(
    [
        ("model", pa.string()),
        ("partner", pa.string()),
        ("objective", pa.string()),
        ("label", pa.int64()),
        ("n", pa.int64()),
        ("top1_before", pa.float64()),
        ("top1_after", pa.float64()),
        ("delta_top1", pa.float64()),
        ("control_delta", pa.float64()),
        ("seeds", pa.int64()),
        ("selection", pa.string()),
        ("data_id", pa.string()),
        ("recipe_id", pa.string()),
        ("model_id", pa.string()),
        ("partner_ids", pa.list_(pa.string())),
    ],
    metadata={"label": "the class, as the data numbers it"},
)


class Correctness:
    """Which of the same images each of some rows gets right, and contrasts of that."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.n = rows[0]["n"]
        self.counts = gram(stack([row["correct"] for row in rows]))
        self.at = {id(row): i for i, row in enumerate(rows)}

    def estimate(self, seeds: Sequence[tuple[Sequence[Row], Row]]) -> Estimate | None:
        """For each seed the mean of some rows less another row; None without seeds."""
        if not seeds:
            return None
        weights = np.zeros((len(seeds), len(self.at)))
        for s, (plus, minus) in enumerate(seeds):
            for row in plus:
                weights[s, self.at[id(row)]] += 1 / len(plus)
            weights[s, self.at[id(minus)]] -= 1
        return contrast(self.counts, self.n, weights)


def _interval(name: str, estimate: Estimate | None, fair: bool) -> Row:
    """`name`_delta (or delta_top1) with its bounds, which an unfair choice of epoch has not."""
    mean = "delta_top1" if name == "delta" else f"{name}_delta"
    return {
        mean: estimate and estimate.mean,
        f"{name}_low": estimate.low if estimate and fair else None,
        f"{name}_high": estimate.high if estimate and fair else None,
    }


def gain_row(
    seeds: Sequence[Row],
    key: Key,
    baseline: Row,
    control: Mapping[int, Row] | None = None,
    own: Mapping[int, Row] | None = None,
) -> Row:
    """A row of GAINS: one learner with one partner set.

    control, own: by seed, the learner's `ce` job and the one taught by its own start.
    """
    data_id, recipe_id, model_id = key
    first = seeds[0]
    n, top1 = baseline["n"], baseline["top1"]
    paired = [row for row in seeds if control and row["seed"] in control]
    alone = [control[row["seed"]] for row in paired] if control else []
    of = Correctness([baseline, *seeds, *alone])
    delta = of.estimate([([row], baseline) for row in seeds])
    assert delta is not None
    net = of.estimate([([row], other) for row, other in zip(paired, alone, strict=True)])
    lone = of.estimate([([row], baseline) for row in alone])
    fair = first["selection"] != CHOSEN_ON_VAL
    ensemble = first["ensemble_top1_before"]
    room = ensemble - top1 if ensemble is not None else 0
    return {
        "model": baseline["model"],
        "partner": " + ".join(first["partners"]),
        "role": first["role"],
        "objective": first["objective"],
        **_interval("delta", delta, fair),
        "control_delta": lone and lone.mean,
        "self_delta": mean(row["delta_top1"] for row in own.values()) if own else None,
        **_interval("net", net, fair),
        "recovered": 100 * delta.mean / room if room > 0 else None,
        "top1_before": top1,
        "top1_after": top1 + delta.mean,
        "ensemble_top1_before": ensemble,
        "seeds": delta.seeds,
        "net_seeds": len(paired),
        "n": n,
        "interval": ("images and seeds" if delta.seeds > 1 else "images") if fair else None,
        "selection": first["selection"],
        "data_id": data_id,
        "recipe_id": recipe_id,
        "model_id": model_id,
        "partners": first["partners"],
        "partner_ids": first["partner_ids"],
    }


def growth_row(
    rows: Sequence[Row], key: Key, baseline: Row, control: Mapping[int, Row] | None
) -> Row:
    """A row of GROWTH: the mean over all groups of one size that a learner was in."""
    data_id, recipe_id, model_id = key
    first, fair = rows[0], rows[0]["selection"] != CHOSEN_ON_VAL
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(row)
    alone = {seed: control[seed] for seed in by_seed if control and seed in control}
    of = Correctness([baseline, *rows, *alone.values()])
    delta = of.estimate([(found, baseline) for found in by_seed.values()])
    assert delta is not None
    net = of.estimate([(by_seed[seed], other) for seed, other in alone.items()])
    lone = of.estimate([([row], baseline) for row in alone.values()])
    return {
        "model": baseline["model"],
        "size": 1 + len(first["partner_ids"]),
        "groups": len({tuple(row["partner_ids"]) for row in rows}),
        "role": first["role"],
        "objective": first["objective"],
        **_interval("delta", delta, fair),
        "control_delta": lone and lone.mean,
        **_interval("net", net, fair),
        "top1_before": baseline["top1"],
        "seeds": delta.seeds,
        "n": baseline["n"],
        "selection": first["selection"],
        "data_id": data_id,
        "recipe_id": recipe_id,
        "model_id": model_id,
    }


def class_rows(
    seeds: Sequence[Row],
    key: Key,
    baseline: Row,
    labels_N: np.ndarray,
    control: Mapping[int, Row] | None,
) -> list[Row]:
    """Rows of CLASSES: one learner with one partner set, class by class, mean over the seeds."""
    data_id, recipe_id, model_id = key
    first, n = seeds[0], baseline["n"]
    alone = [control[row["seed"]] for row in seeds if control and row["seed"] in control]
    counts = np.bincount(labels_N)

    def percent(rows: Sequence[Row]) -> np.ndarray:
        right = np.mean([unpack(row["correct"], n) for row in rows], axis=0)
        return 100 * np.bincount(labels_N, right) / np.maximum(1, counts)

    before, after = percent([baseline]), percent(seeds)
    lone = percent(alone) - before if alone else None
    return [
        {
            "model": baseline["model"],
            "partner": " + ".join(first["partners"]),
            "objective": first["objective"],
            "label": int(label),
            "n": int(counts[label]),
            "top1_before": before[label],
            "top1_after": after[label],
            "delta_top1": after[label] - before[label],
            "control_delta": None if lone is None else lone[label],
            "seeds": len(seeds),
            "selection": first["selection"],
            "data_id": data_id,
            "recipe_id": recipe_id,
            "model_id": model_id,
            "partner_ids": first["partner_ids"],
        }
        for label in np.flatnonzero(counts)
    ]


def differences(groups: Mapping[Any, Sequence[Row]]) -> dict[tuple[Any, Any], Estimate]:
    """Q minus p for all candidates with seeds in common, from one Gram matrix of all of them."""
    rows = [row for seeds in groups.values() for row in seeds]
    if len(groups) < 2:
        return {}
    counts = gram(stack([row["correct"] for row in rows]))
    at = {id(row): i for i, row in enumerate(rows)}
    by_seed = {p: {row["seed"]: at[id(row)] for row in seeds} for p, seeds in groups.items()}
    out = {}
    for q, p in permutations(groups, 2):
        shared = sorted(by_seed[q].keys() & by_seed[p].keys())
        used = [by_seed[q][s] for s in shared] + [by_seed[p][s] for s in shared]
        if not shared:
            continue
        weights = np.hstack([np.eye(len(shared)), -np.eye(len(shared))])
        out[q, p] = contrast(counts[np.ix_(used, used)], rows[0]["n"], weights)
    return out


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
