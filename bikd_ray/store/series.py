"""Stored results sorted into learners.

A learner is one model under one recipe and objective on one data set, with every partner set that
it was trained with, seed by seed.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.errors import UserError, choices
from bikd_ray.metrics import Metric
from bikd_ray.specs import ALONE, CHOSEN_ON_VAL
from bikd_ray.store.read import Reader, pc

Row = dict[str, Any]
Seeds = dict[int, Row]

TOP1 = Metric("top1", "top-1", "%", binary=True)
"""What the scores of the tables `results` and `baselines` are of."""

SELECTIONS = ("last", "best_val", "best_select")

PORTION = 128 << 20
"""Bytes of results that are read at a time."""

ROW_BYTES = 1500
"""Of a result in memory, beside its scores."""

NO_JOBS = np.empty(0, np.int64)
"""Rows of jobs of a model that was in none."""

COLUMNS = (
    "job_id",
    "model_id",
    "partners",
    "partner_ids",
    "data_id",
    "recipe_id",
    "objective",
    "seed",
    "role",
    "selection",
    "n",
    "delta",
    "ensemble_before",
    "correct",
)

NEEDED = (
    "job_id",
    "model_id",
    "partner_ids",
    "data_id",
    "recipe_id",
    "objective",
    "seed",
    "correct",
)
"""Columns of a result without which no learner is sorted out."""


@dataclass
class ModelSeries:
    """One model's results; every row is one of the table `results`."""

    data_id: str
    recipe_id: str
    objective: str
    baseline: Row  # of the table `baselines`
    selection: str
    by_partners: dict[tuple[str, ...], Seeds] = field(default_factory=dict)
    control: Seeds = field(default_factory=dict)  # its jobs of cross-entropy alone
    own: Seeds = field(default_factory=dict)  # its jobs taught by its own frozen start
    metric: Metric = TOP1  # whose scores its rows hold

    @property
    def model_id(self) -> str:
        return self.baseline["model_id"]

    @property
    def n(self) -> int:
        """Units of val: images, or videos."""
        return self.baseline["n"]

    @property
    def fair(self) -> bool:
        """Whether the epoch was chosen on other images than these."""
        return self.selection != CHOSEN_ON_VAL

    @property
    def about(self) -> Row:
        """What every row of an answer says of its learner."""
        return {
            "model": self.baseline["model"],
            "objective": self.objective,
            "before": self.baseline["top1"],
            "n": self.n,
            "selection": self.selection,
            "data_id": self.data_id,
            "recipe_id": self.recipe_id,
            "model_id": self.model_id,
        }


class DoneJobs:
    """The jobs that are done, by their members.

    jobs: their ids and attempts. labels: the objectives of those with partners.
    """

    def __init__(self, committed: pa.Table) -> None:
        done = committed.filter(pc.equal(committed["status"], "done"))
        self.jobs = done.select(["job_id", "attempt"])
        several = pc.greater(pc.list_value_length(done["member_ids"]), 1)
        self.labels = set(done.filter(several)["objective"].unique().to_pylist())
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


def baselines(reader: Reader) -> dict[tuple[str, str], Row]:
    """(data_id, model_id) -> its row of the table `baselines`."""
    rows = reader.committed("baselines").to_pylist()
    return {(row["data_id"], row["model_id"]): row for row in rows}


def model_series(
    reader: Reader,
    wanted: Collection[str] | None,
    objective: str | None,
    selection: str,
    columns: Collection[str] = COLUMNS,
) -> Iterator[ModelSeries]:
    """Every learner, in an order of their ids; results of some models are in memory at a time.

    wanted: model_ids; None for all. objective: its label, or its name if only one label has it;
    None for all but the jobs without partners, whose labels are in `specs.ALONE` (their learners
    have one empty set of partners). columns: of results, NEEDED at least.

    Raises UserError for what the store does not know.
    """
    if selection not in SELECTIONS:
        raise UserError(f"unknown selection {selection!r}; {choices(selection, SELECTIONS)}")
    done = reader.derived("done", DoneJobs, reader.committed("jobs"))
    label = objective if objective in ALONE else _label(done, objective)
    known = baselines(reader)
    for models, theirs in _portions(done, known, wanted):
        where = (pc.field("selection") == selection) & pc.field("model_id").isin(models)
        if objective in ALONE:  # a row or two of each model instead of all of them
            where &= pc.field("objective") == objective
        rows = reader.table("results", columns, where, theirs).to_pylist()
        # a result whose baseline file is damaged says nothing until the baseline is run again
        rows = [row for row in rows if (row["data_id"], row["model_id"]) in known]
        yield from _sorted_out(rows, known, label, selection)


_IN_ORDER = itemgetter("model_id", "partner_ids", "seed", "job_id")
"""Of results, so that no answer depends on where its rows are stored."""


def _sorted_out(
    rows: Sequence[Row], known: Mapping[tuple[str, str], Row], label: str | None, selection: str
) -> Iterator[ModelSeries]:
    found: dict[tuple, dict[tuple[str, ...], Seeds]] = defaultdict(lambda: defaultdict(dict))
    for row in sorted(rows, key=_IN_ORDER):
        who = (row["data_id"], row["recipe_id"], row["model_id"], row["objective"])
        found[who][tuple(row["partner_ids"])][row["seed"]] = row
    for (*who, objective), by_partners in found.items():
        if label == objective or (label is None and objective not in ALONE):
            data_id, recipe_id, model_id = who
            baseline = known[data_id, model_id]
            learner = ModelSeries(data_id, recipe_id, objective, baseline, selection, by_partners)
            if objective not in ALONE:
                alone = [found.get((*who, name), {}).get((), {}) for name in ALONE]
                learner.control, learner.own = alone
            yield learner


def _label(done: DoneJobs, wanted: str | None) -> str | None:
    if wanted is None or wanted in done.labels:
        return wanted
    named = sorted(label for label in done.labels if label.split("(")[0] == wanted)
    if len(named) == 1:
        return named[0]
    raise UserError(
        f"no objective {wanted!r} in the store; {choices(wanted, named or done.labels)}"
    )


def _portions(
    done: DoneJobs, known: Mapping[tuple[str, str], Row], wanted: Collection[str] | None
) -> Iterator[tuple[list[str], pa.Table]]:
    """Models whose results fit into PORTION, and the jobs in which they took part."""
    size = ROW_BYTES + max((row["n"] for row in known.values()), default=0) // 8
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
