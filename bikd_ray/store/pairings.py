"""Pairs as rows and as a matrix: what they know together, and what each gained."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bikd_ray.errors import UserError
from bikd_ray.metrics import Metric
from bikd_ray.store.answer_schemas import CASES_AFTER, LIKENESS, PAIR_GAINS
from bikd_ray.store.gains import mean
from bikd_ray.store.read import Reader, pc
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.series import Row

SYMMETRIC = (
    "error_overlap",
    "ensemble",
    "oracle",
    "correlation",
    "disagreement",
    "cca_before",
    "cca_after",
    "error_inconsistency",
    "double_fault",
    "kappa",
    "q",
    "phi",
)
SETTING = ("data_id", "objective", "recipe_id")
PAIR = ("model_id_a", "model_id_b")
AFTER = ("error_overlap_after", "case2_after")

DIRECTED = ("delta", "net_delta", "q_value", "recovered", "after")
COMPARED = (*DIRECTED, *SYMMETRIC)
"""What a pair matrix can show: directed ones have the learner as row, the partner as column."""


def pair_rows(
    reader: Reader,
    stored: Iterable[Row],
    gains: Iterable[Row],
    selection: str,
    metrics: Mapping[str, Metric],
) -> list[Row]:
    """Rows of `answers.PAIRS`.

    stored: rows of the table `pairs`, gains: of GAINS with that selection; both of the metric of
    their data set in `metrics`.
    """
    gained: dict[tuple, dict[tuple, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in gains:
        if len(row["partner_ids"]) == 1:
            pair = (row["data_id"], frozenset((row["model_id"], row["partner_ids"][0])))
            gained[pair][row["objective"], row["recipe_id"]][row["model_id"]] = row
    alike, cases = _likeness(reader), _cases_after(reader, selection)
    out, seen = [], set()
    stored = list(stored)
    compared = {_pair_of(row) for row in stored}
    untold = [row for row in _only_trained(gained) if _pair_of(row) not in compared]
    for row in sorted([*stored, *untold], key=_by_name):
        pair = _pair_of(row)
        if pair in seen:
            continue
        seen.add(pair)
        for (label, recipe_id), sides in (gained.get(pair) or {(None, None): {}}).items():
            both: Row = {"objective": label, "recipe_id": recipe_id}
            both["unit"] = metrics[row["data_id"]].unit
            both |= alike.get((*pair, label, recipe_id), {})
            both |= cases.get((*pair, label, recipe_id), {})
            for side in "ab":
                learner = sides.get(row[f"model_id_{side}"], {})
                both |= {f"{name}_{side}": learner.get(name) for name in PAIR_GAINS}
            out.append({**row, **both})
    return out


def _only_trained(gained: Mapping[tuple, Mapping[tuple, Mapping[str, Row]]]) -> list[Row]:
    """Rows of the table `pairs` that hold who it is and nothing else: for pairs whose untouched
    predictions were not compared by this metric on this set.
    """
    rows = []
    for settings in gained.values():
        one = next(row for sides in settings.values() for row in sides.values())
        both = [(one["model"], one["model_id"]), (one["partners"][0], one["partner_ids"][0])]
        (a, id_a), (b, id_b) = sorted(both, key=lambda who: (who[0].casefold(), who[1]))
        names = {"model_a": a, "model_b": b, "model_id_a": id_a, "model_id_b": id_b}
        known = {name: one[name] for name in ("data_id", "eval_set", "metric", "n")}
        rows.append(dict.fromkeys(SCHEMAS["pairs"].names) | names | known)
    return rows


def _pair_of(row: Row) -> tuple[str, frozenset[str]]:
    return row["data_id"], frozenset((row["model_id_a"], row["model_id_b"]))


def _by_name(row: Row) -> tuple[str, ...]:
    names = (row["data_id"], row["model_a"].casefold(), row["model_b"].casefold())
    return (*names, row["model_id_a"], row["model_id_b"])


def likeness(similarities: pa.Table) -> pa.Table:
    """The mean CCA of each pair, from rows of the table `similarities`: columns SETTING, the two
    model_ids in their own order, and LIKENESS.
    """
    rows = similarities.sort_by("job_id")  # the same to the last bit each time
    ends = [rows[name] for name in PAIR]
    for name, of_both in zip(PAIR, (pc.min_element_wise, pc.max_element_wise), strict=True):
        rows = rows.set_column(rows.schema.get_field_index(name), name, of_both(*ends))
    means = rows.group_by([*SETTING, *PAIR], use_threads=False)
    means = means.aggregate([(name, "mean") for name in LIKENESS])
    return means.select([*SETTING, *PAIR, *(f"{name}_mean" for name in LIKENESS)]).rename_columns(
        [*SETTING, *PAIR, *LIKENESS]
    )


def with_likeness(pairs: pa.Table, similarities: pa.Table) -> pa.Table:
    """Rows of the table `pairs` with LIKENESS; similarities: rows of one setting."""
    means = likeness(similarities).select([*PAIR, *LIKENESS])
    turned = means.rename_columns([*reversed(PAIR), *LIKENESS]).select(means.column_names)
    return pairs.join(pa.concat_tables([means, turned]), keys=[*PAIR], join_type="left outer")


def _likeness(reader: Reader) -> dict[tuple, Row]:
    """(data, pair, objective, recipe) -> the mean CCA of its jobs of two."""
    jobs = reader.committed("jobs")
    two = pc.and_(
        pc.equal(jobs["status"], "done"), pc.equal(pc.list_value_length(jobs["member_ids"]), 2)
    )
    rows = reader.table("similarities")
    twos = rows.filter(pc.is_in(rows["job_id"], value_set=jobs.filter(two)["job_id"]))
    return {
        (r["data_id"], frozenset(r[name] for name in PAIR), r["objective"], r["recipe_id"]): {
            name: r[name] for name in LIKENESS
        }
        for r in likeness(twos).to_pylist()
    }


def _cases_after(reader: Reader, selection: str) -> dict[tuple, dict[str, float | None]]:
    """(data, pair, objective, recipe) -> the mean case shares of its jobs of two after them."""
    identity = ["job_id", "data_id", "model_id", "partner_ids", "objective", "recipe_id"]
    where = (pc.field("selection") == selection) & pc.field("case1_after").is_valid()
    found: dict[tuple, dict[str, Row]] = defaultdict(dict)  # both learners of a job say the same
    for row in reader.table("results", [*identity, *CASES_AFTER], where).to_pylist():
        if len(row["partner_ids"]) == 1:
            pair = frozenset((row["model_id"], *row["partner_ids"]))
            key = (row["data_id"], pair, row["objective"], row["recipe_id"])
            found[key][row["job_id"]] = row
    return {
        key: {name: mean(row[name] for row in jobs.values()) for name in CASES_AFTER}
        for key, jobs in found.items()
    }


@dataclass(frozen=True)
class TrainedGroups:
    """How many different pairs have been trained, of how many that are known; and how many
    larger groups.
    """

    pairs: int
    of: int
    larger: int


def trained_groups(done: pa.Table, pairs: pa.Table) -> TrainedGroups:
    """done: rows of the table `jobs`. pairs: of the table `pairs`."""
    size = pc.list_value_length(done["member_ids"])
    two, larger = done.filter(pc.equal(size, 2)), done.filter(pc.greater(size, 2))
    trained = _unordered(two["data_id"], *(pc.list_element(two["member_ids"], i) for i in (0, 1)))
    known = _unordered(pairs["data_id"], *(pairs[name] for name in PAIR))
    every = pa.chunked_array([*trained.chunks, *known.chunks], pa.string())
    members = map(frozenset, larger["member_ids"].to_pylist())
    groups = set(zip(larger["data_id"].to_pylist(), members, strict=True))
    of = pc.count_distinct(every).as_py()
    return TrainedGroups(pc.count_distinct(trained).as_py(), of, len(groups))


def _unordered(data_id: Any, a: Any, b: Any) -> pa.ChunkedArray:
    """One text for each pair, the same for both orders."""
    first, second = pc.min_element_wise(a, b), pc.max_element_wise(a, b)
    return pc.binary_join_element_wise(data_id, first, second, " ")


def rows_after(results: pa.Table, a: str, b: str, untouched: Mapping[str, float]) -> list[Row]:
    """See `Store.pair_after`; untouched: a model's metric before."""
    jobs: dict[str, dict[str, float]] = {}
    both: dict[str, Row] = {}
    for learner, partner in ((a, b), (b, a)):
        for row in with_partner(results, learner, partner).to_pylist():
            if row["error_overlap_after"] is not None:
                jobs.setdefault(row["job_id"], {})[learner] = row["after"]
                both[row["job_id"]] = {name: row[name] for name in AFTER}
    return [
        {
            "score_a": after.get(a, untouched[a]),  # a frozen teacher stays as it was
            "score_b": after.get(b, untouched[b]),
            **both[job_id],
        }
        for job_id, after in jobs.items()
    ]


