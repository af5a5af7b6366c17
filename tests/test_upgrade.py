"""A store that version 1 wrote, `tests/golden/version-1`: its answers are what they were then.

It was written and asked by version 1 (2026-11): three models, two seeds merged, the third not.
"""

import json
import shutil
from pathlib import Path

import pytest

from bikd_ray.store import Store, Writer
from bikd_ray.store.check import check
from bikd_ray.store.compact import compact
from bikd_ray.store.schema import SCHEMAS
from tests.stores import baseline

GOLDEN = Path(__file__).parent / "golden" / "version-1"
THEN = json.loads((GOLDEN / "answers.json").read_text())
RENAMED = {
    "delta_top1": "delta",
    "top1_before": "before",
    "top1_after": "after",
    "ensemble_top1_before": "ensemble_before",
    "ensemble_top1": "ensemble",
    "oracle_top1": "oracle",
    "split": "eval_set",
    "sample_set_id": "unit_set_id",
} | {f"{old}_{side}": f"{new}_{side}" for side in "ab" for old, new in (
    ("delta_top1", "delta"), ("top1_after", "after"), ("top1", "score"))}  # fmt: skip
OF = {
    "models": {"top1": "value", "published_top1": "published"},
    "curves": {"top1": "score", "train_top1": "train_score", "ce": "loss"},
}


@pytest.fixture
def uri(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "store")
    return str(tmp_path / "store")


def answers(store: Store) -> dict:
    return {
        "partners": store.partners("a"),
        "pairs": store.pairs(),
        "curves": store.curves("a"),
        "classes": store.classes("a"),
        "flips": store.flips("a"),
        "teachers": store.teachers(),
        "groups": store.groups("a"),
        "models": store.baselines(),
    }


def same_as_then(store: Store) -> None:
    for name, table in answers(store).items():
        now = table.to_pylist()
        assert len(now) == len(THEN[name]) > 0
        for row, was in zip(now, THEN[name], strict=True):
            for column, value in was.items():
                if name == "models" and column in ("top5", "nll", "ece", "attempt"):
                    continue
                new = OF.get(name, {}).get(column) or RENAMED.get(column, column)
                if name == "teachers" and column == "measure" and value == "delta_top1":
                    value = "delta"
                assert row[new] == value, (name, column)


def test_answers_are_what_they_were(uri):
    same_as_then(Store(uri))
    assert not len(check(uri))


def test_merged_by_version_2_they_still_are(uri):
    compact(uri)
    same_as_then(Store(uri))


def test_older_metrics_are_rows_of_their_own(uri):
    store = Store(uri)
    nll = {r["model"]: r["value"] for r in store.baselines("nll").to_pylist()}
    assert nll == dict.fromkeys("abc", 0.5)
    gains = store.partners("a", metric="nll").to_pylist()
    assert [(r["delta"], r["net_low"], r["unit"]) for r in gains] == []  # this store kept none
    assert set(store.table("results")["metric"].to_pylist()) == {"top1"}
    assert store.table("baselines").num_rows == 3 * 4


@pytest.mark.parametrize("name", ["sql", "baselines"])
def test_sql_that_was_written_for_version_1_stays_true(uri, name):
    query = {
        "sql": "select model, round(avg(delta_top1), 6) as gain, count(gained) as jobs "
        "from results where selection = 'last' group by model order by model",
        "baselines": "select model, top1, top5, nll, ece, split, sample_set_id from baselines "
        "where top1 is not null order by model",
    }[name]
    assert Store(uri).sql(query).to_pylist() == THEN[name]


def test_a_store_is_gone_on_with(uri):
    """Rows of both versions lie beside each other, and a baseline that is measured again wins."""
    before = Store(uri).table("baselines").num_rows
    baseline(Writer(uri), "a", data="other")
    store = Store(uri)
    assert store.table("baselines").num_rows == before + 1
    assert len(store.table("baselines").schema) == len(SCHEMAS["baselines"])
    assert {m.name for m in store.metrics["d"]} == {"top1", "top5", "nll", "ece"}
    same_as_then_partners = Store(uri).partners("a")["delta"].to_pylist()
    assert same_as_then_partners == [row["delta_top1"] for row in THEN["partners"]]
