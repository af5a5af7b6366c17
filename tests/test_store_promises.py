"""What the store promises wherever it lies: the commit rule, damage left out, one clear line."""

import dataclasses
import os
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bikd_pipelines import cli
from bikd_ray.errors import BikdError, UserError
from bikd_ray.store import Store, Writer, open_store
from bikd_ray.store.check import check
from bikd_ray.store.compact import compact
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import Lease
from tests.stores import after, baseline, job


@pytest.fixture
def uri(fs_uri):
    """Two models, their pair, their controls."""
    writer = Writer(fs_uri)
    for m in ("a", "b"):
        baseline(writer, m)
        job(writer, {m: after(m, 0.05, 0)}, 0)
    pair(writer)
    return fs_uri


def pair(writer: Writer, seed: int = 0, **how) -> str:
    return job(writer, {"a": after("a", 0.10, 0), "b": after("b", 0.05, 9)}, seed, **how)


def replace(uri: str, table: str, job_id: str, size: int) -> None:
    """Cut a job's file to so many bytes."""
    fs = StoreFS.at(uri)
    path = next(path for path in fs.listing(table, ".parquet") if job_id in path)
    fs.write(path.removeprefix(f"{fs.root}/"), fs.read_path(path)[:size])


def test_a_repeated_job_counts_once_the_newest_attempt_done_before_failed(uri):
    store, writer = Store(uri), Writer(uri)
    before = store.partners("a").to_pylist()
    again = pair(writer)
    assert store.partners("a").to_pylist() == before
    pair(writer, status="failed")
    assert store.partners("a").to_pylist() == before
    assert again in store.done()
    assert again not in store.failures()
    assert store.table("jobs").num_rows == 3


def test_rows_without_their_commit_do_not_exist(uri):
    store = Store(uri)
    before = store.table("results").num_rows
    ghost = pair(Writer(uri), seed=7, commit=False)
    assert ghost not in store.done()
    assert store.table("results").num_rows == before


def test_a_failed_job_is_a_row_with_its_error(uri):
    failed = pair(Writer(uri), seed=8, status="failed")
    store = Store(uri)
    assert store.failures() == {failed: "boom"}
    assert failed not in store.done()


def test_a_damaged_file_is_left_out_and_its_job_is_to_be_done_again(uri, caplog):
    job_id = pair(Writer(uri), seed=1)
    assert job_id in Store(uri).done()
    replace(uri, "results", job_id, 100)
    store = Store(uri)
    assert len(store.done()) == 3
    assert job_id not in store.done()
    assert caplog.text.count("is damaged") == 1
    assert store.partners("a")["seeds"].to_pylist() == [1]


def test_a_file_of_a_newer_schema_is_refused_by_name(uri):
    table = pa.table({"job_id": [1]}).replace_schema_metadata({"bikd_schema": "99"})
    pq.write_table(table, sink := pa.BufferOutputStream())
    StoreFS.at(uri).write("jobs/x-ffffffffffff-00000000.parquet", memoryview(sink.getvalue()))
    with pytest.raises(UserError, match=r"schema 99.*install a newer bikd-ray"):
        Store(uri).done()


def test_sql_reads_every_table_and_writes_nothing(uri, tmp_path):
    store = Store(uri)
    got = store.sql("select count(*) as jobs from jobs where status = 'done'")
    assert got.to_pylist() == [{"jobs": 3}]
    copy = f"copy jobs to '{tmp_path}/x.csv'"
    for bad in (
        copy,
        "select * from nothing",
        "drop view jobs",
        "create table x(a int)",
        "",
        "-- ",
    ):
        with pytest.raises(UserError, match="sql: "):
            store.sql(bad)
    assert not (tmp_path / "x.csv").exists()


def test_states_that_no_sweep_is_at_are_named(uri):
    fs, lease = StoreFS.at(uri), Lease(StoreFS.at(uri), "sweep")
    done = min(Store(uri).done())
    lease.say(frozenset({"running"}))
    for job_id in (done, "cut-off", "running"):
        fs.write(f"_work/{job_id}/models-1-0-50.pt", b"state")
    found = {row["path"].split("/")[-2]: row for row in check(uri).to_pylist()}
    assert found.keys() == {done, "cut-off"}
    assert {row["severity"] for row in found.values()} == {"note"}
    assert found[done]["remedy"] == "delete it"
    assert found["cut-off"]["remedy"].startswith("run the spec again")


