"""What a mean gain hides: answers that became wrong, the worst class, other metrics, other sets.

The names of these measures are those of `bikd export --guard`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bikd_ray.errors import BikdError, UserError
from bikd_ray.formatting import MINUS, difference_unit, digits_of, number, signed, with_span
from bikd_ray.metrics import Metric
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.series import Row
from bikd_ray.store.upgrade import VAL

WORST_CLASS, NEGATIVE_FLIPS = "worst_class", "negative_flips"

_GROUP = ("data_id", "recipe_id", "objective", "model_id")
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Measure:
    """One thing that a mean hides. name: as a guard calls it: a metric (its Δ on val), a set (the
    primary metric's Δ there), `SET.METRIC`, WORST_CLASS (the least Δ of a class of val, by the
    primary metric) or NEGATIVE_FLIPS (percent of the val images right before and wrong after).
    sign: 1, or -1 where lower is better.
    """

    name: str
    title: str
    unit: str
    sign: int = 1

    @property
    def head(self) -> str:
        """With the unit of its values, for a table."""
        unit = "%" if self.name == NEGATIVE_FLIPS else difference_unit(self.unit)
        return f"{self.title}, {unit}" if unit else self.title

    def text(self, value: float | None) -> str:
        """A value of it; a share has no sign, a difference has one."""
        digits = digits_of(self.unit)
        return number(value, digits) if self.name == NEGATIVE_FLIPS else signed(value, digits)


FLIPPED = Measure(NEGATIVE_FLIPS, "negative flips", "%", -1)
WORST = Measure(WORST_CLASS, "worst class", "%")


@dataclass(frozen=True)
class Hidden:
    """One partner set of a model; values: by a measure's name, means over the seeds. None stands
    for what was not stored. ends: of evaluation sets, the 95% interval.
    """

    row: Row
    values: Mapping[str, float | None]
    ends: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def text(self, measure: Measure) -> str:
        """A value with its interval, where there is one."""
        value = self.values.get(measure.name)
        low, high = self.ends.get(measure.name, (None, None))
        if value is None or low is None:
            return measure.text(value)
        return with_span(value, low, high, digits_of(measure.unit))


def measure_of(metrics: Sequence[Metric], eval_set: str, name: str) -> Measure | None:
    """What a row of `results` measures, metrics being those of its data; None for the primary one
    on val, which is no secret.
    """
    known = {metric.name: metric for metric in metrics}
    metric, primary = known[name], metrics[0].name == name
    if eval_set == VAL:
        return None if primary else Measure(name, metric.title, metric.unit, metric.sign)
    called = eval_set if primary else f"{eval_set}.{name}"
    title = eval_set if primary else f"{eval_set} {metric.title}"
    return Measure(called, title, metric.unit, metric.sign)


def changes(
    results: Iterable[Row], metrics: Sequence[Metric], before: Mapping[tuple[str, str], float]
) -> dict[Measure, float | None]:
    """What rows of `results` of one checkpoint say, without the classes.

    before: (eval_set, metric) -> of the untouched model, for rows of older stores that lack it.
    """
    found: dict[Measure, float | None] = {}
    for row in results:
        measure = measure_of(metrics, row["eval_set"], row["metric"])
        if measure is None:
            if row["lost"] is not None and row["n"]:
                found[FLIPPED] = 100 * row["lost"] / row["n"]
            continue
        was = (
            before.get((row["eval_set"], row["metric"])) if row["before"] is None else row["before"]
        )
        found[measure] = None if was is None else row["after"] - was
    return found


def hidden(
    store: Store, model: str, objective: str | None = None, selection: str = "last"
) -> tuple[list[Measure], list[Hidden]]:
    """The measures that are there, and a row for each partner set of a model, in the order of
    `Store.partners`. Raises as that does.
    """
    gains = store.partners(model, objective, selection).to_pylist()
    ids = store.model_ids(model)
    where = (pc.field("model_id").isin(ids)) & (pc.field("selection") == selection)
    columns = [*_GROUP, "partner_ids", "seed", "metric", "eval_set", "before", "after", "lost", "n"]
    jobs: dict[Key, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in store.table("results", columns, where).to_pylist():
        jobs[_key(row)][row["seed"]].append(row)
    names = ["data_id", "model_id", "eval_set", "metric", "value"]
    baselines = store.index("baselines").select(names)
    known = baselines.filter(pc.field("model_id").isin(ids)).to_pylist()
    before = {
        (row["data_id"], row["model_id"]): {
            (r["eval_set"], r["metric"]): r["value"]
            for r in known
            if (r["data_id"], r["model_id"]) == (row["data_id"], row["model_id"])
        }
        for row in known
    }
    worst = _worst_classes(store, model, objective, selection)
    ends = _ends_on_sets(store, model, objective, selection)
    seen: dict[str, Measure] = {}
    rows = []
    for gain in gains:
        metrics = store.metrics[gain["data_id"]]
        own = before.get((gain["data_id"], gain["model_id"]), {})
        every: dict[str, list[float]] = defaultdict(list)
        for found in jobs[_key(gain)].values():
            for measure, value in changes(found, metrics, own).items():
                if value is not None:
                    seen[measure.name] = measure
                    every[measure.name].append(value)
        values: dict[str, float | None] = {k: sum(v) / len(v) for k, v in every.items()}
        if (least := worst.get(_key(gain))) is not None:
            seen[WORST_CLASS], values[WORST_CLASS] = WORST, least
        rows.append(
            Hidden(gain, values, {n: e[_key(gain)] for n, e in ends.items() if _key(gain) in e})
        )
    return sorted(seen.values(), key=_place), rows


def _key(row: Row) -> Key:
    return (*(row[name] for name in _GROUP), tuple(row["partner_ids"]))


def _place(measure: Measure) -> tuple[int, str]:
    """Flips and classes first, then sets, then metrics, then metrics of sets."""
    first = (NEGATIVE_FLIPS, WORST_CLASS)
    if measure.name in first:
        return first.index(measure.name), ""
    return 2 + ("." in measure.name), measure.name


def _ends_on_sets(
    store: Store, model: str, objective: str | None, selection: str
) -> dict[str, dict[Key, tuple[float | None, float | None]]]:
    """The 95% intervals of Δ by the primary metric on each further set, by the set's name."""
    return {
        name: {
            _key(row): (row["delta_low"], row["delta_high"])
            for row in store.deltas(model, objective, selection, name).to_pylist()
        }
        for name in store.eval_sets()
        if name != VAL
    }


def _worst_classes(
    store: Store, model: str, objective: str | None, selection: str
) -> dict[Key, float]:
    try:
        rows = store.classes(model, objective, selection).to_pylist()
    except (UserError, BikdError):  # not binary, or the predictions are gone
        return {}
    of_key: dict[Key, list[float]] = {}
    for row in rows:
        of_key.setdefault(_key(row), []).append(row["delta"])
    return {key: min(deltas) for key, deltas in of_key.items()}


# -- limits ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """One limit of a guard: `name` at least, or at most, `value`."""

    name: str
    least: bool
    value: float

    def held(self, value: float) -> bool:
        return value >= self.value if self.least else value <= self.value

    def broken(self, measure: Measure, value: float) -> str:
        """`worst_class −3.00 pp, which is 2.00 below its limit of −1`."""
        digits = digits_of(measure.unit)
        unit = measure.head.rpartition(", ")[2] if ", " in measure.head else ""
        by = f"{abs(value - self.value):.{digits}f}"
        side = "below" if self.least else "above"
        limit = f"{self.value:g}".replace("-", MINUS)
        return f"{self.name} {measure.text(value)} {unit}".rstrip() + (
            f", which is {by} {side} its limit of {limit}"
        )
