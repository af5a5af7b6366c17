"""The answers of a searched store: of each model the partners that were trained, measured on the
units that took no part in choosing them, and of the others what the model of gains says.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.significance import Estimates
from bikd_ray.formatting import count
from bikd_ray.search.answers import Measured, believed, interval, measured
from bikd_ray.search.choose import FEWEST_CELLS, Belief, believe
from bikd_ray.search.state import Question, Rules, State, state_of
from bikd_ray.store.answer_schemas import _schema
from bikd_ray.store.gains import Vectors
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.series import ModelSeries
from bikd_ray.store.sightings import Learned, Setting, Sightings, units

_S, _I, _F, _LIST = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string())

SEARCHED = _schema(
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
class Searched:
    """One setting in which a search has decided. half: whether one half of the units decided.
    targets: model_ids whose best partner was wanted.
    """

    setting: Setting
    regret: float
    half: bool
    targets: frozenset[str]

    @property
    def deciding(self) -> bool | None:
        return True if self.half else None

    @property
    def reporting(self) -> bool | None:
        return False if self.half else None


def searches(store: Store, objective: str | None = None) -> list[Searched]:
    """The settings about which searches have decided, by their last decision."""
    if not len(store.index("decisions")):
        return []
    setting_of = ("data_id", "recipe_id", "objective", "metric")
    columns = [*setting_of, "regret", "decide_on", "at", "goal", "model_id"]
    found: dict[Setting, Searched] = {}
    targets: dict[Setting, set[str]] = {}
    rows = store.table("decisions", columns).sort_by("at").to_pylist()
    for row in rows:
        if row["goal"] == "improve":
            continue
        if objective in (None, row["objective"], row["objective"].split("(")[0]):
            setting = tuple(row[name] for name in setting_of)
            mine = targets.setdefault(setting, set())
            mine.add(row["model_id"])
            half = row["decide_on"] == "half"
            found[setting] = Searched(setting, row["regret"], half, frozenset(mine))
    return list(found.values())


def stored_question(
    store: Store,
    setting: Setting,
    rules: Rules,
    learned: Mapping[str, Learned],
    targets: Collection[str] = (),
) -> Question:
    """The pairs of the models measured on these images, and controls, with the stored seeds.

    targets: whose best partners were wanted; pairs without one of them are there only if they are
    done. Empty: all pairs. What failed and was never done is no partner. Work is by the networks'
    FLOPs.
    """
    ids = _measured_on(store, setting[0]) | learned.keys()
    seeds = sorted({row.seed for one in learned.values() for row in one.seen}) or [0]
    flops = {
        row["model_id"]: float(row["flops"] or 1)
        for row in store.table("models", ["model_id", "flops"]).to_pylist()
    }
    work = {model: flops.get(model, 1.0) for model in ids}
    done, left = _pairs(store, setting, ids, targets)
    pairs = sorted(done | left)
    keys = {(pair, s): work[pair[0]] + work[pair[1]] for pair in pairs for s in seeds}
    keys |= {((model,), s): work[model] for model in ids for s in seeds}
    return Question(setting, sorted(ids), seeds, keys, rules)


def _measured_on(store: Store, data_id: str) -> set[str]:
    known = store.index("baselines")
    return set(known.filter(pc.equal(known["data_id"], data_id))["model_id"].to_pylist())


def _pairs(
    store: Store, setting: Setting, ids: set[str], targets: Collection[str]
) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """Pairs of some models, by their ids in order: those that are done, and those with a target
    that are left; of the latter none that failed.
    """
    jobs = store.index("jobs").to_pylist()
    ended: dict[str, set[tuple[str, ...]]] = {"done": set(), "failed": set()}
    for row in jobs:
        if (row["data_id"], row["recipe_id"], row["objective"]) == setting[:3]:
            members = tuple(sorted(row["member_ids"]))
            if len(members) == 2 and ids >= {*members}:
                ended["failed" if row["status"] == "failed" else "done"].add(members)
    wanted = {p for p in combinations(sorted(ids), 2) if not targets or {*p} & {*targets}}
    return ended["done"], wanted - ended["done"] - ended["failed"]


def search_note(store: Store, data_id: str, recipe_id: str, objective: str) -> str:
    """What to bear in mind with figures of all images where a search has left pairs untrained;
    empty elsewhere, so of a completed map.
    """
    for search in searches(store, objective):
        if search.setting[:3] == (data_id, recipe_id, objective):
            ids = _measured_on(store, data_id)
            done, left = _pairs(store, search.setting, ids, search.targets)
            if left:
                of = f"{len(done):,} of {count(len(done) + len(left), 'pair')}"
                return (
                    f"A search has chosen which pairs to train ({of}) by what they gained on "
                    + ("half of these images" if search.half else "these images")
                    + ": here the best ones look better than they are. bikd partners MODEL has "
                    + ("the other half." if search.half else "intervals that allow for it.")
                )
    return ""


def state_in(
    store: Store,
    setting: Setting,
    rules: Rules,
    deciding: bool | None = True,
    selection: str = "last",
    targets: Collection[str] = (),
) -> State:
    """What a store knows of a setting, without a spec; see `stored_question`."""
    learned = Sightings(store, selection, deciding).of(setting)
    question = stored_question(store, setting, rules, learned, targets)
    n = units(learned.values(), 2)
    return state_of(
        question,
        [row for one in learned.values() for row in one.seen],
        {model: one.image_var for model, one in learned.items()},
        n if deciding is None else n // 2 if deciding else n - n // 2,
    )


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


def maps(store: Store, objective: str | None = None) -> list[Setting]:
    """The settings with pairs, of jobs that are done; by their primary metric."""
    rows = store.index("jobs").to_pylist()
    found = {
        (row["data_id"], row["recipe_id"], row["objective"])
        for row in rows
        if row["status"] == "done"
        and len(row["member_ids"]) == 2
        and not row["objective"].startswith("soup(")
        and objective in (None, row["objective"], row["objective"].split("(")[0])
    }
    return [(*one, store.metric(one[0]).name) for one in sorted(found)]


def only_done(state: State) -> State:
    """The state in which nothing is left to do but what is done: of a map that is stored."""
    return replace(state, open_NNS=state.done_NNS.copy())
