"""What was searched: the settings about which searches have decided, which of their pairs are left,
and what a store knows of them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

from bikd_ray.formatting import count
from bikd_ray.search.state import Question, Rules, State, state_of
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.sightings import Learned, Setting, Sightings, units


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
