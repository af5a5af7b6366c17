"""Learning curves, averaged over the seeds."""

from collections import defaultdict
from collections.abc import Collection

from bikd_ray.store.answers import CURVE_MEANS
from bikd_ray.store.gains import mean
from bikd_ray.store.learners import Row
from bikd_ray.store.read import Reader, pc


def curve_rows(reader: Reader, wanted: Collection[str] | None = None) -> list[Row]:
    """Rows of `answers.CURVES`, of done jobs only. wanted: model_ids; None for all."""
    where = None if wanted is None else pc.field("model_id").isin(list(wanted))
    jobs = reader.committed("jobs")
    done = {row["job_id"]: row for row in jobs.to_pylist() if row["status"] == "done"}
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in reader.table("curves", where=where).to_pylist():
        job = done.get(row["job_id"])
        if job is not None:
            same = (row["data_id"], row["recipe_id"], row["objective"], row["model_id"])
            mates = tuple(i for i in job["member_ids"] if i != row["model_id"])
            groups[*same, mates, row["epoch"]].append({**row, "job": job})
    out = []
    for key in sorted(groups):
        data_id, recipe_id, objective, model_id, mates, epoch = key
        rows, job = groups[key], groups[key][0]["job"]
        names = dict(zip(job["member_ids"], job["members"], strict=True))
        out.append(
            {
                "model": rows[0]["model"],
                "partner": " + ".join(names[i] for i in mates),
                "objective": objective,
                "epoch": epoch,
                "seeds": len(rows),
                **{name: mean(r[name] for r in rows) for name in CURVE_MEANS},
                "data_id": data_id,
                "recipe_id": recipe_id,
                "model_id": model_id,
                "partner_ids": list(mates),
            }
        )
    return out
