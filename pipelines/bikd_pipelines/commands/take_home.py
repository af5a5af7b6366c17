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
    out: Annotated[Path, typer.Option(metavar="DIR", parser=given_path, help="a new folder")],
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
    guard: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="refuse unless all hold: a metric's Δ on val, its Δ on another set, worst_class, "
            "negative_flips; such as 'worst_class>=-1 v2>=0 ece<=0.01'",
        ),
    ] = None,
    allow_worse: Annotated[
        bool, typer.Option("--allow-worse", help="also a model that got worse")
    ] = False,
) -> None:
    """Write MODEL as it is after learning: safetensors, timm's config.json, and a card.

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
        bool, typer.Option("--tables", help="of the store's tables and the answers")
    ] = False,
    format: HowShown = Format.table,
) -> None:
    """Print the JSON Schema of specs; with --tables, every column of every table and answer.

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
        Path, typer.Option(metavar="FILE", parser=given_path, help="where to write")
    ] = Path("report.html"),
    metric: MetricName = None,
    eval_set: EvalSet = "val",
) -> None:
    """Write the answers as one HTML file that needs no network.

    [dim]Example: bikd report --store bikd-demo --out report.html[/dim]
    """
    from bikd_dashboards.report import write_report

    print(write_report(opened(store), out, metric=metric, eval_set=eval_set))


def dashboard(
    store: StoreUri = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8050,
    metric: MetricName = None,
    eval_set: EvalSet = "val",
) -> None:
    """Show the answers in the browser, on 127.0.0.1, live while a sweep runs.

    [dim]Example: bikd dashboard --store bikd-demo[/dim]
    """
    from bikd_dashboards.app import serve

    serve(opened(store), port, metric, eval_set)
