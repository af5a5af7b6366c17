"""From a spec to the weights, images and jobs that it names. Loads torch."""

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from bikd_ray.data import resolve_data
from bikd_ray.data.probes import resolve_probe
from bikd_ray.errors import UserError, choices
from bikd_ray.plan import Plan, ResolvedData, ResolvedModel, ResolvedProbe, all_jobs, plan
from bikd_ray.specs import Selection, Spec, ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.zoo import cache_path, load_resolved, resolve_model, save_resolved

if TYPE_CHECKING:
    from bikd_ray.store import Store

log = logging.getLogger(__name__)


def resolve(
    spec: Spec, store: "Store | None" = None
) -> tuple[dict[str, ResolvedModel], ResolvedData]:
    """Read every model and data set of a spec: name to model, and the data.

    store: the data is named as this store's rows name it. What a person should know of the data is
    logged. Raises UserError with a line for each thing that is missing, broken or does not fit.
    """
    data: ResolvedData | None = None
    task = None
    zoo: dict[str, ResolvedModel] = {}
    problems: list[str] = []
    try:
        task = task_of(spec.task)
        if spec.recipe.augment not in task.augments:
            raise UserError(
                f"recipe.augment {spec.recipe.augment} is none of task {task.name}; "
                f"{choices(spec.recipe.augment, task.augments)}"
            )
        data = resolve_data(spec.data, spec.task)
    except UserError as error:
        problems.append(str(error))
    probes, found = resolve_probes(spec, features=task is None or task.features)
    problems += found
    for entry in spec.zoo:
        try:
            model = zoo[entry.name] = _resolved(entry, spec.task)
            if data and task:
                task.check(model, data)
        except UserError as error:
            problems.append(str(error))
    problems += same_twice(zoo)
    if task and task.divergence and any(o.temperature != 1 for o in spec.objectives):
        problems.append(f"objectives: task {task.name} has no temperature; remove it")
    if problems or data is None:
        raise UserError("\n".join(problems))
    data = replace(data, probes=probes)
    if store is not None:
        data, note = store.as_stored(data)
        data = replace(data, notes=(*data.notes, *([note] if note else [])))
    for note in data.notes:
        log.warning(note)
    return zoo, data


def resolve_probes(
    spec: Spec, *, features: bool = True
) -> tuple[tuple[ResolvedProbe, ...], list[str]]:
    """The probes of a spec, and a line for each thing that is wrong with them.

    features: whether the task's models have some.
    """
    probes, problems = [], []
    if spec.probe and not features:
        return (), [f"probe: models of task {spec.task} have no features to probe; leave it out"]
    for name, probe in spec.probe.items():
        try:
            probes.append(resolve_probe(name, probe))
        except UserError as error:
            problems.append(str(error))
    return tuple(probes), problems


def _resolved(entry: ZooEntry, task: str) -> ResolvedModel:
    """A model as remembered, or built now."""
    if model := load_resolved(entry, task):
        return model
    before = cache_path(entry, task)
    model, _ = resolve_model(entry, task_of(task))
    save_resolved(model, before, task)
    return model


def same_twice(zoo: dict[str, ResolvedModel]) -> list[str]:
    """A line for each model that the zoo holds under two names."""
    first: dict[str, str] = {}
    twice = []
    for name, model in zoo.items():
        other = first.setdefault(model.model_id, name)
        if other != name:
            twice.append(
                f"zoo: {other!r} and {name!r} are the same model with the same weights; a pairing "
                "needs two different ones, remove one"
            )
    return twice


def plan_jobs(
    spec: Spec, store: "Store | str", *, retry_failed: bool = False, only: str | None = None
) -> Plan:
    """The jobs that `spec` asks for, split by what the store already holds.

    The plan iterates over the jobs to do; `.done` and `.failed` are the others. store: one, or its
    URI; it need not exist yet. only: jobs with this model. retry_failed: jobs that failed are to do
    again. Reads every model and data set of the spec; trains and writes nothing. Raises UserError.
    """
    from bikd_ray.store import Store

    store = Store(store) if isinstance(store, str) else store
    zoo, data = resolve(spec, store)
    return planned(spec, zoo, data, store, retry_failed=retry_failed, only=only)


def kept_selections(spec: Spec) -> tuple[str, ...]:
    """The selections whose weights a job of `spec` keeps."""
    policy = spec.resources.keep_weights
    if policy == "none":
        return ()
    return (spec.selection,) if policy == "best" else get_args(Selection)


def not_kept(spec: Spec, plan: Plan, store: "Store") -> str | None:
    """One line about done jobs without weights that `spec` keeps, as a spec changed after its sweep
    may leave them; None where all have theirs.
    """
    from bikd_ray.store.read import pc

    done, wanted = {job.job_id for job in plan.done}, kept_selections(spec)
    if not done or not wanted:
        return None
    where = pc.field("job_id").isin(sorted(done))
    rows = store.table("results", ["job_id", "selection", "weights"], where).to_pylist()
    lacks = {r["job_id"] for r in rows if r["selection"] in wanted and r["weights"] is None}
    lost = sorted({r["selection"] for r in rows if r["weights"] is None} & set(wanted))
    if not lacks:
        return None
    there = sorted({r["selection"] for r in rows if r["weights"] and r["job_id"] in lacks})
    export = f"take those of selection {' or '.join(there)}, or " if there else ""
    return (
        f"{len(lacks)} of {len(done)} done jobs kept no weights of selection {' and '.join(lost)}, "
        f"and what is done is not run again; {export}sweep into another --store to have them"
    )


def not_measured(plan: Plan, store: "Store") -> list[str]:
    """A line for each further set on which done jobs are not measured."""
    from bikd_ray.store.read import pc

    done = {job.job_id for job in plan.done}
    sets = plan.done[0].data.eval if plan.done else {}
    if not sets:
        return []
    where = pc.field("job_id").isin(sorted(done)) & pc.field("eval_set").isin(list(sets))
    rows = store.table("results", ["job_id", "eval_set"], where)
    have = {(row["job_id"], row["eval_set"]) for row in rows.to_pylist()}
    lacking = {name: sum((job, name) not in have for job in done) for name in sets}
    return [
        f"{count} of {len(done)} done jobs are not measured on {name}; bikd evaluate measures "
        "those with kept weights"
        for name, count in lacking.items()
        if count
    ]


def planned(
    spec: Spec,
    zoo: dict[str, ResolvedModel],
    data: ResolvedData,
    store: "Store",
    *,
    retry_failed: bool = False,
    only: str | None = None,
    broken: Collection[str] = (),
) -> Plan:
    """`plan_jobs` for a spec that is resolved already. broken: ids of models that cannot be
    measured.

    Of goal improve it has every job that may be asked for, and none while a model is not measured.
    """
    if only is not None and only not in zoo:
        raise UserError(f"--only {only!r} is not in the zoo; {choices(only, zoo)}")
    if spec.goal == "improve":
        from bikd_ray.grouping import wishes

        wanted = wishes(spec, zoo, data, store, only, broken)
        of_id = {job.job_id: job for one in wanted for job in one.jobs.values()}
        return plan(of_id.values(), store.done(), store.failures(), retry_failed=retry_failed)
    jobs = all_jobs(spec, zoo, data)
    found = plan(jobs, store.done(), store.failures(), retry_failed=retry_failed)
    return found.only(only) if only else found
