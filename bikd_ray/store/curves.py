"""Learning curves, averaged over the seeds."""

from collections.abc import Collection

import pyarrow as pa

from bikd_ray.store.answers import CURVE_MEANS, CURVES
from bikd_ray.store.read import Reader, pc

BETWEEN = ","  # sorts before every character of an id
SAME = ("data_id", "recipe_id", "objective", "model_id", "mates", "epoch")
"""What tells one mean from another; `mates` are the partners' ids in one text."""


def curve_table(reader: Reader, wanted: Collection[str] | None = None) -> pa.Table:
    """Columns `answers.CURVES`, of done jobs only. wanted: model_ids; None for all."""
    jobs = reader.committed("jobs")
    done = jobs.filter(pc.equal(jobs["status"], "done"))
    columns = ["job_id", "model", *SAME[:4], "epoch", *CURVE_MEANS]
    where = None if wanted is None else pc.field("model_id").isin(list(wanted))
    rows = reader.table("curves", columns, where)
    beside = _partners(done.select(["job_id", "member_ids", "members"]).to_pylist(), wanted)
    rows = rows.join(beside, ["job_id", "model_id"], join_type="inner")
    means = rows.group_by(SAME).aggregate(
        [("job_id", "count"), *((name, "mean") for name in CURVE_MEANS)]
    )
    means = means.sort_by([(name, "ascending") for name in SAME])
    names = dict(zip(rows["model_id"].to_pylist(), rows["model"].to_pylist(), strict=True))
    partners = dict(zip(beside["mates"].to_pylist(), beside["partner"].to_pylist(), strict=True))
    found = {
        **{name: means[name] for name in ("data_id", "recipe_id", "objective", "model_id")},
        "epoch": means["epoch"],
        "seeds": means["job_id_count"],
        **{name: means[f"{name}_mean"] for name in CURVE_MEANS},
        "model": _each(means["model_id"], names, pa.string()),
        "partner": _each(means["mates"], partners, pa.string()),
        "partner_ids": _each(
            means["mates"],
            {mates: mates.split(BETWEEN) if mates else [] for mates in partners},
            pa.list_(pa.string()),
        ),
    }
    return pa.table([found[field.name].cast(field.type) for field in CURVES], schema=CURVES)


def _partners(jobs: list[dict], wanted: Collection[str] | None) -> pa.Table:
    """job_id, model_id, and the others of the job: their ids as one text, and their names."""
    rows = []
    for job in jobs:
        members = list(zip(job["member_ids"], job["members"], strict=True))
        for model_id, _ in members:
            if wanted is None or model_id in wanted:
                others = [member for member in members if member[0] != model_id]
                ids, names = [i for i, _ in others], [name for _, name in others]
                rows.append((job["job_id"], model_id, BETWEEN.join(ids), " + ".join(names)))
    columns = list(zip(*rows, strict=True)) or [()] * 4
    names = ("job_id", "model_id", "mates", "partner")
    return pa.table(
        {n: pa.array(values, pa.string()) for n, values in zip(names, columns, strict=True)}
    )


def _each(keys: pa.ChunkedArray, values: dict, kind: pa.DataType) -> pa.Array:
    """The value of each key; looked up once for each that is different."""
    encoded = keys.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    known = pa.array([values[key] for key in encoded.dictionary.to_pylist()], kind)
    return known.take(encoded.indices)