def test_half_written_files_of_killed_writers_go_when_they_are_old(tmp_path):
    uri, hour = str(tmp_path), 3600
    baseline(Writer(uri), "a")
    old, young = (tmp_path / "weights" / f".w.{x}.tmp" for x in ("old", "young"))
    old.parent.mkdir()
    for path in (old, young):
        path.write_bytes(b"half")
    then = time.time() - 2 * hour
    os.utime(old, (then, then))
    compact(uri)
    assert [path.name for path in old.parent.iterdir()] == [young.name]


def test_a_folder_goes_with_what_is_in_it(fs_uri):
    fs = StoreFS.at(fs_uri)
    fs.write("weights/w.safetensors", b"tensors")
    assert fs.read("weights/w.safetensors") == b"tensors"
    fs.remove("weights")
    assert not fs.exists("weights")


# What is wrong with a store is one line


@pytest.fixture
def bikd(tmp_path, monkeypatch, capsys):
    """Runs a command; returns its exit code and the lines of its errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["bikd", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return int(end.value.code or 0), err.splitlines()

    return run


def test_an_empty_store_has_no_models_yet(bikd, fs_uri):
    StoreFS.at(fs_uri).write("note.txt", b"nothing else")
    code, (line,) = bikd("partners", "a", "--store", fs_uri)
    assert code == 2
    assert line.endswith(f"no model 'a' in the store {fs_uri}; it has no baselines yet")
    assert bikd("sql", "select * from jobs", "--store", fs_uri, "--format", "csv") == (0, [])


def test_a_store_that_is_not_there_is_named(bikd, fs_uri):
    code, (line,) = bikd("pairs", "--store", fs_uri)
    assert code == 2
    assert f"there is no store at {fs_uri}; run bikd sweep or bikd demo first" in line


def test_a_damaged_store_still_answers_and_says_what_it_left_out(bikd, uri, caplog):
    replace(uri, "results", "d-r-ce-a-0", 100)
    code, _ = bikd("partners", "a", "--store", uri)
    assert code == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("left out: ")
    assert said.endswith("; see bikd store check")
    assert "\n" not in said


def test_a_bucket_that_is_not_there_is_named(bikd, bucket):
    uri = bucket("there").replace("s3://there/", "s3://not-there/")
    code, (line,) = bikd("partners", "a", "--store", uri)
    assert code == 2
    assert f"there is no store at {uri}" in line
    with pytest.raises(BikdError, match=r"^cannot write not-there/in/store/x: .*does not exist$"):
        StoreFS.at(uri).write("x", b"1")


def test_without_credentials_a_private_bucket_says_access_denied(bikd, bucket, monkeypatch):
    uri = bucket("private", denied=["s3:*"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, (line,) = bikd("partners", "a", "--store", uri)
    assert code == 1
    assert line.startswith("bikd: cannot read private/in/store: ")
    assert "ACCESS_DENIED" in line


def test_a_store_that_may_only_be_read_refuses_the_first_write(bikd, bucket, spec_file):
    uri = bucket("readonly", denied=["s3:PutObject"])
    code, lines = bikd("check", spec_file(), "--fetch", "--store", uri)
    assert code in (1, 2)
    assert all(line.startswith("bikd: ") for line in lines)
    (line,) = {line for line in lines if "cannot write" in line}
    assert "cannot write readonly/in/store/weights/base/" in line
    assert "ACCESS_DENIED" in line


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writer = Writer(str(tmp_path))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BikdError, match=r"^cannot write .*/models/\w+\.parquet: No space left"):
        baseline(writer, "a")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_may_not_be_listed_is_one_line(tmp_path):
    class Refusing:
        def get_file_info(self, *_: object) -> None:
            raise PermissionError(13, "Permission denied")

    fs = dataclasses.replace(StoreFS.at(str(tmp_path)), filesystem=Refusing())
    with pytest.raises(BikdError, match=r"^cannot list .*/jobs: Permission denied$"):
        fs.listing("jobs", ".parquet")


def test_open_store_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="there is no store at"):
        open_store(str(tmp_path / "file"))
