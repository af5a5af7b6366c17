"""To take home: a model, the pages, and what describes both."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bikd_pipelines.commands.options import (
    EvalSet,
    Format,
    HowShown,
    MetricName,
    Objective,
    Selection,
    StoreUri,
    given_path,
    opened,
    show,
)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", parser=given_path, help="a new folder for it")
    ],
    store: StoreUri = None,
    partner: Annotated[
        str | None, typer.Option(metavar="P", help="as trained with P; default: the best partner")
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="as one job made it")] = None,
    objective: Objective = None,
    selection: Selection = "last",
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="of this seed; default: the lowest that is kept")
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="refuse unless all hold: a metric's Δ on val, its Δ on another set, worst_class, "
            "negative_flips; such as 'worst_class>=-1 v2>=0 ece<=0.01'",
        ),
    ] = None,
    allow_worse: Annotated[
        bool, typer.Option("--allow-worse", help="also where the model got worse")
    ] = False,
) -> None:
    """Export the improved MODEL: a folder that timm loads, with a card that says how it came about.

    [dim]Example: bikd export ViT --out vit-taught[/dim]
    """
    from bikd_ray.export import ExportRequest, export_model

    answers = opened(store)
    request = ExportRequest(model, partner, job, objective, selection, seed)
    made_by = request.command(answers.uri, out, allow_worse=allow_worse, guard=guard)
    taken = export_model(
        answers, request, out, allow_worse=allow_worse, guard=guard, made_by=made_by
    )
    for note in taken.notes:
        print(f"bikd: {note}", file=sys.stderr)
    print(taken.folder)


def schema(
    tables: Annotated[
        bool, typer.Option("--tables", help="the columns of the store's tables and of the answers")
    ] = False,
    format: HowShown = Format.table,
) -> None:
    """Print the JSON Schema of specs, or with --tables what every column means.

    [dim]Example: bikd schema > bikd.schema.json[/dim]
    """
    if tables:
        from bikd_ray.store.answer_schemas import described

        show(described(), format, "schema")
    else:
        from bikd_ray.specs import Spec

        print(json.dumps(Spec.model_json_schema(), indent=1))


def report(
    store: StoreUri = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", parser=given_path, help="the file to write")
    ] = Path("report.html"),
    metric: MetricName = None,
    eval_set: EvalSet = "val",
) -> None:
    """Write all answers as one HTML file that needs no network.

    [dim]Example: bikd report --store bikd-demo --out report.html[/dim]
    """
    from bikd_dashboards.report import write_report

    print(write_report(opened(store), out, metric=metric, eval_set=eval_set))


def dashboard(
    store: StoreUri = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="where it listens; 0: any free port")
    ] = 8050,
    metric: MetricName = None,
    eval_set: EvalSet = "val",
) -> None:
    """Show all answers in the browser, live while a sweep runs, on this machine only.

    [dim]Example: bikd dashboard --store bikd-demo[/dim]
    """
    from bikd_dashboards.app import serve
    from bikd_ray.store import open_store

    serve(open_store(store), port, metric, eval_set)
