"""What a sweep costs in money, and what would cost less: the rows of `bikd plan --price`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bikd_pipelines.layout import Column, Row, laid_out
from bikd_ray.plan import Job, Pace, Plan, all_jobs
from bikd_ray.specs import Spec
from bikd_ray.sweep.capacity import Node

TENTH = 0.1
"""Share of the train images of a screening."""


@dataclass(frozen=True)
class Way:
    """One way to run a sweep: what it is, what to write in the spec, and the jobs it leaves."""

    what: str
    lines: str
    jobs: tuple[Job, ...]


def ways(spec: Spec, plan: Plan, only: str | None = None) -> Iterator[Way]:
    """What is left of a plan, then what asks less: one seed, one model's pairs, fewer images.

    only: jobs with this model. Jobs that are done are not counted again.
    """
    yield Way("what is left" if plan.done else "all of it", "", plan.todo)
    data, members = plan.jobs[0].data, {m.name: m for job in plan.jobs for m in job.members}
    zoo = {entry.name: members[entry.name] for entry in spec.zoo if entry.name in members}
    done = {job.job_id for job in plan.done}
    seed = spec.seeds[0]
    anchor = only or next(iter(zoo))
    changes: dict[str, tuple[str, str, dict]] = {}
    if len(spec.seeds) > 1:
        changes["seed"] = ("one seed first", f"seeds: [{seed}]", {"seeds": (seed,)})
    if spec.pairings.mode == "all" and len(zoo) > 2 and only is None:
        how = {"mode": "anchors", "size": spec.pairings.size, "models": (anchor,)}
        changes["anchor"] = (
            f"only pairs with {anchor}",
            f"pairings: {{anchors: [{anchor}]}}",
            {"pairings": spec.pairings.model_validate(how)},
        )
    if spec.recipe.train_fraction > TENTH:
        recipe = spec.recipe.model_copy(update={"train_fraction": TENTH})
        changes["images"] = (
            "a tenth of the images",
            f"recipe: {{train_fraction: {TENTH}}}",
            {"recipe": recipe},
        )

    def way(what: str, lines: str, change: dict) -> Way:
        wanted = all_jobs(spec.model_copy(update=change), zoo, data)
        left = [job for job in wanted if job.job_id not in done and only in (None, *job.names)]
        return Way(what, lines, tuple(left))

    for what, lines, change in changes.values():
        yield way(what, lines, change)
    if len(changes) > 1:
        everything = {
            key: value for _, _, change in changes.values() for key, value in change.items()
        }
        lines = "all of these" if len(changes) > 2 else "both"
        yield way("together", lines, everything)


def price_lines(
    spec: Spec,
    plan: Plan,
    paces: Mapping[str, Pace] | None,
    price: float,
    nodes: Sequence[Node],
    only: str | None = None,
    width: int | None = None,
) -> list[str]:
    """The rows, as wide as the terminal. price: of an hour of a GPU, or of a slot where jobs use
    none. paces: None where no time is known, and then shares of the whole stand in for money.
    """
    from bikd_ray.sweep.resources import job_needs, uses_gpus

    pace_of = (lambda m: paces[m.model_id]) if paces is not None else None
    unit = "GPU-hours" if uses_gpus(spec.resources, nodes) else "slot-hours"

    def hours(job: Job) -> float:
        if pace_of is None:
            return job.flops
        return (job_needs(spec.resources, job, nodes).gpus or 1) * job.work(pace_of) / 3600

    if not plan.todo:
        return ["nothing is left to pay for"]
    rows: list[Row] = []
    for way in ways(spec, plan, only):
        cost = sum(map(hours, way.jobs))
        rows.append({"what": way.what, "lines": way.lines, "jobs": len(way.jobs), "spent": cost})
    whole = rows[0]["spent"]
    spent = [
        Column(unit, lambda row: _hours(row["spent"])),
        Column("cost", lambda row: money(row["spent"] * price)),
    ]
    columns = [
        Column("run", lambda row: row["what"], words=True),
        Column("in the spec", lambda row: row["lines"], words=True),
        Column("jobs", lambda row: f"{row['jobs']:,}"),
        *(spent if pace_of else [Column("share", lambda row: f"{row['spent'] / whole:.0%}")]),
    ]
    note = "" if pace_of else "; no time is known yet, so only shares can be told: --calibrate"
    one = unit.removesuffix("s")
    return [
        f"at {money(price, 2)} a {one}{note}",
        *(line.plain for line in laid_out(rows, columns, width)),
    ]


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def money(value: float, digits: int | None = None) -> str:
    """`$7,167`, `$56`, `$2.50`: whole numbers from ten on."""
    if digits is None:
        digits = 0 if value >= 10 else 2
    return f"${value:,.{digits}f}"
