"""When a search for best partners, or for a group, is refused, in words for people."""

from collections.abc import Collection, Sequence

from bikd_ray.errors import UserError, choices

FEWEST_MODELS = 8
"""With fewer, the start and the winners' seeds are a map already."""


def problems(
    goal: str, size: int, mode: str, selection: str, objectives: Collection[tuple[str, bool]]
) -> list[str]:
    """What in a spec excludes its goal, a line each; nothing for `map`.

    size, mode: of the pairings. objectives: the label of each, and whether its pairs train
    together and learn from each other; those without partners are left out.
    """
    if goal == "map":
        return []
    found = []
    if goal == "best_partner" and size != 2:
        found.append(
            f"goal: best_partner searches among pairs, but pairings.size is {size}; "
            "set it to 2, or goal: map"
        )
    if goal == "improve" and size != 2:
        found.append(
            f"goal: improve has its groups' size in improve.group, but pairings.size is {size}; "
            "leave that out, or goal: map"
        )
    if mode == "list":
        whom = "pairs" if goal == "best_partner" else "groups"
        found.append(
            f"goal: {goal} chooses the {whom} itself, but pairings lists them; "
            "use pairings: all or anchors, or goal: map"
        )
    if selection == "best_val":
        found.append(
            f"goal: {goal} decides by the val images, on which selection best_val has chosen its "
            "epochs already; use selection: last or best_select"
        )
    for label, mutual in objectives:
        if not mutual:
            found.append(
                f"goal: {goal} needs objectives in which both models learn, but {label} "
                "teaches one of them; use bikd or dml, or goal: map"
            )
    return found


def groups(group: int, models: Sequence[str], zoo: Sequence[str]) -> list[str]:
    """What in `improve` does not fit a zoo, a line each. models: names, or all."""
    found = []
    if group > len(zoo):
        found.append(
            f"improve.group is {group}, but the zoo has {len(zoo)} "
            f"model{'s' * (len(zoo) > 1)}; add models or lower it"
        )
    for name in () if models == "all" else models:
        if name not in zoo:
            found.append(f"improve.models: {name!r} is not in the zoo; {choices(name, zoo)}")
    return found


def worth_a_search(models: int, start_work: float, map_work: float, share: float) -> None:
    """Refuse a search that could not cost less than a map.

    models: of the map. start_work: of the jobs that every search begins with. map_work: of all jobs
    of the map. Raises UserError.
    """
    if models < FEWEST_MODELS:
        raise UserError(
            f"goal: best_partner has nothing to save among {models} models: a map of one seed "
            f"costs the same; use goal: map with one seed, or add models ({FEWEST_MODELS} or more)"
        )
    if start_work >= share * map_work:
        raise UserError(
            f"search.share {share:g} is used up by the first partners of every model alone "
            f"({100 * start_work / map_work:.0f}% of the map): a map of one seed costs the same; "
            "use goal: map with one seed, raise search.share, lower search.start, or add models"
        )
