"""From a spec to the weights, images and jobs that it names. Loads torch."""

from typing import TYPE_CHECKING

from bikd_ray.data import resolve_data
from bikd_ray.errors import UserError
from bikd_ray.plan import Plan, ResolvedData, ResolvedModel, all_jobs, plan
from bikd_ray.specs import Spec
from bikd_ray.zoo import resolve_model

if TYPE_CHECKING:
    from bikd_ray.store import Store


def resolve(spec: Spec) -> tuple[dict[str, ResolvedModel], ResolvedData]:
    """Read every model and data set of a spec: name to model, and the data.

    Raises UserError with a line for each thing that is missing, broken or does not fit.
    """
    data: ResolvedData | None = None
    zoo: dict[str, ResolvedModel] = {}
    problems: list[str] = []
    try:
        data = resolve_data(spec.data)
    except UserError as error:
        problems.append(str(error))
    for entry in spec.zoo:
        try:
            zoo[entry.name] = resolve_model(entry, data.num_classes if data else None)
        except UserError as error:
            problems.append(str(error))
    if problems or data is None:
        raise UserError("\n".join(problems))
    by_id: dict[str, str] = {}
    for name, model in zoo.items():
        if model.model_id in by_id:
            raise UserError(
                f"zoo: {by_id[model.model_id]!r} and {name!r} are the same model with the same "
                "weights; a pairing needs two different ones, remove one"
            )
        by_id[model.model_id] = name
    return zoo, data


def plan_jobs(spec: Spec, store: "Store | str", *, retry_failed: bool = False) -> Plan:
    """The jobs that `spec` asks for, split by what the store already holds.

    The plan iterates over the jobs to do; `.done` and `.failed` are the others. Raises UserError.
    """
    zoo, data = resolve(spec)
    return planned(spec, zoo, data, store, retry_failed=retry_failed)


def planned(
    spec: Spec,
    zoo: dict[str, ResolvedModel],
    data: ResolvedData,
    store: "Store | str",
    *,
    retry_failed: bool = False,
) -> Plan:
    """`plan_jobs` for a spec that is resolved already."""
    from bikd_ray.store import Store

    store = Store(store) if isinstance(store, str) else store
    jobs = all_jobs(spec, zoo, data)
    return plan(jobs, store.done(), store.failures(), retry_failed=retry_failed)
