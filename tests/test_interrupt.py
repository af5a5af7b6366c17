"""`bikd sweep` as a process that is stopped or killed in the middle, and what runs after it."""

import os
import signal
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import Lease
from tests.faults import (
    TRIAL,
    assert_whole,
    begin,
    below,
    jobs_done,
    lines_of,
    placement_groups,
    run,
    wait_until,
)

ONE_SLOT = {"cpus_per_job": 2}
JOBS = 60


def test_a_sweep_that_is_stopped_on_a_cluster_leaves_nothing_there(cluster, spec_file):
    path = spec_file(seeds=list(range(100)), resources=ONE_SLOT)
    process = begin(path, "--address", cluster.get_runtime_context().gcs_address)
    assert wait_until(lambda: jobs_done(path) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)  # and so Ctrl-C, which it is turned into
    out, err = process.communicate(timeout=300)

    kept = jobs_done(path)
    assert 3 <= kept < 600, err
    assert process.returncode == 1
    assert out == ""
    assert f"{600 - kept} left" in err
    assert err.splitlines()[-1] == "bikd: run the same command again to go on"
    assert wait_until(lambda: not below(os.getpid(), *TRIAL), 60)
    assert wait_until(lambda: not placement_groups(), 60)
    assert_whole(path, left=600 - kept)


def test_what_a_killed_sweep_has_left_two_sweeps_at_once_share(cluster, spec_file, tmp_path):
    path = spec_file(seeds=list(range(JOBS // 6)), resources=ONE_SLOT)
    killed = begin(path, BIKD_TEST=str(tmp_path))
    assert wait_until(lambda: jobs_done(path) >= 3 or killed.poll() is not None)
    killed.kill()
    killed.communicate()
    kept = jobs_done(path)
    assert 3 <= kept < JOBS
    assert wait_until(lambda: not marked(tmp_path), 120)

    other = begin(path)
    report = run(path)
    _, err = other.communicate(timeout=300)
    assert other.returncode == 0, err
    assert report.complete
    store = assert_whole(path)
    raw = pq.read_table(f"{store.uri}/jobs").select(["job_id", "attempt"]).to_pylist()
    # two merges at once may have left equal rows; nobody did anything twice
    assert len({tuple(row.values()) for row in raw}) == JOBS


def marked(mark: os.PathLike) -> list[int]:
    """The actors and tasks that began below the process so marked, which is gone."""
    found = []
    for pid in below(1, "ray::"):
        try:
            process = Path("/proc", str(pid))
            environment, title = ((process / n).read_bytes() for n in ("environ", "cmdline"))
        except OSError:
            continue  # it ended just now
        if f"BIKD_TEST={mark}".encode() in environment.split(b"\0") and b"Agent" not in title:
            found.append(pid)  # a killed head's agents linger
    return found


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_that_waits(spec_file):
    path = spec_file(resources=ONE_SLOT)
    spec = load_spec(path)
    other = Lease(StoreFS.at(str(spec.store)), "other")
    other.say(frozenset(job.job_id for job in plan_jobs(spec, str(spec.store))))
    process = begin(path)
    assert any("12 jobs to do" in line for line in lines_of(process))
    with pytest.raises(subprocess.TimeoutExpired):  # it asks again and again for a job
        process.wait(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "12 left" in err
    other.end()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_next_sweep_does_the_rest(spec_file, tmp_path):
    path = spec_file(seeds=list(range(JOBS // 6)), resources=ONE_SLOT)
    process = begin(path, BIKD_TEST=str(tmp_path))
    assert wait_until(lambda: jobs_done(path) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    kept = jobs_done(path)
    assert f"{JOBS - kept} left" in err
    assert wait_until(lambda: not marked(tmp_path), 120)
    assert_whole(path, left=JOBS - kept)
    rest = begin(path)
    _, err = rest.communicate(timeout=300)
    assert rest.returncode == 0, err
    assert_whole(path)
