"""What a store says to a search: the gains of all done jobs on the units that decide."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bikd_ray.search.state import Seen, gains_on_half, image_variance
from bikd_ray.store.gains import Vectors
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.series import ModelSeries
from bikd_ray.tasks import task_of
from bikd_ray.vocabulary import CONTROL

if TYPE_CHECKING:
    from bikd_ray.plan import ResolvedData

Setting = tuple[str, ...]  # data_id, recipe_id, objective, metric


@dataclass(frozen=True)
class Learned:
    """Of one model: a row for each of its done jobs, and what the units add to a cell's variance.

    jobs: those that were read. n: units.
    """

    jobs: frozenset[str]
    seen: tuple[Seen, ...] = ()
    image_var: float = float("nan")
    n: int | None = None


@dataclass
class Sightings:
    """The results of one store, a model's kept until another of its jobs is done.

    selection: whose results. deciding: which units, as `analysis.halves.on_half` takes it.
    """

    store: Store
    selection: str = "last"
    deciding: bool | None = True
    _known: dict[tuple[Setting, str], Learned] = field(default_factory=dict)

    def of(self, setting: Setting) -> dict[str, Learned]:
        """By model_id, of models with a done job. Raises BikdError where nothing can be read."""
        done = self._done(setting)
        changed = [
            model
            for model, jobs in done.items()
            if (known := self._known.get((setting, model))) is None or known.jobs != jobs
        ]
        for model, learned in self._read(setting, changed).items():
            self._known[setting, model] = Learned(done[model], *learned)
        return {model: self._known[setting, model] for model in done}

    def done_jobs(self, setting: Setting) -> frozenset[str]:
        return frozenset().union(*self._done(setting).values())

    def _done(self, setting: Setting) -> dict[str, frozenset[str]]:
        """model_id -> its done jobs of a setting, controls among them."""
        data_id, recipe_id, objective, _ = setting
        jobs = self.store.index("jobs")
        mine = pc.and_(pc.equal(jobs["data_id"], data_id), pc.equal(jobs["recipe_id"], recipe_id))
        mine = pc.and_(mine, pc.equal(jobs["status"], "done"))
        labels = pc.or_(
            pc.equal(jobs["objective"], objective), pc.equal(jobs["objective"], CONTROL)
        )
        found: dict[str, set[str]] = defaultdict(set)
        rows = jobs.filter(pc.and_(mine, labels)).select(["job_id", "member_ids"])
        for row in rows.to_pylist():
            if len(row["member_ids"]) <= 2:
                for model in row["member_ids"]:
                    found[model].add(row["job_id"])
        return {model: frozenset(ids) for model, ids in sorted(found.items())}

    def _read(
        self, setting: Setting, models: Collection[str]
    ) -> dict[str, tuple[tuple[Seen, ...], float, int | None]]:
        """Rows, variance and units of some models."""
        data_id, recipe_id, objective, metric = setting
        found: dict[str, tuple[tuple[Seen, ...], float, int | None]]
        found = dict.fromkeys(models, ((), float("nan"), None))
        if not models:
            return found
        for label in (CONTROL, objective):
            for learner in self.store.learners(models, label, self.selection, metric):
                if (learner.data_id, learner.recipe_id) == (data_id, recipe_id):
                    rows, variance = seen_of(learner, self.deciding)
                    before = found[learner.model_id][0]
                    found[learner.model_id] = ((*before, *rows), variance, learner.n)
        return found


def seen_of(learner: ModelSeries, deciding: bool | None) -> tuple[list[Seen], float]:
    """A learner's gains with single partners (none: its control's), and `image_variance`."""
    pairs = {ids: seeds for ids, seeds in learner.by_partners.items() if len(ids) <= 1}
    if not pairs:
        return [], float("nan")
    vectors = Vectors(learner)
    seeds = vectors.seeds
    at_PS = np.array([vectors.at(found) for found in pairs.values()])
    scores = vectors.scores
    gain_PS = gains_on_half(scores, at_PS, 0, deciding)
    rows = [
        Seen(learner.model_id, ids[0] if ids else None, seeds[s], float(gain_PS[p, s]))
        for p, ids in enumerate(pairs)
        for s in np.flatnonzero(np.isfinite(gain_PS[p]))
    ]
    return rows, image_variance(scores, at_PS, deciding)


def primary(data: "ResolvedData", store: Store) -> str:
    """The metric by which partners are compared, on images that may not be measured yet."""
    known = store.metrics.get(data.data_id) or task_of(data.task).metrics
    return known[0].name


def units(learned: Collection[Learned], otherwise: int) -> int:
    """Of the evaluation set; `otherwise` where no result says it."""
    return next((one.n for one in learned if one.n), otherwise)
