"""Limits that an exported model has to hold, so that a mean gain hides no loss."""

import re

from bikd_ray.errors import UserError, choices
from bikd_ray.export.summary import SelectedResult
from bikd_ray.store.hidden import (
    NEGATIVE_FLIPS,
    WORST,
    WORST_CLASS,
    Limit,
    Measure,
    changes,
)

_LIMIT = re.compile(r"([^\s<>=]+)\s*(>=|<=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\s+|$)")


def limits(text: str) -> tuple[Limit, ...]:
    """`worst_class>=-1 v2>=0 ece<=0.01` as limits. Raises UserError for anything else."""
    found, at = [], 0
    text = text.strip().replace("\u2212", "-")
    while at < len(text):
        match = _LIMIT.match(text, at)
        if match is None:
            raise UserError(
                f"--guard: cannot read {text[at:].split()[0]!r}; write NAME>=NUMBER or "
                "NAME<=NUMBER, such as worst_class>=-1 ece<=0.01"
            )
        found.append(Limit(match[1], match[2] == ">=", float(match[3])))
        at = match.end()
    if not found:
        raise UserError("--guard: no limit is given; write such as worst_class>=-1 ece<=0.01")
    return tuple(found)


def hidden_of(choice: SelectedResult) -> dict[Measure, float | None]:
    """What the mean of this checkpoint hides, by measure: its own, not the mean of the seeds."""
    metrics = tuple(choice.metrics.values())
    found = changes(choice.measured, metrics, {})
    if metrics[0].binary:
        least = min((row["delta"] for row in choice.classes), default=None)
        found[WORST] = least
    return found


def check(choice: SelectedResult, guard: tuple[Limit, ...]) -> None:
    """Raises UserError that says which limits fell and by how much, or which name is unknown."""
    found = {measure.name: (measure, value) for measure, value in hidden_of(choice).items()}
    primary = choice.metric
    gain = Measure(primary.name, primary.title, primary.unit, primary.sign)
    found[primary.name] = (gain, choice.result["delta"])
    broken = []
    for limit in guard:
        if limit.name not in found:
            every = ", ".join((NEGATIVE_FLIPS, WORST_CLASS))
            raise UserError(
                f"--guard: nothing here is called {limit.name!r}; {choices(limit.name, found)} "
                f"(a metric, an evaluation set, SET.METRIC, {every})"
            )
        measure, value = found[limit.name]
        if value is None:
            raise UserError(
                f"--guard: {limit.name} of this checkpoint is not in the store, so it cannot be "
                "held to a limit; leave it out"
            )
        if not limit.held(value):
            broken.append(limit.broken(measure, value))
    if broken:
        who = " with ".join(filter(None, [choice.result["model"], choice.gain["partner"]]))
        raise UserError(
            f"the guard refuses {who} (seed {choice.result['seed']}): {'; '.join(broken)}"
        )
