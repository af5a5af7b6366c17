"""A search for best partners: what it would do, and what it would have done."""

import sys
from typing import Annotated, Any

import typer

from bikd_pipelines.commands.options import (
    Format,
    Goal,
    HowShown,
    Objective,
    Regret,
    Selection,
    Share,
    SpecPath,
    StoreUri,
    opened,
    show,
)
from bikd_ray.errors import UserError

AllImages = Annotated[
    bool,
    typer.Option(
        "--all-images", help="of a search too: measure on all images, those that chose among them"
    ),
]


def show_searched(
    store: Any, model: str, objective: str | None, selection: str, format: Format
) -> bool:
    """Print the partners of a model that a search has chosen among; False where there are none."""
    if not len(store.index("decisions")):
        return False  # and what searches is not loaded
    from bikd_pipelines.layout import note
    from bikd_pipelines.search_views import searched_lines
    from bikd_ray.store.searched import searched_partners

    table = searched_partners(store, model, objective, selection)
    if len(table):
        show(table, format, "searched")
        note(searched_lines(table))
    return bool(len(table))


def replay(
    store: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="with a complete map; default: $BIKD_STORE"),
    ] = None,
    shares: Annotated[
        str, typer.Option("--shares", metavar="LIST", help="of the map's work, with commas")
    ] = "0.15,0.25,0.35,0.5,1",
    regret: Regret = None,
    repeats: Annotated[
        int, typer.Option(min=1, metavar="N", help="searches, each from other first pairs")
    ] = 10,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Search a stored map again: what it would have cost, and lost against the whole map.

    lost: what the map's choice gains more than the search's; both choose by one half of the
    images and are measured on the other, so below 0 the search chose better
    claimed: the expected regret that the search itself gave at its end
    random partner: what is lost by taking any partner

    [dim]Example: bikd replay bikd-store --shares 0.25,0.5[/dim]
    """
    from bikd_ray.search.state import Rules
    from bikd_ray.store.replays import replays

    rules = Rules() if regret is None else Rules(regret=regret)
    wanted = _shares(shares)
    table = replays(opened(store), wanted, objective, selection, rules, repeats)
    show(table, format, "replay")
    for share in wanted:
        if share not in table["share"].to_pylist():
            print(
                f"share {share:.0%} left out: the first partners of every model use it up",
                file=sys.stderr,
            )


def _shares(given: str) -> list[float]:
    try:
        found = [float(one) for one in given.split(",")]
    except ValueError:
        found = [0.0]
    if not all(0 < one <= 1 for one in found):
        raise UserError(
            f"--shares must be numbers above 0 and up to 1, such as 0.25,0.5, got {given}"
        )
    return found


def predict(
    spec: SpecPath,
    store: StoreUri = None,
    goal: Goal = None,
    regret: Regret = None,
    share: Share = None,
    format: HowShown = Format.table,
) -> None:
    """Say which pairs of SPEC a search would train next, and how much to believe it.

    From what is stored: gains of pairs that are done, and once they have earned it what is known
    of pairs before training. Trains nothing.

    [dim]Example: bikd predict sweep.yaml[/dim]
    """
    from bikd_pipelines.layout import note
    from bikd_pipelines.predicting import predicted
    from bikd_ray.spec_file import load_spec, with_goal

    wanted = with_goal(load_spec(spec), goal or "best_partner", regret, share)
    table, lines = predicted(wanted, store)
    show(table, format, "predicted")
    note(lines)


def best(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    format: HowShown = Format.table,
) -> None:
    """Compare MODEL untouched, alone, with its best partner, in its best group and as a soup.

    One half of the images chooses, the other says what each is worth. bikd export takes the
    chosen one home.

    [dim]Example: bikd best ViT --store bikd-demo[/dim]
    """
    from bikd_pipelines.layout import note
    from bikd_pipelines.search_views import kinds_lines
    from bikd_ray.store.kinds import kinds

    table = kinds(opened(store), model, objective, selection)
    show(table, format, "kinds")
    note(kinds_lines(table))


def soup(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a model's name")],
    store: StoreUri = None,
    objective: Objective = None,
    selection: Selection = "last",
    scales: Annotated[
        bool,
        typer.Option("--scales", help="also try more of the changes than their mean: 1/2 and 1"),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="ID", help="of several recipes the one whose recipe_id begins so"),
    ] = None,
) -> None:
    """Average the kept weights of MODEL with different partners, beside as many controls.

    One half of the images chooses the ingredients, one by one; the other half says what the soup
    is worth. Both soups are stored: bikd partners shows them, bikd export --job takes one home.

    [dim]Example: bikd soup ViT --store bikd-demo[/dim]
    """
    from bikd_pipelines.search_views import soup_lines
    from bikd_ray.soups import make_soup

    made = make_soup(
        opened(store),
        model,
        objective,
        selection,
        scales=scales,
        recipe=recipe,
        note=lambda line: print(f"bikd: {line}", file=sys.stderr),
    )
    print("\n".join(soup_lines(made)))
