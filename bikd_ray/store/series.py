"""Stored results sorted into learners.

A learner is one model under one recipe and objective on one data set, with every partner set that
it was trained with, seed by seed.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.errors import UserError, choices
from bikd_ray.metrics import Metric
from bikd_ray.store.read import LARGE, Reader, pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.vocabulary import CHOSEN_ON_VAL, CONTROL, UNTOUCHED, is_alone

Row = dict[str, Any]
Seeds = dict[int, Row]

OWN = "self"
"""The objective of a model that its own frozen start teaches."""

SELECTIONS = ("last", "best_val", "best_select")

PORTION = 128 << 20
"""Bytes of results that are read at a time."""

ROW_BYTES = 1500
"""Of a result in memory, beside its scores."""

NO_JOBS = np.empty(0, np.int64)
"""Rows of jobs of a model that was in none."""

NEEDED = (
    "job_id",
    "model_id",
    "partner_ids",
    "data_id",
    "recipe_id",
    "objective",
    "seed",
    "metric",
    "after",
    "bits",
    "scores",
)
"""Columns of a result without which no learner is sorted out."""

COLUMNS = (*NEEDED, "sums", "partners", "role", "selection", "n", "delta", "ensemble_before")


@dataclass
class ModelSeries:
    """One model's results; every row is one of the table `results`."""

    data_id: str
    recipe_id: str
    objective: str
    metric: Metric
    eval_set: str
    baseline: Row  # of the table `baselines`
    selection: str
    by_partners: dict[tuple[str, ...], Seeds] = field(default_factory=dict)
    control: Seeds = field(default_factory=dict)  # its jobs of cross-entropy alone
    own: Seeds = field(default_factory=dict)  # its jobs taught by its own frozen start
    reader: Reader | None = None  # of the store, for what rows alone do not say
    untouched: bool = False  # whether its control is itself before any training, without a job

    @property
    def model_id(self) -> str:
        return self.baseline["model_id"]

    @property
    def n(self) -> int:
        """Units of the evaluation set."""
        return self.baseline["n"]

    @property
    def fair(self) -> bool:
        """Whether the epoch was chosen on other images than these."""
        return self.selection != CHOSEN_ON_VAL

    @property
    def against(self) -> str | None:
        """What net Δ is against; nothing of a control itself."""
        if is_alone(self.objective):
            return None
        return UNTOUCHED if self.untouched else CONTROL

    @property
    def about(self) -> Row:
        """What every row of an answer says of its learner."""
        return {
            "model": self.baseline["model"],
            "objective": self.objective,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "eval_set": self.eval_set,
            "control": self.against,
            "before": self.baseline["value"],
            "n": self.n,
            "selection": self.selection,
            "data_id": self.data_id,
            "recipe_id": self.recipe_id,
            "model_id": self.model_id,
        }


class DoneJobs:
    """The jobs that are done, by their members.

    jobs: their ids and attempts. labels: the objectives of those with partners; alone: of those
    without.
    """

    def __init__(self, committed: pa.Table) -> None:
        done = committed.filter(pc.equal(committed["status"], "done"))
        self.jobs = done.select(["job_id", "attempt"])
        several = pc.greater(pc.list_value_length(done["member_ids"]), 1)
        self.labels = set(done.filter(several)["objective"].unique().to_pylist())
        self.alone = set(filter(is_alone, done["objective"].unique().to_pylist()))
        members = done["member_ids"].combine_chunks()
        models = pc.list_flatten(members).dictionary_encode()
        code_R = models.indices.to_numpy()
        order_R = np.argsort(code_R, kind="stable")
        jobs_R = pc.list_parent_indices(members).to_numpy()[order_R]
        ends = np.cumsum(np.bincount(code_R, minlength=len(models.dictionary)))
        self._jobs = dict(zip(models.dictionary.to_pylist(), np.split(jobs_R, ends), strict=False))

    def jobs_of(self, model_id: str) -> np.ndarray:
        """Rows of `jobs` in which a model took part."""
        return self._jobs.get(model_id, NO_JOBS)


