"""What came out, and which command comes next: what every sweep ends with."""

import pyarrow as pa
from rich.text import Text

from bikd_pipelines.layout import print_rows, say, terminal
from bikd_pipelines.views import HEADLINE
from bikd_ray.store import Store
from bikd_ray.store.advice import Asked, by_setting, firsts, next_steps, searched
from bikd_ray.store.verdicts import headline

SHOWN = 30
"""Models in the table; of more, those with the clearest verdicts."""


def print_summary(store: Store, asked: Asked | None = None, spec: str = "SPEC") -> None:
    """The verdict of each setting, its table, and the Next lines. spec: the sweep's, to repeat."""
    asked = asked or Asked()
    gains, controls, jobs = asked.gains(store), asked.controls(store), store.table("jobs")
    console = terminal()
    parts = _by_setting(store, gains, asked) or [("", gains)]
    for title, part in parts:
        verdict, notes = headline(part, controls, jobs)
        say(f"{title}{verdict}", "bold")
        rows = firsts(part)
        if rows:
            console.print()
            print_rows(rows[:SHOWN], HEADLINE)
        if len(rows) > SHOWN:
            say(f"{len(rows) - SHOWN:,} more models; bikd partners MODEL shows each.")
        for note in (*notes, *searched(store, rows)):
            say(note)
        console.print()
    say("Next", "bold")
    for step in next_steps(store, gains, asked, spec):
        say(step.why, "")
        for line in step.type.splitlines():  # to be copied whole, however long
            console.print(Text(f"  {line}", style="bold"))


def _by_setting(store: Store, gains: pa.Table, asked: Asked) -> list[tuple[str, pa.Table]]:
    """The rows of each setting, with its name where there are several; the clearest first."""
    found = by_setting(store, gains, asked.metric)
    several = [len({key[i] for key, _ in found}) > 1 for i in range(3)]

    def title(data_id: str, recipe_id: str, objective: str) -> str:
        parts = (f"data {data_id[:6]}", f"recipe {recipe_id[:6]}", objective)
        told = [part for part, differs in zip(parts, several, strict=True) if differs]
        return f"{', '.join(reversed(told))}: " if told else ""

    return [(title(*key), part) for key, part in found]