def one_partner(rows: pa.Table) -> tuple[pa.Table, pa.ChunkedArray]:
    """The rows of an answer with a single partner, and the model_id of that one."""
    single = rows.filter(pc.equal(pc.list_value_length(rows["partner_ids"]), 1))
    return single, pc.list_flatten(single["partner_ids"])


def with_partner(rows: pa.Table, model_id: str, partner_id: str) -> pa.Table:
    """The rows of a learner with this one partner."""
    single, partner = one_partner(rows.filter(pc.equal(rows["model_id"], model_id)))
    return single.filter(pc.equal(partner, partner_id))


def matrix(pairs: pa.Table, baselines: pa.Table, what: str) -> pa.Table:
    """One of COMPARED as an N x N table; see `Store.matrix`."""
    rows = pairs.to_pylist()
    settings = {(r["data_id"], r["recipe_id"], r["objective"]) for r in rows}
    shown = {s for s in settings if s[2] is not None} or settings
    if len(shown) > 1:
        labels = sorted({str(objective) for _, _, objective in shown})
        if len(labels) == len(shown):
            raise UserError(
                f"one matrix shows one objective; choose it with --objective: {', '.join(labels)}"
            )
        found = ", ".join(sorted(f"{o} (data {d}, recipe {r})" for d, r, o in shown))
        raise UserError(f"one matrix shows one objective, recipe and data set; found {found}")
    data_id = next(iter(shown))[0] if shown else None
    values: dict[tuple[str, str], float | None] = {}
    for row in rows:
        if row["data_id"] != data_id:
            continue
        a, b = row["model_id_a"], row["model_id_b"]
        if what in SYMMETRIC:
            values[a, b] = values[b, a] = row[what]
        else:
            values[a, b], values[b, a] = row[f"{what}_a"], row[f"{what}_b"]
    known = {i for pair in values for i in pair}
    models = [r for r in baselines.to_pylist() if r["data_id"] == data_id]
    models = [r for r in models if r["model_id"] in known]
    aliases = [r["model"] for r in models]
    names = {
        r["model_id"]: r["model"]
        # the first column is called `model`
        + (f" ({r['model_id'][:6]})" if ["model", *aliases].count(r["model"]) > 1 else "")
        for r in models
    }
    columns: dict[str, list] = {"model": list(names.values())}
    for partner, name in names.items():
        columns[name] = [values.get((learner, partner)) for learner in names]
    types = {"model": pa.string()}
    return pa.table({k: pa.array(v, types.get(k, pa.float64())) for k, v in columns.items()})
