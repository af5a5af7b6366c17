"""Tables on a terminal, as JSON and as CSV; and the demo's closing words."""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bikd_ray.errors import UserError
from bikd_ray.formatting import NONE, number, plain, recovered, signed, with_span
from bikd_ray.store import Store
from bikd_ray.store.verdicts import (
    LEVEL,
    TOLD,
    all_failed,
    delta_text,
    headline,
    net_text,
    short,
    standing,
)

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
    titled: its title is a model's name, which may be wrapped.
    """

    title: str
    cell: Callable[[Row], str]
    drop: int = 0
    same: bool = False
    words: bool = False
    strong: Callable[[Row], bool] | None = None
    head: bool = False
    titled: bool = False


def print_table(table: pa.Table, how: str, view: str, empty: str = "") -> None:
    """Print a table: `json` is a list of objects, `csv` has a header, `table` is for people.

    view: which columns people see, and how; see VIEWS. json and csv have every column. empty: what
    to say to people where there are no rows. Raises UserError for values that have no text, which
    only a query of the person's own can bring.
    """
    if how == "csv":
        sys.stdout.flush()
        pacsv.write_csv(_flat(table), sys.stdout.buffer)
        return
    names = table.column_names
    most = None if how == "json" else BYTES_SHOWN
    values = [_values(*named, most) for named in zip(names, table.columns, strict=True)]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    if how == "json":
        unicode = "utf" in (sys.stdout.encoding or "").lower()
        print(json.dumps(_finite(rows), ensure_ascii=not unicode, indent=1))
    elif rows:
        _print(rows, VIEWS.get(view) or _every_column(table))
    else:
        _say(empty or EMPTY.get(view, "no rows"))


def print_matrix(values: pa.Table, told: pa.Table | None, how: str) -> None:
    """Print a pair matrix; told: the same of q-values, for a metric that belongs to a learner.

    People see signs, and a mark where net Δ is told from 0.
    """
    if how != "table":
        print_table(values, how, "matrix")
        return
    if not len(values):
        _say(EMPTY["matrix"])
        return
    names = values.column_names[1:]
    rows = values.to_pylist()
    marks = told.to_pylist() if told is not None else [{}] * len(rows)
    both = [{"value": row, "q": mark} for row, mark in zip(rows, marks, strict=True)]

    def cell(name: str) -> Callable[[Row], str]:
        def text(row: Row) -> str:
            value, q = row["value"][name], row["q"].get(name)
            shown = (signed if told is not None else plain)(value)
            if told is None:
                return shown
            return shown + ("*" if q is not None and q < LEVEL else " ")

        return text

    def is_told(name: str) -> Callable[[Row], bool]:
        return lambda row: row["q"].get(name) is not None and row["q"][name] < LEVEL

    first = Column("model", lambda row: row["value"]["model"], words=True)
    rest = [Column(name, cell(name), strong=is_told(name), titled=True) for name in names]
    _print(both, [first, *rest])
    if told is not None:
        _say(f"Rows learn. * net Δ differs from 0 (q < {LEVEL}, corrected over all of them).")


BYTES_SHOWN = 16
"""Of packed bits in a table for people; json and csv have all of them."""


def _finite(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _values(name: str, column: pa.ChunkedArray, most: int | None = None) -> list[Any]:
    """A column's values in the types that JSON has; most: bytes that are shown of each."""
    try:
        if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
            column = column.cast(pa.string())  # Python's own have no nanoseconds
            if any(t and t.startswith("<") for t in column.to_pylist()):
                raise OverflowError("value out of range")
        return [_plain(value, most) for value in column.to_pylist()]
    except (pa.ArrowException, LookupError, OverflowError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"column {name!r} of type {column.type} cannot be shown ({reason}); cast it to varchar"
        ) from None


