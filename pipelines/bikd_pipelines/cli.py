"""The `bikd` command. Each command is a thin face: parse, call, show.

Answers go to standard output; progress and notes to standard error. Exit 0: done; 1: something
failed or is incomplete; 2: the person's mistake, in one line.
"""

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Annotated, Any

import typer

from bikd_pipelines.streams import abandon, prepare, why_unwritten
from bikd_ray.errors import BikdError, UserError
from bikd_ray.paths import expanded

app = typer.Typer(
    name="bikd",
    help="Which of your pretrained models can teach each other what, and what do you gain?",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

UsageError: Any = typer.BadParameter.__base__  # typer names only what derives from it


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


def _path(given: str) -> Path:
    """An option's path, as `--out=~/x` comes from a shell. Raises UserError."""
    try:
        return Path(expanded(str(given)))
    except ValueError as error:
        raise UserError(f"--out: {error}") from None


SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="the YAML spec of the sweep")]
StoreUri = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        help="folder, s3://… or gs://…; default: the spec's, $BIKD_STORE, ./bikd-store",
    ),
]
HowShown = Annotated[Format, typer.Option("--format", help="how to print the answer")]
Objective = Annotated[
    str | None, typer.Option("--objective", metavar="O", help="only this objective, such as bikd")
]
Selection = Annotated[
    str,
    typer.Option("--selection", help="last | best_val (chosen on the shown images) | best_select"),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="ADDR", help="a running Ray cluster; default: start Ray here"
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="at most so many jobs")
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="MODEL", help="only jobs with this model")
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", min=0, metavar="GPU_HOURS", help="begin no job that would exceed this"
    ),
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="run jobs again that failed before")]
Ship = Annotated[
    bool, typer.Option("--ship", help="send this bikd to a cluster that has not got it")
]


def main() -> None:
    """Entry point: runs a command and turns errors into one line and an exit code."""
    prepare()
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    logging.basicConfig(format="bikd: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        try:
            code = app(arguments, prog_name="bikd", standalone_mode=False) or 0
        finally:
            sys.stdout.flush()
        sys.exit(code)
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "bikd"
        print(f"bikd: {error.format_message().rstrip('.')}; see {where} --help", file=sys.stderr)
        sys.exit(2)
    except BikdError as error:
        if debug:
            raise
        print("\n".join(f"bikd: {line}" for line in str(error).splitlines()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("bikd: interrupted; what was finished is in the store", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        abandon(sys.stdout)
        sys.exit(1)
    except OSError as error:
        why = why_unwritten(error)
        if debug or why is None:
            raise
        print(f"bikd: cannot write the answer: {why}", file=sys.stderr)
        abandon(sys.stdout)
        sys.exit(1)


def _store(uri: str | None) -> Any:
    from bikd_ray.store import open_store

    return open_store(uri)


def _show(table: Any, how: Format, view: str, empty: str = "") -> None:
    from bikd_pipelines.tables import print_table

    print_table(table, how.value, view, empty)


@app.command()
def demo(
    store: Annotated[
        str, typer.Option("--store", metavar="DIR", help="a folder for the zoo and the answers")
    ] = "./bikd-demo",
) -> None:
    """Run the whole way on bundled data: a zoo of four tiny networks, all pairs, the answers.

    [dim]Example: bikd demo[/dim]
    """
    from bikd_dashboards.report import write_report
    from bikd_pipelines.demo import demo_spec
    from bikd_pipelines.tables import print_headline
    from bikd_ray.store import Store
    from bikd_ray.store.filesystem import store_uri
    from bikd_ray.sweep.engine import run_sweep

    place = store_uri(store)
    report = run_sweep(demo_spec(place))
    answers = Store(report.store)
    print_headline(answers)
    path = write_report(answers, Path(place) / "report.html")
    print(f"\nReport: {path}\nSpec:   {Path(place) / 'demo.yaml'}")
    _end(report)


@app.command()
def sweep(
    spec: SpecPath,
    store: StoreUri = None,
    address: Address = None,
    limit: Limit = None,
    only: Only = None,
    budget: Budget = None,
    retry_failed: Retry = False,
    ship: Ship = False,
) -> None:
    """Run the baselines, then every job of SPEC that the store lacks. Run it again to resume.

    [dim]Example: bikd sweep sweep.yaml --address auto[/dim]
    """
    from bikd_ray.spec_file import load_spec
    from bikd_ray.sweep.engine import run_sweep

    report = run_sweep(
        load_spec(spec),
        store=store,
        address=address,
        limit=limit,
        only=only,
        budget=budget,
        retry_failed=retry_failed,
        ship=ship,
    )
    _end(report)


def _end(report: Any) -> None:
    """The last line of a sweep, and its exit code."""
    before = f", {report.skipped} before" if report.skipped else ""
    failed = f", {report.failed} failed" if report.failed else ""
    left = f", {report.left} left" if report.left else ""
    print(f"bikd: {report.done} jobs done{before}{failed}{left} · {report.store}", file=sys.stderr)
    if report.failed:
        print(f"bikd: see why with: bikd status --failed --store {report.store}", file=sys.stderr)
    if report.left:
        print("bikd: run the same command again to go on", file=sys.stderr)
    if not report.complete:
        sys.exit(1)


@app.command()
def submit(
    spec: SpecPath,
    store: StoreUri = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="the cluster's dashboard, http://HOST:8265; default: $RAY_ADDRESS, this machine",
        ),
    ] = None,
    limit: Limit = None,
    only: Only = None,
    budget: Budget = None,
    retry_failed: Retry = False,
    ship: Ship = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="follow the job's log to its end")
    ] = True,
) -> None:
    """Run the sweep of SPEC as a Ray job on a running cluster, and follow it.

    The code around SPEC is sent along; weights, data and stores are not.

    [dim]Example: bikd submit sweep.yaml --address http://head:8265 --store s3://bucket/bikd[/dim]
    """
    from bikd_pipelines.submit import follow, store_of, where_to_look
    from bikd_pipelines.submit import submit as start

    given = {"--limit": limit, "--only": only, "--budget": budget}
    options = [str(x) for name, v in given.items() if v is not None for x in (name, v)]
    options += ["--retry-failed"] * retry_failed
    client, job = start(spec, store=store, address=address, options=options, ship=ship)
    print(job)
    hints = [f"bikd: {line}" for line in where_to_look(client, job, store_of(spec, store))]
    try:
        succeeded = follow(client, job) if wait else True
    except KeyboardInterrupt:
        print(f"\nbikd: job {job} goes on", *hints, sep="\n", file=sys.stderr)
        sys.exit(1)
    if not wait:
        print(*hints, sep="\n", file=sys.stderr)
    if not succeeded:
        raise BikdError(f"job {job} did not end well")


