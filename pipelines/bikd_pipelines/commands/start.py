"""To start: a demo, and what a spec would do."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bikd_pipelines.commands.options import (
    Address,
    Budget,
    Format,
    Goal,
    HowShown,
    Limit,
    Only,
    Regret,
    Share,
    SpecPath,
    StoreUri,
    opened,
    show,
)
from bikd_pipelines.commands.run import end
from bikd_ray.errors import UserError


class DemoTask(StrEnum):
    classification = "classification"
    saliency = "saliency"
    segmentation = "segmentation"


class Story(StrEnum):
    cheap_labels = "cheap-labels"
    control = "control"


def demo(
    story: Annotated[
        Story,
        typer.Option(
            "--story",
            help="cheap-labels: one model that knows, three beginners, and training labels of "
            "which 45% are wrong; control: all gain, and gain as much without a partner",
        ),
    ] = Story.cheap_labels,
    task: Annotated[
        DemoTask,
        typer.Option(
            "--task",
            help="classification, with a story; segmentation: scenes of digits, and networks of "
            "two families; saliency: videos, and networks that see one frame or several",
        ),
    ] = DemoTask.classification,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="DIR",
            help="a folder for the zoo and the answers; default: ./bikd-demo, "
            "./bikd-demo-control, ./bikd-demo-segmentation or ./bikd-demo-saliency",
        ),
    ] = None,
) -> None:
    """See it all once, on bundled data: four tiny models, every pair, the answers in minutes.

    [dim]Example: bikd demo[/dim]
    """
    from bikd_dashboards.report import write_report
    from bikd_pipelines.demo import prepare_demo
    from bikd_pipelines.summary import print_summary
    from bikd_ray.spec_file import load_spec
    from bikd_ray.store import Store
    from bikd_ray.store.filesystem import store_uri
    from bikd_ray.sweep.engine import run_sweep

    told = story.value if task is DemoTask.classification else task.value
    own = "./bikd-demo" if told == Story.cheap_labels.value else f"./bikd-demo-{told}"
    place = store_uri(store or own)
    spec = prepare_demo(place, told)
    report = run_sweep(load_spec(spec))
    answers = Store(report.store).as_of_now()
    print_summary(answers, spec=str(spec))
    path = write_report(answers, Path(place) / "report.html")
    print(f"\nReport: {path}\nSpec:   {spec}")
    end(report)


def check(
    spec: SpecPath,
    fetch: Annotated[
        bool,
        typer.Option("--fetch", help="download the weights, after which nothing needs the network"),
    ] = False,
    store: StoreUri = None,
    format: HowShown = Format.table,
) -> None:
    """Find everything that could stop a sweep: builds each model, opens the data, lists all faults.

    [dim]Example: bikd check sweep.yaml --fetch[/dim]
    """
    from bikd_pipelines.check import check as look

    found = look(spec, fetch=fetch, store=store)
    show(found.table, format, "check")
    if found.problems:
        raise UserError("\n".join(found.problems))


def plan(
    spec: SpecPath,
    store: StoreUri = None,
    address: Address = None,
    limit: Limit = None,
    only: Only = None,
    budget: Budget = None,
    goal: Goal = None,
    regret: Regret = None,
    share: Share = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="time a few training steps of each model here, for a minute"
        ),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops",
            min=0.001,
            metavar="N",
            help="plan for GPUs that really compute N TFLOP/s, in place of this machine",
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            "--price", min=0, metavar="P", help="of a GPU-hour: what it costs, and what costs less"
        ),
    ] = None,
    format: HowShown = Format.table,
) -> None:
    """Count the jobs of SPEC, the hours they take and the smallest gain they can show. Runs none.

    [dim]Example: bikd plan sweep.yaml --calibrate --price 2.50[/dim]
    """
    from bikd_pipelines.improving import improve_lines
    from bikd_pipelines.layout import note, note_width
    from bikd_pipelines.planning import (
        cost_lines,
        grouped,
        job_table,
        on_gpu,
        opened_spec,
        paces_at,
        paces_of,
        resources_at,
        take_names,
    )
    from bikd_pipelines.predicting import forecast_lines
    from bikd_pipelines.prices import price_lines
    from bikd_ray.spec_file import load_spec, with_goal

    loaded = with_goal(load_spec(spec), goal, regret, share)
    found = opened_spec(loaded, store, only)
    jobs, answers = found.plan, found.store
    table = job_table(jobs)
    show(grouped(table) if format is Format.table else table, format, "jobs")
    if calibrate and tflops is not None:
        raise UserError("--calibrate times this machine and --tflops assumes another; give one")
    if tflops is not None:
        paces, source = paces_at(jobs, tflops), f"{tflops:g} TFLOP/s, which nothing has measured"
    elif calibrate:
        from bikd_pipelines.calibrate import calibrate as measure

        paces = measure(jobs.todo, lambda line: print(f"bikd: {line}", file=sys.stderr))
        source = "steps timed here"
    else:
        paces, source = paces_of(jobs, answers), f"the {len(jobs.done)} done jobs' seconds"
    where = on_gpu() if tflops is not None else resources_at(address, loaded.resources)
    for line in take_names(jobs, answers):
        print(f"bikd: {line}", file=sys.stderr)
    lines = cost_lines(loaded, jobs, paces, source, where, limit, budget, answers)
    lines += forecast_lines(loaded, jobs, answers)
    lines += improve_lines(loaded, found, only)
    if price is not None:
        lines += price_lines(loaded, jobs, paces, price, where[1], only, note_width())
    note(lines)


def status(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="also say what is left of this spec")
    ] = None,
    store: StoreUri = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="list the jobs that failed, and why")
    ] = False,
    format: HowShown = Format.table,
) -> None:
    """Say what is done, running, left and failed.

    [dim]Example: bikd status --failed[/dim]
    """
    from bikd_pipelines import light_arrow  # noqa: F401  (before Arrow)
    from bikd_pipelines.planning import (
        further_lines,
        grouped,
        job_table,
        open_plan,
        stored_jobs,
        sweep_lines,
        take_names,
    )
    from bikd_ray.spec_file import load_spec
    from bikd_ray.store.filesystem import store_uri

    loaded = load_spec(spec) if spec else None
    planned, answers = open_plan(loaded, store) if loaded else (None, opened(store))
    table = stored_jobs(answers) if planned is None else job_table(planned)
    for line in take_names(planned, answers):
        print(f"bikd: {line}", file=sys.stderr)
    if failed:
        table = table.filter([state == "failed" for state in table["state"].to_pylist()])
    people = format is Format.table
    view = "failures" if failed else "jobs"
    left = planned is not None
    show(grouped(table, left) if people and not failed else table, format, view)
    if failed and people:
        from bikd_pipelines.layout import note
        from bikd_pipelines.tables import cause_lines

        note(cause_lines(table))
    if planned is not None:
        from bikd_ray.resolve import not_measured

        for line in [*further_lines(planned), *not_measured(planned, answers)]:
            print(f"bikd: {line}", file=sys.stderr)
    for line in sweep_lines(store_uri(store, loaded and loaded.store)):
        print(line, file=sys.stderr)
