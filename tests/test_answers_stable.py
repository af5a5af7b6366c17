"""Answers depend on results alone: not on where rows lie, nor on what a model used to be called."""

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bikd_dashboards.snapshot import Limits, SettingView, Snapshot
from bikd_ray.errors import BikdError, UserError
from bikd_ray.store import Store, Writer
from bikd_ray.store.read import MERGED
from tests.stores import after, baseline, job, write_pair_rows
from tests.synthetic import World, made, zoo

BOTH = [("model_id_a", "ascending"), ("model_id_b", "ascending")]
FEW = ("ResNet", "ViT", "Mixer", "ConvNeXt")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    """Few images, so that many partners tie exactly."""
    return made(tmp_path_factory.mktemp("small"), World(FEW, n=40, churn=0.1))


def every_answer(uri: str) -> dict[str, list[dict]]:
    store = Store(uri)
    asked = {
        name: getattr(store, name)()
        for name in ("gains", "controls", "flips", "pairs", "groups", "teachers", "curves")
    }
    asked |= {f"partners {m}": store.partners(m) for m in FEW}
    asked |= {f"classes {m}": store.classes(m) for m in FEW}
    asked["baselines"] = store.baselines().drop_columns("attempt")
    now = Snapshot(Store(uri))
    view = SettingView(now, now.settings[0], Limits(100, 100, 100, 100, 100))
    asked["likeness"] = view.pairs.drop_columns("attempt").sort_by(BOTH)
    return {name: table.to_pylist() for name, table in asked.items()}