@app.command()
def baseline(
    spec: SpecPath,
    store: StoreUri = None,
    address: Address = None,
    ship: Ship = False,
    format: HowShown = Format.table,
) -> None:
    """Measure every model of SPEC before any training, and what each pair knows together.

    [dim]Example: bikd baseline sweep.yaml[/dim]
    """
    from bikd_pipelines.planning import drift_lines
    from bikd_ray.spec_file import load_spec
    from bikd_ray.store import Store
    from bikd_ray.sweep.engine import run_baseline_sweep

    answers = Store(run_baseline_sweep(load_spec(spec), store=store, address=address, ship=ship))
    measured = answers.baselines()
    _show(measured, format, "baselines")
    for line in drift_lines(measured):
        print(f"bikd: {line}", file=sys.stderr)


@app.command()
def check(
    spec: SpecPath,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="download weights; then nothing needs the network")
    ] = False,
    store: StoreUri = None,
    format: HowShown = Format.table,
) -> None:
    """Build every model of SPEC, open its data, and list all that is wrong at once.

    [dim]Example: bikd check sweep.yaml --fetch[/dim]
    """
    from bikd_pipelines.check import check as look

    found = look(spec, fetch=fetch, store=store)
    _show(found.table, format, "check")
    if found.problems:
        raise UserError("\n".join(found.problems))


@app.command()
def plan(
    spec: SpecPath,
    store: StoreUri = None,
    address: Address = None,
    limit: Limit = None,
    only: Only = None,
    budget: Budget = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="time a few steps of each model here: a minute")
    ] = False,
    format: HowShown = Format.table,
) -> None:
    """List the jobs of SPEC and what a sweep would do and cost. Trains nothing.

    [dim]Example: bikd plan sweep.yaml --calibrate --budget 24[/dim]
    """
    from bikd_pipelines.planning import (
        cost_lines,
        grouped,
        job_table,
        open_plan,
        paces_of,
        resources_at,
        take_names,
    )
    from bikd_ray.spec_file import load_spec

    loaded = load_spec(spec)
    jobs, answers = open_plan(loaded, store, only)
    table = job_table(jobs)
    _show(grouped(table) if format is Format.table else table, format, "jobs")
    if calibrate:
        from bikd_pipelines.calibrate import calibrate as measure

        paces = measure(jobs.todo, lambda line: print(f"bikd: {line}", file=sys.stderr))
        source = "steps timed here"
    else:
        paces, source = paces_of(jobs, answers), f"the {len(jobs.done)} done jobs' seconds"
    where = resources_at(address, loaded.resources)
    for line in take_names(jobs, answers):
        print(f"bikd: {line}", file=sys.stderr)
    lines = cost_lines(loaded, jobs, paces, source, where, limit, budget, answers)
    print("\n".join(lines), file=sys.stderr)


