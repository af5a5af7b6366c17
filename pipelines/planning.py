"""What `bikd plan` and `bikd status` say: counts, costs, and what the val set can resolve."""

from collections import Counter
from statistics import median

import pyarrow as pa

from bikd_ray.analysis.significance import resolvable
from bikd_ray.data.cache import size_on_disk
from bikd_ray.plan import Job, Plan
from bikd_ray.resolve import plan_jobs
from bikd_ray.specs import Spec
from bikd_ray.store import Store
from bikd_ray.store.lease import at_work
from bikd_ray.store.place import Place, store_uri
from bikd_ray.zoo.cost import training_bytes
from bikd_ray.zoo.published import WARN_BEYOND

JOBS = pa.schema(
    [
        ("job_id", pa.string()),
        ("members", pa.list_(pa.string())),
        ("objective", pa.string()),
        ("seed", pa.int64()),
        ("state", pa.string()),
        ("error", pa.string()),
    ]
)


def open_plan(spec: Spec, store: str | None) -> tuple[Plan, Store]:
    """The plan of a spec against its store, which need not exist yet."""
    answers = Store(store_uri(store, spec.store))
    return plan_jobs(spec, answers), answers


def job_table(plan: Plan) -> pa.Table:
    """One row for each job of a plan: done, to do or failed."""
    states = (("done", plan.done), ("to do", plan.todo), ("failed", plan.failed))
    rows = [
        {
            "job_id": job.job_id,
            "members": list(job.names),
            "objective": job.objective.label,
            "seed": job.seed,
            "state": state,
            "error": plan.errors.get(job.job_id),
        }
        for state, jobs in states
        for job in jobs
    ]
    return pa.Table.from_pylist(rows, JOBS)


def stored_jobs(store: Store) -> pa.Table:
    """One row for each job that the store knows."""
    jobs = store.table("jobs")
    return jobs.rename_columns({"status": "state"}).select(JOBS.names)


def grouped(jobs: pa.Table) -> pa.Table:
    """Jobs counted by members and objective, a total first."""
    counts: dict[tuple[str, str], Counter[str]] = {("all", ""): Counter()}
    for row in jobs.to_pylist():
        key = (" + ".join(row["members"]), row["objective"])
        counts.setdefault(key, Counter())[row["state"]] += 1
        counts["all", ""][row["state"]] += 1
    rows = [
        {
            "members": members,
            "objective": objective,
            "done": states["done"],
            "to_do": states["to do"],
            "failed": states["failed"],
        }
        for (members, objective), states in counts.items()
    ]
    return pa.Table.from_pylist(rows)


def cost_lines(spec: Spec, plan: Plan, store: Store) -> list[str]:
    """What is left to pay, and what the images can show."""
    left = len(plan.todo)
    lines = [f"{left} of {len(plan.jobs)} jobs to do, {len(plan.failed)} failed before"]
    seconds = _seconds_per_job(plan, store)
    if seconds is not None and left:
        lines.append(
            f"about {left * seconds / 3600:.2g} slot-hours at {seconds:.3g} s a job (median of "
            "the jobs of this recipe in the store)"
        )
    if plan.jobs:
        data = plan.jobs[0].data
        views = {m.input.view for job in plan.jobs for m in job.members}
        held = round(data.n_train * spec.data.select_fraction)
        train = data.n_train if spec.recipe.augment == "none" else 0
        cached = sum(size_on_disk(train + held + data.n_val, view) for view in views)
        recipe, most = spec.recipe, max(plan.jobs, key=_memory)
        lines.append(
            f"memory: about {_size(_memory(most))} for a job of {' + '.join(most.names)} at batch "
            f"{recipe.batch_size}, the most of any"
        )
        kept = sum(_kept_bytes(spec, job) for job in plan.jobs)
        lines.append(
            f"disk: {_size(kept)} of weights in the store (keep_weights: "
            f"{spec.resources.keep_weights}), {_size(cached)} of decoded images on each node "
            f"(cache: {spec.data.cache})"
        )
        low, high = (resolvable(data.n_val, share) for share in (0.02, 0.04))
        lines.append(
            f"{data.n_val} val images resolve ±{low:.2f} pp of one job's Δ with 95% if 2% of "
            f"them change sides, ±{high:.2f} pp if 4% do"
        )
    return lines


def sweep_lines(store: str) -> list[str]:
    """The sweeps that are at work on a store now, from whichever machine."""
    lines = []
    for _, sweep in at_work(Place.at(store)):
        eta = sweep.about.get("eta")
        until = f", about {eta / 60:.0f} min to go" if eta is not None else ""
        lines.append(
            f"sweep {sweep.name} is at work on {sweep.host} (process {sweep.pid}): "
            f"{len(sweep.jobs)} jobs run, {sweep.about.get('left', '?')} left{until}"
        )
    return lines


def drift_lines(baselines: pa.Table) -> list[str]:
    """A warning for each model that is not as accurate here as its makers published."""
    return [
        f"{row['model']}: top-1 {row['top1']:.3f} %, published {row['published_top1']:.3f} % at "
        f"the same input: {row['top1'] - row['published_top1']:+.3f} pp. Compare the images, the "
        "order of their classes and the versions of timm and Pillow before you sweep"
        for row in baselines.to_pylist()
        if row["published_top1"] is not None
        and abs(row["top1"] - row["published_top1"]) > WARN_BEYOND
    ]


def _memory(job: Job) -> int:
    costs, recipe = [m.cost for m in job.members], job.recipe
    classes = job.data.num_classes
    return training_bytes(costs, recipe.batch_size, classes, recipe.optimizer, recipe.precision)


def _seconds_per_job(plan: Plan, store: Store) -> float | None:
    recipes = {job.recipe_id for job in plan.jobs}
    jobs = store.table("jobs").select(["recipe_id", "status", "seconds"]).to_pylist()
    known = [j["seconds"] for j in jobs if j["recipe_id"] in recipes and j["status"] == "done"]
    return median(known) if known else None


def _kept_bytes(spec: Spec, job: Job) -> int:
    selections = 2 + bool(spec.data.select_fraction)
    copies = {"none": 0, "best": 1, "all": selections}[spec.resources.keep_weights]
    return copies * 4 * sum(m.cost.params for m in job.members)


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
