"""Learning curves, averaged over the seeds."""

from collections.abc import Collection

import pyarrow as pa

from bikd_ray.store.answer_schemas import CURVE_MEANS, CURVES
from bikd_ray.store.read import Reader, pc

BETWEEN = ","  # sorts before every character of an id
AT_ONCE = 32
"""Models whose curves are in memory at a time."""

SAME = ("data_id", "recipe_id", "objective", "model_id", "mates", "epoch")
"""What tells one mean from another; `mates` are the partners' ids in one text."""


def curve_table(reader: Reader, wanted: Collection[str] | None = None) -> pa.Table:
    """Columns `answers.CURVES`, of done jobs only. wanted: model_ids; None for all."""
    jobs = reader.committed("jobs")
    done = jobs.filter(pc.equal(jobs["status"], "done"))
    done = done.select(["job_id", "attempt", "member_ids", "members"]).combine_chunks()
    job, member = (f(done["member_ids"]) for f in (pc.list_parent_indices, pc.list_flatten))
    models = sorted(member.unique().to_pylist() if wanted is None else wanted)
    if wanted is not None:
        theirs = pc.is_in(member, value_set=pa.array(models, pa.string()))
        done = done.take(job.filter(theirs).unique())
    beside = _partners(done.to_pylist(), set(models))
    parts = [
        _means(reader, models[i : i + AT_ONCE], done, beside)
        for i in range(0, len(models), AT_ONCE)
    ]
    names = {model_id: name for of_part, _ in parts for model_id, name in of_part.items()}
    means = pa.concat_tables([table for _, table in parts]) if parts else None
    if means is None:
        return CURVES.empty_table()
    means = means.sort_by([(name, "ascending") for name in SAME])
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


def _means(
    reader: Reader, models: list[str], done: pa.Table, beside: pa.Table
) -> tuple[dict[str, str], pa.Table]:
    """(names of the models, the means of their curves by SAME)."""
    columns = ["job_id", "model", *SAME[:4], "epoch", *CURVE_MEANS]
    rows = reader.table("curves", columns, pc.field("model_id").isin(models), done)
    found = rows.group_by("model_id").aggregate([("model", "max")])
    names = dict(zip(found["model_id"].to_pylist(), found["model_max"].to_pylist(), strict=True))
    # without threads, whose order would change the last bit of a mean from one run to the next
    rows = rows.drop_columns("model").sort_by("job_id")
    rows = rows.join(beside, ["job_id", "model_id"], join_type="inner", use_threads=False)
    means = [("job_id", "count"), *((name, "mean") for name in CURVE_MEANS)]
    return names, rows.group_by(SAME, use_threads=False).aggregate(means)


def _partners(jobs: list[dict], wanted: Collection[str]) -> pa.Table:
    """job_id, model_id, and the others of the job: their ids as one text, and their names."""
    rows = []
    for job in jobs:
        members = list(zip(job["member_ids"], job["members"], strict=True))
        for model_id, _ in members:
            if model_id in wanted:
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
