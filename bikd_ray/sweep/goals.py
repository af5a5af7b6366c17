"""What a command asks for: the jobs of a spec's goal against what the store has, and what decides
which of them are begun.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from bikd_ray.errors import BikdError
from bikd_ray.grouping import wishes
from bikd_ray.plan import Job, Plan, ResolvedData, ResolvedModel
from bikd_ray.resolve import planned
from bikd_ray.search.questions import deciding, questions, refuse_small
from bikd_ray.specs import Spec
from bikd_ray.store.features import Remembered
from bikd_ray.store.queries import Store
from bikd_ray.store.sightings import Sightings, primary
from bikd_ray.sweep.capacity import ResourceRequest, shortage
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import job_needs, reach
from bikd_ray.sweep.search_strategy import ImproveStrategy, SearchStrategy
from bikd_ray.sweep.strategy import PendingJob

Strategy = SearchStrategy | ImproveStrategy
Ahead = tuple[Plan, Strategy | None, Sequence[Job]]
"""A plan, what decides which of its jobs are begun (None: all are), and those that may be."""


@dataclass(frozen=True)
class Goal:
    """What a command asks for, against what the store has."""

    spec: Spec
    zoo: dict[str, ResolvedModel]
    data: ResolvedData
    store: Store
    only: str | None
    limit: int | None
    retry: bool = field(kw_only=True)

    def now(self, broken: Collection[str] = ()) -> Ahead:
        """broken: ids of models that cannot be measured. Raises UserError for a search that could
        not cost less than a map, and for groups that cannot be made.
        """
        plan = planned(
            self.spec,
            self.zoo,
            self.data,
            self.store,
            retry_failed=self.retry,
            only=self.only,
            broken=broken,
        )
        search = self._strategy(plan, broken)
        if search is None:
            return plan, None, plan.todo[: self.limit]
        return plan, search, plan.todo if search.left(self.store) else ()

    def that_fit(
        self,
        plan: Plan,
        search: Strategy | None,
        todo: Sequence[Job],
        progress: Progress,
        *,
        grows: bool,
    ) -> Ahead:
        """Without the groups of three and more that no node can ever hold: those before them are
        all that are trained.
        """
        if not isinstance(search, ImproveStrategy):
            return plan, search, todo
        how = self.spec.resources
        has = reach(how, grows=grows)
        large = [job for job in plan.jobs if len(job.members) > 2]
        short = {
            job.job_id: why for job in large if (why := shortage(job_needs(how, job, has), has))
        }
        if not short:
            return plan, search, todo
        smallest = min((job for job in large if job.job_id in short), key=lambda j: len(j.members))
        progress.note(
            f"a group of {len(smallest.members)} ({' + '.join(smallest.names)}) fits no node "
            f"({short[smallest.job_id]}), so smaller ones are all that are trained"
        )
        fit = {job.job_id for job in plan.jobs} - short.keys()
        search = replace(search, asked=[one.only(fit) for one in search.asked])
        return plan, search, [job for job in todo if job.job_id in fit]

    def _strategy(self, plan: Plan, broken: Collection[str]) -> Strategy | None:
        """What decides, without its jobs; None for a map."""
        spec, how = self.spec, {"limit": self.limit, "retry": self.retry}
        if spec.goal == "improve":
            asked = wishes(spec, self.zoo, self.data, self.store, self.only, broken)
            half = spec.search.decide_on == "half"
            return ImproveStrategy(asked, {}, self.store, spec.selection, half, **how)
        if spec.goal == "map" or not plan.jobs:
            return None
        searched = questions(spec, plan.jobs, primary(self.data, self.store), self.only)
        refuse_small(searched)
        mine = {job.job_id for one in searched for job in one.jobs.values()}
        rest = [
            PendingJob(job.job_id, ResourceRequest(0, 0), job.flops)
            for job in plan.jobs
            if job.job_id not in mine
        ]
        on = deciding(spec.search)
        sightings = Sightings(self.store, spec.selection, on)
        strategy = SearchStrategy(searched, {}, sightings, rest=rest, **how)
        if spec.search.predict == "never":
            return strategy
        known, data_id = Remembered(self.store, on), self.data.data_id
        return replace(strategy, features=lambda one: known.of(data_id, one.names))


def brew(search: ImproveStrategy, spec: Spec, store: Store, progress: Progress) -> None:
    """Average the variants of each model that was to become better; what cannot be is noted."""
    from bikd_ray.soups import make_soup

    for one in search.asked:
        _, recipe, label, _ = one.setting
        for model in one.wish.groups:
            progress.enter(f"soup of {one.names[model]}")
            try:
                make_soup(store, model, label, spec.selection, recipe=recipe)
            except BikdError as error:
                progress.note(f"{one.names[model]}: {error}")
