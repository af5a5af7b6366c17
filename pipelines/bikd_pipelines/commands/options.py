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
MetricName = Annotated[
    str | None, typer.Option("--metric", metavar="M", help="of what; default: the primary metric")
]
EvalSet = Annotated[
    str, typer.Option("--eval-set", metavar="S", help="on which set; others are measured only")
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


def opened(uri: str | None) -> Any:
    """The store at a URI; see `open_store`."""
    from bikd_ray.store import open_store

    return open_store(uri)


def show(table: Any, how: Format, view: Any, empty: str = "") -> None:
    """Print a table; see `print_table`."""
    from bikd_pipelines.tables import print_table

    print_table(table, how.value, view, empty)
