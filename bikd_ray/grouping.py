"""The groups that goal `improve` may train, and their jobs, from a spec and what is stored.

Who joins is decided by the deciding half of the units: of the untouched models' answers, or of what
pairs gained. It depends on nothing that the groups themselves are trained for, so that a sweep that
was cut off goes on with the same groups.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.groups import (
    Group,
    all_classes,
    by_gains,
    greedy_group,
    greedy_groups,
    nested,
    random_groups,
)
from bikd_ray.analysis.halves import deciding_half
from bikd_ray.analysis.twoway import fitted
from bikd_ray.errors import BikdError, UserError
from bikd_ray.identity import derived_seed
from bikd_ray.plan import Job, ResolvedData, ResolvedModel, make_job, recipe_id
from bikd_ray.search.choose import FEWEST_CELLS, confirmed_seeds
from bikd_ray.search.improve import Members, Wish
from bikd_ray.search.questions import deciding
from bikd_ray.search.state import Key, Rules, State, gains_on_half
from bikd_ray.specs import CONTROL, Spec, labelled
from bikd_ray.store import Store
from bikd_ray.store.features import features_of
from bikd_ray.store.gains import Vectors
from bikd_ray.store.read import pc
from bikd_ray.store.searches import state_in
from bikd_ray.store.sightings import Setting, primary
from bikd_ray.store.upgrade import VAL
from bikd_ray.tasks import task_of

HELD = 1 << 30
"""Bytes of probabilities that are held in memory; of more each is read when it is asked for."""

SMALLEST = 3
"""Models of a group that takes no part in the gains of pairs, by which groups may be made."""


@dataclass(frozen=True)
class Wished:
    """What is asked of one setting, and the jobs that it is about. names: of all the models."""

    wish: Wish
    jobs: Mapping[Key, Job]
    names: Mapping[str, str]

    @property
    def setting(self) -> tuple[str, ...]:
        return self.wish.setting

    def only(self, job_ids: Collection[str]) -> "Wished":
        """With these jobs alone: the others cannot be run."""
        jobs = {key: job for key, job in self.jobs.items() if job.job_id in job_ids}
        work = {key: self.wish.jobs[key] for key in jobs}
        return replace(self, jobs=jobs, wish=replace(self.wish, jobs=work))


def wishes(
    spec: Spec,
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    only: str | None = None,
    broken: Collection[str] = (),
) -> list[Wished]:
    """One for each objective with partners; none while a model of the zoo is not measured.

    only: the one model that is wanted. broken: ids of models that cannot be measured; they join no
    group. Raises UserError for groups that cannot be made.
    """
    baselines = store.index("baselines")
    of_data = baselines.filter(pc.equal(baselines["data_id"], data.data_id))
    measured = set(of_data["model_id"].to_pylist())
    whole = {name: model for name, model in zoo.items() if model.model_id not in broken}
    if len(whole) < 2 or not measured.issuperset(m.model_id for m in whole.values()):
        return []
    recipe = recipe_id(spec, zoo)
    found = []
    for objective in spec.objectives:
        if objective.alone:
            continue
        setting = (data.data_id, recipe, objective.label, primary(data, store))
        groups, grow = _groups(spec, whole, data, store, setting)
        if only is not None:
            groups = {m: of_it for m, of_it in groups.items() if m == zoo[only].model_id}
        found.append(_wished(spec, whole, data, setting, groups, grow))
    return found


def targets(spec: Spec) -> tuple[str, ...] | None:
    """Names of the models that are to become better; None: all, each in one group."""
    named = spec.improve.models if spec.improve.models != "all" else spec.pairings.models
    return tuple(named) or None


def _wished(
    spec: Spec,
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    setting: Setting,
    groups: Mapping[str, Sequence[Members]],
    grow: bool,
) -> Wished:
    of_id = {model.model_id: model for model in zoo.values()}
    objective = next(o for o in spec.objectives if o.label == setting[2])
    confirm = confirmed_seeds(
        None if spec.search.confirm == "auto" else spec.search.confirm, len(zoo)
    )
    wanted: dict[Members, None] = {}
    for model, of_it in groups.items():
        wanted |= dict.fromkeys(of_it)
        if spec.controls and labelled(spec.data.train):
            wanted[(model,)] = None
        if grow:  # whichever turns out to be its best partner
            pairs = (tuple(sorted((model, other))) for other in of_id if other != model)
            wanted |= dict.fromkeys(pairs)
    jobs: dict[Key, Job] = {}
    for seed in spec.seeds[: max(1, confirm)]:
        for members in wanted:
            how = objective if len(members) > 1 else CONTROL
            models = tuple(of_id[m] for m in members)
            job = make_job(models, how, seed, spec.recipe, setting[1], data)
            jobs[members, seed] = job
    work = map_work(zoo.values(), spec, data)
    wish = Wish(
        setting,
        groups,
        grow,
        {key: job.flops for key, job in jobs.items()},
        spec.seeds,
        confirm,
        work,
    )
    return Wished(wish, jobs, {model.model_id: model.name for model in zoo.values()})


def map_work(models: Collection[ResolvedModel], spec: Spec, data: ResolvedData) -> float:
    """Of every pair and control with all seeds: each model trains with all others, and alone."""
    alone = [own_work(model, spec, data) for model in models]
    controls = spec.controls and labelled(spec.data.train)
    return len(spec.seeds) * (len(alone) - 1 + controls) * sum(alone)


def own_work(model: ResolvedModel, spec: Spec, data: ResolvedData) -> float:
    """A model's own part in a job (`Job.work` of its control)."""
    return make_job((model,), CONTROL, 0, spec.recipe, "", data).flops


