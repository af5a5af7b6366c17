"""What a spec asks of a search: a question for each of its objectives, over the jobs of its map."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from bikd_ray.plan import Job
from bikd_ray.search.checks import worth_a_search
from bikd_ray.search.start import missing_start
from bikd_ray.search.state import Key, Question, Rules, state_of
from bikd_ray.specs import CONTROL, Search, Spec


@dataclass(frozen=True)
class Asked:
    """A question, and the jobs that it is about."""

    question: Question
    jobs: Mapping[Key, Job]
    names: Mapping[str, str]  # of the models, by their ids

    @property
    def setting(self) -> tuple[str, ...]:
        return self.question.setting

    @property
    def keys(self) -> dict[str, Key]:
        """job_id -> its key."""
        return {job.job_id: key for key, job in self.jobs.items()}


def rules_of(search: Search) -> Rules:
    confirm = None if search.confirm == "auto" else search.confirm
    return Rules(search.regret, search.share, search.start, confirm)


def deciding(search: Search) -> bool | None:
    """Which units decide, as `analysis.halves.on_half` takes it."""
    return True if search.decide_on == "half" else None


def questions(
    spec: Spec, jobs: Collection[Job], metric: str, only: str | None = None
) -> list[Asked]:
    """One for each objective with partners.

    jobs: all of the map, done or not. metric: the primary one. only: the one model that is wanted.
    """
    found = []
    for objective in spec.objectives:
        label = objective.label
        mine = [job for job in jobs if job.objective.label in (label, CONTROL.label)]
        if objective.alone or not any(job.objective.label == label for job in mine):
            continue
        of_key = {(tuple(m.model_id for m in job.members), job.seed): job for job in mine}
        names = {m.model_id: m.name for job in mine for m in job.members}
        wanted = {only} if only else set(spec.pairings.models) or set(names.values())
        setting = (mine[0].data.data_id, mine[0].recipe_id, label, metric)
        question = Question(
            setting,
            [model_id for model_id, name in names.items() if name in wanted],
            spec.seeds,
            {key: job.flops for key, job in of_key.items()},
            rules_of(spec.search),
        )
        found.append(Asked(question, of_key, names))
    return found


def refuse_small(asked: Iterable[Asked]) -> None:
    """Raises UserError for a search that could not cost less than a map."""
    for one in asked:
        question = one.question
        nothing = state_of(question, [], {}, 2)
        start = sum(nothing.work_NN[pair] for pair in missing_start(nothing))
        worth_a_search(len(one.names), start, nothing.map_work, question.rules.share)


def with_features(
    asked: Asked, features: Mapping[tuple[str, str], tuple[float, ...]] | None
) -> Asked:
    return replace(asked, question=replace(asked.question, features=features))
