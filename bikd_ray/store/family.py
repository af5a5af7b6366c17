"""The p-values of a whole setting, which a q-value of any of its rows needs.

They take every result of the store, but less work than the gains do, and are kept as these are.
"""

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa

from bikd_ray.store.gains import p_values
from bikd_ray.store.kept import by_model
from bikd_ray.store.read import Reader
from bikd_ray.store.series import NEEDED, Measure, model_series

SETTING = ("data_id", "recipe_id", "objective")
Setting = tuple[str, ...]
Family = dict[Setting, dict[str, np.ndarray]]
"""SETTING -> model_id -> [P], in no order."""

P_VALUES = pa.schema(
    [*((name, pa.string()) for name in (*SETTING, "model_id")), ("p", pa.list_(pa.float64()))]
)


def family(reader: Reader, selection: str, measure: Measure) -> Family:
    """The p-values of net Δ of every setting of a selection and measure."""
    return reader.derived(
        f"p-values, {selection}, {measure}",
        lambda *_: _family(reader, selection, measure),
        reader.committed("jobs"),
        reader.committed("baselines"),
    )


def _family(reader: Reader, selection: str, measure: Measure) -> Family:
    def told(models: Collection[str]) -> Iterator[pa.Table]:
        for learner in model_series(reader, models, None, selection, NEEDED, measure):
            p = p_values(learner)
            row = {name: getattr(learner, name) for name in (*SETTING, "model_id")}
            yield pa.Table.from_pylist([{**row, "p": p[~np.isnan(p)]}], P_VALUES)

    found: Family = {}
    for row in by_model(reader, ("p-values", selection), measure, P_VALUES, told).to_pylist():
        setting = tuple(row[name] for name in SETTING)
        found.setdefault(setting, {})[row["model_id"]] = np.asarray(row["p"], float)
    return found
