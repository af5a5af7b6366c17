"""Questions to a store; every answer is a pyarrow.Table, with intervals where it compares.

Rows are never pooled over data sets, recipes, objectives or selections: those columns stand in
every answer, and ranks and ties are made within one combination of them.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

import pyarrow as pa

from bikd_ray.analysis.significance import best_set
from bikd_ray.errors import UserError, choices
from bikd_ray.specs import ALONE, CHOSEN_ON_VAL
from bikd_ray.store.gains import (
    CLASSES,
    GAINS,
    GROWTH,
    Row,
    class_rows,
    differences,
    gain_row,
    growth_row,
    mean,
)
from bikd_ray.store.read import Reader, pc
from bikd_ray.store.schema import SCHEMAS

SYMMETRIC = (
    "error_overlap",
    "ensemble_top1",
    "oracle_top1",
    "disagreement",
    "cca_before",
    "cca_after",
    "error_inconsistency",
    "double_fault",
    "kappa",
    "q",
    "phi",
)
DIRECTED = ("delta_top1", "net_delta", "recovered", "top1_after")
METRICS = (*DIRECTED, *SYMMETRIC)
"""What a pair matrix can show: directed ones have the learner as row, the partner as column."""


def open_store(uri: str) -> "Store":
    """The answers of the store at `uri` (a folder, s3://…, gs://…). Raises UserError if none."""
    store = Store(uri)
    if not store.reader.place.is_folder():
        raise UserError(
            f"there is no store at {store.uri}; run bikd sweep or bikd demo first, or give --store"
        )
    return store


class Store:
    """Answers from the tables under one URI. Opened anew, it sees what has come since."""

    def __init__(self, uri: str) -> None:
        self.reader = Reader(uri)

    @property
    def uri(self) -> str:
        return self.reader.place.uri

    def table(self, name: str) -> pa.Table:
        """One of the store's tables, committed rows only; columns in `store.schema`."""
        if name not in SCHEMAS:
            raise UserError(f"the store has no table {name!r}; {choices(name, SCHEMAS)}")
        return self.reader.table(name)

    def sql(self, query: str) -> pa.Table:
        """A DuckDB query over the committed rows of every table. Read only. Raises UserError."""
        import duckdb

        with duckdb.connect(config={"enable_external_access": False}) as connection:
            for name in SCHEMAS:
                connection.register(name, self.reader.table(name))
            connection.execute("SET lock_configuration = true")
            try:
                statements = connection.extract_statements(query)
                if [s.type for s in statements] != [duckdb.StatementType.SELECT]:
                    raise UserError("sql: give one query that reads, such as: select * from jobs")
                return connection.sql(query).to_arrow_table()
            except duckdb.Error as error:
                raise UserError(f"sql: {str(error).strip().splitlines()[0]}") from None

    def done(self) -> set[str]:
        """Ids of the jobs whose results are stored and whole."""
        jobs = self.reader.table("jobs", ["job_id", "status"])
        done = jobs.filter(pc.equal(jobs["status"], "done"))["job_id"].to_pylist()
        return set(done) & set(self.reader.table("results", ["job_id"])["job_id"].to_pylist())

    def failures(self) -> dict[str, str]:
        """Failed jobs that no later attempt has done: job_id to error."""
        jobs = self.reader.table("jobs", ["job_id", "status", "error"])
        failed = jobs.filter(pc.equal(jobs["status"], "failed"))
        return dict(zip(failed["job_id"].to_pylist(), failed["error"].to_pylist(), strict=True))

    def models(self) -> list[str]:
        """Names of all models with a baseline, in alphabetical order."""
        return sorted({row["model"] for row in self._baselines.values()}, key=str.casefold)

    def model_ids(self, name: str) -> set[str]:
        """The model_ids that a name or id stands for. Raises UserError with the nearest names."""
        rows = self._baselines.values()
        ids = {r["model_id"] for r in rows if name in (r["model"], r["model_id"], r["weights_id"])}
        if not ids:
            known = choices(name, self.models()) if rows else "it has no baselines yet"
            raise UserError(f"no model {name!r} in the store {self.uri}; {known}")
        return ids

    def baselines(self) -> pa.Table:
        """One row for each model and data set, the most accurate first."""
        table = self.reader.table("baselines").drop_columns(["correct"])
        return table.sort_by([("data_id", "ascending"), ("top1", "descending")])

    def partners(
        self, model: str, objective: str | None = None, selection: str = "last"
    ) -> pa.Table:
        """The partners of a model, best first, with intervals, net Δ, recovered % and ties.

        objective: its label, or its name if only one in the store has it. Columns: `GAINS`.
        Raises UserError for a model or objective that is not in the store.
        """
        return self._gains(self.model_ids(model), objective, selection)

    def gains(self, objective: str | None = None, selection: str = "last") -> pa.Table:
        """What every model gained with every partner set; as `partners`, for the whole zoo."""
        return self._gains(None, objective, selection)

    def controls(self, selection: str = "last", objective: str = "ce") -> pa.Table:
        """What every model gained without a partner; columns as `partners`.

        objective: `ce`, or `self` (taught by its own frozen start).
        """
        rows = []
        for key, by_seed in self._alone(selection, objective).items():
            data_id, _, model_id = key
            rows.append(gain_row(list(by_seed.values()), key, self._baselines[data_id, model_id]))
        return pa.Table.from_pylist(rows, GAINS)

    def groups(self, objective: str | None = None, selection: str = "last") -> pa.Table:
        """How a model's gain grows with the number of models that train together.

        One row for each model and size, the mean over all such groups. Columns: `GROWTH`.
        """
        controls, rows = self._alone(selection, "ce"), []
        for (data_id, recipe_id, _, model_id), by_partners in self._grouped(
            None, objective, selection
        ).items():
            key = (data_id, recipe_id, model_id)
            for size in sorted({len(partners) for partners in by_partners}):
                found = [r for p, seeds in by_partners.items() if len(p) == size for r in seeds]
                baseline = self._baselines[data_id, model_id]
                rows.append(growth_row(found, key, baseline, controls.get(key)))
        order = [(name, "ascending") for name in ("data_id", "recipe_id", "objective", "model")]
        return pa.Table.from_pylist(rows, GROWTH).sort_by([*order, ("size", "ascending")])

    def classes(
        self, model: str, objective: str | None = None, selection: str = "last"
    ) -> pa.Table:
        """What a model gained and lost class by class, with every partner. Columns: `CLASSES`."""
        controls, rows = self._alone(selection, "ce"), []
        for (data_id, recipe_id, _, model_id), by_partners in self._grouped(
            self.model_ids(model), objective, selection
        ).items():
            key, baseline = (data_id, recipe_id, model_id), self._baselines[data_id, model_id]
            where = (pc.field("model_id") == model_id) & (pc.field("data_id") == data_id)
            stored = self.reader.table("predictions", ["sample", "label"], where)
            labels = stored.sort_by("sample")["label"].to_numpy()
            for seeds in by_partners.values():
                rows += class_rows(seeds, key, baseline, labels, controls.get(key))
        return pa.Table.from_pylist(rows, CLASSES)

    def pairs(self, objective: str | None = None, selection: str = "last") -> pa.Table:
        """One row for each unordered pair: its statistics before training and what each gained.

        A pair trained under several objectives or recipes has a row for each; one not trained
        yet has nulls there. Gains of groups of three or more are in `gains`.
        """
        gained: dict[tuple, dict[tuple, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
        for row in self.gains(objective, selection).to_pylist():
            if len(row["partner_ids"]) == 1:
                pair = (row["data_id"], frozenset((row["model_id"], row["partner_ids"][0])))
                gained[pair][row["objective"], row["recipe_id"]][row["model_id"]] = row
        alike = self._likeness()
        out, seen = [], set()
        for row in self.reader.table("pairs").to_pylist():
            pair = (row["data_id"], frozenset((row["model_id_a"], row["model_id_b"])))
            if pair in seen:
                continue
            seen.add(pair)
            for (label, recipe_id), sides in (gained.get(pair) or {(None, None): {}}).items():
                gains: Row = {"objective": label, "recipe_id": recipe_id}
                gains |= alike.get((*pair, label, recipe_id), {})
                for side in "ab":
                    learner = sides.get(row[f"model_id_{side}"], {})
                    for name in PAIR_GAINS:
                        gains[f"{name}_{side}"] = learner.get(name)
                out.append({**row, **gains})
        return pa.Table.from_pylist(out, PAIRS)

    def matrix(
        self, metric: str = "delta_top1", objective: str | None = None, selection: str = "last"
    ) -> pa.Table:
        """An N x N table of one metric: column `model`, then one column for each partner.

        Needs one combination of data, recipe and objective; raises UserError if there are more.
        """
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}; {choices(metric, METRICS)}")
        pairs = self.pairs(objective, selection).to_pylist()
        settings = {(r["data_id"], r["recipe_id"], r["objective"]) for r in pairs}
        shown = {s for s in settings if s[2] is not None} or settings
        if len(shown) > 1:
            found = ", ".join(sorted(f"{o} (data {d}, recipe {r})" for d, r, o in shown))
            raise UserError(f"one matrix shows one objective, recipe and data set; found {found}")
        data_id = next(iter(shown))[0] if shown else None
        values: dict[tuple[str, str], float | None] = {}
        for row in pairs:
            if row["data_id"] != data_id:
                continue
            a, b = row["model_id_a"], row["model_id_b"]
            if metric in SYMMETRIC:
                values[a, b] = values[b, a] = row[metric]
            else:
                values[a, b], values[b, a] = row[f"{metric}_a"], row[f"{metric}_b"]
        models = [r for r in self.baselines().to_pylist() if r["data_id"] == data_id]
        models = [r for r in models if any(r["model_id"] in pair for pair in values)]
        aliases = [r["model"] for r in models]
        names = {
            r["model_id"]: r["model"]
            + (f" ({r['model_id'][:6]})" if aliases.count(r["model"]) > 1 else "")
            for r in models
        }
        columns: dict[str, list] = {"model": list(names.values())}
        for partner, name in names.items():
            columns[name] = [values.get((learner, partner)) for learner in names]
        types = {"model": pa.string()}
        return pa.table({k: pa.array(v, types.get(k, pa.float64())) for k, v in columns.items()})

    def curves(self) -> pa.Table:
        """Mean over seeds of every member's learning curve, with its partners; done jobs only."""
        jobs = self.reader.table("jobs", ["job_id", "members", "member_ids", "status"])
        done = {row["job_id"]: row for row in jobs.to_pylist() if row["status"] == "done"}
        groups: dict[tuple, list[Row]] = defaultdict(list)
        for row in self.reader.table("curves").to_pylist():
            job = done.get(row["job_id"])
            if job is not None:
                same = (row["data_id"], row["recipe_id"], row["objective"], row["model_id"])
                mates = tuple(i for i in job["member_ids"] if i != row["model_id"])
                groups[*same, mates, row["epoch"]].append({**row, "job": job})
        out = []
        for key in sorted(groups):
            data_id, recipe_id, objective, model_id, mates, epoch = key
            rows, job = groups[key], groups[key][0]["job"]
            names = dict(zip(job["member_ids"], job["members"], strict=True))
            out.append(
                {
                    "model": rows[0]["model"],
                    "partner": " + ".join(names[i] for i in mates),
                    "objective": objective,
                    "epoch": epoch,
                    "seeds": len(rows),
                    **{name: mean(r[name] for r in rows) for name in CURVE_MEANS},
                    "data_id": data_id,
                    "recipe_id": recipe_id,
                    "model_id": model_id,
                    "partner_ids": list(mates),
                }
            )
        return pa.Table.from_pylist(out, CURVES)

    # -- the arithmetic behind the answers -------------------------------------------------

    def _likeness(self) -> dict[tuple, dict[str, float | None]]:
        """(data, pair, objective, recipe) -> the mean CCA of its jobs of two."""
        jobs = self.reader.table("jobs", ["job_id", "member_ids", "status"]).to_pylist()
        twos = {j["job_id"] for j in jobs if j["status"] == "done" and len(j["member_ids"]) == 2}
        found: dict[tuple, list[Row]] = defaultdict(list)
        for row in self.reader.table("similarities").to_pylist():
            if row["job_id"] in twos:
                pair = frozenset((row["model_id_a"], row["model_id_b"]))
                found[row["data_id"], pair, row["objective"], row["recipe_id"]].append(row)
        return {
            key: {name: mean(row[name] for row in rows) for name in LIKENESS}
            for key, rows in found.items()
        }

    @cached_property
    def _baselines(self) -> dict[tuple[str, str], Row]:
        rows = self.reader.table("baselines").to_pylist()
        return {(row["data_id"], row["model_id"]): row for row in rows}

    def _results(self, selection: str) -> list[Row]:
        known = ("last", "best_val", "best_select")
        if selection not in known:
            raise UserError(f"unknown selection {selection!r}; {choices(selection, known)}")
        where = pc.field("selection") == selection
        rows = self.reader.table("results", where=where).to_pylist()
        # a result whose baseline file is damaged says nothing until the baseline is run again
        return [r for r in rows if (r["data_id"], r["model_id"]) in self._baselines]

    def _alone(self, selection: str, objective: str) -> dict[tuple[str, str, str], dict[int, Row]]:
        """(data, recipe, model) -> seed -> the row of its job without partners."""
        found: dict[tuple[str, str, str], dict[int, Row]] = defaultdict(dict)
        for row in self._results(selection):
            if row["objective"] == objective:
                key = (row["data_id"], row["recipe_id"], row["model_id"])
                found[key][row["seed"]] = row
        return found

    def _gains(
        self, models: Iterable[str] | None, objective: str | None, selection: str
    ) -> pa.Table:
        controls, selves = (self._alone(selection, objective) for objective in ALONE)
        groups = self._grouped(models, objective, selection)
        out = []
        for key in sorted(groups, key=lambda k: (k[0], k[1], k[2], self._name(k[0], k[3]))):
            data_id, recipe_id, _, model_id = key
            learner = (data_id, recipe_id, model_id)
            control, own = controls.get(learner), selves.get(learner)
            rows = [
                gain_row(seeds, learner, self._baselines[data_id, model_id], control, own)
                for seeds in groups[key].values()
            ]
            if selection != CHOSEN_ON_VAL:
                best = best_set(differences(groups[key]), list(groups[key]))
                for partner_ids, row in zip(groups[key], rows, strict=True):
                    row["best"] = partner_ids in best
                    row["tie"] = row["best"] and len(best) > 1
            out += sorted(rows, key=lambda r: -r["delta_top1"])
        return pa.Table.from_pylist(out, GAINS)

    def _grouped(
        self, models: Iterable[str] | None, objective: str | None, selection: str
    ) -> dict[tuple, dict[tuple[str, ...], list[Row]]]:
        """(data, recipe, objective, learner) -> partners -> the rows of all seeds."""
        groups: dict[tuple, dict[tuple[str, ...], list[Row]]] = defaultdict(
            lambda: defaultdict(list)
        )
        results = [r for r in self._results(selection) if r["role"] != "control"]
        label = self._objective(objective, {r["objective"] for r in results})
        for row in results:
            if (models is None or row["model_id"] in models) and label in (None, row["objective"]):
                key = (row["data_id"], row["recipe_id"], row["objective"], row["model_id"])
                groups[key][tuple(row["partner_ids"])].append(row)
        return groups

    def _objective(self, wanted: str | None, known: set[str]) -> str | None:
        if wanted is None or wanted in known:
            return wanted
        named = [label for label in known if label.partition("(")[0] == wanted]
        if len(named) == 1:
            return named[0]
        there = choices(wanted, known) if known else "it has no trained pairs yet"
        raise UserError(f"no objective {wanted!r} in the store {self.uri}; {there}")

    def _name(self, data_id: str, model_id: str) -> str:
        return self._baselines[data_id, model_id]["model"]


PAIR_GAINS = (
    "delta_top1",
    "delta_low",
    "delta_high",
    "net_delta",
    "net_low",
    "net_high",
    "recovered",
    "top1_after",
)
LIKENESS = ("cca_before", "cca_after")
PAIRS = pa.schema(
    [
        *(f.remove_metadata() for f in SCHEMAS["pairs"] if f.name != "attempt"),
        pa.field("objective", pa.string()),
        pa.field("recipe_id", pa.string()),
        *(pa.field(name, pa.float64()) for name in LIKENESS),
        *(pa.field(f"{name}_{side}", pa.float64()) for side in "ab" for name in PAIR_GAINS),
    ]
)
CURVE_MEANS = (
    "top1",
    "train_top1",
    "train_loss",
    "ce",
    "kl",
    "teacher_share",
    *(f"case{c}" for c in (1, 2, 3, 4)),
)
CURVES = pa.schema(
    [
        ("model", pa.string()),
        ("partner", pa.string()),
        ("objective", pa.string()),
        ("epoch", pa.int64()),
        ("seeds", pa.int64()),
        *((name, pa.float64()) for name in CURVE_MEANS),
        ("data_id", pa.string()),
        ("recipe_id", pa.string()),
        ("model_id", pa.string()),
        ("partner_ids", pa.list_(pa.string())),
    ]
)
