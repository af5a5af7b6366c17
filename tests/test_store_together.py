"""Processes that write, merge and read one store at once: no row is lost, doubled or torn."""

import subprocess
import sys
from pathlib import Path

import pytest

from bikd_ray.store.compact import ORDER, compact
from bikd_ray.store.filesystem import Listing, StoreFS
from bikd_ray.store.read import Reader, is_merged
from bikd_ray.store.write import Writer
from tests.together import job_rows

ROOT = Path(__file__).parents[1]


def write(uri: str, *jobs: int) -> None:
    for job in jobs:
        rows = job_rows(job, 0)
        Writer(uri).commit_job(rows["jobs"][0], rows["results"], rows["curves"])


def sorted_rows(uri: str, table: str) -> list[str]:
    return sorted(map(str, Reader(uri).table(table).to_pylist()))


def job_ids(reader: Reader, table: str) -> list[int]:
    return sorted(int(job, 16) for job in reader.table(table, ["job_id"])["job_id"].to_pylist())


def test_eight_writers_two_compactors_and_two_readers_lose_double_and_tear_nothing(fs_uri):
    jobs = 8 if fs_uri.startswith("s3:") else 16
    command = [sys.executable, "-m", "tests.together", fs_uri, str(jobs)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)
    reader = Reader(fs_uri)
    whole = [job_rows(job, 0) for job in range(jobs)]
    assert reader.table("jobs")["status"].to_pylist() == ["done"] * jobs
    for table in ("jobs", "results", "curves"):
        assert len(reader.table(table)) == sum(len(rows[table]) for rows in whole)
        assert any(is_merged(path) for path in reader.listing(table)), table
    assert set(job_ids(reader, "jobs")) == set(range(jobs))


@pytest.mark.parametrize("overtaken", [1, 2])
def test_a_listing_that_a_merge_overtakes_misses_no_row(tmp_path, monkeypatch, overtaken):
    """A folder is not listed in one instant: a look may miss a merged file and what it replaced."""
    uri, looks, merged = str(tmp_path), [0], [False]
    write(uri, *range(6))
    listing = StoreFS.listing

    def look(fs: StoreFS, folder: str, suffix: str) -> Listing:
        before = listing(fs, folder, suffix)
        if folder != "results" or merged[0]:
            return before
        looks[0] += 1
        if looks[0] < overtaken:
            return before
        merged[0] = True
        compact(uri)
        after = listing(fs, folder, suffix)
        return {path: stamp for path, stamp in before.items() if path in after}

    monkeypatch.setattr(StoreFS, "listing", look)
    monkeypatch.setattr(StoreFS, "names", lambda *where: set(look(*where)))
    want = [job for job in range(6) for _ in job_rows(job, 0)["results"]]
    assert job_ids(Reader(uri), "results") == want
    assert merged == [True]


def test_a_job_that_is_committed_while_others_are_merged_stays(fs_uri, monkeypatch):
    write(fs_uri, *range(3))
    delete = StoreFS.delete

    def overtaken(fs: StoreFS, path: str) -> None:
        monkeypatch.setattr(StoreFS, "delete", delete)
        write(fs_uri, 3)
        delete(fs, path)

    monkeypatch.setattr(StoreFS, "delete", overtaken)
    reader = Reader(fs_uri)
    assert job_ids(reader, "jobs") == [0, 1, 2]
    compact(fs_uri)
    assert job_ids(reader, "jobs") == job_ids(Reader(fs_uri), "jobs") == [0, 1, 2, 3]
    compact(fs_uri)
    assert job_ids(Reader(fs_uri), "jobs") == [0, 1, 2, 3]


def test_merges_at_once_leave_every_row_once(fs_uri, monkeypatch):
    write(fs_uri, *range(4))
    before = {table: sorted_rows(fs_uri, table) for table in ORDER}
    delete = StoreFS.delete

    def another(fs: StoreFS, path: str) -> None:  # a whole one, before the first deletes a file
        monkeypatch.setattr(StoreFS, "delete", delete)
        compact(fs_uri)
        delete(fs, path)

    monkeypatch.setattr(StoreFS, "delete", another)
    compact(fs_uri)
    assert {table: sorted_rows(fs_uri, table) for table in ORDER} == before


def test_a_reader_passes_by_files_that_a_slow_compaction_is_still_deleting(fs_uri, monkeypatch):
    write(fs_uri, *range(4))
    before = sorted_rows(fs_uri, "results")
    delete, refuse = StoreFS.delete, Reader._refuse_newer

    with monkeypatch.context() as patch:
        patch.setattr(StoreFS, "delete", lambda fs, path: None)
        compact(fs_uri)  # merged, and nothing is deleted yet
    reader = Reader(fs_uri)
    singles = [path for path in reader.listing("results") if not is_merged(path)]
    assert len(singles) == 4

    def one_goes(reader: Reader, path: str) -> None:  # between each listing and its reading
        if singles and "/results/" in path:
            delete(reader.fs, singles.pop())
        refuse(reader, path)

    monkeypatch.setattr(Reader, "_refuse_newer", one_goes)
    assert sorted_rows(fs_uri, "results") == before
    assert len(singles) == 1  # the second reading left the other ones out
