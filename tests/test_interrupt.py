"""`bikd sweep` as a process that is stopped or killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store

ROOT = Path(__file__).parent.parent
MARK = "BIKD_TEST_SWEEP"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_stopped_keeps_what_is_done_and_leaves_nothing_running(
    spec_file, tmp_path, signum
):
    path = spec_file(seeds=list(range(100)), resources={"cpus_per_job": 2})
    store = Store(str(tmp_path / "store"))
    command = [sys.executable, "-m", "pipelines", "sweep", str(path)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, MARK: str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while len(store.done()) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.3)
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)

    kept = store.done()
    assert 3 <= len(kept) < 600, err
    assert len(store.reader.place.listing("jobs", ".parquet")) == len(kept)  # none twice
    assert store.table("results").num_rows >= 2 * len(kept)
    assert out == ""
    if signum == signal.SIGTERM:  # and so Ctrl-C, which it is turned into
        assert process.returncode == 1
        assert f"{600 - len(kept)} left" in err
        assert err.splitlines()[-1] == "bikd: run the same command again to go on"
    deadline = time.monotonic() + 120
    while (left := ray_workers(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left

    from bikd_ray.resolve import plan_jobs

    plan = plan_jobs(load_spec(path), store.uri)  # what the next `bikd sweep` does
    assert {job.job_id for job in plan.done} == kept
    assert len(plan) == 600 - len(kept)


def ray_workers(mark: Path) -> list[str]:
    """The actors and tasks that began below the process so marked; others may run beside it."""
    return [p.name for p in Path("/proc").glob("[0-9]*") if _is_worker(p, f"{MARK}={mark}")]


def _is_worker(process: Path, marked: str) -> bool:
    try:
        title, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False  # it ended just now
    if marked.encode() not in environment.split(b"\0"):
        return False
    return title.startswith(b"ray::") and b"Agent" not in title  # a killed head's agents linger
