"""The answers: typed functions from a store to `pyarrow.Table`, columns in `store.answers`.

Nothing is pooled over data sets, recipes, objectives or selections: these are columns of every
answer, and ranks and ties are made within one combination of them.
"""

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from bikd_ray.errors import BikdError, UserError, choices
from bikd_ray.metrics import Metric
from bikd_ray.store.answer_schemas import CLASSES, FLIPS, GAINS, GROWTH, PAIRS, TEACHERS
from bikd_ray.store.curves import curve_table
from bikd_ray.store.data_ids import as_stored, refuse_other_sets
from bikd_ray.store.family import SETTING, Family, family
from bikd_ray.store.filesystem import store_uri
from bikd_ray.store.frames import along
from bikd_ray.store.gains import (
    class_rows,
    flip_table,
    gain_table,
    growth_rows,
    with_q_values,
)
from bikd_ray.store.kept import by_model, unchanged, whole
from bikd_ray.store.pairings import AFTER, COMPARED, SYMMETRIC, matrix, pair_rows, rows_after
from bikd_ray.store.parts import has_classes
from bikd_ray.store.pictured import pictures
from bikd_ray.store.read import LARGE, Reader, pc
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.series import Measure, ModelSeries, Row, asked, baselines, model_series
from bikd_ray.store.sql import select
from bikd_ray.store.teachers import teacher_rows
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.verdicts import failed_sentence, judged
from bikd_ray.vocabulary import CONTROL, UNTOUCHED, is_alone

if TYPE_CHECKING:
    from bikd_ray.plan import ResolvedData

log = logging.getLogger(__name__)

__all__ = ["COMPARED", "SYMMETRIC", "Store", "open_store"]


def open_store(uri: str | None = None) -> "Store":
    """The answers of the store at `uri` (a folder, s3://…, gs://…; None: $BIKD_STORE, or
    ./bikd-store). Raises UserError if there is none.
    """
    store = Store(store_uri(uri))
    if not store.exists:
        raise UserError(
            f"there is no store at {store.uri}; run bikd sweep or bikd demo first, or give --store"
        )
    return store


