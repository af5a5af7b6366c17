"""How the tests of faults meet a sweep at work, and what they ask of its store afterwards."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from typer.testing import CliRunner

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store
from bikd_ray.store.check import check
from bikd_ray.store.lease import at_work
from bikd_ray.store.read import Reader, pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.tasks import task_of

ROOT = Path(__file__).parent.parent
SELECTIONS = ("last", "best_val")


def run(path: Path, **options):
    """`bikd sweep` in this process, on the Ray that it is connected to."""
    from bikd_ray.sweep.engine import run_sweep

    return run_sweep(load_spec(path), **options)


def begin(path: Path, *options: str, **environment: str) -> subprocess.Popen:
    """`bikd sweep` as a process of its own."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # and so would it: we are in a background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "bikd_pipelines", "sweep", str(path), *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process: subprocess.Popen) -> Iterator[str]:
    """What it says on standard error, as it says it."""
    assert process.stderr
    return iter(process.stderr.readline, "")


def wait_until(true: Callable[[], object], seconds: float = 240) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def meanwhile(when: Callable[[], object], then: Callable[[], object]) -> threading.Thread:
    """A thread that does something once something is true."""

    def watch() -> None:
        if wait_until(when):
            then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


TRIAL = "ray::ResourceTrainable", "ray::JobTrial"
"""How the process of a trial is titled: at work, and while it waits."""

WORKER = "ray::RayTrainWorker"
"""How a worker's is, where a job has several. A single one is the trial's own process."""


def below(pid: int, *titles: str) -> list[int]:
    """The processes that began below this one, and whose command line begins so."""
    wanted = tuple(title.encode() for title in titles)
    parents, found = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            named = (process / "cmdline").read_bytes().startswith(wanted)
        except OSError:
            continue  # it ended just now
        parents[int(process.name)] = int(stat[1])
        if named and stat[0] != "Z":
            found.append(int(process.name))

    def is_below(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return [process for process in found if is_below(process)]


def jobs_done(path: Path) -> int:
    """How many jobs are stored as done; to be asked from any thread."""
    return len(Store(str(load_spec(path).store)).done())


def assert_whole(path: Path, failing: Collection[str] = (), left: int = 0) -> Store:
    """The store answers with every finished job once and whole, every failed one with why.

    failing: models whose jobs, and no others, have failed. left: jobs that are neither. What
    `bikd status` says is what the store holds, and nobody is at work on it.
    """
    store = Store(str(load_spec(path).store))
    plan = plan_jobs(load_spec(path), store)
    wanted = {job.job_id: job for job in plan.jobs}
    jobs = store.table("jobs").to_pylist()
    assert max(Counter(row["job_id"] for row in jobs).values()) == 1
    state = {row["job_id"]: row["status"] for row in jobs}
    assert state.keys() <= wanted.keys()
    assert len(wanted) - len(state) == len(plan.todo) == left

    rows = Counter(tuple(row.values()) for row in results(store))
    whole = {
        (job_id, member.model_id, selection, metric.name): 1
        for job_id, status in state.items()
        if status == "done"
        for member in wanted[job_id].live
        for selection in SELECTIONS
        for metric in task_of(wanted[job_id].data.task).metrics
    }
    assert rows == whole
    for row in jobs:
        broken = set(row["members"]) & set(failing)
        assert (row["status"] == "failed") == bool(broken), (row["members"], row["error"])
        assert bool(row["error"]) == bool(broken)

    said = status(path)
    assert said == {**dict.fromkeys(wanted, "to do"), **state}
    assert not at_work(Reader(store.uri).fs)
    assert "error" not in check(store.uri)["severity"].to_pylist()
    return store


def results(store: Store) -> list[dict]:
    columns = ["job_id", "model_id", "selection", "metric"]
    return store.table("results", columns, pc.field("eval_set") == VAL).to_pylist()


def status(path: Path) -> dict[str, str]:
    """What `bikd status` says of each job of a spec."""
    from bikd_pipelines.cli import app

    said = CliRunner().invoke(app, ["status", str(path), "--format", "json"])
    assert said.exit_code == 0, said.output
    return {row["job_id"]: row["state"] for row in json.loads(said.stdout)}


def placement_groups() -> list[dict]:
    from ray.util import placement_group_table

    return [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