def rearranged(source: str, folder: Path, seed: int) -> str:
    """The same rows in another order, a part of them in two files, a part of them twice."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("_work"))  # kept answers
    random = np.random.default_rng(seed)
    for path in sorted(folder.rglob(f"{MERGED}*.parquet")):
        table = pq.read_table(path)
        table = table.take(random.permutation(len(table)))
        half = len(table) // 2
        pq.write_table(table.slice(half), path)
        # a merge that was killed: what it had written stands beside what it was made of
        pq.write_table(
            table.slice(0, half + half // 2), path.with_name(f"{MERGED}1{path.name[8:]}")
        )
    return str(folder)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_order_of_stored_rows_changes_no_answer(small, tmp_path, seed):
    want = every_answer(small)
    got = every_answer(rearranged(small, tmp_path / "other", seed))
    for name, rows in want.items():
        assert got[name] == rows, name  # exactly, in the same order


def test_a_cross_fit_is_the_mean_over_candidates_that_tie():
    from bikd_ray.analysis.bits import pack, stack
    from bikd_ray.analysis.scores import Bits
    from bikd_ray.analysis.significance import cross_fitted

    before = np.zeros(64, bool)
    one, other = before.copy(), before.copy()
    one[:32], other[32:] = True, True
    for order in ((one, other), (other, one), (one, one), (other, other)):
        bits = stack([pack(v) for v in (before, *order)])
        # each half chooses who gained more on it; where both gained as much, both are measured
        found = cross_fitted(Bits(bits, 64), np.array([[1], [2]]), 0)
        if order[0] is order[1]:
            assert found == pytest.approx(50, abs=1e-9)
        else:
            assert found == pytest.approx(
                cross_fitted(Bits(bits[[0, 2, 1]], 64), np.array([[1], [2]]), 0)
            )


@pytest.mark.parametrize(("skill", "points"), [(0.0, 100.0), (1.0, 0.0)])
def test_intervals_end_where_no_accuracy_can_be(tmp_path, skill, points):
    """A model at 0 % that learns all, and one at 100 % that can gain nothing."""
    n = 20
    from bikd_ray.analysis.bits import pack

    uri, writer = str(tmp_path), Writer(str(tmp_path))
    row = {"model": "w", "model_id": "id-w", "weights_id": "w", "data_id": "d"}
    right = np.full(n, bool(skill))
    ids = {name: row[name] for name in ("model", "model_id", "weights_id", "data_id")}
    predictions = {name: pa.nulls(n) for name in ("predicted", "label_prob", "top_classes")}
    predictions |= {"sample": range(n), "label": [0] * n, "top_probs": pa.nulls(n)}
    measured = {
        "n": n,
        "value": 100 * skill,
        "metric": "top1",
        "eval_set": "val",
        "bits": pack(right),
        "unit_set_id": "s",
    }
    writer.commit_baseline([{**row, **measured}], ids, pa.table(predictions))
    for members, objective in ((["w"], "ce"), (["w", "v"], "bikd")):
        run = {"job_id": objective, "objective": objective, "seed": 0, "recipe_id": "r"}
        run |= {"data_id": "d"}
        result = {
            **run,
            **ids,
            "partners": members[1:],
            "partner_ids": members[1:],
            "role": "peer" if members[1:] else "control",
            "selection": "last",
            "n": n,
            "before": 100 * skill,
            "delta": points if members[1:] else 0.0,
            "metric": "top1",
            "eval_set": "val",
            "bits": pack(right | (points > 0) if members[1:] else right),
        }
        ends = {"members": members, "member_ids": ["id-w", *members[1:]], "status": "done"}
        writer.commit_job({**run, **ends}, [result], [])
    (found,) = Store(uri).partners("w").to_pylist()
    assert found["delta"] == points
    assert found["delta_low"] >= -100 * skill
    assert found["delta_high"] <= 100 - 100 * skill
    assert -100 <= found["net_low"] <= found["net_delta"] <= found["net_high"] <= 100
    (growth,) = Store(uri).groups("w").to_pylist()
    assert growth["delta_high"] <= 100 - 100 * skill


def test_classes_say_the_role_and_why_there_are_none(small, tmp_path):
    assert {row["role"] for row in Store(small).classes("ViT").to_pylist()} == {"peer"}
    shutil.copytree(small, tmp_path / "gone")
    for path in (tmp_path / "gone" / "predictions").glob("id-001*"):
        path.unlink()
    store = Store(str(tmp_path / "gone"))
    with pytest.raises(BikdError, match=r"predictions of ViT .* no longer in the store") as caught:
        store.classes("ViT")
    assert not isinstance(caught.value, UserError)  # nobody's mistake: exit code 1
    assert len(store.classes("ResNet"))


def test_a_model_may_be_called_model(tmp_path):
    names = ("model", "other")
    store = Store(made(tmp_path, World(names, n=50)))
    (first, second) = store.matrix("error_overlap").to_pylist()
    assert len(store.matrix("error_overlap").column_names) == 3
    named = [row["model"] for row in (first, second)]
    assert sorted(name.split(" ")[0] for name in named) == ["model", "other"]
    assert first[named[1]] == second[named[0]]


# -- names -----------------------------------------------------------------------------


@pytest.fixture
def uri(tmp_path) -> str:
    writer = Writer(str(tmp_path))
    for m in "abc":
        baseline(writer, m)
    for a, b in combinations("abc", 2):
        job(writer, {m: after(m, 0.1, 0) for m in (a, b)}, 0)
    write_pair_rows(str(tmp_path))
    return str(tmp_path)


def rename(uri: str, **names: str) -> None:
    """As a sweep does with a spec that calls models otherwise."""
    store = Store(uri)
    ids = {new: f"id-{first}" for first, new in names.items()}
    assert set(store.renamed(ids)) == set(ids)
    Writer(uri).write_names(store.table("models"), {i: new for new, i in ids.items()})


def test_the_newest_name_answers_everywhere_and_the_old_one_finds_it(uri, caplog):
    want = Store(uri).partners("a").to_pylist()
    rename(uri, a="MyViT")
    store = Store(uri)
    got = store.partners("MyViT").to_pylist()
    assert caplog.messages == ["MyViT was a"]
    assert got == [{**row, "model": "MyViT"} for row in want]
    assert Store(uri).partners("a").to_pylist() == got
    assert caplog.messages[1:] == ["what was a is now MyViT"]
    assert {row["partner"] for row in store.partners("b").to_pylist()} == {"MyViT", "c"}
    assert store.models() == ["b", "c", "MyViT"]
    pairs = store.pairs().to_pylist()
    assert {row["model_a"] for row in pairs} | {row["model_b"] for row in pairs} == {
        "MyViT",
        "b",
        "c",
    }
    assert {r["partner"] for r in store.curves("b").to_pylist()} == {"MyViT", "c"}
    assert store.sql("select distinct model from results where model_id = 'id-a'").to_pylist() == [
        {"model": "MyViT"}
    ]
    assert sorted({m for row in store.table("jobs").to_pylist() for m in row["members"]}) == [
        "MyViT",
        "b",
        "c",
    ]
    rename(uri, a="Third")
    caplog.clear()
    assert Store(uri).partners("MyViT").to_pylist()[0]["model"] == "Third"
    assert Store(uri).partners("a").to_pylist()[0]["model"] == "Third"
    assert caplog.messages == ["what was MyViT is now Third", "what was a is now Third"]


def test_swapped_names_are_those_of_the_newest_spec_and_it_is_said(uri, caplog):
    rename(uri, a="b", b="a")
    rows = Store(uri).partners("a").to_pylist()
    assert {row["model_id"] for row in rows} == {"id-b"}
    assert {row["partner"]: row["partner_ids"] for row in rows} == {"b": ["id-a"], "c": ["id-c"]}
    assert caplog.messages == ["what was a is now b", "a was b"]


def test_rows_of_a_job_keep_the_names_that_they_were_written_with(uri):
    rename(uri, a="MyViT")
    written = Store(uri).as_written("jobs").to_pylist()
    assert {name for row in written for name in row["members"]} == {"a", "b", "c"}


def test_names_of_many_models_are_told_apart(tmp_path):
    names = zoo(12)
    uri = made(tmp_path, World(names, n=40, seeds=1))
    turned = dict(zip(names, [*names[1:], names[0]], strict=True))  # each has its neighbour's name
    world = World(names)
    new = {world.id_of(old): name for old, name in turned.items()}
    Writer(uri).write_names(Store(uri).table("models"), new)
    store = Store(uri)
    for old, name in turned.items():
        rows = store.partners(name).to_pylist()
        assert {row["model_id"] for row in rows} == {world.id_of(old)}
        for row in rows:
            assert row["partner"] == new[row["partner_ids"][0]]


def test_plan_and_status_say_that_a_spec_calls_a_model_otherwise(uri):
    from bikd_pipelines.planning import take_names

    store = Store(uri)
    assert take_names(None, store) == []
    assert store.renamed({"MyViT": "id-a", "b": "id-b", "new": "id-new"}) == {"MyViT": "a"}
    rename(uri, a="MyViT")
    assert take_names(None, Store(uri)) == ["MyViT was a"]
    assert Store(uri).former_names(["id-b"]) == []