class Store:
    """Answers from the tables under one URI: committed rows only, as `pyarrow` tables.

    Δ and intervals are in the metric's unit, percentage points for percent (95%, over units and
    seeds), overlaps and shares are fractions; docs/statistics.md has the definitions and their
    sources, `bikd schema` every column. A model is given by its name or its id. selection: `last`,
    `best_val` or `best_select`. metric: a name of the table `metrics`; None for the primary one of
    each data set. eval_set: `val`, or a set that models are only measured on. Raises UserError for
    names that the store does not have, and BikdError where it cannot be read.
    """

    def __init__(self, uri: str) -> None:
        self._reader = Reader(uri)
        self._said: set[str] = set()

    def as_of_now(self) -> "Store":
        """The same store as it is now: what comes later is not seen. Many answers of one moment
        take less time so.
        """
        still = copy.copy(self)
        still._reader = self._reader.as_of_now()
        return still

    @property
    def uri(self) -> str:
        return self._reader.fs.uri

    @property
    def exists(self) -> bool:
        return self._reader.fs.is_folder()

    def table(
        self,
        name: str,
        columns: Collection[str] | None = None,
        where: pads.Expression | None = None,
    ) -> pa.Table:
        """Committed rows of one of the store's tables, with the newest names of the models.

        columns: which to keep (`store.schema` has all). where: a pyarrow expression over any
        columns. Raises UserError for a table that there is not.
        """
        return self._reader.table(_table_name(name), columns, where)

    def as_written(self, name: str, where: pads.Expression | None = None) -> pa.Table:
        """As `table`, with the names that models had when the rows were written."""
        return self._reader.as_written(_table_name(name), where=where)

    def index(self, name: str) -> pa.Table:
        """What says which rows of `jobs` or `baselines` count. It is the same object for as long as
        nothing has come.
        """
        return self._reader.committed(name)

    def later(self) -> frozenset[str]:
        """What changes whenever done jobs were measured on a set that came later, of which `index`
        says nothing; and seldom besides.
        """
        return self._reader.later()

    def file(self, relative: str) -> bytes:
        """What a file of the store holds, by its path in it. Raises FileNotFoundError."""
        return self._reader.fs.read(relative)

    def as_stored(self, data: "ResolvedData") -> tuple["ResolvedData", str | None]:
        """A data set under the id that this store's rows about it have, and what a person should
        know. Raises BikdError where the store cannot be read or written, and UserError where it has
        other images under the name of a further set.
        """
        stored, note = as_stored(data, self._reader)
        refuse_other_sets(stored, self._reader)
        return stored, note

    def sql(self, query: str) -> pa.Table:
        """A DuckDB query over the committed rows of every table. Read only. Raises UserError.

        Of columns that have one name the second is called `name_1`, and so on.
        """
        return select(query, self.table)

    def done(self) -> set[str]:
        """Ids of the jobs whose results are stored and whole."""
        jobs = self._reader.table("jobs", ["job_id", "status"])
        done = jobs.filter(pc.equal(jobs["status"], "done"))["job_id"].to_pylist()
        stored = self._reader.table("results", ["job_id"])["job_id"].unique()
        return set(done) & set(stored.to_pylist())

    def failures(self) -> dict[str, str]:
        """Failed jobs that no later attempt has done: job_id to error."""
        jobs = self.outcomes()
        failed = jobs.filter(pc.equal(jobs["status"], "failed"))
        return dict(zip(failed["job_id"].to_pylist(), failed["error"].to_pylist(), strict=True))

    def outcomes(self) -> pa.Table:
        """How each job went: rows of `index("jobs")`, with `error` of those that failed."""
        jobs = self._reader.committed("jobs")
        failed = jobs.filter(pc.equal(jobs["status"], "failed"))
        why = self._reader.table("jobs", ["job_id", "error"], jobs=failed) if len(failed) else None
        if why is None:
            return jobs.append_column("error", pa.nulls(len(jobs), pa.string()))
        at = pc.index_in(jobs["job_id"], value_set=why["job_id"].combine_chunks())
        return jobs.append_column("error", why["error"].take(at))

    def recipes(self) -> dict[str, str]:
        """recipe_id -> the recipe as JSON, of every recipe that a job had."""
        jobs = self._reader.committed("jobs")
        firsts = jobs.group_by("recipe_id", use_threads=False).aggregate(
            [("job_id", "first"), ("attempt", "first")]
        )
        named = firsts.rename_columns(["recipe_id", "job_id", "attempt"])
        where = pc.field("job_id").isin(named["job_id"].combine_chunks())
        rows = self._reader.table("jobs", ["recipe_id", "recipe"], where, named)
        return dict(zip(rows["recipe_id"].to_pylist(), rows["recipe"].to_pylist(), strict=True))

    def settings(self) -> pa.Table:
        """Every combination with results. Columns: data_id, recipe_id, objective, selection."""

        def told() -> pa.Table:
            jobs = self._reader.committed("jobs")
            done = jobs.filter(pc.equal(jobs["status"], "done"))
            one = done.group_by(SETTING, use_threads=False).aggregate([("job_id", "first")])
            # the others of a setting say the same, unless this one's file is damaged
            some = pc.field("job_id").isin(one["job_id_first"].combine_chunks())
            for where in (some, None):
                rows = self._reader.table("results", SETTINGS.names, where)
                found = rows.group_by(SETTINGS.names).aggregate([])
                if len(found.group_by(SETTING).aggregate([])) == len(one):
                    break
            return found.select(SETTINGS.names).cast(SETTINGS)

        return whole(self._reader, ("settings",), SETTINGS, told)

    def models(self) -> list[str]:
        """Names of all models with a baseline, in alphabetical order."""
        return sorted(set(self._known["model"].to_pylist()), key=str.casefold)

    def model_ids(self, name: str) -> set[str]:
        """The model_ids that a name or id stands for. Raises UserError with the nearest names.

        The newest name of a model counts, and an old one that no other model has now. That a
        model was called otherwise is logged, once.
        """
        known = self._known
        named = [pc.equal(known[c], name) for c in ("model", "model_id", "weights_id")]
        ids = known.filter(pc.or_(named[0], pc.or_(*named[1:])))["model_id"].to_pylist()
        ids = ids or self._reader.names.formerly(name)
        for line in self._reader.names.told(name):
            if line not in self._said:
                log.warning("%s", line)
                self._said.add(line)
        if not ids:
            there = choices(name, self.models()) if len(known) else "it has no baselines yet"
            raise UserError(f"no model {name!r} in the store {self.uri}; {there}")
        return set(ids)

    @property
    def metrics(self) -> dict[str, tuple[Metric, ...]]:
        """data_id -> what is measured on it, the primary metric first; without metrics of which no
        model has a value.
        """
        return self._reader.metrics

    def metric(self, data_id: str, name: str | None = None) -> Metric:
        """A metric of a data set; its primary one where no name is given. Raises UserError."""
        known = self.metrics[data_id]
        found = [metric for metric in known if metric.name == (name or known[0].name)]
        if not found:
            there = choices(name or "", [metric.name for metric in known])
            raise UserError(f"unknown metric {name!r}; {there}")
        return found[0]

    def control(self, data_id: str) -> str:
        """What net Δ of a data set is against: the objective `ce`, or `untouched`: the models
        before any training, where train has no labels and the control's Δ is 0 by definition.
        """
        return UNTOUCHED if data_id in self._reader.untouched else CONTROL

    def eval_sets(self) -> list[str]:
        """Names of the sets that models were measured on: val, then the others by their names."""
        found = set(self._reader.committed("baselines")["eval_set"].unique().to_pylist())
        return sorted(found, key=lambda name: (name != VAL, name))

    def baselines(self, metric: str | None = None, eval_set: str = VAL) -> pa.Table:
        """One row for each model and data set, the best first.

        metric: None for each data set's primary one.
        """
        measure = Measure(metric, eval_set)
        metrics = measure.of_data(self._reader)
        rows = baselines(self._reader, measure, metrics)

        def rank(row: Row) -> tuple:
            value = -metrics[row["data_id"]].sign * row["value"]
            return (row["data_id"], value, row["model"], row["model_id"])

        schema = SCHEMAS["baselines"]
        schema = pa.schema([f for f in schema if f.name not in ("bits", *LARGE)])
        return pa.Table.from_pylist(sorted(rows.values(), key=rank), schema)

    def renamed(self, zoo: Mapping[str, str]) -> dict[str, str]:
        """Names of a zoo (to model_id) that the store calls otherwise, to what it calls them."""
        newest = self._reader.names.newest
        return {n: newest[i] for n, i in zoo.items() if newest.get(i, n) != n}

    def former_names(self, model_ids: Collection[str] = ()) -> list[str]:
        """`MyViT was ViT`, of each model (none given: of all) that was called otherwise before."""
        names = self._reader.names
        wanted = sorted(model_ids or names.newest, key=lambda i: names.newest.get(i, ""))
        lines = (names.told(i) for i in wanted if i in names.newest)
        return [line for told in lines for line in told]

    def failed_jobs(self, model: str) -> pa.Table:
        """Rows of the table `jobs` of a model, all of them; empty where none has failed."""
        ids = self.model_ids(model)
        rows = self.outcomes()
        if not pc.any(pc.equal(rows["status"], "failed")).as_py():
            return rows.slice(0, 0)
        return rows.filter(pa.array([bool(ids & set(r)) for r in rows["member_ids"].to_pylist()]))

    def why_nothing(self, model: str) -> str:
        """One sentence for a model without results with a partner: what to do."""
        failed = failed_sentence(self.failed_jobs(model), f" of {model}")
        return failed or f"no finished job with a partner for {model}; see bikd status"

    def partners(
        self,
        model: str,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """The partners of a model, best first, with intervals, net Δ, recovered % and ties.

        objective: its label, or its name if only one in the store has it. Columns: `GAINS`.
        Raises UserError for a model or objective that is not in the store.
        """
        return self._gains(self.model_ids(model), objective, selection, Measure(metric, eval_set))

    def gains(
        self,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """What every model gained with every partner set; as `partners`, for the whole zoo."""
        return self._gains(None, objective, selection, Measure(metric, eval_set))

    def deltas(
        self, model: str, objective: str | None, selection: str, eval_set: str = VAL
    ) -> pa.Table:
        """Rows of GAINS of a model by the primary metric, without q-values and verdicts, which ask
        for the whole zoo; in no order that means anything.
        """
        found = model_series(
            self._reader,
            self.model_ids(model),
            objective,
            selection,
            measure=Measure(None, eval_set),
        )
        return pa.concat_tables([GAINS.empty_table(), *map(gain_table, found)])

    def controls(
        self,
        selection: str = "last",
        objective: str = "ce",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """What every model gained without a partner; columns as `partners`.

        objective: `ce`, or `self` (taught by its own frozen start), with its options if several
        are in the store.
        """
        return self._gains(None, objective, selection, Measure(metric, eval_set))

    def learners(
        self,
        models: Collection[str] | None,
        objective: str,
        selection: str = "last",
        metric: str | None = None,
    ) -> Iterator[ModelSeries]:
        """Stored results as the arithmetic takes them, of models by their ids (None: all).

        objective: a label; nothing where no job of it is done.
        """
        done = self._reader.committed("jobs")
        if pc.any(pc.equal(done["objective"], objective)).as_py():
            with suppress(UserError):  # it has only failed
                measure = Measure(metric)
                yield from model_series(self._reader, models, objective, selection, measure=measure)

    def groups(
        self,
        model: str | None = None,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """How a model's (None: every model's) gain grows with how many models train together.

        One row for each model and size, the mean over all such groups. Columns: `GROWTH`.
        """
        wanted = self._wanted(model)
        measure = Measure(metric, eval_set)

        def told(some: Collection[str]) -> Iterator[pa.Table]:
            for learner in model_series(self._reader, some, objective, selection, measure=measure):
                yield pa.Table.from_pylist(growth_rows(learner), GROWTH)

        label, _ = asked(self._reader, objective, selection, measure)
        question = ("groups", label, selection)
        if wanted is None:
            return by_model(self._reader, question, measure, GROWTH, told, _in_order)
        every = unchanged(self._reader, question, measure, GROWTH)
        if every is None:
            return _in_order(pa.concat_tables([GROWTH.empty_table(), *told(wanted)]))
        return _of(wanted, every)

    def classes(
        self,
        model: str,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """What a model gained and lost class by class, with every partner. Columns: `CLASSES`;
        nothing where the primary metric is neither binary nor a mean over classes.

        Raises UserError for a metric by name that is neither.
        """

        def rows(learner: ModelSeries) -> list[Row]:
            if not learner.metric.binary:
                return class_rows(learner, None)
            where = pc.field("model_id") == learner.model_id
            where &= pc.field("data_id") == learner.data_id
            where &= pc.field("eval_set") == eval_set
            stored = self._reader.table("predictions", ["sample", "label"], where)
            if len(stored) != learner.n:
                raise BikdError(
                    f"the predictions of {learner.baseline['model']} on these images are no longer "
                    f"in the store {self.uri}, so its classes are not known; bikd baseline SPEC "
                    "measures it again once its file in baselines/ is gone too"
                )
            return class_rows(learner, stored.sort_by("sample")["label"].to_numpy())

        measure = Measure(metric, eval_set)
        if metric is not None and not self.has_classes(metric):
            self.check_binary(metric)
        found = model_series(
            self._reader, self.model_ids(model), objective, selection, measure=measure
        )
        known = (one for one in found if one.metric.binary or has_classes(one.metric))

        def named(learner: ModelSeries) -> list[Row]:
            names = dict(enumerate(self._reader.class_names.get(learner.data_id, ())))
            return [{**row, "name": names.get(row["label"])} for row in rows(learner)]

        return pa.Table.from_pylist(_rows(known, named), CLASSES)

    def flips(
        self,
        model: str | None = None,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """Images that a model (None: every model) learned and forgot. Columns: `FLIPS`; nothing
        where the primary metric is not binary.

        Raises UserError for a metric by name that is not.
        """
        wanted = self._wanted(model)
        known = baselines(self._reader, Measure(metric, eval_set))
        found = self._binary(wanted, objective, selection, metric, eval_set)
        parts = _sorted((learner, flip_table(learner, known)) for learner in found)
        return pa.concat_tables([FLIPS.empty_table(), *(part for _, part in parts)])

    def _binary(
        self,
        wanted: Collection[str] | None,
        objective: str | None,
        selection: str,
        metric: str | None,
        eval_set: str,
    ) -> Iterator[ModelSeries]:
        """The learners for whose data the metric is binary."""
        measure = Measure(metric, eval_set)
        if metric is not None:
            self.check_binary(metric)
        found = model_series(self._reader, wanted, objective, selection, measure=measure)
        return filter(_is_binary, found)

    def has_classes(self, metric: str | None) -> bool:
        """Whether `classes` answers; metric: None for the primary one of each data set."""
        asked = Measure(metric).of_data(self._reader).values()
        return any(of.binary or has_classes(of) for of in asked)

    def check_binary(self, metric: str | None) -> None:
        """Raises UserError where no data set's metric says of each unit whether it is right.

        metric: None for the primary one of each data set.
        """
        asked = Measure(metric).of_data(self._reader).values()
        if not asked or any(of.binary for of in asked):
            return
        every = {of.name for found in self.metrics.values() for of in found if of.binary}
        there = f"choose from {', '.join(sorted(every))}" if every else "the store has none"
        raise UserError(
            f"{next(iter(asked)).name} has no right and wrong answers, so nothing is learned or "
            f"forgotten; it takes a --metric that has them: {there}"
        )

    def teachers(
        self,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """Who teaches well and who learns well, whatever the partner. Columns: `TEACHERS`.

        From pairs only: of several partners nobody can say which one taught.
        """
        measure = Measure(metric, eval_set)

        def told() -> pa.Table:
            names: dict[str, dict[str, str]] = {}
            for row in self._known.sort_by("model_id").to_pylist():
                names.setdefault(row["data_id"], {})[row["model_id"]] = row["model"]
            found = model_series(self._reader, None, objective, selection, measure=measure)
            return pa.Table.from_pylist(teacher_rows(found, names), TEACHERS)

        label, _ = asked(self._reader, objective, selection, measure)
        question = ("teachers", label, selection, *measure.key)
        return whole(self._reader, question, TEACHERS, told)

    def pairs(
        self,
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """One row for each unordered pair: its statistics before training, what each gained, and
        the case shares after it.

        A pair trained under several objectives or recipes has a row for each; one not trained
        yet has nulls there. Gains of groups of three or more are in `gains`. Columns: `PAIRS`.
        """
        measure = Measure(metric, eval_set)
        gains = self._gains(None, objective, selection, measure).to_pylist()
        metrics = measure.of_data(self._reader)
        stored = self.pairs_before(metric, eval_set).to_pylist()
        rows = pair_rows(self._reader, stored, gains, selection, metrics)
        return pa.Table.from_pylist(rows, PAIRS)

    def pairs_before(self, metric: str | None = None, eval_set: str = VAL) -> pa.Table:
        """Rows of the table `pairs` for a metric: what each pair knows before any training."""
        metrics = Measure(metric, eval_set).of_data(self._reader)
        rows = self.table("pairs", where=pc.field("eval_set") == eval_set)
        wanted = pa.array([f"{data_id} {of.name}" for data_id, of in metrics.items()], pa.string())
        mine = pc.binary_join_element_wise(rows["data_id"], rows["metric"], " ")
        return rows.filter(pc.is_in(mine, value_set=wanted))

    def pair_after(
        self, a: str, b: str, data_id: str, recipe_id: str, objective: str, selection: str
    ) -> list[Row]:
        """What two models (by their ids) know after each job of just them, under one setting.

        Rows with `score_a`, `score_b`, `error_overlap_after` and `case2_after` (None where an older
        bikd stored the job); without jobs that did not store the first three.
        """
        where = pc.field("model_id").isin([a, b]) & (pc.field("selection") == selection)
        where &= pc.field("objective") == objective
        where &= pc.field("data_id") == data_id
        where &= pc.field("recipe_id") == recipe_id
        columns = ["job_id", "model_id", "partner_ids", "after", *AFTER]
        primary = self.metrics[data_id][0].name if data_id in self.metrics else ""
        where &= (pc.field("metric") == primary) & (pc.field("eval_set") == VAL)
        known = baselines(self._reader)
        untouched = {i: row["value"] for (of, i), row in known.items() if of == data_id}
        return rows_after(self.table("results", columns, where), a, b, untouched)

    def along(
        self,
        model_id: str,
        partner_ids: Sequence[str],
        metric: str | None = None,
        eval_set: str = VAL,
        **setting: str,
    ) -> pa.Table:
        """What a learner with these partners scores on each frame of each video. Columns: `ALONG`;
        no row where the store keeps no frames. setting: data_id, recipe_id, objective, selection.
        """
        measure = Measure(metric, eval_set)
        return along(self._reader, model_id, partner_ids, measure=measure, **setting)

    def pictures(
        self, model_id: str, partner_id: str, data_id: str, recipe_id: str, objective: str
    ) -> list[Row]:
        """Where a learner's answers changed most with a partner, as small pictures, the largest
        gain first and the largest loss last; see `store.pictured`. Models by their ids.
        """
        return pictures(self._reader, model_id, partner_id, data_id, recipe_id, objective)

    def matrix(
        self,
        what: str = "delta",
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> pa.Table:
        """An N x N table of one of COMPARED: column `model`, then one column for each partner.

        Needs one combination of data, recipe and objective; raises UserError if there are more.
        """
        return self.matrices([what], objective, selection, metric, eval_set)[0]

    def matrices(
        self,
        wanted: Iterable[str],
        objective: str | None = None,
        selection: str = "last",
        metric: str | None = None,
        eval_set: str = VAL,
    ) -> list[pa.Table]:
        """As `matrix`, for several at once."""
        for what in wanted:
            if what not in COMPARED:
                raise UserError(f"unknown matrix {what!r}; {choices(what, COMPARED)}")
        pairs = self.pairs(objective, selection, metric, eval_set)
        known = self.baselines(metric, eval_set)
        return [matrix(pairs, known, what) for what in wanted]

    def curves(self, model: str | None = None) -> pa.Table:
        """Mean over seeds of a model's (None: every model's) learning curves, with its partners.

        Done jobs only. Columns: `CURVES`.
        """
        return curve_table(self._reader, self._wanted(model))

    def _wanted(self, model: str | None) -> set[str] | None:
        """The model_ids that are asked about; None for all."""
        return None if model is None else self.model_ids(model)

    @property
    def _known(self) -> pa.Table:
        columns = ["model", "model_id", "weights_id", "data_id"]
        return self._reader.committed("baselines").select(columns).group_by(columns).aggregate([])

    def _gains(
        self,
        models: Collection[str] | None,
        objective: str | None,
        selection: str,
        measure: Measure,
    ) -> pa.Table:
        label, metrics = asked(self._reader, objective, selection, measure)
        alone = label if is_alone(label) else None  # the objectives of pairings are kept together
        question = ("gains", alone, selection)

        def told(wanted: Collection[str]) -> Iterator[pa.Table]:
            found = model_series(self._reader, wanted, alone, selection, measure=measure)
            return map(gain_table, found)

        def settled(gains: pa.Table, elsewhere: Family | None = None) -> pa.Table:
            settings = [GAINS.empty_table()]
            for setting, some in _by_setting(_in_order(gains, "partner_ids")):
                if not alone:
                    others = (elsewhere or {}).get(setting, {}).items()
                    rest = [p for model_id, p in others if model_id not in (models or ())]
                    some = with_q_values(some, np.concatenate([[], *rest]))
                    some = judged(some, metrics[setting[0]].sign)
                settings.append(some)
            return pa.concat_tables(settings).combine_chunks()

        if models is None:
            gains = by_model(self._reader, question, measure, GAINS, told, settled)
        elif (every := unchanged(self._reader, question, measure, GAINS)) is not None:
            gains = _of(models, every)
        else:

            def theirs() -> pa.Table:
                elsewhere = {} if alone else family(self._reader, selection, measure)
                return settled(pa.concat_tables([GAINS.empty_table(), *told(models)]), elsewhere)

            asked_of = (*question, *measure.key, *sorted(models))
            gains = whole(self._reader, asked_of, GAINS, theirs)
        return gains if label == alone else gains.filter(pc.equal(gains["objective"], label))


SETTINGS = pa.schema([(name, pa.string()) for name in (*SETTING, "selection")])
"""Columns of `Store.settings`."""


def _table_name(name: str) -> str:
    if name not in SCHEMAS:
        raise UserError(f"the store has no table {name!r}; {choices(name, SCHEMAS)}")
    return name


def _of(models: Collection[str], rows: pa.Table) -> pa.Table:
    """The rows of some models, by their ids."""
    mine = pc.is_in(rows["model_id"], value_set=pa.array(models, pa.string()))
    return rows.filter(mine).combine_chunks()


def _in_order(rows: pa.Table, *lists: str) -> pa.Table:
    """Rows by setting and model, and by columns that hold lists; the rest stays in its order."""
    texts = {name: pc.binary_join(rows[name], " ") for name in lists}
    names = [*SETTING, "model", "model_id"]
    keys = pa.table({**{name: rows[name] for name in names}, **texts})
    return rows.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]))


def _by_setting(rows: pa.Table) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """(setting, its rows) of rows in order."""
    begin = 0
    settings = zip(*(rows[name].to_pylist() for name in SETTING), strict=True)
    for setting, some in groupby(settings):
        size = sum(1 for _ in some)
        yield setting, rows.slice(begin, size)
        begin += size


def _is_binary(learner: ModelSeries) -> bool:
    return learner.metric.binary


def _sorted(
    parts: Iterable[tuple[ModelSeries, pa.Table]],
) -> list[tuple[tuple[str, ...], pa.Table]]:
    """Tables of learners by setting and model: (data_id, recipe_id, objective, …) and the table."""
    keyed = []
    for learner, part in parts:
        setting = (learner.data_id, learner.recipe_id, learner.objective)
        keyed.append(((*setting, learner.baseline["model"], learner.model_id), part))
    return sorted(keyed, key=itemgetter(0))


def _rows(found: Iterable[ModelSeries], rows_of: Callable[[ModelSeries], list[Row]]) -> list[Row]:
    """The rows of all learners, by setting and model; a learner's own stay in their order."""
    rows = [row for learner in found for row in rows_of(learner)]
    return sorted(rows, key=itemgetter("data_id", "recipe_id", "objective", "model", "model_id"))
