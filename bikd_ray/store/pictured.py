"""The kept pictures of a pair: where a learner's answers changed most."""

import numpy as np

from bikd_ray.store.read import Reader, pc
from bikd_ray.store.series import Row, done_jobs


def pictures(
    reader: Reader, model_id: str, partner_id: str, data_id: str, recipe_id: str, objective: str
) -> list[Row]:
    """Rows of the table `pictures` of a learner's jobs with one partner, of every seed: with `seed`
    and `partner`, the untouched partner's answer, in place of `others`. The largest gain first; a
    sample of several seeds once for its largest gain and once for its largest loss.
    """
    if not reader.listing("pictures"):
        return []
    done = done_jobs(reader)
    both = np.intersect1d(done.jobs_of(model_id), done.jobs_of(partner_id))
    jobs = reader.committed("jobs")
    jobs = jobs.filter(pc.is_in(jobs["job_id"], value_set=done.jobs["job_id"].take(both)))
    setting = {"data_id": data_id, "recipe_id": recipe_id, "objective": objective}
    for name, value in setting.items():
        jobs = jobs.filter(pc.equal(jobs[name], value))
    jobs = jobs.filter(pc.equal(pc.list_value_length(jobs["member_ids"]), 2))
    if not len(jobs):
        return []
    seeds = dict(zip(jobs["job_id"].to_pylist(), jobs["seed"].to_pylist(), strict=True))
    signs = {metric.name: metric.sign for metric in reader.metrics.get(data_id, ())}
    table = reader.table("pictures", None, pc.field("model_id") == model_id, jobs)
    rows = []
    for row in table.to_pylist():
        gain = signs.get(row["metric"], 1) * (row["value_after"] - row["value_before"])
        (partner,) = row.pop("others")
        rows.append({**row, "seed": seeds[row["job_id"]], "gain": gain, "partner": partner})
    best: dict[tuple[int, bool], Row] = {}
    for row in rows:
        key = row["sample"], row["gain"] > 0
        if key not in best or abs(row["gain"]) > abs(best[key]["gain"]):
            best[key] = row
    return sorted(best.values(), key=lambda row: (-row["gain"], row["sample"], row["seed"]))
