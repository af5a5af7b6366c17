"""Tables on a terminal, as JSON and as CSV; and the demo's closing words."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bikd_ray.errors import UserError
from bikd_ray.store import Store

Row = dict[str, Any]


def print_table(table: pa.Table, how: str, view: str) -> None:
    """Print a table: `json` is a list of objects, `csv` has a header, `table` is for people.

    view: which columns people see, and how; see VIEWS. json and csv have every column. Raises
    UserError for values that have no text, which only a query of the person's own can bring.
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
    else:
        columns = VIEWS.get(view) or [(name, _shown(name)) for name in names]
        _console().print(_rich(rows, columns) if rows else Text("nothing yet", style="dim"))


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
    wide = sys.stdout.isatty()
    return Console(highlight=False, width=None if wide else 160, soft_wrap=not wide)


Column = tuple[str, Callable[[Row], str]]


def _rich(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    cells = [[cell(row) for _, cell in columns] for row in rows]
    for i, (title, _) in enumerate(columns):
        numeric = all(line[i][:1] in "+-−0123456789–" for line in cells)
        table.add_column(title, justify="right" if numeric else "left", no_wrap=i == 0)
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    return table


def _shown(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else ""
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 0.01 and value else f"{value:.2f}"
        return _as_text(value) or ""

    return cell


def signed(value: float | None) -> str:
    """A difference in percentage points."""
    return "–" if value is None else f"{value:+.2f}"


def interval(row: Row, mean: str, low: str, high: str) -> str:
    """A difference with its 95% interval."""
    if row[mean] is None:
        return "–"
    bounds = "" if row[low] is None else f" [{row[low]:+.2f}, {row[high]:+.2f}]"
    return f"{row[mean]:+.2f}{bounds}"


def _delta(row: Row) -> str:
    return interval(row, "delta_top1", "delta_low", "delta_high")


def _net(row: Row) -> str:
    return interval(row, "net_delta", "net_low", "net_high")


def _verdict(row: Row) -> str:
    return "tie for best" if row["tie"] else "best" if row["best"] else ""


def _partner(row: Row) -> str:
    return f"← {row['partner']}" if row["role"] == "student" else row["partner"]


def _published(row: Row) -> str:
    known = row["published_top1"]
    return "" if known is None else f"{known:.2f} ({row['top1'] - known:+.2f})"


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{row[name]:.1f}"


def _number(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{row[name]:.{digits}f}"


def _gain(side: str) -> Callable[[Row], str]:
    names = (f"delta_top1_{side}", f"delta_low_{side}", f"delta_high_{side}")
    return lambda row: interval(row, *names)


def _scaled(name: str, unit: float, digits: int) -> Callable[[Row], str]:
    return lambda row: "–" if row[name] is None else f"{row[name] / unit:.{digits}f}"


def _effect(name: str) -> Callable[[Row], str]:
    return lambda row: interval(row, name, f"{name}_low", f"{name}_high")


def _printed(row: Row) -> str:
    spread = "" if row["paper_std"] is None else f" ± {row['paper_std']:.3f}"
    return f"{row['paper_delta']:+.3f}{spread}"


def _pupil(row: Row) -> str:
    return f"{row['model']} {'←' if row['objective'] == 'kl_dp' else '+'} {row['partner']}"


def _run(row: Row) -> str:
    if row["seeds"] is None:
        return "–"
    return f"{row['our_objective']} {row['recipe_id'][:6]} ×{row['seeds']}"


def _short_weights(row: Row) -> str:
    identity = row["weights"] or ""
    return identity if " " in identity else identity[:6]


VIEWS: dict[str, list[Column]] = {
    "check": [
        ("", lambda r: r["kind"]),
        ("name", lambda r: r["name"]),
        ("params M", _scaled("params", 1e6, 2)),
        ("GFLOPs", _scaled("flops", 1e9, 2)),
        ("mem. GB", _scaled("memory", 1e9, 2)),
        ("top-1 %", _number("top1", 1)),
        ("input", lambda r: r["input"] or "–"),
        ("weights", _short_weights),
        ("licence", lambda r: r["licence"] or ""),
    ],
    "partners": [
        ("partner", _partner),
        ("Δtop-1 [95%]", _delta),
        ("control", lambda r: signed(r["control_delta"])),
        ("net Δ [95%]", _net),
        ("q", _number("q_value", 3)),
        ("recovered %", _percent("recovered")),
        ("", _verdict),
        ("seeds", lambda r: str(r["seeds"])),
        ("objective", lambda r: r["objective"]),
        ("recipe", lambda r: r["recipe_id"][:6]),
        ("data", lambda r: r["data_id"][:6]),
    ],
    "pairs": [
        ("a", lambda r: r["model_a"]),
        ("b", lambda r: r["model_b"]),
        ("top-1 a", _number("top1_a", 2)),
        ("top-1 b", _number("top1_b", 2)),
        ("ensemble", _number("ensemble_top1", 2)),
        ("error overlap", _number("error_overlap", 3)),
        ("disagreement", _number("disagreement", 3)),
        ("κ", _number("kappa", 3)),
        ("Δ a [95%]", _gain("a")),
        ("Δ b [95%]", _gain("b")),
        ("objective", lambda r: r["objective"] or "–"),
    ],
    "paper 2": [
        ("model", _pupil),
        ("Δ", _printed),
        ("ours [95%]", _delta),
        ("net Δ [95%]", _net),
        ("run", _run),
    ],
    "paper 3": [
        ("model", _pupil),
        ("Δ", _printed),
        ("ours", lambda r: signed(r["delta_top1"])),
        ("ens.", _number("paper_ensemble", 2)),
        ("ours", _number("ensemble_top1_before", 2)),
        ("rec. %", lambda r: f"{r['paper_recovered']:g}"),
        ("ours", _percent("recovered")),
        ("run", _run),
    ],
    "paper 6a": [
        ("model", lambda r: r["model"]),
        ("K", lambda r: str(1 + len(r["partner"].split(" + ")))),
        ("Δ", _printed),
        ("ours [95%]", _delta),
        ("net Δ [95%]", _net),
        ("run", _run),
    ],
    "groups": [
        ("model", lambda r: r["model"]),
        ("models", lambda r: str(r["size"])),
        ("groups", lambda r: str(r["groups"])),
        ("Δtop-1 [95%]", _delta),
        ("control", lambda r: signed(r["control_delta"])),
        ("net Δ [95%]", _net),
        ("seeds", lambda r: str(r["seeds"])),
        ("objective", lambda r: r["objective"]),
    ],
    "teachers": [
        ("model", lambda r: r["model"]),
        ("teaches [95%]", _effect("teaches")),
        ("students", lambda r: str(r["students"])),
        ("learns [95%]", _effect("learns")),
        ("teachers", lambda r: str(r["teachers"])),
        ("of", lambda r: "net Δ" if r["measure"] == "net_delta" else "Δ"),
        ("objective", lambda r: r["objective"]),
        ("recipe", lambda r: r["recipe_id"][:6]),
    ],
    "flips": [
        ("model", lambda r: r["model"]),
        ("partner", _partner),
        ("gained", _number("gained", 1)),
        ("… it knew", _number("gained_known", 1)),
        ("control", _number("control_gained", 1)),
        ("lost", _number("lost", 1)),
        ("… it knew", _number("lost_known", 1)),
        ("control", _number("control_lost", 1)),
        ("of", lambda r: f"{r['n']:,}"),
        ("objective", lambda r: r["objective"]),
    ],
    "curves": [
        ("model", lambda r: r["model"]),
        ("partner", lambda r: r["partner"] or "–"),
        ("objective", lambda r: r["objective"]),
        ("epoch", lambda r: str(r["epoch"])),
        ("top-1", _number("top1", 2)),
        ("train top-1", _number("train_top1", 2)),
        ("ce", _number("ce", 3)),
        ("kl", _number("kl", 4)),
        ("taught", _number("teacher_share", 2)),
        ("seeds", lambda r: str(r["seeds"])),
    ],
    "merged": [
        ("table", lambda r: r["table"]),
        ("files merged", lambda r: f"{r['files']:,}"),
        ("into", lambda r: str(r["into"])),
        ("MB", _scaled("bytes", 1e6, 1)),
    ],
    "classes": [
        ("partner", lambda r: r["partner"]),
        ("class", lambda r: str(r["label"])),
        ("n", lambda r: str(r["n"])),
        ("before %", _number("top1_before", 2)),
        ("Δ", lambda r: signed(r["delta_top1"])),
        ("control", lambda r: signed(r["control_delta"])),
        ("seeds", lambda r: str(r["seeds"])),
        ("objective", lambda r: r["objective"]),
    ],
    "jobs": [
        ("members", lambda r: r["members"]),
        ("objective", lambda r: r["objective"]),
        ("done", lambda r: str(r["done"])),
        ("to do", lambda r: str(r["to_do"])),
        ("failed", lambda r: str(r["failed"])),
    ],
    "failures": [
        ("job", lambda r: r["job_id"]),
        ("members", lambda r: " + ".join(r["members"])),
        ("objective", lambda r: r["objective"]),
        ("seed", lambda r: str(r["seed"])),
        ("error", lambda r: (r["error"] or "").splitlines()[0]),
    ],
    "baselines": [
        ("model", lambda r: r["model"]),
        ("top-1 %", _number("top1", 2)),
        ("published", _published),
        ("top-5 %", _number("top5", 2)),
        ("NLL", _number("nll", 3)),
        ("ECE", _number("ece", 3)),
        ("n", lambda r: str(r["n"])),
        ("seconds", _number("seconds", 1)),
    ],
}


def print_headline(store: Store) -> None:
    """For every model its best partner or the tie, with interval, control and net Δ."""
    gains = store.gains().to_pylist()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    titles = ("model", "before", "best partner", "Δtop-1 [95%]", "control", "net Δ [95%]")
    for title in titles:
        table.add_column(title, no_wrap=title != "best partner")
    setting = itemgetter("data_id", "recipe_id", "objective")
    several = len({setting(row) for row in gains}) > 1
    learner = itemgetter("data_id", "recipe_id", "objective", "model_id")
    for key, rows in groupby(sorted(gains, key=learner), key=learner):
        mine = sorted(rows, key=lambda row: -row["delta_top1"])
        where = f" ({key[2]}, recipe {key[1][:6]}, data {key[0][:6]})" if several else ""
        name = mine[0]["model"] + where
        best = [row for row in mine if row["best"]]
        for i, row in enumerate(best):
            tie = f"tie: {row['partner']}" if row["tie"] and i == 0 else row["partner"]
            table.add_row(
                name if i == 0 else "",
                f"{row['top1_before']:.2f}" if i == 0 else "",
                Text(tie if i == 0 else f"     {row['partner']}"),
                _delta(row),
                signed(row["control_delta"]),
                _net(row),
            )
    console = _console()
    console.print("\nWhich partner helps each model most?\n", style="bold")
    console.print(table)
    clear = sum(row["net_low"] is not None and row["net_low"] > 0 for row in gains)
    console.print(
        f"\n{clear} of {len(gains)} gains are larger than training alone gives (net Δ above 0 "
        "with 95%).\nΔ in percentage points; control: the same training without a partner; "
        "net Δ = Δ − control.",
        style="dim",
    )


def share_lines(teachers: pa.Table) -> list[str]:
    """How much of the differences between gains is told by who learns and by who teaches."""
    shares = teachers.group_by(["data_id", "recipe_id", "objective"]).aggregate(
        [("learner_share", "max"), ("teacher_share", "max")]
    )
    return [
        f"{row['objective']}, recipe {row['recipe_id'][:6]}: who learns tells "
        f"{row['learner_share_max']:.0%} of the variance of the gains, who teaches "
        f"{row['teacher_share_max']:.0%} more"
        for row in shares.to_pylist()
        if math.isfinite(row["learner_share_max"])
    ]


def partner_lines(gains: pa.Table) -> list[str]:
    """What choosing the best partner is worth, and what could be told at all, by objective."""
    lines: dict[str, str] = {}
    for row in gains.to_pylist():
        if row["best"]:
            setting = f"{row['objective']}, recipe {row['recipe_id'][:6]}"
            found = row["detectable"]
            told = f"; a net Δ of {found:.2f} is found with 80%" if found is not None else ""
            lines.setdefault(
                f"{setting}, data {row['data_id'][:6]}",
                f"{setting}: the best partner's Δ, chosen and measured on different images: "
                f"{signed(row['crossfit_delta'])}{told}",
            )
    return list(lines.values())
