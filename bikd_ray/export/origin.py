"""How an exported model is built, and which images it learned from: what its sweep's spec says."""

from dataclasses import dataclass

from bikd_ray.data import resolve_data
from bikd_ray.errors import UserError, choices
from bikd_ray.export.facts import Row
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Data, Spec
from bikd_ray.zoo import recall, resolve_model


@dataclass(frozen=True)
class Origin:
    """data: None where the spec's images cannot be opened here, or are not those of the result."""

    model: ResolvedModel
    data: Data | None


def origin(spec: Spec, result: Row) -> Origin:
    """The model of a result as its spec builds it.

    Raises UserError where the spec has no such model, or one with other weights.
    """
    name = result["model"]
    names = [entry.name for entry in spec.zoo]
    if name not in names:
        raise UserError(f"the spec {spec.name} has no model {name!r}; {choices(name, names)}")
    entry = spec.entry(name)
    model = recall(entry) or resolve_model(entry)[0]
    if model.model_id != result["model_id"]:
        raise UserError(
            f"{name} of the spec {spec.name} is {model.model_id}, that of the store is "
            f"{result['model_id']} (other weights, arguments or input); give the spec of its sweep"
        )
    try:
        same = resolve_data(spec.data).data_id == result["data_id"]
    except UserError:  # the weights can be taken home from where the images are not
        same = False
    return Origin(model, spec.data if same else None)
