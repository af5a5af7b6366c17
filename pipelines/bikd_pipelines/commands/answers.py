"""The answers of a store."""

from typing import Annotated, Any

import typer

from bikd_pipelines.commands.options import (
    EvalSet,
    Format,
    HowShown,
    MetricName,
    Objective,
    Selection,
    StoreUri,
    opened,
    show,
)
from bikd_pipelines.commands.search import AllImages, show_searched


def summary(
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    format: HowShown = Format.table,
) -> None:
    """Say who helps whom and by how much, and what to do next.

    [dim]Example: bikd summary --store bikd-demo[/dim]
    """
    from bikd_pipelines.summary import print_summary
    from bikd_ray.store.advice import Asked, firsts

    answers, asked = opened(store), Asked(objective, selection, metric, eval_set)
    if format is Format.table:
        print_summary(answers, asked)
    else:
        gains = asked.gains(answers)
        show(gains.from_pylist(firsts(gains), gains.schema), format, "partners")


def partners(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    all_images: AllImages = False,
    format: HowShown = Format.table,
) -> None:
    """Rank the partners of MODEL by what each adds.

    Δ: the metric after training − before, in percentage points for percent
    control: Δ of the same training without a partner
    net Δ: Δ − control, what is due to the partner
    q: p-value of net Δ, corrected for all comparisons; below 0.05 counts
    best?: the best partner; several that cannot be told apart are a tie
    recovered: share of the way from before to the pair's ensemble
    ←: a frozen teacher, which does not learn itself

    After a search: partners by what is expected of them; Δ is measured on the images that did not
    choose.

    [dim]Example: bikd partners ViT --format json[/dim]
    """
    from bikd_pipelines.layout import note
    from bikd_pipelines.tables import failed_lines, partner_lines, print_hidden
    from bikd_ray.store.advice import by_setting, search_notes
    from bikd_ray.store.hidden import hidden

    answers = opened(store)
    plainly = (metric, eval_set) == (None, "val") and not all_images
    if plainly and show_searched(answers, model, objective, selection, format):
        return
    table = answers.partners(model, objective, selection, metric, eval_set)
    empty = answers.why_nothing(model) if not len(table) else ""
    if len(table) and format is Format.table:
        parts = by_setting(answers, table, metric)
        table = table.from_batches([b for _, part in parts for b in part.to_batches()])
    show(table, format, "partners", empty)
    if len(table) and format is Format.table:
        place = {
            objective: i for i, objective in enumerate(table["objective"].unique().to_pylist())
        }
        measures, rows = hidden(answers, model, objective, selection)
        print_hidden(measures, sorted(rows, key=lambda one: place[one.row["objective"]]))
    lines = [
        *partner_lines(table, search_notes(answers)),
        *(failed_lines(answers.failed_jobs(model)) if len(table) else ()),
    ]
    note(lines)


def pairs(
    store: StoreUri = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="one quantity of all pairs as a matrix")
    ] = False,
    what: Annotated[
        str,
        typer.Option(
            "--show",
            metavar="W",
            help="what the matrix shows: net_delta, delta, recovered, error_overlap, …",
        ),
    ] = "delta",
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    format: HowShown = Format.table,
) -> None:
    """Show what each pair knows together, and what each of the two gained.

    [dim]Example: bikd pairs --matrix --show net_delta[/dim]
    """
    from bikd_pipelines.layout import note
    from bikd_pipelines.tables import print_matrix, shown_as
    from bikd_ray.store.pairings import SYMMETRIC
    from bikd_ray.store.verdicts import failed_sentence

    answers = opened(store)
    if matrix:
        both = [what] if what in SYMMETRIC else [what, "q_value"]
        values, *told = answers.matrices(both, objective, selection, metric, eval_set)
        cell = shown_as(answers, what, metric)
        print_matrix(values, told[0] if told else None, format.value, cell)
    else:
        show(answers.pairs(objective, selection, metric, eval_set), format, "pairs")
    if format is Format.table and (failed := failed_sentence(answers.table("jobs"))):
        note([failed])


