"""Tables that fit the terminal."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bikd_ray.formatting import NONE

Row = dict[str, Any]

Cells = Mapping["Column", list[str]]

GAP = 2
"""Spaces between columns."""
NARROWEST = 14
"""Letters that a column of words keeps, however narrow the terminal is."""


@dataclass(frozen=True)
class Column:
    """What people see of a row.

    drop: 0 stays; of the others the highest goes first where the terminal is too narrow. same: it
    goes into the line above where all rows agree. words: may be wrapped; numbers never are.
    strong: which rows are bold. head: of leading columns, to stand in each part of a wide table.
    titled: its title is a model's name, which may be wrapped. apart: rows that differ in it stand
    in tables of their own, below a line that says it.
    """

    title: str
    cell: Callable[[Row], str]
    drop: int = 0
    same: bool = False
    words: bool = False
    strong: Callable[[Row], bool] | None = None
    head: bool = False
    titled: bool = False
    apart: bool = False


def terminal() -> Console:
    """Standard output, where nothing is coloured for what it looks like."""
    return Console(highlight=False, soft_wrap=True)


def answer_width() -> int | None:
    """Of standard output where it is a terminal; None elsewhere, as in a pipe: no end."""
    return terminal().width if sys.stdout.isatty() else None


def note_width() -> int | None:
    """The same of standard error."""
    return Console(stderr=True).width if sys.stderr.isatty() else None


def say(line: str, style: str = "dim") -> None:
    """Words of an answer; on a terminal they are broken between words, never inside one."""
    console = terminal()
    for part in _wrapped(line, answer_width()):
        console.print(Text(part, style=style))


def note(lines: Iterable[str]) -> None:
    """Words beside an answer, on standard error, broken in the same way."""
    for line in lines:
        print("\n".join(_wrapped(line, note_width())), file=sys.stderr)


def print_rows(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """A table that fits the terminal; elsewhere it is as wide as it has to be."""
    console = terminal()
    for line in laid_out(rows, columns, answer_width()):
        console.print(line)


def laid_out(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> list[Text]:
    """The lines of a table. width: of the terminal; None for no end.

    What all rows agree on stands above; what no row has is left out. Columns that do not fit are
    dropped by their priority, and it is said which; those that must stay go on in a second table
    below. A number is never cut.
    """
    alike = _alike(rows, columns)
    rest = [column for column in columns if column not in alike]
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(c.cell(row) for c in rest if c.apart), []).append(row)
    lines = _caption(alike, rows, width)
    dropped: set[Column] = set()
    for part in parts.values():
        block, less = _table(part, rest, width)
        lines += [Text()] * (len(parts) > 1 and bool(lines)) + block
        dropped |= less
    if dropped:
        names = ", ".join(c.title for c in columns if c in dropped)
        said = f"Too narrow for: {names}. A wider terminal shows them, --format csv has all."
        lines += [Text(line, style="dim") for line in _wrapped(said, width)]
    return lines


def _alike(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    return [c for c in columns if c.same and len({c.cell(row) for row in rows}) == 1]


def _caption(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[Text]:
    about = [(c.title, c.cell(rows[0])) for c in columns]
    told = (f"{title}\xa0{text}" for title, text in about if text not in ("", NONE))
    said = " · ".join(told)
    return [Text(line, style="dim") for line in _wrapped(said, width)]


def _table(
    rows: Sequence[Row], columns: Sequence[Column], width: int | None
) -> tuple[list[Text], set[Column]]:
    """The lines of rows that belong together, and the columns that had no room."""
    alike = _alike(rows, columns)
    cells = {column: [column.cell(row) for row in rows] for column in columns}
    absent = [c for c in columns if not c.head and not {*cells[c]} - {"", NONE}]
    shown = [c for c in columns if c not in [*alike, *absent]]
    dropped: set[Column] = set()
    while width is not None and _least(shown, cells) > width and any(c.drop for c in shown):
        least = max(c.drop for c in shown)
        dropped |= {c for c in shown if c.drop == least}
        shown = [c for c in shown if c.drop != least]
    lines = _caption(alike, rows, width)
    for i, part in enumerate(_parts(shown, cells, width)):
        lines += [Text()] * bool(i) + _block(rows, part, cells, width)
    return lines, dropped


def _natural(column: Column, cells: Cells) -> int:
    return max(map(cell_len, [column.title, *cells[column]]))


def _narrow(column: Column, cells: Cells) -> int:
    natural = _natural(column, cells)
    if column.titled:
        return max(min(natural, NARROWEST), *map(cell_len, cells[column]))
    return min(natural, max(NARROWEST, cell_len(column.title))) if column.words else natural


def _least(columns: Sequence[Column], cells: Cells) -> int:
    return sum(_narrow(c, cells) + GAP for c in columns) - GAP


def _parts(columns: Sequence[Column], cells: Cells, width: int | None) -> list[list[Column]]:
    """The columns in as many tables as the width takes, each with the leading ones."""
    leading = next((i for i, c in enumerate(columns) if i and not c.head), len(columns))
    heads, parts = [*columns[:leading]], [[*columns[:leading]]]
    for column in columns[leading:]:
        full = width is not None and _least([*parts[-1], column], cells) > width
        if full and len(parts[-1]) > len(heads):
            parts.append([*heads])
        parts[-1].append(column)
    return parts


def _block(
    rows: Sequence[Row],
    columns: Sequence[Column],
    cells: Cells,
    width: int | None,
) -> list[Text]:
    sizes = [_natural(c, cells) for c in columns]
    while width is not None and sum(sizes) + GAP * (len(sizes) - 1) > width:
        spare = [s - _narrow(c, cells) for c, s in zip(columns, sizes, strict=True)]
        if not any(spare):
            break
        widest = max(range(len(sizes)), key=lambda i: sizes[i] if spare[i] else 0)
        sizes[widest] -= 1
    number = [all(x[:1] in "+-−0123456789–$" for x in cells[c]) for c in columns]
    titles = [_wrapped(c.title, s) or [""] for c, s in zip(columns, sizes, strict=True)]
    lines = []
    for said in zip_longest(*titles, fillvalue=""):
        padded = [_padded(t, s, n) for t, s, n in zip(said, sizes, number, strict=True)]
        lines.append(Text((" " * GAP).join(padded).rstrip(), style="dim"))
    for i, row in enumerate(rows):
        wrapped = [
            _wrapped(cells[c][i], size) if c.words else [cells[c][i]]
            for c, size in zip(columns, sizes, strict=True)
        ]
        for k in range(max(map(len, wrapped))):
            line = Text()
            for c, size, right, text in zip(columns, sizes, number, wrapped, strict=True):
                part = _padded(text[k] if k < len(text) else "", size, right)
                line.append(part, style="bold" if c.strong and c.strong(row) else "")
                line.append(" " * GAP)
            line.rstrip()
            lines.append(line)
    return lines


def _padded(text: str, size: int, right: bool) -> str:
    room = " " * (size - cell_len(text))
    return room + text if right else text + room


_BOUND = re.compile(r"\[[+−\d][^\]]*\]|\d (?:pp|%)(?!\w)|[Δ<] [+−\d]")
"""An interval, a number and its unit or its name: their spaces are no place to break a line."""
_PART = re.compile(r"(?:[^_./+\-·,]|[.,+\-](?=\d))*(?:(?:[_/·]|[.,+\-](?!\d))+|$)")


def _wrapped(text: str, width: int | None) -> list[str]:
    """Lines of at most so many cells, broken after spaces, never inside a number or an interval;
    words that are wider than a line also after the signs that names are made of.
    """
    text = " ".join(text.split("\n"))
    if width is None or cell_len(text) <= width:
        return [text.replace("\xa0", " ")] if text else []
    bound = _BOUND.sub(lambda found: found[0].replace(" ", "\xa0"), text)
    lines = [""]
    for word in re.findall(r"[^ ]* *", bound):
        whole = cell_len(word.rstrip(" ")) <= width
        for part in [word] if whole else _PART.findall(word):
            while cell_len(lines[-1] + part.rstrip(" ")) > width:
                if lines[-1].strip():
                    lines.append("")
                else:
                    lines[-1], part = part[:width], part[width:]
                    lines.append("")
            lines[-1] += part
    return [line.rstrip().replace("\xa0", " ") for line in lines if line.strip()]