@app.command()
def status(
    spec: Annotated[Path | None, typer.Argument(metavar="[SPEC]", help="count its jobs")] = None,
    store: StoreUri = None,
    failed: Annotated[bool, typer.Option("--failed", help="list failed jobs with why")] = False,
    format: HowShown = Format.table,
) -> None:
    """Say what the store holds; with SPEC also what is left of it.

    [dim]Example: bikd status --failed[/dim]
    """
    from bikd_pipelines.planning import (
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
    planned, answers = open_plan(loaded, store) if loaded else (None, _store(store))
    table = stored_jobs(answers) if planned is None else job_table(planned)
    for line in take_names(planned, answers):
        print(f"bikd: {line}", file=sys.stderr)
    if failed:
        table = table.filter([state == "failed" for state in table["state"].to_pylist()])
    people = format is Format.table
    view = "failures" if failed else "jobs"
    _show(grouped(table) if people and not failed else table, format, view)
    for line in sweep_lines(store_uri(store, loaded and loaded.store)):
        print(line, file=sys.stderr)


@app.command()
def partners(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Rank the partners of MODEL, with intervals, the gain over the control, and ties.

    [dim]Example: bikd partners ViT --format json[/dim]
    """
    from bikd_pipelines.tables import failed_lines, partner_lines

    answers = _store(store)
    table = answers.partners(model, objective, selection)
    empty = answers.why_nothing(model) if not len(table) else ""
    _show(table, format, "partners", empty)
    lines = [
        *partner_lines(table),
        *(failed_lines(answers.failed_jobs(model)) if len(table) else ()),
    ]
    for line in lines:
        print(line, file=sys.stderr)


@app.command()
def pairs(
    store: StoreUri = None,
    metric: Annotated[
        str, typer.Option(help="of the matrix: delta_top1, net_delta, recovered, error_overlap, …")
    ] = "delta_top1",
    matrix: Annotated[
        bool, typer.Option("--matrix", help="the N x N matrix of one metric")
    ] = False,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Show one row for each pair: what they know together, and what each gained.

    [dim]Example: bikd pairs --matrix --metric net_delta[/dim]
    """
    from bikd_pipelines.tables import print_matrix
    from bikd_ray.store.pairings import SYMMETRIC

    answers = _store(store)
    if matrix:
        both = [metric] if metric in SYMMETRIC else [metric, "q_value"]
        values, *told = answers.matrices(both, objective, selection)
        print_matrix(values, told[0] if told else None, format.value)
    else:
        _show(answers.pairs(objective, selection), format, "pairs")


@app.command()
def paper(
    store: StoreUri = None, selection: Selection = "last", format: HowShown = Format.table
) -> None:
    """Show our figures beside the paper's (Jain et al., TMLR 2025), for what a store holds.

    A model is the paper's by the origin of its weights: timm's name with its tag, the torch hub
    entry or the checkpoint's file name; by its alias only where these say nothing (a factory).

    [dim]Example: bikd paper --selection best_val --format csv[/dim]
    """
    from bikd_pipelines.paper.compare import compared, parts
    from bikd_pipelines.paper.notes import notes
    from bikd_ray.store import Store
    from bikd_ray.store.filesystem import store_uri

    answers = Store(store_uri(store))  # need not exist: the paper's side stands without it
    table = compared(answers, selection)
    if format is not Format.table:
        _show(table, format, "paper")
    else:
        for title, number, part in parts(table):
            print(f"{title}\n")
            _show(part, format, f"paper {number}")
            print()
    width = get_terminal_size().columns
    for line in notes(answers, table, selection):
        print(fill(line, width, subsequent_indent="  "), file=sys.stderr)


@app.command()
def groups(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="a model's name; default: all")
    ] = None,
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Show how each model's gain grows with the number of models that train together.

    [dim]Example: bikd groups --objective bikd[/dim]
    """
    _show(_store(store).groups(model, objective, selection), format, "groups")


@app.command()
def teachers(
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Say who teaches well and who learns well over the whole zoo, whatever the partner.

    [dim]Example: bikd teachers --objective bikd[/dim]
    """
    from bikd_pipelines.tables import share_lines

    table = _store(store).teachers(objective, selection)
    _show(table, format, "teachers")
    for line in share_lines(table):
        print(line, file=sys.stderr)


@app.command()
def flips(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="a model's name; default: all")
    ] = None,
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Count the images that a model learned and forgot, and which of them its partner knew.

    [dim]Example: bikd flips ViT[/dim]
    """
    _show(_store(store).flips(model, objective, selection), format, "flips")


@app.command()
def curves(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="a model's name; default: all")
    ] = None,
    store: StoreUri = None,
    format: HowShown = Format.table,
) -> None:
    """Show learning curves, epoch by epoch, means over the seeds.

    [dim]Example: bikd curves ViT --format csv[/dim]
    """
    _show(_store(store).curves(model), format, "curves")


@app.command()
def classes(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Show what MODEL gained and lost class by class, with every partner.

    [dim]Example: bikd classes ViT --format csv[/dim]
    """
    _show(_store(store).classes(model, objective, selection), format, "classes")


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    out: Annotated[Path, typer.Option(metavar="DIR", parser=_path, help="a new folder")],
    store: StoreUri = None,
    partner: Annotated[
        str | None, typer.Option(metavar="P", help="trained with P; default: the best")
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="the result of one job")] = None,
    objective: Objective = None,
    selection: Selection = "last",
    seed: Annotated[
        int | None, typer.Option(help="default: the lowest whose weights were kept")
    ] = None,
    allow_worse: Annotated[
        bool, typer.Option("--allow-worse", help="also a model that got worse")
    ] = False,
) -> None:
    """Write MODEL as it is after learning: safetensors, timm's config.json, and a card.

    [dim]Example: bikd export ViT --out vit-taught[/dim]
    """
    from bikd_ray.export import ExportRequest, export_model

    answers = _store(store)
    request = ExportRequest(model, partner, job, objective, selection, seed)
    made_by = request.command(answers.uri, out, allow_worse=allow_worse)
    taken = export_model(answers, request, out, allow_worse=allow_worse, made_by=made_by)
    for note in taken.notes:
        print(f"bikd: {note}", file=sys.stderr)
    print(taken.folder)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="DuckDB SQL over the tables")],
    store: StoreUri = None,
    format: HowShown = Format.table,
) -> None:
    """Ask the store's tables with SQL, read only: models, baselines, pairs, jobs, results, ….

    [dim]Example: bikd sql "select model, avg(delta_top1) from results group by model"[/dim]
    """
    _show(_store(store).sql(query), format, "sql")