def paper(
    store: StoreUri = None,
    selection: Selection = "last",
    videos: Annotated[
        bool, typer.Option("--videos", help="Tables 5 and 6b, of video saliency, instead")
    ] = False,
    format: HowShown = Format.table,
) -> None:
    """Put your figures beside those of the Bi-KD paper (Jain et al., TMLR 2025).

    A model is the paper's by the origin of its weights: timm's name with its tag, the torch hub
    entry or the checkpoint's file name; by its alias only where these say nothing (a factory).

    [dim]Example: bikd paper --selection best_val --format csv[/dim]
    """
    from bikd_pipelines.layout import note, say
    from bikd_pipelines.paper.compare import compared, parts
    from bikd_pipelines.paper.notes import notes
    from bikd_ray.store import Store
    from bikd_ray.store.filesystem import store_uri

    answers = Store(store_uri(store))  # need not exist: the paper's side stands without it
    if videos:
        _paper_videos(answers, selection, format)
        return
    table = compared(answers, selection)
    if format is not Format.table:
        show(table, format, "paper")
    else:
        for title, number, part in parts(table):
            say(title, "bold")
            print()
            show(part, format, f"paper {number}")
            print()
    note(notes(answers, table, selection))


def _paper_videos(answers: Any, selection: str, format: Format) -> None:
    from bikd_pipelines.layout import note, say
    from bikd_pipelines.paper.videos import compared, parts

    table = compared(answers, selection)
    if format is not Format.table:
        show(table, format, "paper videos")
        return
    for title, part in parts(table):
        say(title, "bold")
        print()
        show(part, format, "paper videos")
        print()
    note(
        [
            "The paper prints one run without a control; its before and after are by scripts that "
            "differ from model to model, ours by one"
        ]
    )


def groups(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="a model's name; default: all")
    ] = None,
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    format: HowShown = Format.table,
) -> None:
    """Show how gains grow with the number of models that train together.

    [dim]Example: bikd groups --objective bikd[/dim]
    """
    show(opened(store).groups(model, objective, selection, metric, eval_set), format, "groups")


def teachers(
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    format: HowShown = Format.table,
) -> None:
    """Say who teaches well and who learns well, whatever the partner.

    [dim]Example: bikd teachers --objective bikd[/dim]
    """
    from bikd_pipelines.layout import note
    from bikd_pipelines.tables import share_lines

    table = opened(store).teachers(objective, selection, metric, eval_set)
    show(table, format, "teachers")
    note(share_lines(table))


def flips(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="a model's name; default: all")
    ] = None,
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    format: HowShown = Format.table,
) -> None:
    """Count the images a model learned and forgot, and those its partner knew.

    [dim]Example: bikd flips ViT[/dim]
    """
    answers = opened(store)
    answers.check_binary(metric)
    show(answers.flips(model, objective, selection, metric, eval_set), format, "flips")


def curves(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="a model's name; default: all")
    ] = None,
    store: StoreUri = None,
    format: HowShown = Format.table,
) -> None:
    """Show accuracies and losses epoch by epoch, means over the seeds.

    [dim]Example: bikd curves ViT --format csv[/dim]
    """
    show(opened(store).curves(model), format, "curves")


def classes(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    metric: MetricName = None,
    eval_set: EvalSet = "val",
    format: HowShown = Format.table,
) -> None:
    """Show what MODEL gained and lost in each class, with every partner.

    [dim]Example: bikd classes ViT --format csv[/dim]
    """
    answers = opened(store)
    if not answers.has_classes(metric):
        answers.check_binary(metric)
    show(answers.classes(model, objective, selection, metric, eval_set), format, "classes")


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="in DuckDB's SQL")],
    store: StoreUri = None,
    format: HowShown = Format.table,
) -> None:
    """Ask anything of the store's tables in SQL, read only.

    Tables: models, baselines, predictions, pairs, jobs, results, curves, similarities.

    [dim]Example: bikd sql "select model, avg(delta) from results group by model"[/dim]
    """
    show(opened(store).sql(query), format, "sql")
