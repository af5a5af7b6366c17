"""Merging small files changes no answer, whatever happens beside it and wherever it stops."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bikd_ray.store import Store, Writer
from bikd_ray.store.compact import GRACE, ORDER, MergeSizes, compact
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.read import Reader
from tests import stores
from tests.stores import BEFORE, after, answers, baseline


def job(writer: Writer, members: dict, seed: int, **how) -> str:
    return stores.job(writer, members, seed, statistics=answers(members), **how)


@pytest.fixture
def uri(tmp_path):
    writer = Writer(str(tmp_path))
    for m in BEFORE:
        baseline(writer, m)
    for seed in range(2):
        for m in BEFORE:
            job(writer, {m: after(m, 0.05, seed)}, seed)
        job(writer, {"a": after("a", 0.10, seed), "b": after("b", 0.05, seed + 9)}, seed)
    return str(tmp_path)


def files(uri: str, table: str) -> list[str]:
    return list(Reader(uri).listing(table))


def tables(uri: str) -> dict[str, list]:
    return {
        name: sorted(Store(uri).table(name).to_pylist(), key=str) for name in (*ORDER, "baselines")
    }


def test_answers_are_the_same_from_one_file_a_table(uri):
    before, partners = tables(uri), Store(uri).partners("a")
    counts = [2 if table == "similarities" else 8 for table in ORDER]
    assert [len(files(uri, table)) for table in ORDER] == counts
    assert {"result_counts", "pictures"} <= {*ORDER}
    done = compact(uri).to_pylist()
    assert [(m["table"], m["files"], m["into"]) for m in done] == [
        (table, count, 1) for table, count in zip(ORDER, counts, strict=True)
    ]
    assert [len(files(uri, table)) for table in ORDER] == [1] * len(ORDER)
    assert tables(uri) == before
    assert Store(uri).partners("a") == partners
    assert not any(compact(uri)["files"].to_pylist())  # nothing is left to merge


def test_a_store_that_is_open_goes_on_through_a_compaction(uri):
    store = Store(uri)
    before = store.partners("a")
    compact(uri)
    assert store.partners("a") == before
    job(Writer(uri), {"a": after("a", 0.2, 7), "c": after("c", 0.2, 7)}, 0)
    assert set(store.partners("a")["partner"].to_pylist()) == {"b", "c"}
    compact(uri)
    assert [len(files(uri, table)) for table in ORDER] == [1] * len(ORDER)
    assert set(store.partners("a")["partner"].to_pylist()) == {"b", "c"}


@pytest.mark.parametrize("deletions", [0, 1, 3, 18, 27, 34])
def test_an_interrupted_merge_leaves_repetitions_that_are_read_once(uri, monkeypatch, deletions):
    before, left = tables(uri), [deletions]
    delete = StoreFS.delete

    def dies(fs, path):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(fs, path)

    with monkeypatch.context() as patch:
        patch.setattr(StoreFS, "delete", dies)
        with pytest.raises(KeyboardInterrupt):
            compact(uri)
    assert tables(uri) == before
    compact(uri)
    assert tables(uri) == before
    assert [len(files(uri, table)) for table in ORDER] == [1] * len(ORDER)


def test_two_merges_of_the_same_files_are_read_once(uri, tmp_path):
    before = tables(uri)
    kept = {path: (tmp_path / path).read_bytes() for t in ORDER for path in files(uri, t)}
    compact(uri)
    for path, content in kept.items():  # the other one had read them all before they went
        (tmp_path / path).write_bytes(content)
    compact(uri)
    for path, content in kept.items():
        (tmp_path / path).write_bytes(content)
    assert tables(uri) == before


def test_what_is_not_committed_or_damaged_is_left_alone(uri, tmp_path):
    job(Writer(uri), {"c": after("c", 0.5, 5)}, 5, commit=False)
    uncommitted = next(p for p in files(uri, "results") if p.endswith("-x.parquet"))
    torn = next(p for p in files(uri, "results") if "bikd" in p)
    (tmp_path / torn).write_bytes(b"PAR1 torn")
    compact(uri)
    left = files(uri, "results")
    assert uncommitted in left
    assert torn in left
    assert len(left) == 3


def test_merged_rows_lie_by_model_so_that_a_question_reads_few_of_them(uri):
    compact(uri, MergeSizes(group=1))
    (path,) = files(uri, "results")
    file = pq.ParquetFile(path)
    models = pa.concat_tables(
        [file.read_row_group(i, ["model_id"]) for i in range(file.num_row_groups)]
    )["model_id"].to_pylist()
    assert file.num_row_groups == len(models)
    assert models == sorted(models)


def test_large_files_are_not_merged_again(uri):
    assert not any(compact(uri, MergeSizes(small=1))["files"].to_pylist())
    results = compact(uri, MergeSizes(large=60_000)).to_pylist()[0]
    assert 1 < results["into"] < results["files"]


def later() -> float:
    """A clock by which no reader is left of today's."""
    return time.time() + GRACE + 1


def attempts(uri: str, table: str) -> list[str]:
    return [path.rpartition("/")[2].removesuffix(".parquet") for path in files(uri, table)]


def test_attempts_that_others_replaced_are_dropped_when_no_reader_can_believe_them(uri):
    writer = Writer(uri)
    again = {"a": after("a", 0.1, 0), "c": after("c", 0.1, 0)}
    for status in ("failed", "done", "done"):  # fails, is done, and done again by another sweep
        job(writer, again, 0, job_id="again", status=status)
    job(writer, again, 1, job_id="lost", status="failed")
    job(writer, again, 2, job_id="begun", commit=False)
    before = tables(uri)
    compact(uri)
    assert sum("again" in name for name in attempts(uri, "jobs")) == 2  # too young to go
    compact(uri, now=later)
    for table in ORDER:
        assert not any("again" in name for name in attempts(uri, table)), table
        rows = sum(pq.read_metadata(path).num_rows for path in files(uri, table))
        assert rows == len(before[table]) + 2 * (table == "results"), table  # and those of "begun"
    assert tables(uri) == before
    assert any("begun" in name for name in attempts(uri, "results"))  # its commit may yet come


def test_a_merged_file_loses_its_replaced_attempts_at_its_next_merge(uri):
    writer, members = Writer(uri), {"a": after("a", 0.1, 0), "c": after("c", 0.1, 0)}
    job(writer, members, 0, job_id="again", status="failed")
    compact(uri)
    job(writer, members, 0, job_id="again")
    compact(uri, now=later)
    (path,) = files(uri, "jobs")
    kept = pq.read_table(path, columns=["job_id", "status"]).to_pylist()
    assert [row["status"] for row in kept if row["job_id"] == "again"] == ["done"]
