"""What people see of a search: searched partners, replays and predictions."""

import math
from collections.abc import Callable
from typing import Any

from bikd_pipelines import light_arrow  # noqa: F401  # isort: skip  (before Arrow)
import pyarrow as pa

from bikd_pipelines.layout import Column, Row
from bikd_ray.formatting import NONE, difference_unit, digits_of, number, signed, with_span
from bikd_ray.store.verdicts import standing


def _share(name: str) -> Callable[[Row], str]:
    return lambda row: NONE if row[name] is None else f"{row[name]:.0%}"


def _span(name: str) -> Column:
    low, high = f"{name.removesuffix('_delta')}_low", f"{name.removesuffix('_delta')}_high"
    title = "net Δ [95%]" if name == "net_delta" else "Δ [95%]"

    def cell(row: Row) -> str:
        if not row["trained"]:
            return "not trained" if name == "delta" else NONE
        return with_span(row[name], row[low], row[high], digits_of(row["unit"]))

    return Column(title, cell, 0 if name == "delta" else 1)


def _setting(name: str, key: str, length: int | None = None) -> Column:
    return Column(name, lambda row: str(row[key])[:length], same=True, words=True, apart=True)


SEARCHED = [
    Column("partner", lambda row: row["partner"], words=True, head=True),
    _span("delta"),
    _span("net_delta"),
    Column("best?", standing, 2, words=True),
    Column("expected Δ", lambda row: signed(row["expected_delta"], digits_of(row["unit"]))),
    Column("chance best", _share("chance_best")),
    Column("seeds", lambda row: str(row["seeds"] or ""), 5),
    _setting("metric", "metric"),
    _setting("objective", "objective"),
    _setting("recipe", "recipe_id", 6),
    _setting("data", "data_id", 6),
]

REPLAY = [
    Column("share", lambda row: f"{row['share']:.0%}", head=True),
    Column("jobs", lambda row: f"{row['jobs']:.0f}"),
    Column("of", lambda row: str(row["map_jobs"]), same=True),
    Column("cost", lambda row: f"{row['cost']:.0%}"),
    Column("lost", lambda row: f"{row['lost']:+.3f} ± {row['lost_se']:.3f}"),
    Column("claimed", lambda row: number(row["claimed"], 3)),
    Column("same choice", _share("same")),
    Column("settled", _share("settled"), 2),
    Column("random partner", lambda row: f"{row['random']:+.3f}", 3),
    Column("models", lambda row: str(row["models"]), same=True),
    Column("seeds", lambda row: str(row["seeds"]), same=True),
    _setting("metric", "metric"),
    _setting("objective", "objective"),
    _setting("recipe", "recipe_id", 6),
]

PREDICTED = [
    Column("model", lambda row: row["model"], words=True, head=True),
    Column("partner", lambda row: row["partner"], words=True, head=True),
    Column("reason", lambda row: row["reason"], words=True),
    Column("expected Δ", lambda row: signed(row["expected_delta"], 2)),
    Column("± sd", lambda row: number(row["expected_sd"], 2)),
    Column("chance best", _share("chance_best")),
    Column("seed", lambda row: str(row["seed"])),
    _setting("objective", "objective"),
]


def _difference(title: str, name: str, of: str, drop: int) -> Column:
    def cell(row: Row) -> str:
        digits = digits_of(row["unit"])
        return with_span(row[name], row[f"{of}_low"], row[f"{of}_high"], digits)

    return Column(title, cell, drop)


KINDS = [
    Column("model", lambda row: row["model"], same=True, words=True, head=True),
    Column("kind", lambda row: row["kind"], head=True),
    Column("with", lambda row: row["partner"] or NONE, words=True),
    Column("chosen", lambda row: "chosen" if row["chosen"] else ""),
    Column("chosen by Δ", lambda row: signed(row["decided_delta"], digits_of(row["unit"])), 2),
    _difference("Δ [95%]", "delta", "delta", 0),
    _difference("net Δ [95%]", "net_delta", "net", 1),
    _difference("chosen less this [95%]", "behind", "behind", 3),
    Column("seeds", lambda row: str(row["seeds"] or ""), 4),
    _setting("metric", "metric"),
    Column("objective", lambda row: row["objective"] or NONE, 5, same=True, words=True),
    _setting("data", "data_id", 6),
]

ONE_SEED = (
    "of one seed an interval speaks of the images drawn, not of how another seed would come out"
)

VIEWS = {"kinds": KINDS, "searched": SEARCHED, "replay": REPLAY, "predicted": PREDICTED}
EMPTY = {
    "kinds": "nothing was trained with a partner yet; see bikd status",
    "searched": "no partner was trained yet; see bikd status",
    "replay": "no map is complete; run bikd sweep SPEC",
    "predicted": "nothing is left to train: the search is over",
}


def soup_lines(made: Any) -> list[str]:
    """What a `soups.Souped` is made of, and what it is worth on the half that chose nothing."""
    unit, digits = difference_unit(made.metric.unit), digits_of(made.metric.unit)
    bn = f", batch statistics from {made.soup.batch_images:,} train images"
    lines = [
        f"soup of {len(made.soup.jobs)} of {made.variants} variants, with "
        f"{' + '.join(made.soup.partners)}{bn if made.soup.batch_images else ''}: job "
        f"{made.soup.job_id}"
    ]
    if made.control:
        lines.append(f"soup of {len(made.control.jobs)} controls: job {made.control.job_id}")
    lines += [
        f"less {one.what}: {with_span(one.delta, one.low, one.high, digits)} {unit}, on "
        f"{made.n:,} images that chose nothing"
        for one in made.comparisons
    ]
    return [*lines, *made.notes]


def kinds_lines(table: pa.Table) -> list[str]:
    """On which images it was chosen, and on which measured; and what one seed cannot say."""
    rows = table.to_pylist()
    lines = {
        f"chosen on {row['decided_on']:,} images, measured on the other {row['n']:,}"
        if row["half"]
        else f"chosen and measured on the same {row['n']:,} images: the chosen one looks better "
        "than it is"
        for row in rows
    }
    one = any(row["seeds"] == 1 and not row["pooled"] for row in rows)
    return [*sorted(lines), *[ONE_SEED] * one]


def searched_lines(table: pa.Table) -> list[str]:
    """How the partners were chosen and measured, and what may have been missed, by setting."""
    lines: dict[tuple[str, ...], str] = {}
    for row in table.to_pylist():
        setting = (row["data_id"], row["recipe_id"], row["objective"], row["model_id"])
        unit = difference_unit(row["unit"])
        how = (
            f"chosen on {row['decided_on']:,} images, measured on the other {row['n']:,}"
            if row["half"]
            else f"chosen and measured on the same {row['n']:,} images, with intervals for that"
        )
        chance = row["chance_untrained"]
        missed = (
            ""
            if chance is None or math.isnan(chance)
            else f"; an untrained partner is more than {row['regret']:g} {unit} better with "
            f"{chance:.0%} (model)"
        )
        lines.setdefault(
            setting, f"{row['objective']}, recipe {row['recipe_id'][:6]}: {how}{missed}"
        )
    return [*lines.values()]