def _plain(value: Any, most: int | None = None) -> Any:
    """Bytes as hex digits, maps as objects, intervals and dates as ISO 8601 has them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        cut = most is not None and len(value) > most
        return f"{value[:most].hex()}… ({len(value):,} bytes)" if cut else value.hex()
    if isinstance(value, dict):
        return {k: _plain(v, most) for k, v in value.items()}
    if isinstance(value, pa.MonthDayNano):
        months, days, nanoseconds = value
        return f"P{months}M{days}DT{Decimal(nanoseconds).scaleb(-9).normalize():f}S"
    if isinstance(value, list | tuple):
        inner = [_plain(v, most) for v in value]
        keys = [v[0] for v in value] if value and all(type(v) is tuple for v in value) else []
        is_map = keys and all(isinstance(k, str) for k in keys) and len(set(keys)) == len(keys)
        return dict(inner) if is_map else inner  # Arrow gives a map as its pairs
    if isinstance(value, Decimal):
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if Decimal(repr(number)) == value else str(value)
    return str(value)


def _is_flat(kind: pa.DataType) -> bool:
    """Whether Arrow writes it to CSV as text of its own."""
    plain = ("null", "boolean", "integer", "floating", "string", "large_string", "decimal")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in plain)


def _flat(table: pa.Table) -> pa.Table:
    """Nested values as JSON text and bytes as hex digits, since CSV has neither."""
    columns = [
        column
        if _is_flat(column.type)
        else pa.array([_as_text(v) for v in _values(name, column)], pa.string())
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _as_text(value: Any) -> str | None:
    if isinstance(value, dict | list):
        return json.dumps(_finite(value), ensure_ascii=False)
    return None if value is None else str(value)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _say(line: str) -> None:
    _console().print(Text(line, style="dim"))


def _print(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """A table that fits the terminal; elsewhere, as in a pipe, it is as wide as it has to be."""
    console = _console()
    for line in laid_out(rows, columns, console.width if sys.stdout.isatty() else None):
        console.print(line)


def laid_out(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> list[Text]:
    """The lines of a table. width: of the terminal; None for no end.

    What all rows agree on stands above. Columns that do not fit are dropped by their priority, and
    it is said which; those that must stay go on in a second table below. A number is never cut.
    """
    cells = {column: [column.cell(row) for row in rows] for column in columns}
    alike = [c for c in columns if c.same and len(set(cells[c])) == 1]
    shown = [c for c in columns if c not in alike]
    about = [f"{c.title} {cells[c][0]}" for c in alike if cells[c][0] not in ("", NONE)]
    dropped: list[Column] = []
    while width is not None and _least(shown, cells) > width and any(c.drop for c in shown):
        least = max(c.drop for c in shown)
        dropped += [c for c in shown if c.drop == least]
        shown = [c for c in shown if c.drop != least]
    lines = [Text(line, style="dim") for line in _wrapped(" · ".join(about), width)]
    for i, part in enumerate(_parts(shown, cells, width)):
        lines += [Text()] * bool(i) + _block(rows, part, cells, width)
    if dropped:
        names = ", ".join(c.title for c in columns if c in dropped)
        said = f"Too narrow for: {names}. A wider terminal shows them, --format csv has all."
        lines += [Text(line, style="dim") for line in _wrapped(said, width)]
    return lines


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
    number = [all(x[:1] in "+-−0123456789–" for x in cells[c]) for c in columns]
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


def _wrapped(text: str, width: int | None) -> list[str]:
    """Lines of at most so many cells, broken after spaces and the signs that names are made of."""
    text = " ".join(text.split("\n"))
    if width is None or cell_len(text) <= width:
        return [text] if text else []
    lines = [""]
    for word in re.findall(r"[^\s_./+\-·,]*(?:[\s_./+\-·,]+|$)", text):
        while cell_len(lines[-1] + word.rstrip()) > width:
            if lines[-1].strip():
                lines.append("")
            else:
                lines[-1], word = word[:width], word[width:]
                lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines if line.strip()]


def _every_column(table: pa.Table) -> list[Column]:
    return [
        Column(field.name, _shown(field.name), words=not _is_number(field.type))
        for field in table.schema
    ]


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _shown(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        if value is None:
            return NONE
        if isinstance(value, bool):
            return "yes" if value else ""
        if isinstance(value, float):
            return f"{value:.3g}" if 1e-9 < abs(value) < 0.01 else f"{value:.2f}"
        return _as_text(value) or ""

    return cell


def _verdict(row: Row) -> str:
    return short(row) or NONE


def _is_told(row: Row) -> bool:
    return row["verdict"] in TOLD


def _partner(row: Row) -> str:
    return f"← {row['partner']}" if row["role"] == "student" else row["partner"]


def _published(row: Row) -> str:
    known = row["published_top1"]
    return "" if known is None else f"{known:.2f} ({signed(row['top1'] - known)})"


def _number(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: number(row[name], digits)


def _gain(side: str) -> Callable[[Row], str]:
    names = (f"delta_top1_{side}", f"delta_low_{side}", f"delta_high_{side}")
    return lambda row: with_span(*(row[name] for name in names))


def _scaled(name: str, unit: float, digits: int) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{row[name] / unit:.{digits}f}"


def _effect(name: str) -> Callable[[Row], str]:
    return lambda row: with_span(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _printed(row: Row) -> str:
    spread = "" if row["paper_std"] is None else f" ± {row['paper_std']:.3f}"
    return f"{signed(row['paper_delta'], 3)}{spread}"


def _pupil(row: Row) -> str:
    return f"{row['model']} {'←' if row['objective'] == 'kl_dp' else '+'} {row['partner']}"


def _run(row: Row) -> str:
    if row["seeds"] is None:
        return "–"
    return f"{row['our_objective']} {row['recipe_id'][:6]} ×{row['seeds']}"


def _short_weights(row: Row) -> str:
    identity = row["weights"] or ""
    return identity if " " in identity else identity[:6]


def _name(key: str = "model", **how: Any) -> Column:
    """A column of names, which stands again in each part of a table that is too wide."""
    return Column(key, lambda row: row[key], words=True, head=True, **how)


def _same(title: str, cell: Callable[[Row], str], drop: int = 0) -> Column:
    return Column(title, cell, drop, same=True, words=True)


_SEEDS = Column("seeds", lambda r: str(r["seeds"]), 5, same=True)
_OBJECTIVE = _same("objective", lambda r: r["objective"] or NONE)
_RECIPE = _same("recipe", lambda r: (r["recipe_id"] or NONE)[:6])
_DATA = _same("data", lambda r: r["data_id"][:6])
_SETTING = [_OBJECTIVE, _RECIPE, _DATA]
_CONTROL = Column("control", lambda r: signed(r["control_delta"]), 6)

VIEWS: dict[str, list[Column]] = {
    "check": [
        _same("kind", lambda r: r["kind"]),
        Column("name", lambda r: r["name"], words=True, head=True),
        Column("params M", _scaled("params", 1e6, 2)),
        Column("GFLOPs", _scaled("flops", 1e9, 2)),
        Column("mem. GB", _scaled("memory", 1e9, 2)),
        Column("top-1 %", _number("top1", 1)),
        Column("input", lambda r: r["input"] or NONE, words=True),
        Column("weights", _short_weights, words=True),
        Column("licence", lambda r: r["licence"] or "", words=True),
    ],
    "partners": [
        Column("partner", _partner, words=True, head=True),
        Column("net Δ [95%]", net_text, strong=_is_told),
        Column("verdict", _verdict, words=True, strong=_is_told),
        Column("q", _number("q_value", 3), 4),
        Column("Δtop-1 [95%]", delta_text, 1),
        _CONTROL,
        Column("best?", standing, 2),
        Column("recovered %", lambda r: recovered(r["recovered"], 1), 8),
        _SEEDS,
        *_SETTING,
    ],
    "pairs": [
        Column("a", lambda r: r["model_a"], words=True, head=True),
        Column("b", lambda r: r["model_b"], words=True, head=True),
        Column("Δ a [95%]", _gain("a")),
        Column("Δ b [95%]", _gain("b")),
        Column("top-1 a", _number("top1_a", 2), 3),
        Column("top-1 b", _number("top1_b", 2), 3),
        Column("ensemble", _number("ensemble_top1", 2), 2),
        Column("error overlap", _number("error_overlap", 3), 4),
        Column("disagreement", _number("disagreement", 3), 5),
        Column("κ", _number("kappa", 3), 6),
        _OBJECTIVE,
        _RECIPE,
        _DATA,
    ],
    "paper 2": [
        Column("model", _pupil, words=True, head=True),
        Column("Δ", _printed),
        Column("ours [95%]", delta_text),
        Column("net Δ [95%]", net_text),
        _same("run", _run, 1),
    ],
    "paper 3": [
        Column("model", _pupil, words=True, head=True),
        Column("Δ", _printed),
        Column("ours", lambda r: signed(r["delta_top1"])),
        Column("ens.", _number("paper_ensemble", 2)),
        Column("ours", _number("ensemble_top1_before", 2)),
        Column("rec. %", lambda r: f"{r['paper_recovered']:g}"),
        Column("ours", lambda r: recovered(r["recovered"], 1)),
        _same("run", _run, 1),
    ],
    "paper 6a": [
        _name(),
        Column("K", lambda r: str(1 + len(r["partner"].split(" + ")))),
        Column("Δ", _printed),
        Column("ours [95%]", delta_text),
        Column("net Δ [95%]", net_text),
        _same("run", _run, 1),
    ],
    "groups": [
        _name(),
        Column("models", lambda r: str(r["size"]), head=True),
        Column("groups", lambda r: str(r["groups"])),
        Column("net Δ [95%]", net_text),
        Column("Δtop-1 [95%]", delta_text),
        _CONTROL,
        _SEEDS,
        *_SETTING,
    ],
    "teachers": [
        _name(),
        Column("teaches [95%]", _effect("teaches")),
        Column("students", lambda r: str(r["students"]), 4),
        Column("learns [95%]", _effect("learns")),
        Column("teachers", lambda r: str(r["teachers"]), 4),
        _same("of", lambda r: "net Δ" if r["measure"] == "net_delta" else "Δ"),
        *_SETTING,
    ],
    "flips": [
        _name(),
        Column("partner", _partner, words=True, head=True),
        Column("gained", _number("gained", 1)),
        Column("… it knew", _number("gained_known", 1), 3),
        Column("control", _number("control_gained", 1), 2),
        Column("lost", _number("lost", 1)),
        Column("… it knew", _number("lost_known", 1), 3),
        Column("control", _number("control_lost", 1), 2),
        Column("of", lambda r: f"{r['n']:,}", same=True),
        *_SETTING,
    ],
    "curves": [
        _name(),
        Column("partner", lambda r: r["partner"] or NONE, words=True, head=True),
        Column("epoch", lambda r: str(r["epoch"]), head=True),
        Column("top-1", _number("top1", 2)),
        Column("train top-1", _number("train_top1", 2), 2),
        Column("ce", _number("ce", 3), 3),
        Column("kl", _number("kl", 4), 4),
        Column("taught", _number("teacher_share", 2), 5),
        _SEEDS,
        *_SETTING,
    ],
    "merged": [
        Column("table", lambda r: r["table"], words=True),
        Column("files merged", lambda r: f"{r['files']:,}"),
        Column("into", lambda r: str(r["into"])),
        Column("MB", _scaled("bytes", 1e6, 1)),
    ],
    "classes": [
        Column("partner", _partner, words=True, head=True),
        Column("class", lambda r: str(r["label"]), head=True),
        Column("n", lambda r: str(r["n"]), 3),
        Column("before %", _number("top1_before", 2)),
        Column("Δ", lambda r: signed(r["delta_top1"])),
        Column("control", lambda r: signed(r["control_delta"])),
        _SEEDS,
        *_SETTING,
    ],
    "jobs": [
        Column("members", lambda r: r["members"], words=True, head=True),
        Column("objective", lambda r: r["objective"], words=True),
        Column("done", lambda r: str(r["done"])),
        Column("to do", lambda r: str(r["to_do"])),
        Column("failed", lambda r: str(r["failed"])),
    ],
    "failures": [
        Column("job", lambda r: r["job_id"], words=True, head=True),
        Column("members", lambda r: " + ".join(r["members"]), words=True),
        Column("objective", lambda r: r["objective"], words=True),
        Column("seed", lambda r: str(r["seed"])),
        Column("error", lambda r: (r["error"] or "").partition("\n")[0], words=True),
    ],
    "baselines": [
        _name(),
        Column("top-1 %", _number("top1", 2)),
        Column("published", _published),
        Column("top-5 %", _number("top5", 2), 4),
        Column("NLL", _number("nll", 3), 3),
        Column("ECE", _number("ece", 3), 2),
        Column("n", lambda r: str(r["n"]), same=True),
        Column("seconds", _number("seconds", 1), 5),
        _DATA,
    ],
}

EMPTY = {
    "partners": "no finished job with a partner; see bikd status",
    "pairs": "no pair has been measured yet; run bikd baseline SPEC",
    "matrix": "no pair has been measured yet; run bikd baseline SPEC",
    "groups": "no finished job with a partner; see bikd status",
    "teachers": "no finished job of a pair, so nobody has taught yet; see bikd status",
    "flips": "no finished job with a partner; see bikd status",
    "classes": "no finished job with a partner; see bikd status",
    "curves": "no finished job; see bikd status",
    "jobs": "no job has run yet; run bikd sweep SPEC",
    "failures": "no job has failed",
    "baselines": "no model has been measured yet; run bikd baseline SPEC",
    "findings": "nothing is wrong",
    "merged": "nothing to merge",
}
"""What to say where an answer has no rows, and what to do."""


HEADLINE = [
    _name(),
    Column("best partner", lambda r: _partner(r) + (" (tie)" if r["tie"] else ""), words=True),
    Column("net Δ [95%]", net_text, strong=_is_told),
    Column("verdict", _verdict, words=True, strong=_is_told),
    Column("Δtop-1 [95%]", delta_text, 1),
    _CONTROL,
    Column("before", _number("top1_before", 2), 7),
    *_SETTING,
]


def print_headline(store: Store) -> None:
    """For every model its best partner, and what came out in one sentence for each setting."""
    gains, jobs = store.gains(), store.table("jobs")
    firsts: dict[tuple[str, ...], Row] = {}
    for row in gains.to_pylist():
        setting = (row["data_id"], row["recipe_id"], row["objective"])
        firsts.setdefault((*setting, row["model_id"]), row)
    rows = sorted(
        firsts.values(), key=lambda row: (row["data_id"], row["recipe_id"], row["objective"])
    )
    console = _console()
    console.print("\nWhich partner helps each model most?\n", style="bold")
    if rows:
        _print(rows, HEADLINE)
    for setting, part in _by_setting(gains):
        sentence, _ = headline(part, store.controls(), jobs)
        console.print(Text(f"\n{setting}{sentence}", style="bold"))
    if not rows:
        console.print(Text(headline(gains, store.controls(), jobs)[0]))
    console.print(
        "Percentage points. control: the same training without a partner; net Δ = Δ − control.",
        style="dim",
    )


def _by_setting(gains: pa.Table) -> list[tuple[str, pa.Table]]:
    """The rows of each setting, with its name where there are several."""
    columns = ["data_id", "recipe_id", "objective"]
    found: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(gains.select(columns).to_pylist()):
        found.setdefault(tuple(row.values()), []).append(i)
    return [
        (f"{o}, recipe {r[:6]}, data {d[:6]}: " if len(found) > 1 else "", gains.take(at))
        for (d, r, o), at in found.items()
    ]


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


def partner_lines(gains: pa.Table) -> list[str]:
    """What choosing the best partner is worth, and what could be told at all, by objective."""
    lines: dict[tuple[str, ...], str] = {}
    for row in gains.to_pylist():
        if row["best"]:
            found = row["detectable"]
            told = (
                f"; one comparison would detect a true net Δ of {found:.2f} pp with 80% power"
                if found is not None
                else ""
            )
            lines.setdefault(
                (row["data_id"], row["recipe_id"], row["objective"], row["model_id"]),
                f"{row['objective']}, recipe {row['recipe_id'][:6]}: best partner's Δ, "
                "cross-fitted (chosen on one half, measured on the other): "
                f"{signed(row['crossfit_delta'])}{told}",
            )
    return list(lines.values())


def failed_lines(jobs: pa.Table) -> list[str]:
    """A line for each set of models whose every job failed, with why."""
    return [
        f"{' + '.join(members)}: all of its jobs failed: "
        + "; ".join(f"{c.what} ({c.jobs})" + (f", {c.remedy}" if c.remedy else "") for c in causes)
        for _, members, causes in all_failed(jobs)
    ]