files = typer.Typer(help="Merge a store's small files, or find what is wrong with them.")
app.add_typer(files, name="store", no_args_is_help=True)


@files.command()
def compact(store: StoreUri = None, format: HowShown = Format.table) -> None:
    """Merge the small files of a store; safe while sweeps and readers are at work.

    A sweep does it at its end by itself.

    [dim]Example: bikd store compact --store s3://bucket/bikd[/dim]
    """
    from bikd_ray.store.compact import compact

    _show(compact(_store(store).uri), format, "merged")


@files.command("check")
def check_files(store: StoreUri = None, format: HowShown = Format.table) -> None:
    """Read every file of a store and name those that are damaged or belong to nothing.

    [dim]Example: bikd store check[/dim]
    """
    from bikd_ray.errors import BikdError
    from bikd_ray.store.check import check

    found = check(_store(store).uri)
    _show(found, format, "findings")
    errors = found["severity"].to_pylist().count("error")
    if errors:
        raise BikdError(f"{errors} of the store's files or jobs are not whole")


@app.command()
def schema(
    tables: Annotated[
        bool, typer.Option("--tables", help="of the store's tables and the answers")
    ] = False,
    format: HowShown = Format.table,
) -> None:
    """Print the JSON Schema of specs; with --tables, every column of every table and answer.

    [dim]Example: bikd schema > bikd.schema.json[/dim]
    """
    if tables:
        from bikd_ray.store.answer_schemas import described

        _show(described(), format, "schema")
    else:
        from bikd_ray.specs import Spec

        print(json.dumps(Spec.model_json_schema(), indent=1))


@app.command()
def report(
    store: StoreUri = None,
    out: Annotated[Path, typer.Option(metavar="FILE", parser=_path, help="where to write")] = Path(
        "report.html"
    ),
) -> None:
    """Write the answers as one HTML file that needs no network.

    [dim]Example: bikd report --store bikd-demo --out report.html[/dim]
    """
    from bikd_dashboards.report import write_report

    print(write_report(_store(store), out))


@app.command()
def dashboard(
    store: StoreUri = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8050,
) -> None:
    """Show the answers in the browser, on 127.0.0.1, live while a sweep runs.

    [dim]Example: bikd dashboard --store bikd-demo[/dim]
    """
    from bikd_dashboards.app import serve

    serve(_store(store), port)


def _version(value: bool) -> None:
    if value:
        from bikd_ray import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
