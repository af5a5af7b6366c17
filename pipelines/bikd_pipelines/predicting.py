"""What a search would train next, what it expects, and how long it will take."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bikd_ray.plan import Plan
from bikd_ray.search.choose import FEWEST_CELLS, believe, decide
from bikd_ray.search.questions import Asked, deciding, questions, refuse_small
from bikd_ray.search.replay import forecast
from bikd_ray.search.state import State
from bikd_ray.specs import Spec
from bikd_ray.store import Store
from bikd_ray.store.features import Features, earned, features_of, judged, with_features
from bikd_ray.store.sightings import Sightings, primary
from bikd_ray.sweep.search_strategy import state_now

AHEAD = 20
"""Pairs that are shown."""

PREDICTED = pa.schema(
    [
        ("model", pa.string()),
        ("partner", pa.string()),
        ("seed", pa.int64()),
        ("reason", pa.string()),
        ("expected_delta", pa.float64()),
        ("expected_sd", pa.float64()),
        ("chance_best", pa.float64()),
        ("objective", pa.string()),
        ("model_id", pa.string()),
        ("partner_id", pa.string()),
    ],
    metadata={
        "reason": "start, leader, second, confirm or control",
        "expected_delta": "of model with partner, percentage points; null where nothing is known",
        "expected_sd": "standard deviation of what the partner adds, by the model of gains",
        "chance_best": "that it is the best partner of model",
    },
)


@dataclass(frozen=True)
class Ahead:
    """One search, as it stands. told: with the features, believed or not."""

    asked: Asked
    state: State
    told: State


def searches_of(spec: Spec, plan: Plan, store: Store) -> list[Ahead]:
    """What a spec's searches know now. Raises UserError for one that could cost no less than a
    map.
    """
    data = plan.jobs[0].data
    asked = questions(spec, plan.jobs, primary(data, store))
    refuse_small(asked)
    sightings = Sightings(store, spec.selection, deciding(spec.search))
    over = store.done() | set(failed := store.failures())
    found = []
    for one in asked:
        state = state_now(one, sightings, failed=failed, over=over)
        features: Features = {}
        if spec.search.predict == "auto":
            features = features_of(store, data.data_id, one.names, deciding(spec.search))
        told = with_features(state, features) if features else state
        found.append(Ahead(one, earned(state, features), told))
    return found


def forecast_lines(spec: Spec, plan: Plan, store: Store) -> list[str]:
    """A line for each search of a spec: how many jobs it is expected to take."""
    if spec.goal != "best_partner" or not plan.jobs:
        return []
    ahead = searches_of(spec, plan, store)
    several = len(ahead) > 1
    return [
        (f"{one.asked.question.setting[2]}: " if several else "") + str(forecast(one.state))
        for one in ahead
    ]


def predicted(spec: Spec, store: str | None) -> tuple[pa.Table, list[str]]:
    """What would be trained next, columns PREDICTED, and lines about how much to believe it."""
    from bikd_pipelines.planning import open_plan

    plan, answers = open_plan(spec, store)
    rows, lines = [], []
    for ahead in searches_of(spec, plan, answers):
        rows += _rows(ahead, answers)
        lines += _belief(ahead)
    return pa.Table.from_pylist(rows, PREDICTED), lines


def _rows(ahead: Ahead, store: Store) -> list[dict[str, object]]:
    state, asked = ahead.state, ahead.asked
    data_id, _, _, metric = asked.setting
    sign = store.metric(data_id, metric).sign if data_id in store.metrics else 1
    decision = decide(state, AHEAD)
    belief = believe(state) if len(state.cells) >= FEWEST_CELLS else None
    rows = []
    for ask in decision.asks:
        both = [(a, b) for a in ask.members for b in ask.members if a != b]
        for learner, teacher in both or [(ask.members[0], None)]:
            row: dict[str, object] = {
                "model": asked.names[learner],
                "partner": asked.names[teacher] if teacher else "",
                "model_id": learner,
                "partner_id": teacher,
                "seed": ask.seed,
                "reason": ask.reason,
                "objective": asked.question.setting[2],
            }
            if belief is not None and teacher is not None:
                i, j = state.models.index(learner), state.models.index(teacher)
                row["expected_delta"] = sign * float(belief.fit.expected_NN[i, j])
                row["expected_sd"] = float(belief.u_DNN[:, i, j].std())
                row["chance_best"] = float(belief.ranking.first_NN[i, j])
            rows.append(row)
    return rows


def _belief(ahead: Ahead) -> list[str]:
    """How well models that were left out would have been predicted."""
    label = ahead.asked.question.setting[2]
    left_out, refused = judged(ahead.told)
    lines = [f"{label}: features of a pair before training: {refused or 'used'}"]
    if left_out is not None and np.isfinite(left_out.rmse_null) and left_out.rmse_null > 0:
        random, chosen = np.nanmean(left_out.regret_random_N), np.nanmean(left_out.regret_N)
        lines.append(
            f"{label}: each model left out in turn: error {left_out.rmse:.3f} pp where saying that "
            f"all partners are alike has {left_out.rmse_null:.3f}; the partner predicted best "
            f"loses {chosen:.3f} pp, an average one {random:.3f}"
        )
    sigmas = decide(ahead.state, 1)
    if sigmas.cells >= FEWEST_CELLS:
        lines.append(
            f"{label}: by {sigmas.cells} gains teachers differ by {sigmas.sigma_t:.3f} pp (sd), "
            f"pairs beyond that by {sigmas.sigma_w:.3f}, seeds by {sigmas.seed_sd:.3f}"
        )
    return lines
