"""Writers, compactors and readers of one store at once, each a process of its own.

python -m tests.together URI JOBS

prints what the readers found wrong, a line each; exit code 1 if anything was, or if one died. The
processes are forked from this one, which has imported little and run nothing.
"""

import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import Any

from bikd_ray.store.compact import compact
from bikd_ray.store.read import Reader
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import Writer

WRITERS, EPOCHS = 8, 3

Row = dict[str, Any]


def job_rows(job: int, number: int) -> dict[str, list[Row]]:
    """One attempt of a job, by table; `seed` is its number. Rows follow from job and number."""
    job_id = f"{job:016x}"
    models = [f"m{job % 5}", f"m{5 + job % 3}", *(["m8"] if job % 4 == 0 else [])]
    found: dict[str, list[Row]] = {"jobs": [{"members": models, "status": "done"}]}
    found["results"] = [
        {
            "model_id": m,
            "selection": s,
            "metric": "top1",
            "eval_set": "val",
            "bits": f"{job_id} {m} {s} {number} ".encode() * 20,
        }
        for m in models
        for s in ("last", "best_val")
    ]
    found["curves"] = [{"model_id": m, "epoch": e} for m in models for e in range(EPOCHS)]
    for table, rows in found.items():
        same = {**dict.fromkeys(SCHEMAS[table].names), "job_id": job_id, "seed": number}
        found[table] = [{**same, **row} for row in rows]
    return found


def write(uri: str, number: int, jobs: int) -> None:
    """Write a quarter of the jobs, as another writer does in the other order; some fail first."""
    half = WRITERS // 2
    mine = range(number % half, jobs, half)
    writer = Writer(uri)
    for job in mine if number < half else reversed(mine):
        rows = job_rows(job, number)
        if job % 3 == 0:
            failed = {**rows["jobs"][0], "status": "failed"}
            writer.commit_job(failed, [], rows["curves"][:EPOCHS])
        writer.commit_job(rows["jobs"][0], rows["results"], rows["curves"])


def merge(uri: str, over: Event) -> None:
    while not over.wait(0.02):
        compact(uri)
    compact(uri)


def read(uri: str, over: Event, kept: bool) -> None:
    """Read until all is written, and then once more. kept: by one reader, not by new ones."""
    reader, seen, faults, last = Reader(uri), set(), 0, False
    while not last:
        last = over.wait(0.02)
        reader = reader if kept else Reader(uri)
        jobs = reader.table("jobs").to_pylist()
        done = {row["job_id"] for row in jobs if row["status"] == "done"}
        for fault in (*job_faults(jobs, seen - done), *row_faults(reader, done)):
            faults += 1
            print(fault, flush=True)
        seen |= done
    sys.exit(bool(faults))


def job_faults(jobs: list[Row], lost: set[str]) -> Iterator[str]:
    if lost:
        yield f"jobs seen before are gone: {sorted(lost)}"
    if len({row["job_id"] for row in jobs}) != len(jobs):
        yield "a job stands twice"


def row_faults(reader: Reader, done: set[str]) -> Iterator[str]:
    """Where rows differ from those of one whole attempt; other jobs may have come since."""
    for table in ("results", "curves"):
        found: dict[str, list[Row]] = defaultdict(list)
        for row in reader.table(table).to_pylist():
            found[row["job_id"]].append(row)
        if missing := done - found.keys():
            yield f"{table} lacks {sorted(missing)}"
        for job_id, rows in found.items():
            if len({row["attempt"] for row in rows}) > 1:
                yield f"{table} of {job_id} are of several attempts"
            whole = job_rows(int(job_id, 16), rows[0]["seed"])[table]
            allowed = [_comparable(whole)]
            if job_id not in done and table == "curves":
                allowed.append(_comparable(whole[:EPOCHS]))  # it had failed so far
            if _comparable(rows) not in allowed:
                yield f"{table} of {job_id} are not as written: {len(rows)} rows of {len(whole)}"


def _comparable(rows: list[Row]) -> list[str]:
    return sorted(str({**row, "attempt": None}.items()) for row in rows)


def main(uri: str, jobs: int) -> int:
    start = multiprocessing.get_context("fork")
    over = start.Event()
    writers = [start.Process(target=write, args=(uri, n, jobs)) for n in range(WRITERS)]
    others = [start.Process(target=merge, args=(uri, over)) for _ in range(2)]
    others += [start.Process(target=read, args=(uri, over, kept)) for kept in (True, False)]
    for process in (*others, *writers):
        process.start()
    for process in writers:
        process.join()
    over.set()
    for process in others:
        process.join()
    return int(any(process.exitcode for process in (*writers, *others)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
