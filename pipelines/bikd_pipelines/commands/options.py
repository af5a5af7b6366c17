"""Options that several commands have, and how they show their answers."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bikd_ray.errors import UserError
from bikd_ray.paths import expanded


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


def given_path(given: str) -> Path:
    """An option's path, as `--out=~/x` comes from a shell. Raises UserError."""
    try:
        return Path(expanded(str(given)))
    except ValueError as error:
        raise UserError(f"--out: {error}") from None


SpecPath = Annotated[
    Path, typer.Argument(metavar="SPEC", help="the YAML file that says what to run")
]
StoreUri = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        help="where the results lie: a folder, s3://… or gs://…; default: the spec's store, "
        "$BIKD_STORE or ./bikd-store",
    ),
]
HowShown = Annotated[Format, typer.Option("--format", help="print for people, as JSON or as CSV")]
Objective = Annotated[
    str | None,
    typer.Option("--objective", metavar="NAME", help="only results of this objective, as bikd"),
]
Selection = Annotated[
    str,
    typer.Option(
        "--selection",
        metavar="EPOCH",
        help="which epoch's results: last; best_select, chosen on held-out training images; or "
        "best_val, chosen on the very images it is shown for",
    ),
]
MetricName = Annotated[
    str | None, typer.Option("--metric", metavar="M", help="of what; default: the primary metric")
]
EvalSet = Annotated[
    str, typer.Option("--eval-set", metavar="S", help="on which set; others are measured only")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help="a running Ray cluster, such as auto for this node's; default: start Ray here",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="run at most N jobs")
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="MODEL", help="run only jobs with this model")
]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=0, metavar="GPU_HOURS", help="start no job beyond this budget"),
]
Goal = Annotated[
    str | None,
    typer.Option(
        "--goal",
        metavar="GOAL",
        help="map, best_partner or improve, in place of the spec's own goal",
    ),
]
Regret = Annotated[
    float | None,
    typer.Option(
        "--regret", metavar="PP", help="what a best partner may lose; in place of search.regret"
    ),
]
Share = Annotated[
    float | None,
    typer.Option(
        "--share", metavar="SHARE", help="of the map's work, at most; in place of search.share"
    ),
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="also run jobs that failed before")]
Ship = Annotated[
    bool,
    typer.Option("--ship", help="install this version of bikd on the cluster's nodes for the run"),
]


def opened(uri: str | None) -> Any:
    """The store at a URI as it is now; see `open_store`."""
    from bikd_pipelines import light_arrow  # noqa: F401  (before Arrow)
    from bikd_ray.store import open_store

    return open_store(uri).as_of_now()


def show(table: Any, how: Format, view: Any, empty: str = "") -> None:
    """Print a table; see `print_table`."""
    from bikd_pipelines.tables import print_table

    print_table(table, how.value, view, empty)