def _groups(
    spec: Spec,
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    setting: Setting,
) -> tuple[dict[str, list[Members]], bool]:
    """The groups of each model that is to become better, and whether they grow."""
    how, ids = spec.improve, sorted(model.model_id for model in zoo.values())
    at = {model: i for i, model in enumerate(ids)}
    chosen = targets(spec)

    def named(group: Group) -> Members:
        return tuple(sorted(ids[i] for i in group))

    if chosen is None:
        every = [named(group) for group in _partition(spec, data, store, setting, ids)]
        return {model: [group] for group in every for model in group}, False
    found = {}
    for name in (name for name in chosen if name in zoo):
        start = at[zoo[name].model_id]
        group = _joined(spec, data, store, setting, ids, start)
        found[ids[start]] = [named(part) for part in nested(group[: how.group])]
    return found, True


def _joined(
    spec: Spec, data: ResolvedData, store: Store, setting: Setting, ids: list[str], start: int
) -> Group:
    """A model and those who join it, the first one first."""
    how = spec.improve
    if how.by == "ensemble":
        known = _Softmaxes(store, data, ids, deciding(spec.search))
        steps = greedy_group(known, known.labels_n, start, how.group)
        return (start, *(step.model for step in steps))
    if how.by == "gains":
        return by_gains(_effect(spec, store, setting, ids)[1], start, how.group)
    rng = np.random.default_rng(derived_seed("improve", setting, ids[start], ids))
    others = [i for i in range(len(ids)) if i != start]
    return (start, *(int(i) for i in rng.permutation(others)[: how.group - 1]))


def _partition(
    spec: Spec, data: ResolvedData, store: Store, setting: Setting, ids: list[str]
) -> list[Group]:
    """All models in groups."""
    how = spec.improve
    if how.by == "random":
        return random_groups(len(ids), how.group, derived_seed("improve", setting, ids))
    if how.by == "gains":
        smallest = len(ids) // -(-len(ids) // how.group)
        if smallest < SMALLEST:
            raise UserError(
                f"improve.by: gains with groups of {how.group} of {len(ids)} models would make "
                f"groups of {smallest}, and pairs change the gains that make them; raise "
                "improve.group, or use by: ensemble"
            )
        return greedy_groups(*_effect(spec, store, setting, ids), how.group)
    _Softmaxes(store, data, ids[:1], deciding(spec.search))  # refuses a task without predictions
    features = features_of(store, data.data_id, ids, deciding(spec.search))
    gain_NN, ahead_NN = np.zeros((2, len(ids), len(ids)))
    for i, learner in enumerate(ids):
        for j, teacher in enumerate(ids):
            if i != j:
                if (learner, teacher) not in features:
                    raise _gone(store, f"{learner} or {teacher}")
                gain, _, _, ahead, *_ = features[learner, teacher]
                gain_NN[i, j], ahead_NN[i, j] = np.nan_to_num(gain), ahead
    return greedy_groups(ahead_NN.mean(1), gain_NN, how.group)


