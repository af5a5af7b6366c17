"""How an exported model is built, and which images it learned from: what its store says."""

import json
from dataclasses import dataclass

from bikd_ray.errors import BikdError
from bikd_ray.export.summary import SelectedResult
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Data


@dataclass(frozen=True)
class Origin:
    """The model of a result, and where its images came from."""

    model: ResolvedModel
    data: Data


def origin(choice: SelectedResult) -> Origin:
    """What the store notes of a result's model and data.

    Raises BikdError for a store of an older bikd, which did not.
    """
    result = choice.result
    known, data = choice.models[result["model_id"]]["resolved"], choice.job["data"]
    if known is None or data is None:
        raise BikdError(
            f"{result['model']}: an older bikd wrote this store and did not note how the model is "
            "built; sweep into another --store"
        )
    return Origin(ResolvedModel.from_json(known), Data.model_validate(json.loads(data)))
