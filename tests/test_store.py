"""The store's answers equal plain arithmetic; its files are whole, and plain Parquet."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy import stats

from bikd_ray.errors import UserError
from bikd_ray.store import Store, Writer, open_store
from bikd_ray.store.compact import compact
from bikd_ray.store.read import Reader
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.tasks.classification_metrics import METRICS
from tests.stores import BEFORE, N, after, baseline, job, write_pair_rows


@pytest.fixture
def uri(tmp_path):
    """Three models, all pairs, controls, three seeds."""
    writer = Writer(str(tmp_path))
    for m in BEFORE:
        baseline(writer, m)
    for seed in range(3):
        for m in BEFORE:
            job(writer, {m: after(m, 0.05, seed)}, seed)
        job(writer, {"a": after("a", 0.10, seed), "b": after("b", 0.05, seed + 9)}, seed)
        job(writer, {"a": after("a", 0.30, seed), "c": after("c", 0.06, seed + 9)}, seed)
        job(writer, {"b": after("b", 0.07, seed + 5), "c": after("c", 0.07, seed + 5)}, seed)
    return str(tmp_path)


def test_partners_equal_numbers_worked_out_image_by_image(uri):
    got = {r["partner"]: r for r in open_store(uri).partners("a").to_pylist()}
    assert list(got) == ["c", "b"]
    for partner, gain in (("b", 0.10), ("c", 0.30)):
        d_SN = np.array([after("a", gain, s).astype(float) - BEFORE["a"] for s in range(3)])
        net_SN = np.array(
            [after("a", gain, s).astype(float) - after("a", 0.05, s) for s in range(3)]
        )
        for values, mean, low in (
            (d_SN, "delta", "delta_low"),
            (net_SN, "net_delta", "net_low"),
        ):
            per_image = values.mean(0)
            v1 = ((per_image**2).sum() + 3) / N - per_image.mean() ** 2
            v1, v2 = v1 / N, values.mean(1).var(ddof=1) / 3
            t = (stats.t.ppf(0.975, N - 1) * v1 + stats.t.ppf(0.975, 2) * v2) / (v1 + v2)
            assert got[partner][mean] == pytest.approx(100 * values.mean())
            assert got[partner][low] == pytest.approx(100 * (values.mean() - t * (v1 + v2) ** 0.5))
        before = 100 * BEFORE["a"].mean()
        recovered = 100 * (100 * d_SN.mean()) / (80.0 - before)
        assert got[partner]["recovered"] == pytest.approx(recovered)
    assert (got["c"]["best"], got["c"]["tie"]) == (True, False)
    assert (got["b"]["best"], got["b"]["tie"]) == (False, False)


def test_indistinguishable_partners_are_a_tie(uri):
    rows = open_store(uri).partners("b").to_pylist()
    assert [r["tie"] for r in rows] == [True, True]


def test_recipes_and_objectives_are_never_pooled(uri):
    writer = Writer(uri)
    for seed in range(2):
        job(writer, {"a": after("a", 0.2, seed), "b": after("b", 0.2, seed)}, seed, recipe="r2")
        job(
            writer,
            {"a": after("a", 0.2, seed), "b": after("b", 0.2, seed)},
            seed,
            objective="bikd(temperature=2.0)",
        )
    rows = Store(uri).partners("a").to_pylist()
    seen = [(r["recipe_id"], r["objective"], r["partner"], r["seeds"]) for r in rows]
    assert sorted(seen) == [
        ("r", "bikd", "b", 3),
        ("r", "bikd", "c", 3),
        ("r", "bikd(temperature=2.0)", "b", 2),
        ("r2", "bikd", "b", 2),
    ]
    assert [r["net_delta"] is None for r in rows if r["recipe_id"] == "r2"] == [True]
    assert len(Store(uri).partners("a", "bikd(temperature=2.0)")) == 1
    write_pair_rows(uri)
    with pytest.raises(UserError, match="one matrix shows one objective"):
        Store(uri).matrix()


def test_pairs_hold_statistics_before_training_and_both_gains_after(uri):
    write_pair_rows(uri)
    rows = {(r["model_a"], r["model_b"]): r for r in Store(uri).pairs().to_pylist()}
    assert len(rows) == 3
    partners = {r["partner"]: r for r in Store(uri).partners("a").to_pylist()}
    assert rows["a", "b"]["delta_a"] == partners["b"]["delta"]
    assert rows["a", "b"]["n11"] == (BEFORE["a"] & BEFORE["b"]).sum()


def test_pairs_hold_what_both_know_after_training_as_a_mean_of_their_jobs(uri):
    write_pair_rows(uri)
    assert {r["case2_after"] for r in Store(uri).pairs().to_pylist()} == {None}  # older rows
    jobs = Store(uri).table("jobs").to_pylist()
    cases = [f"case{c}_after" for c in (1, 2, 3, 4)]
    for row in jobs:
        if row["objective"] == "bikd" and row["members"] == ["a", "b"]:
            tenth = 0.1 * row["seed"]
            shares = dict(zip(cases, (0.5 + tenth, 0.3 - tenth, 0.2, 0.0), strict=True))
            old = Store(uri).table("results", where=pc.field("job_id") == row["job_id"])
            results = [{**r, **shares} for r in old.to_pylist()]
            Writer(uri).commit_job(row, results, [])
    rows = {(r["model_a"], r["model_b"]): r for r in Store(uri).pairs().to_pylist()}
    assert [rows["a", "b"][case] for case in cases] == pytest.approx([0.6, 0.2, 0.2, 0.0])
    assert rows["a", "c"]["case1_after"] is None


def test_the_matrix_has_learners_as_rows(uri):
    write_pair_rows(uri)
    store = Store(uri)
    matrix = {r.pop("model"): r for r in store.matrix("delta").to_pylist()}
    partners = {r["partner"]: r["delta"] for r in store.partners("a").to_pylist()}
    assert matrix["a"] == {"a": None, **partners}
    overlap = {r.pop("model"): r for r in store.matrix("error_overlap").to_pylist()}
    assert overlap["a"]["b"] == overlap["b"]["a"]


def test_curves_are_means_over_the_seeds_of_done_jobs(uri):
    job(Writer(uri), {"a": BEFORE["a"], "b": BEFORE["b"]}, 5, status="failed")
    rows = [
        r
        for r in Store(uri).curves().to_pylist()
        if (r["model"], r["partner"], r["epoch"]) == ("a", "b", 1)
    ]
    assert [r["seeds"] for r in rows] == [3]
    want = 100 * np.mean([after("a", 0.10, s).mean() for s in range(3)])
    assert rows[0]["score"] == pytest.approx(want)


def test_unknown_names_show_the_nearest(uri, tmp_path):
    store = Store(uri)
    with pytest.raises(UserError, match=r"no model 'A'.*choose from a, b, c"):
        store.partners("A")
    with pytest.raises(UserError, match=r"no objective 'dml'.*choose from bikd"):
        store.partners("a", "dml")
    with pytest.raises(UserError, match="there is no store at"):
        open_store(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"unknown matrix 'delta_top1'.*delta"):
        store.matrix("delta_top1")
    with pytest.raises(UserError, match=r"no table 'result'.*results"):
        store.table("result")


def test_other_tools_read_the_files_without_us(uri):
    frame = pd.read_parquet(f"{uri}/results")
    assert len(frame) == 9 + 3 * 3 * 2
    count = duckdb.sql(f"select count(distinct job_id) from '{uri}/jobs/*.parquet'")
    assert count is not None
    assert count.fetchall() == [(18,)]
    meaning = pq.read_schema(next(iter(Reader(uri).fs.listing("results", ".parquet"))))
    assert meaning.field("delta").metadata[b"meaning"] == b"after less before"


def test_readers_beside_writers_see_only_whole_jobs(tmp_path):
    writer, uri = Writer(str(tmp_path)), str(tmp_path)
    for m in BEFORE:
        baseline(writer, m)

    def write(i: int) -> None:
        pair = {"a": after("a", 0.1, i), "b": after("b", 0.1, i)}
        job(Writer(uri), pair, i % 20)  # every job twice

    def read(_: int) -> None:
        results = Store(uri).table("results").select(["job_id"]).to_pylist()
        count = pd.Series([r["job_id"] for r in results]).value_counts()
        assert set(count) <= {2}

    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(write, i) for i in range(40)]
        reads = [pool.submit(read, i) for i in range(15)]
        for future in [*writes, *reads]:
            future.result()
    assert len(Store(uri).done()) == 20
    assert Store(uri).table("results").num_rows == 40
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


COUNTED = {"sample": 0, "classes": [1], "labelled": [9], "right": [5], "predicted": [5]}
SEEN = {"sample": 0, "video": 0, "frame": 3, "cc": 0.5}


def of_each_sample(writer: Writer, kind: str, metric: str, row: dict[str, Any]) -> None:
    """A baseline and a job whose answers are kept sample by sample."""
    of_model = {"model": "m", "model_id": f"id-{kind}", "weights_id": "w-m", "eval_set": "val"}
    of_job = {"model_id": f"id-{kind}", "selection": "last", "eval_set": "val"}
    table = f"result_{kind}"

    def rows_of(name: str, row: dict[str, Any]) -> pa.Table:
        schema = SCHEMAS[name]
        left = [own for own in ("job_id", "data_id", "attempt") if own in schema.names]
        return pa.Table.from_pylist([row], schema).drop_columns(left)

    rows = rows_of(table, of_job | row)
    none = {name: dict.fromkeys(SCHEMAS[name].names) for name in ("baselines", "models", "jobs")}
    writer.commit_baseline(
        [none["baselines"] | of_model | {"data_id": "d", "metric": metric}],
        none["models"] | of_model | {"data_id": "d"},
        rows.drop_columns(["model_id", "selection", "eval_set"]),
        kind,
    )
    done = {"job_id": f"of-{kind}", "data_id": "d", "status": "done"}
    shown = rows_of("pictures", {"model_id": f"id-{kind}", "sample": 0, "image": b"webp"})
    statistics = {table: rows, "pictures": shown}
    writer.commit_job(none["jobs"] | done, [], [], statistics=statistics)


def test_every_row_of_every_table_says_its_data_set_and_attempt(uri):
    write_pair_rows(uri)
    Writer(uri).write_metrics("d", "classification", METRICS)
    decision = {"data_id": "d", "model_id": "id-a", "job_ids": ["1"], "reasons": ["start"]}
    Writer(uri).write_decision([dict.fromkeys(SCHEMAS["decisions"].names) | decision])
    of_each_sample(Writer(uri), "counts", "miou", COUNTED)
    of_each_sample(Writer(uri), "frames", "cc", SEEN)
    store = Store(uri)
    for name, schema in SCHEMAS.items():
        assert {"data_id", "attempt"} <= set(schema.names)
        assert store.table(name).num_rows, name
        assert store.table(name)["data_id"].null_count == 0
        assert store.table(name)["attempt"].null_count == 0


def test_json_lists_what_scripts_rely_on(uri, capsys):
    from bikd_pipelines.tables import print_table

    print_table(Store(uri).partners("a"), "json", "partners")
    rows = json.loads(capsys.readouterr().out)
    names = {"partner", "delta", "delta_low", "delta_high", "net_delta", "recovered", "tie"}
    assert all(names <= set(row) for row in rows)
    print_table(Store(uri).partners("a"), "csv", "partners")
    frame = pd.read_csv(__import__("io").StringIO(capsys.readouterr().out))
    assert frame["delta"].tolist() == pytest.approx([r["delta"] for r in rows])


def test_groups_show_how_a_gain_grows_with_their_size(uri):
    writer = Writer(uri)
    for seed in range(3):
        job(writer, {m: after(m, 0.4, seed) for m in BEFORE}, seed)
    rows = Store(uri).groups().to_pylist()
    assert [(r["model"], r["size"], r["groups"]) for r in rows] == [
        (m, size, groups) for m in BEFORE for size, groups in ((2, 2), (3, 1))
    ]
    two, three = rows[:2]
    alone = np.mean([after("a", 0.05, s) for s in range(3)]) - BEFORE["a"].mean()
    for row, gains in ((two, (0.10, 0.30)), (three, (0.4,))):
        gain = np.mean([after("a", g, s) for g in gains for s in range(3)]) - BEFORE["a"].mean()
        assert row["delta"] == pytest.approx(100 * gain)
        assert row["control_delta"] == pytest.approx(100 * alone)
        assert row["net_delta"] == pytest.approx(100 * (gain - alone))
        assert row["delta_low"] < row["delta"] < row["delta_high"]
        assert row["seeds"] == 3


def test_classes_show_gains_class_by_class(tmp_path):
    writer = Writer(str(tmp_path))
    labels = np.arange(N) % 3
    for m in BEFORE:
        baseline(writer, m, labels=labels)
    ends = {m: after(m, 0.2, 0) for m in ("a", "b")}
    job(writer, ends, 0)
    job(writer, {"a": after("a", 0.05, 0)}, 0)
    rows = Store(str(tmp_path)).classes("a").to_pylist()
    assert [row["label"] for row in rows] == [0, 1, 2]
    for row in rows:
        of = labels == row["label"]
        before, alone = BEFORE["a"][of].mean(), after("a", 0.05, 0)[of].mean()
        assert row["n"] == of.sum()
        assert row["partner"] == "b"
        assert row["before"] == pytest.approx(100 * before)
        assert row["delta"] == pytest.approx(100 * (ends["a"][of].mean() - before))
        assert row["control_delta"] == pytest.approx(100 * (alone - before))


@pytest.mark.parametrize("merged", [False, True])
def test_files_of_an_older_schema_are_read_with_nulls_where_they_lack_a_column(tmp_path, merged):
    """Beside files of today, and after both have been merged."""
    uri = str(tmp_path / "store")
    for model in "ab":
        baseline(Writer(uri), model)
    for seed in (0, 1):
        job(Writer(uri), {m: BEFORE[m] for m in "ab"}, seed)
    store = Store(uri)
    whole = store.table("results").num_rows
    path = next(iter(Reader(store.uri).fs.listing("results", ".parquet")))
    older = pq.read_table(path).drop_columns(["after", "weights"])
    pq.write_table(older, path)
    if merged:
        compact(uri)
    rows = Store(uri).table("results").to_pylist()
    assert len(rows) == whole
    lacking = {row["job_id"] for row in rows if row["after"] is None}
    assert lacking == {older["job_id"][0].as_py()}
    assert Store(uri).partners("a")["seeds"].to_pylist() == [2]


def test_curves_are_plain_means_over_the_seeds(tmp_path):
    uri = str(tmp_path / "store")
    for model in "ab":
        baseline(Writer(uri), model)
    for seed in range(3):
        job(Writer(uri), {m: BEFORE[m] for m in "ab"}, seed)
        job(Writer(uri), {"a": BEFORE["a"]}, seed)
    store = Store(uri)
    jobs = {row["job_id"]: row["members"] for row in store.table("jobs").to_pylist()}
    found = store.curves().to_pylist()
    assert len({(row["model"], row["partner"], row["epoch"]) for row in found}) == len(found) == 6
    for row in found:
        members = sorted(["a", "b"]) if row["partner"] else ["a"]
        same = [
            r
            for r in store.table("curves").to_pylist()
            if (r["model"], r["epoch"]) == (row["model"], row["epoch"])
            and sorted(jobs[r["job_id"]]) == members
        ]
        assert row["seeds"] == len(same) == 3
        for name in ("score", "loss"):
            values = [r[name] for r in same if r[name] is not None]
            assert row[name] == (pytest.approx(sum(values) / len(values)) if values else None)
    assert store.curves("a").num_rows == sum(row["model"] == "a" for row in found)
