"""To run: the jobs of a spec, here or on a cluster."""

import sys
from typing import Annotated, Any

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
    Retry,
    Share,
    Ship,
    SpecPath,
    StoreUri,
    show,
)
from bikd_ray.errors import BikdError


def sweep(
    spec: SpecPath,
    store: StoreUri = None,
    address: Address = None,
    limit: Limit = None,
    only: Only = None,
    budget: Budget = None,
    retry_failed: Retry = False,
    ship: Ship = False,
    goal: Goal = None,
    regret: Regret = None,
    share: Share = None,
) -> None:
    """Measure and train everything SPEC asks for that the store lacks. To resume, run it again.

    --goal best_partner trains only as many pairs as it takes to find each model's best partner,
    --goal improve groups of models, as large as that helps.
    It ends with what came out, as bikd summary says it, and what to do next.

    [dim]Example: bikd sweep sweep.yaml --address auto[/dim]
    """
    from bikd_pipelines.improving import print_improved
    from bikd_pipelines.submit import SPEC as PACKED
    from bikd_pipelines.summary import print_summary
    from bikd_ray.spec_file import load_spec, with_goal
    from bikd_ray.store import Store
    from bikd_ray.sweep.engine import run_sweep

    wanted = with_goal(load_spec(spec), goal, regret, share)
    report = run_sweep(
        wanted,
        store=store,
        address=address,
        limit=limit,
        only=only,
        budget=budget,
        retry_failed=retry_failed,
        ship=ship,
    )
    if not report.left and wanted.goal == "improve":
        print_improved(Store(report.store).as_of_now(), wanted)
    elif not report.left:
        theirs = "SPEC" if spec.name == PACKED else str(spec)  # a submitted one has another name
        print_summary(Store(report.store).as_of_now(), spec=theirs)
    end(report)


def end(report: Any) -> None:
    """The last line of a sweep, and its exit code."""
    before = f", {report.skipped} before" if report.skipped else ""
    failed = f", {report.failed} failed" if report.failed else ""
    left = f", {report.left} left" if report.left else ""
    print(f"bikd: {report.done} jobs done{before}{failed}{left} · {report.store}", file=sys.stderr)
    if report.failed:
        print(f"bikd: see why with: bikd status --failed --store {report.store}", file=sys.stderr)
    if report.left:
        print(f"bikd: so far: bikd summary --store {report.store}", file=sys.stderr)
        print("bikd: run the same command again to go on", file=sys.stderr)
    if not report.complete:
        sys.exit(1)


def submit(
    spec: SpecPath,
    store: StoreUri = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="URL",
            help="the cluster's dashboard, http://HOST:8265; default: $RAY_ADDRESS or this machine",
        ),
    ] = None,
    limit: Limit = None,
    only: Only = None,
    budget: Budget = None,
    retry_failed: Retry = False,
    ship: Ship = False,
    goal: Goal = None,
    regret: Regret = None,
    share: Share = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="follow the job's log to its end, or return at once"),
    ] = True,
) -> None:
    """Send the sweep of SPEC to a running Ray cluster, and follow its log.

    The code beside SPEC is sent along; weights, data and stores are not.

    [dim]Example: bikd submit sweep.yaml --address http://head:8265 --store s3://bucket/bikd[/dim]
    """
    from bikd_pipelines.submit import follow, store_of, sweep_options, where_to_look
    from bikd_pipelines.submit import submit as start
    from bikd_ray.spec_file import load_spec, with_goal

    with_goal(load_spec(spec), goal, regret, share)  # says here what is wrong with it
    given = {"limit": limit, "only": only, "budget": budget}
    given |= {"goal": goal, "regret": regret, "share": share}
    options = sweep_options(given, retry_failed=retry_failed)
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


def baseline(
    spec: SpecPath,
    store: StoreUri = None,
    address: Address = None,
    ship: Ship = False,
    format: HowShown = Format.table,
) -> None:
    """Measure every model as it is, and what each pair knows together. Trains nothing.

    [dim]Example: bikd baseline sweep.yaml[/dim]
    """
    from bikd_pipelines import baselines
    from bikd_pipelines.planning import drift_lines
    from bikd_pipelines.views import EMPTY
    from bikd_ray.spec_file import load_spec
    from bikd_ray.store import Store
    from bikd_ray.sweep.engine import run_baseline_sweep

    answers = Store(run_baseline_sweep(load_spec(spec), store=store, address=address, ship=ship))
    measured = baselines.measured(answers)
    show(measured, format, baselines.view(answers.metrics, measured), EMPTY["baselines"])
    for line in drift_lines(answers.baselines()):
        print(f"bikd: {line}", file=sys.stderr)


def evaluate(
    spec: SpecPath, store: StoreUri = None, address: Address = None, ship: Ship = False
) -> None:
    """Measure the done jobs of SPEC on sets that were added to data.eval since, from kept weights.

    [dim]Example: bikd evaluate sweep.yaml[/dim]
    """
    from bikd_ray.spec_file import load_spec
    from bikd_ray.sweep.engine import run_evaluation

    report = run_evaluation(load_spec(spec), store=store, address=address, ship=ship)
    before = f", {report.before} before" if report.before else ""
    failed = f", {len(report.failed)} failed" if report.failed else ""
    print(
        f"bikd: {report.measured} jobs measured{before}{failed} · {report.store}", file=sys.stderr
    )
    if report.without:
        some = ", ".join(report.without[:3])
        more = f" and {len(report.without) - 3} more" if len(report.without) > 3 else ""
        print(
            f"bikd: {len(report.without)} jobs kept no weights and cannot be measured: {some}"
            f"{more}; keep_weights: best keeps them",
            file=sys.stderr,
        )
    if report.failed:
        print(*(f"bikd: {who}: {why}" for who, why in report.failed.items()), sep="\n",
              file=sys.stderr)  # fmt: skip
        sys.exit(1)
