"""What is wrong with a store's files: damaged, of another schema, or belonging to nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import at_work
from bikd_ray.store.read import Reader, damage, is_merged, joined, owner, pc, schema_version
from bikd_ray.store.schema import COMMITTED_BY, KEYS, SCHEMA_VERSION, SCHEMAS
from bikd_ray.store.upgrade import old_name

FINDINGS = pa.schema(
    [
        ("severity", pa.string()),
        ("path", pa.string()),
        ("what", pa.string()),
        ("remedy", pa.string()),
    ],
    metadata={"severity": "error: answers lack something; note: harmless, takes up space"},
)


@dataclass(frozen=True)
class Finding:
    """One file or job that is not as it should be."""

    severity: str
    path: str
    what: str
    remedy: str


def check(uri: str) -> pa.Table:
    """Read every file of a store whole and say what is wrong; columns `FINDINGS`, empty if sound.

    A sweep that runs meanwhile may have rows that are not committed yet.
    """
    reader = Reader(uri)
    found = [finding for table in SCHEMAS for finding in _files(reader.fs, table)]
    if not found:  # else what is missing follows from what is damaged
        found += [*_jobs(reader), *_states(reader)]
    return pa.Table.from_pylist([vars(finding) for finding in found], FINDINGS)


def _files(fs: StoreFS, table: str) -> Iterator[Finding]:
    for path in fs.listing(table, ".parquet"):
        by = COMMITTED_BY.get(table, table)
        again = "delete it and run the spec again: " + (
            "its job is done anew" if by == "jobs" else "what it held is measured anew"
        )
        if fault := damage(fs, path):
            yield Finding("error", path, f"damaged: {fault}", again)
            continue
        schema = pq.read_schema(path, filesystem=fs.filesystem)
        if (version := schema_version(schema)) > SCHEMA_VERSION:
            what = f"has schema {version}, this bikd reads up to {SCHEMA_VERSION}"
            yield Finding("error", path, what, "install a newer bikd-ray")
        elif missing := [name for name in _keys(table, version) if name not in schema.names]:
            what = f"is no file of {table}: it has no {', '.join(missing)}"
            yield Finding("error", path, what, "move it out of the store")


def _keys(table: str, version: int) -> list[str]:
    """Columns that every file of a table has."""
    keys = [*KEYS[table], "attempt"]
    return [old_name(table, name) for name in keys] if version < 2 else keys


def _jobs(reader: Reader) -> Iterator[Finding]:
    """Jobs and results that lack each other, and weights that no result knows."""
    fs = reader.fs
    done = _done(reader)
    attempts = set(joined(reader.committed("jobs"), ["job_id", "attempt"]).to_pylist())
    results = reader.table("results", ["job_id", "weights"])
    for job_id in sorted(done - set(results["job_id"].to_pylist())):
        what = f"job {job_id} is done and has no results"
        yield Finding("error", fs.path("results"), what, "run the spec again: it is done anew")
    for table, by in COMMITTED_BY.items():
        if by != "jobs":
            continue
        for path in reader.listing(table):
            if not is_merged(path) and owner(path) not in attempts:
                what = "not committed: its job was interrupted or repeated, or is being written"
                yield Finding("note", path, what, "delete it if no sweep runs")
    kept = {fs.path(path) for path in results["weights"].to_pylist() if path}
    there = fs.listing("weights", ".safetensors", recursive=True)
    base = fs.listing("weights/base", ".safetensors")
    for path in sorted(kept - there.keys()):
        what = "weights of a result are gone"
        yield Finding("error", path, what, "restore the file; the result itself is whole")
    for path in sorted(there.keys() - base.keys() - kept):
        what = "weights that no result has: their job was interrupted or repeated"
        yield Finding("note", path, what, "delete it if no sweep runs")


def _states(reader: Reader) -> Iterator[Finding]:
    """States of jobs that no sweep is at."""
    done = _done(reader)
    running = {job_id for _, sweep in at_work(reader.fs) for job_id in sweep.jobs}
    for path in reader.fs.listing("_work", ".pt", recursive=True):
        job_id = path.split("/")[-2]
        if job_id in done:
            yield Finding("note", path, f"state of job {job_id}, which is done", "delete it")
        elif job_id not in running:
            what = f"state of job {job_id}, which was interrupted"
            yield Finding("note", path, what, "run the spec again: it goes on there; or delete it")


def _done(reader: Reader) -> set[str]:
    jobs = reader.committed("jobs")
    return set(jobs.filter(pc.equal(jobs["status"], "done"))["job_id"].to_pylist())