@dataclass(frozen=True)
class Measure:
    """What is asked about: metric (None: the primary one of each data set), and on which set."""

    metric: str | None = None
    eval_set: str = VAL

    @property
    def key(self) -> tuple[str | None, str]:
        """What tells it from others."""
        return self.metric, self.eval_set

    def of_data(self, reader: Reader) -> dict[str, Metric]:
        """data_id -> its metric, of the data sets that have it. Raises UserError where none has, or
        where no model was measured on the set.
        """
        found = {
            data_id: metric
            for data_id, metrics in reader.metrics.items()
            for metric in metrics
            if metric.name == (self.metric or metrics[0].name)
        }
        if not found and reader.metrics:
            known = sorted({m.name for metrics in reader.metrics.values() for m in metrics})
            raise UserError(
                f"unknown metric {self.metric!r}, or one of which no model has a value; "
                f"{choices(self.metric, known)}"
            )
        if self.eval_set != VAL:
            sets = reader.committed("baselines")["eval_set"].unique().to_pylist()
            if self.eval_set not in sets:
                raise UserError(
                    f"no evaluation set {self.eval_set!r} in the store {reader.fs.uri}; "
                    f"{choices(self.eval_set, sets)}"
                )
        return found


PRIMARY = Measure()


def baselines(
    reader: Reader, measure: Measure = PRIMARY, metrics: Mapping[str, Metric] | None = None
) -> dict[tuple[str, str], Row]:
    """(data_id, model_id) -> its row of the table `baselines` for a measure, if it has a value.

    metrics: what `measure.of_data` says, where it is known.
    """
    metrics = measure.of_data(reader) if metrics is None else metrics
    rows = reader.committed("baselines")
    rows = rows.filter(pc.equal(rows["eval_set"], measure.eval_set))
    floats = {data_id for data_id, metric in metrics.items() if not metric.binary}
    large: dict[tuple[str, str], Row] = {}
    if floats:  # these are large, and not held in memory
        where = pc.field("eval_set") == measure.eval_set
        where &= pc.field("metric").isin({metrics[data_id].name for data_id in floats})
        columns = ["data_id", "model_id", "metric", *LARGE]
        kept = reader.table("baselines", columns, where)
        large = {
            (row["data_id"], row["model_id"]): {name: row[name] for name in LARGE}
            for row in kept.to_pylist()
            if row["data_id"] in floats and row["metric"] == metrics[row["data_id"]].name
        }
    return {
        (row["data_id"], row["model_id"]): {
            **row,
            **large.get((row["data_id"], row["model_id"]), dict.fromkeys(LARGE)),
        }
        for row in rows.to_pylist()
        if row["data_id"] in metrics
        and row["metric"] == metrics[row["data_id"]].name
        and not (row["value"] is not None and math.isnan(row["value"]))
    }


def asked(
    reader: Reader, objective: str | None, selection: str, measure: Measure
) -> tuple[str | None, Mapping[str, Metric]]:
    """What a question is about: the objective's label, each data set's metric.

    Raises UserError for what the store does not know.
    """
    if selection not in SELECTIONS:
        raise UserError(f"unknown selection {selection!r}; {choices(selection, SELECTIONS)}")
    return _label(reader, objective), measure.of_data(reader)


def done_jobs(reader: Reader) -> DoneJobs:
    """Those of a store as it is now."""
    return reader.derived("done", DoneJobs, reader.committed("jobs"))


def model_series(
    reader: Reader,
    wanted: Collection[str] | None,
    objective: str | None,
    selection: str,
    columns: Collection[str] = COLUMNS,
    measure: Measure = PRIMARY,
) -> Iterator[ModelSeries]:
    """Every learner, in an order of their ids; results of some models are in memory at a time.

    wanted: model_ids; None for all. objective: its label, or its name if only one label has it;
    None for all but the jobs without partners, `specs.ALONE` (their learners have one empty set of
    partners). columns: of results, NEEDED at least.

    Raises UserError for what the store does not know.
    """
    label, metrics = asked(reader, objective, selection, measure)
    done = done_jobs(reader)
    known = baselines(reader, measure, metrics)
    names = {metric.name for metric in metrics.values()}
    for models, theirs in _portions(done, known, wanted, metrics):
        where = (pc.field("selection") == selection) & pc.field("model_id").isin(models)
        where &= (pc.field("eval_set") == measure.eval_set) & pc.field("metric").isin(names)
        if is_alone(label):  # a row or two of each model instead of all of them
            where &= pc.field("objective") == label
        rows = reader.table("results", columns, where, theirs).to_pylist()
        # a result whose baseline file is damaged says nothing until the baseline is run again
        rows = [
            row
            for row in rows
            if (row["data_id"], row["model_id"]) in known
            and row["metric"] == metrics[row["data_id"]].name
        ]
        for who, by_partners, control, own in _sorted_out(rows, label):
            data_id, recipe_id, model_id, name = who
            yield ModelSeries(
                data_id,
                recipe_id,
                name,
                metrics[data_id],
                measure.eval_set,
                known[data_id, model_id],
                selection,
                by_partners,
                control,
                own,
                reader,
                data_id in reader.untouched and not is_alone(name),
            )