def _effect(
    spec: Spec, store: Store, setting: Setting, ids: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """What each model learns [N], and adds as a partner of each [N, N], by the gains of pairs; of
    partners that were trained before those that were not.

    Only seeds that all pairs have count, so that further ones of the best change no group.
    """
    state = _shared(state_in(store, setting, Rules(), deciding(spec.search), spec.selection))
    if len(state.cells) < FEWEST_CELLS:
        raise UserError(
            f"improve.by: gains needs {FEWEST_CELLS} gains of pairs of this recipe, and "
            f"{len(state.cells)} are stored; sweep with --goal best_partner first, or use by: "
            "ensemble"
        )
    fit = fitted(state.cells, len(state.models))
    at = [state.models.index(model) for model in ids]
    square = np.ix_(at, at)
    effect_NN, trained_NN = fit.effect_NN[square], state.trained_NN[square]
    spread = np.ptp(effect_NN) + 1.0
    learns_N = (fit.expected_NN - fit.effect_NN)[square][:, 0]
    preferred_NN = effect_NN + spread * trained_NN if targets(spec) else effect_NN
    np.fill_diagonal(preferred_NN, -np.inf if targets(spec) else 0.0)
    return learns_N, preferred_NN


def _shared(state: State) -> State:
    """The state with the seeds alone that every pair which was trained has."""
    known_NNS = ~np.isnan(state.gain_NNS)
    shared_S = known_NNS[state.trained_NN].all(0) if state.trained_NN.any() else np.zeros(0, bool)
    if not shared_S.any():
        return state
    return replace(state, gain_NNS=np.where(shared_S, state.gain_NNS, np.nan))


class _Softmaxes(Sequence[np.ndarray]):
    """Probabilities [n, C] of the untouched models on the deciding units; of the few classes that
    are stored, the rest shared out evenly. Raises UserError for a task that stores none.
    """

    def __init__(
        self, store: Store, data: ResolvedData, ids: Sequence[str], on: bool | None
    ) -> None:
        self._store, self._data, self._ids, self._on = store, data, ids, on
        self._known: dict[int, np.ndarray] = {}
        if task_of(data.task).table != "predictions":
            raise UserError(
                f"improve.by: ensemble needs stored predictions, and task {data.task} stores none; "
                "use by: gains or random"
            )
        self.labels_n = self._table(0)["label"].to_numpy()

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, at: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, at: slice) -> list[np.ndarray]: ...
    def __getitem__(self, at: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        if at in self._known:
            return self._known[at]
        table = self._table(at)
        k = len(table["top_classes"][0])
        classes, probs = (
            table[name].combine_chunks().flatten().to_numpy().reshape(-1, k)
            for name in ("top_classes", "top_probs")
        )
        found = all_classes(classes, probs, self._data.num_classes)
        if (len(self._known) + 1) * found.nbytes <= HELD:
            self._known[at] = found
        return found

    def _table(self, at: int) -> pa.Table:
        where = (pc.field("model_id") == self._ids[at]) & (pc.field("eval_set") == VAL)
        where &= pc.field("data_id") == self._data.data_id
        columns = ["sample", "label", "top_classes", "top_probs"]
        table = self._store.table("predictions", columns, where).sort_by("sample")
        if not len(table):
            raise _gone(self._store, self._ids[at])
        return table if self._on is None else table.filter(deciding_half(len(table)) == self._on)


def _gone(store: Store, model: str) -> BikdError:
    return BikdError(
        f"the predictions of model {model} are damaged or gone in {store.uri}; remove its file "
        "under baselines/ and run bikd baseline again"
    )


def gains_of(
    store: Store,
    setting: Setting,
    models: Collection[str],
    selection: str = "last",
    half: bool | None = True,
) -> dict[str, dict[Members, dict[int, float]]]:
    """What each model gained on the deciding half (None: on all units), larger is better: by the
    members of its jobs, a control's are itself alone, and their seeds.
    """
    data_id, recipe, objective, metric = setting
    found: dict[str, dict[Members, dict[int, float]]] = {}
    for label in (CONTROL.label, objective):
        for learner in store.learners(sorted(models), label, selection, metric):
            if (learner.data_id, learner.recipe_id) != (data_id, recipe):
                continue
            vectors = Vectors(learner)
            at_PS = np.array([vectors.at(seeds) for seeds in learner.by_partners.values()])
            gain_PS = gains_on_half(vectors.scores, at_PS, 0, half)
            mine = found.setdefault(learner.model_id, {})
            for partners, gain_S in zip(learner.by_partners, gain_PS, strict=True):
                members = tuple(sorted((learner.model_id, *partners)))
                mine[members] = {
                    seed: float(gain)
                    for seed, gain in zip(vectors.seeds, gain_S, strict=True)
                    if np.isfinite(gain)
                }
    return found
