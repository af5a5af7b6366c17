"""The answers of a searched store: of each model the partners that were trained, measured on the
units that took no part in choosing them, and of the others what the model of gains says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.significance import Estimates
from bikd_ray.search.answers import Measured, believed, interval, measured
from bikd_ray.search.choose import FEWEST_CELLS, Belief, believe
from bikd_ray.search.state import Rules, State
from bikd_ray.store.answer_schemas import answer_schema
from bikd_ray.store.gains import Vectors
from bikd_ray.store.queries import Store
from bikd_ray.store.searches import Searched, searches, state_in
from bikd_ray.store.series import ModelSeries

_S, _I, _F, _LIST = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string())

SEARCHED = answer_schema(
    [
        ("model", _S, "alias, to show"),
        ("partner", _S, "alias, to show"),
        ("trained", pa.bool_(), "with this partner; without it only the model of gains speaks"),
        ("expected_delta", _F, "by the model of gains, from the units that decided"),
        ("chance_best", _F, "that it is the best partner, by the model of gains"),
        ("delta", _F, "after less before, on the units that report; null where not trained"),
        ("delta_low", _F, "95%, over units and seeds"),
        ("delta_high", _F, ""),
        ("net_delta", _F, "less the control of the same seeds; null without one"),
        ("net_low", _F, ""),
        ("net_high", _F, ""),
        ("best", pa.bool_(), "in the set that holds the best trained partner with 95%"),
        ("tie", pa.bool_(), "so are others"),
        ("seeds", _I, ""),
        ("decided_on", _I, "units by which partners were chosen"),
        ("n", _I, "units that report"),
        ("half", pa.bool_(), "whether those are other units than those that decided"),
        ("chance_untrained", _F, "that some untrained partner is better by more than regret"),
        ("regret", _F, ""),
        ("metric", _S, ""),
        ("unit", _S, "of the metric"),
        ("objective", _S, ""),
        ("selection", _S, ""),
        ("data_id", _S, ""),
        ("recipe_id", _S, ""),
        ("model_id", _S, ""),
        ("partner_id", _S, ""),
    ]
)
"""Rows of a model: by what is expected of its partners, the best first."""


@dataclass(frozen=True)
class Look:
    """What a search knows now, and says. belief: None before it has gains enough. report: the state
    by the units that report.
    """

    search: Searched
    state: State
    belief: Belief | None
    report: State

    @property
    def untrained_NN(self) -> np.ndarray:
        return np.asarray(self.state.partner_NN & ~self.state.trained_NN)


def looks(store: Store, objective: str | None = None, selection: str = "last") -> list[Look]:
    """At the settings that were searched and are no complete map."""
    found = []
    for search in searches(store, objective):
        deciding, reporting = (
            state_in(store, search.setting, Rules(search.regret), side, selection, search.targets)
            for side in (search.deciding, search.reporting)
        )
        belief = believe(deciding) if len(deciding.cells) >= FEWEST_CELLS else None
        look = Look(search, deciding, belief, reporting)
        found += [look] * bool(look.untrained_NN.any())
    return found


def searched_partners(
    store: Store,
    model: str,
    objective: str | None = None,
    selection: str = "last",
    seen: Sequence[Look] | None = None,
) -> pa.Table:
    """The partners of a model in the settings that were searched and are no complete map.

    Columns `SEARCHED`; empty where there is none. seen: `looks` at this store, where they are at
    hand. Raises UserError for a model that the store does not have.
    """
    parts = [SEARCHED.empty_table()]
    ids = store.model_ids(model)
    for look in looks(store, objective, selection) if seen is None else seen:
        data_id, recipe_id, label, metric = look.search.setting
        for learner in store.learners(sorted(ids), label, selection, metric):
            mine = (learner.data_id, learner.recipe_id) == (data_id, recipe_id)
            if mine and learner.by_partners and learner.model_id in look.state.models:
                parts.append(pa.Table.from_pylist(_rows(store, look, learner), SEARCHED))
    return pa.concat_tables(parts)


def expected_gains(store: Store, seen: Sequence[Look]) -> dict[tuple[str, str], float]:
    """Δ that learners are expected to have with partners that a search has left untrained: by
    (learner, partner), their ids. Infinite: nothing is known yet. A learner with itself: the Δ of
    its controls. Both are of the units that decide.

    seen: `looks` at the setting that is wanted.
    """
    found: dict[tuple[str, str], float] = {}
    for look in seen:
        state, untrained_NN = look.state, look.untrained_NN
        expected_NN = np.full(untrained_NN.shape, np.inf)
        if look.belief is not None:
            expected_NN = look.belief.fit.expected_NN
        sign = store.metric(*look.search.setting[::3]).sign
        for i, j in np.argwhere(untrained_NN):
            found[state.models[i], state.models[j]] = sign * float(expected_NN[i, j])
        for i, model in enumerate(state.models):
            known_S = state.gain_NNS[i, i][~np.isnan(state.gain_NNS[i, i])]
            if untrained_NN[i].any() and len(known_S):
                found[model, model] = sign * float(known_S.mean())
    return found


def _rows(store: Store, look: Look, learner: ModelSeries) -> list[dict[str, Any]]:
    search, state, belief = look.search, look.state, look.belief
    single = {ids[0]: seeds for ids, seeds in learner.by_partners.items() if len(ids) == 1}
    vectors = Vectors(learner)
    control_S = np.array(vectors.at(learner.control))
    at_PS = np.array([vectors.at(seeds) for seeds in single.values()])
    often = None if search.half else len(vectors.seeds)
    found = measured(vectors.scores, at_PS, 0, control_S, look.report.seed_variance, often)
    trained = {partner: p for p, partner in enumerate(single)}
    names = _names(store)
    about = {
        **{k: v for k, v in learner.about.items() if k in SEARCHED.names},
        "decided_on": state.images,
        "n": found.images,
        "half": search.half,
        "regret": search.regret,
    }
    if belief is None:
        others: Sequence[tuple[str, float | None, float | None]]
        others = [(partner, None, None) for partner in single]
        chance = None
    else:
        said = believed(state, belief, learner.model_id)
        chance = said.chance_untrained
        expected_P = (vectors.scores.sign * said.expected_delta_P).tolist()
        others = list(zip(said.partners, expected_P, said.chance_best_P.tolist(), strict=True))
    rows = []
    for partner, expected, best in others:
        rows.append(
            {
                **about,
                "partner": names.get(partner, partner),
                "partner_id": partner,
                "trained": partner in trained,
                "expected_delta": expected,
                "chance_best": best,
                "chance_untrained": chance,
                **(_measured(found, at_PS, trained[partner]) if partner in trained else {}),
            }
        )
    return rows


def _measured(found: Measured, at_PS: np.ndarray, p: int) -> dict[str, Any]:
    best = bool(found.best_P[p])
    row: dict[str, Any] = {
        "best": best,
        "tie": best and int(found.best_P.sum()) > 1,
        "seeds": int((at_PS[p] >= 0).sum()),
    }
    for name, estimates in (("delta", found.delta), ("net", found.net)):
        low, high = interval(estimates, found.alpha)
        row[f"{name}_delta" if name == "net" else name] = _known(estimates, p)
        row[f"{name}_low"], row[f"{name}_high"] = (
            None if np.isnan(end[p]) else float(end[p]) for end in (low, high)
        )
    return row


def _known(estimates: Estimates, p: int) -> float | None:
    return None if np.isnan(estimates.mean[p]) else float(estimates.mean[p])


def _names(store: Store) -> dict[str, str]:
    rows = store.index("baselines").select(["model_id", "model"]).to_pylist()
    return {row["model_id"]: row["model"] for row in rows}
