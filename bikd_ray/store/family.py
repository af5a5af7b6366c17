"""The p-values of a whole setting, which a q-value of any of its rows needs.

They take every result of the store, so a machine remembers them, model by model, for as long as
no job of a model is added: what has not changed is not read again.
"""

import contextlib
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.cache_dir import cache_root, replace_file
from bikd_ray.identity import digest
from bikd_ray.store.gains import p_values
from bikd_ray.store.kept import stamps
from bikd_ray.store.read import Reader
from bikd_ray.store.series import NEEDED, Measure, model_series
from bikd_ray.store.upgrade import VAL

VERSION = 2
"""Raised when a change to the code changes a p-value."""

SETTING = ("data_id", "recipe_id", "objective")
Setting = tuple[str, ...]
Family = dict[Setting, dict[str, np.ndarray]]
"""SETTING -> model_id -> [P], in no order."""

REMEMBERED = pa.schema(
    [
        ("stamp", pa.string()),
        ("model_id", pa.string()),
        ("data_id", pa.string()),
        ("recipe_id", pa.string()),
        ("objective", pa.string()),
        ("p", pa.list_(pa.float64())),
    ]
)


def family(reader: Reader, selection: str, measure: Measure) -> Family:
    """The p-values of net Δ of every setting of a selection and measure."""
    if measure.eval_set != VAL:  # such results may come without a job
        return _p_values(reader, None, selection, measure)
    jobs, baselines = reader.committed("jobs"), reader.committed("baselines")
    return reader.derived(
        f"p-values, {selection}, {measure}",
        lambda *_: _family(reader, selection, measure),
        jobs,
        baselines,
    )


def _family(reader: Reader, selection: str, measure: Measure) -> Family:
    known = stamps(reader)
    path = (
        cache_root()
        / "answers"
        / f"{digest(VERSION, reader.fs.uri, selection, measure.metric, measure.eval_set)}.parquet"
    )
    kept = []
    with contextlib.suppress(OSError, pa.ArrowException):  # none yet, or damaged
        kept = pq.read_table(path, schema=REMEMBERED).to_pylist()
    kept = [row for row in kept if known.get(row["model_id"]) == row["stamp"]]
    missing = known.keys() - {row["model_id"] for row in kept}
    if missing:
        nothing = dict.fromkeys(REMEMBERED.names)
        seen = set()
        for setting, of_models in _p_values(reader, missing, selection, measure).items():
            for model_id, p in of_models.items():
                seen.add(model_id)
                row = dict(zip(SETTING, setting, strict=True))
                kept.append({**row, "model_id": model_id, "p": p, "stamp": known[model_id]})
        kept += [{**nothing, "model_id": i, "stamp": known[i]} for i in missing - seen]
        with contextlib.suppress(OSError):
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(kept, REMEMBERED), sink)
            replace_file(path, memoryview(sink.getvalue()))
    found: Family = {}
    for row in kept:
        if row["p"] is not None:
            setting = tuple(row[name] for name in SETTING)
            found.setdefault(setting, {})[row["model_id"]] = np.asarray(row["p"], float)
    return found


def _p_values(
    reader: Reader, models: Collection[str] | None, selection: str, measure: Measure
) -> Family:
    """Worked out now; models: None for all."""
    found: Family = {}
    for learner in model_series(reader, models, None, selection, NEEDED, measure):
        p = p_values(learner)
        setting = tuple(getattr(learner, name) for name in SETTING)
        found.setdefault(setting, {})[learner.model_id] = p[~np.isnan(p)]
    return found