_IN_ORDER = itemgetter("model_id", "partner_ids", "seed", "job_id")
"""Of results, so that no answer depends on where its rows are stored."""


def _sorted_out(
    rows: Sequence[Row], label: str | None
) -> Iterator[tuple[tuple[str, ...], dict[tuple[str, ...], Seeds], Seeds, Seeds]]:
    """((data_id, recipe_id, model_id, objective), its results by partners, controls, self)."""
    found: dict[tuple, dict[tuple[str, ...], Seeds]] = defaultdict(lambda: defaultdict(dict))
    for row in sorted(rows, key=_IN_ORDER):
        who = (row["data_id"], row["recipe_id"], row["model_id"], row["objective"])
        found[who][tuple(row["partner_ids"])][row["seed"]] = row
    names: dict[tuple, list[str]] = defaultdict(list)
    for *who, name in found:
        names[*who].append(name)
    for (*who, objective), by_partners in found.items():
        if is_alone(objective):
            if label == objective:
                yield (*who, objective), by_partners, {}, {}
        elif label in (None, objective):
            control = found.get((*who, CONTROL), {}).get((), {})
            selves = {name: found[*who, name][()] for name in names[*who] if _is_self(name)}
            own = selves[min(selves, key=lambda n: _unlike(n, objective))] if selves else {}
            yield (*who, objective), by_partners, control, own


def _is_self(label: str) -> bool:
    return is_alone(label) and label != CONTROL


def _unlike(own: str, objective: str) -> tuple[int, str]:
    """How little a `self` with settings of its own is like an objective that it stands beside:
    the settings that one of the two has and the other has not.
    """
    mine, theirs = (
        {*label.partition("(")[2].rstrip(")").split(", ")} for label in (own, objective)
    )
    return len(mine ^ theirs), own


def _label(reader: Reader, wanted: str | None) -> str | None:
    if wanted is None or wanted == CONTROL:
        return wanted
    done = done_jobs(reader)
    if wanted in done.labels | done.alone:
        return wanted
    known = done.alone if is_alone(wanted) else done.labels
    named = sorted(label for label in known if label.partition("(")[0] == wanted)
    if len(named) == 1:
        return named[0]
    if is_alone(wanted) and not named:
        return wanted  # that no such control has run is an answer
    raise UserError(
        f"no objective {wanted!r} in the store; {choices(wanted, named or done.labels)}"
    )


def _portions(
    done: DoneJobs,
    known: Mapping[tuple[str, str], Row],
    wanted: Collection[str] | None,
    metrics: Mapping[str, Metric],
) -> Iterator[tuple[list[str], pa.Table]]:
    """Models whose results fit into PORTION, and the jobs in which they took part."""
    units = max((row["n"] for row in known.values()), default=0)
    binary = all(metric.binary for metric in metrics.values())
    size = ROW_BYTES + (units // 8 if binary else 20 * units)
    portions: list[list[str]] = [[]]
    held = 0
    for one in sorted({i for _, i in known} if wanted is None else wanted):
        theirs = size * len(done.jobs_of(one))
        held += theirs
        if held > PORTION and portions[-1]:
            portions.append([])
            held = theirs
        portions[-1].append(one)
    for portion in portions:
        jobs = np.unique(np.concatenate([NO_JOBS, *map(done.jobs_of, portion)]))
        yield portion, done.jobs.take(jobs)
