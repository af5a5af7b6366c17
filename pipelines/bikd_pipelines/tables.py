"""Answers on a terminal, as JSON and as CSV; and what is said beside them."""

import json
import math
import sys
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.csv as pacsv

from bikd_pipelines.layout import Column, Row, print_rows, say, terminal
from bikd_pipelines.values import BYTES_SHOWN, column_values, finite, flat
from bikd_pipelines.views import EMPTY, VIEWS, every_column
from bikd_ray.formatting import NONE, count, difference, digits_of, plain, recovered, signed
from bikd_ray.store import Store
from bikd_ray.store.hidden import Hidden, Measure
from bikd_ray.store.pairings import SYMMETRIC
from bikd_ray.store.verdicts import (
    LEVEL,
    all_failed,
    causes,
    detectable,
)


def print_table(table: pa.Table, how: str, view: str | Sequence[Column], empty: str = "") -> None:
    """Print a table: `json` is a list of objects, `csv` has a header, `table` is for people.

    view: which columns people see, and how, or their name in VIEWS. json and csv have every
    column. empty: what to say to people where there are no rows. Raises UserError for values that
    have no text, which only a query of the person's own can bring.
    """
    if how == "csv":
        sys.stdout.flush()
        pacsv.write_csv(flat(table), sys.stdout.buffer)
        return
    names = table.column_names
    most = None if how == "json" else BYTES_SHOWN
    values = [column_values(*named, most) for named in zip(names, table.columns, strict=True)]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    if how == "json":
        unicode = "utf" in (sys.stdout.encoding or "").lower()
        print(json.dumps(finite(rows), ensure_ascii=not unicode, indent=1))
    elif rows:
        columns = VIEWS.get(view) if isinstance(view, str) else view
        print_rows(rows, columns or every_column(table))
    else:
        say(empty or (isinstance(view, str) and EMPTY.get(view)) or "no rows")


def shown_as(store: Store, what: str, metric: str | None) -> Callable[[float | None], str]:
    """How a cell of a matrix of `what` reads: shares and coefficients have two decimals, whatever
    the metric, and what belongs to a learner has its sign.
    """
    units = {store.metric(data_id, metric).unit for data_id in store.metrics}
    of_metric = what in ("delta", "net_delta", "after", "ensemble", "oracle")
    digits = max(map(digits_of, units), default=2) if of_metric else 2
    if what == "recovered":
        return lambda value: recovered(value, 1).partition(" ")[0] or NONE
    return lambda value: (plain if what in SYMMETRIC else signed)(value, digits)


def print_matrix(
    values: pa.Table, told: pa.Table | None, how: str, shown: Callable[[float | None], str]
) -> None:
    """Print a pair matrix; told: the same of q-values, for what belongs to a learner.

    People see cells as `shown` writes them, and a mark where net Δ is told from 0.
    """
    if how != "table":
        print_table(values, how, "matrix")
        return
    if not len(values):
        say(EMPTY["matrix"])
        return
    names = values.column_names[1:]
    rows = values.to_pylist()
    marks = told.to_pylist() if told is not None else [{}] * len(rows)
    both = [{"value": row, "q": mark} for row, mark in zip(rows, marks, strict=True)]

    def cell(name: str) -> Callable[[Row], str]:
        def text(row: Row) -> str:
            value = shown(row["value"][name])
            return value if told is None else value + ("*" if is_told(name)(row) else " ")

        return text

    def is_told(name: str) -> Callable[[Row], bool]:
        def tell(row: Row) -> bool:
            q = row["q"].get(name)
            return q is not None and q < LEVEL and shown(row["value"][name]) != NONE

        return tell

    first = Column("model", lambda row: row["value"]["model"], words=True)
    rest = [Column(name, cell(name), strong=is_told(name), titled=True) for name in names]
    print_rows(both, [first, *rest])
    if told is None:
        return
    any_told = any(is_told(name)(row) for row in both for name in names)
    what = "* net Δ differs from 0" if any_told else "No net Δ differs from 0"
    say(f"Rows learn. {what} (q < {LEVEL}, corrected over all of them).")


def share_lines(teachers: pa.Table) -> list[str]:
    """How much of the variance of the gains the learners explain, and the teachers."""
    seen: dict[tuple[str, ...], Row] = {}
    for row in teachers.to_pylist():
        seen.setdefault((row["data_id"], row["recipe_id"], row["objective"]), row)
    return [
        f"{row['objective']}, recipe {row['recipe_id'][:6]}: the learner explains "
        f"{row['learner_share']:.0%} of the variance in gains, the teacher "
        f"{row['teacher_share']:.0%} more"
        for row in seen.values()
        if row["learner_share"] is not None and math.isfinite(row["learner_share"])
    ]


def partner_lines(
    gains: pa.Table, search_note: Callable[[str, str, str], str] | None = None
) -> list[str]:
    """What choosing the best partner is worth, and what could be told at all, by objective.

    search_note: what to bear in mind of a data set, recipe and objective that was searched, in the
    place of the choice's worth: dropping partners early has spoiled that.
    """
    lines: dict[tuple[str, ...], str] = {}
    for row in gains.to_pylist():
        if row["best"]:
            setting = (row["data_id"], row["recipe_id"], row["objective"])
            note = search_note(*setting) if search_note else ""
            worth = (
                "best partner's Δ, cross-fitted (chosen on one half, measured on the other): "
                f"{difference(row['crossfit_delta'], row['unit'])}"
            )
            told = (
                f"; one comparison would detect a true net Δ of {detectable(row)} with 80% power"
                if row["detectable"] is not None and not note
                else ""
            )
            lines.setdefault(
                (*setting, row["model_id"]),
                f"{row['objective']}, recipe {row['recipe_id'][:6]}: {note or worth}{told}",
            )
    return list(lines.values())


def print_hidden(measures: Sequence[Measure], rows: Sequence[Hidden]) -> None:
    """What the mean gains of a model hide, below its partners."""
    shown = [m for m in measures if "." not in m.name]
    if not shown or not rows:
        return

    def cell(measure: Measure) -> Callable[[Row], str]:
        return lambda row: row["hidden"].text(measure)

    terminal().print()
    ends = "; of sets with 95% intervals" if any(one.ends for one in rows) else ""
    say(f"What the average hides (means over the seeds; Δ unless it is a share{ends})", "")
    columns = [
        Column("partner", lambda row: row["partner"], words=True, head=True),
        *(Column(m.head, cell(m), titled=True) for m in shown),
        Column("objective", lambda row: row["objective"], same=True, words=True, apart=True),
    ]
    print_rows([{**one.row, "hidden": one} for one in rows], columns)


def cause_lines(failed: pa.Table) -> list[str]:
    """A line for each reason why jobs failed, and what to do; failed: with the column `error`."""
    return [
        f"{count(c.jobs, 'job')}: {c.what}" + (f"; {c.remedy}" if c.remedy else "")
        for c in causes(failed["error"].to_pylist())
    ]


def failed_lines(jobs: pa.Table) -> list[str]:
    """A line for each set of models whose every job failed, with why."""
    return [
        f"{' + '.join(members)}: all of its jobs failed: "
        + "; ".join(f"{c.what} ({c.jobs})" + (f", {c.remedy}" if c.remedy else "") for c in causes)
        for _, members, causes in all_failed(jobs)
    ]
