"""Actors that die, stores that fail, files that are torn: sweeps on a real Ray, mostly slow."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest
from bikd_ray.sweep.job import run_job
from tests.faults import (
    TRIAL,
    WORKER,
    assert_whole,
    below,
    jobs_done,
    meanwhile,
    placement_groups,
    run,
)
from tests.jobs import result_of

ONE_SLOT = {"cpus_per_job": 2}
SHAPE = {"input": {"size": 8, "crop_pct": 1.0}}


def trap(spec_file, factory: str, placement: str = "together", **changes) -> Path:
    """A spec of a sound model and one with a trap: three jobs for each seed."""
    zoo = [
        {"factory": "tests.conftest:net", "alias": "good", **SHAPE},
        {"factory": f"tests.failing:{factory}", "alias": "trap", **SHAPE, **changes},
    ]
    return spec_file(zoo=zoo, seeds=[0, 1], resources={**ONE_SLOT, "placement": placement})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "placement"),
    [("leaves", "together"), ("kills_trial", "data_parallel"), ("dies", "data_parallel")],
)
def test_a_job_goes_on_in_a_new_slot(cluster, spec_file, tmp_path, factory, placement):
    marker = tmp_path / "sprung"
    path = trap(spec_file, factory, placement, kwargs={"marker": str(marker)})
    report = run(path)
    assert marker.exists()
    assert (report.done, report.failed, report.left) == (6, 0, 0)
    assert_whole(path)
    assert not placement_groups()


@pytest.mark.slow
def test_a_job_that_kills_every_worker_fails_and_others_go_on(cluster, spec_file):
    path = trap(spec_file, "dies")
    report = run(path, limit=3)
    assert (report.done + report.failed, report.left) == (3, 3)
    store = assert_whole(path, ["trap"], left=3)
    assert all("died 3 times" in error for error in store.failures().values())


@pytest.mark.parametrize(("error", "poisoned"), [
    ("CUDA error: an illegal memory access was encountered", True),
    ("CUDA out of memory. Tried to allocate 20.00 GiB", False),
    ("Given groups=1, weight of size [8, 3], expected 3 channels", False),
])  # fmt: skip
def test_only_a_poisoned_device_takes_the_worker_with_it(spec_file, error, poisoned):
    zoo = [{"factory": "tests.failing:Moves", "alias": "m", "kwargs": {"error": error}, **SHAPE},
           {"factory": "tests.conftest:net", "alias": "good", **SHAPE}]  # fmt: skip
    jobs = plan_jobs(load_spec(spec_file(zoo=zoo)), "/nowhere")
    order = JobRequest(next(job for job in jobs if job.names == ("m",)), "s", "/nowhere")
    if poisoned:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            list(run_job(order, torch.device("cuda")))
    else:
        outcome = result_of(order, torch.device("cuda"))
        assert error in (outcome.error or "")


@pytest.mark.slow
def test_jobs_of_other_needs_wait_for_no_idle_slot_for_ever(cluster, spec_file, monkeypatch):
    from bikd_ray.sweep import engine

    def needs(spec, job, has):  # pairs take both CPUs, controls one each
        return ResourceRequest(float(len(job.members)), 0)

    monkeypatch.setattr(engine, "job_needs", needs)
    path = spec_file(resources={"cpus_per_job": 1})
    assert run(path).complete
    assert_whole(path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "bikd-test", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["none", "best"])
def test_a_full_disk_holds_a_sweep_until_there_is_room(cluster, spec_file, small_disk, capfd, keep):
    """Whether it is met by the command, or by a worker that keeps weights and waits by itself."""
    resources = {**ONE_SLOT, "keep_weights": keep}
    path = spec_file(resources=resources, store=str(small_disk / "store"))
    stored = []

    def full_for_a_while() -> None:
        fill(small_disk)
        stored.append(jobs_done(path))
        time.sleep(8)
        stored.append(jobs_done(path))
        (small_disk / "ballast").unlink()

    watch = meanwhile(lambda: jobs_done(path) >= 3, full_for_a_while)
    report = run(path)
    watch.join()
    said = capfd.readouterr().err
    assert (report.done, report.failed, report.left) == (12, 0, 0), said
    assert_whole(path)
    assert stored[0] == stored[1] < 12
    assert ("No space left on device; nothing new begins" in said) == (keep == "none"), said


@pytest.mark.slow
def test_a_trial_that_dies_while_it_is_idle_costs_nothing(cluster, spec_file, small_disk):
    resources = {**ONE_SLOT, "keep_weights": "none"}
    path = spec_file(resources=resources, store=str(small_disk / "store"))
    killed = []

    def kill() -> None:
        fill(small_disk)
        time.sleep(5)  # its job is over, and no other begins
        for pid in below(os.getpid(), *TRIAL):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(5)
        (small_disk / "ballast").unlink()

    watch = meanwhile(lambda: jobs_done(path) >= 3, kill)
    report = run(path)
    watch.join()
    assert len(killed) == 1
    assert (report.done, report.failed, report.left) == (12, 0, 0)
    assert_whole(path)


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_a_sweep_with_one_line(
    cluster, spec_file, small_disk, monkeypatch
):
    from bikd_ray.errors import BikdError
    from bikd_ray.sweep import engine, recorder

    monkeypatch.setattr(recorder, "WRITE_PATIENCE", 2.0)
    monkeypatch.setattr(engine, "WRITE_PATIENCE", 2.0)
    keep = {**ONE_SLOT, "keep_weights": "none"}
    path = spec_file(resources=keep, store=str(small_disk / "store"))
    watch = meanwhile(lambda: jobs_done(path) >= 3, lambda: fill(small_disk))
    with pytest.raises(BikdError, match=r"No space left on device; 1 finished jobs are lost"):
        run(path)
    watch.join()
    done = jobs_done(path)
    assert 3 <= done < 12
    (small_disk / "ballast").unlink()
    assert_whole(path, left=12 - done)
    assert run(path).complete
    assert_whole(path)


@pytest.mark.slow
def test_what_is_torn_is_done_again(cluster, spec_file, tmp_path):
    path = spec_file(resources=ONE_SLOT, data=own_cache(spec_file, tmp_path))
    assert run(path, limit=8).left == 4
    store = Path(str(load_spec(path).store))
    (results,) = (store / "results").glob("*.parquet")
    cut(results)
    for file in [*(store / "weights/base").iterdir(), *(tmp_path / "views").glob("*.npy")]:
        cut(file)
    for name in ("results/.r.parquet.0a1b2c3d", "weights/base/.w.safetensors.0a1b2c3d"):
        (store / name).write_bytes(b"half")  # of a writer that was killed
    assert len(plan_jobs(load_spec(path), str(store))) == 12
    report = run(path)
    assert (report.done, report.failed, report.left) == (12, 0, 0)
    results.unlink()  # as bikd store check says
    assert_whole(path)


def own_cache(spec_file, tmp_path: Path) -> dict:
    data = load_spec(spec_file()).data.model_dump(mode="json")
    return {**data, "cache": str(tmp_path / "views")}


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


class Server:
    """An S3 server of our own (moto); while `refused` says how, requests fail, one of `every`."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.app = DomainDispatcherApplication(create_backend_app)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.refused, self.asked, self.every = "", 0, 1
        self._make = make_server
        self.start()

    def __call__(self, environ, start):
        self.asked += 1
        if self.refused and self.asked % self.every == 0:
            code = self.refused.split()[1]
            start(self.refused, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]
        return self.app(environ, start)

    def start(self) -> None:
        self._server = self._make("127.0.0.1", self.port, self, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(own_credentials):
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = Server()
    yield made
    made.stop()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["403 AccessDenied", "503 SlowDown", "500 flaky", "gone"])
def test_an_object_store_that_fails_for_a_while_loses_nothing(cluster, spec_file, server, fault):
    import urllib.request

    endpoint = f"http://127.0.0.1:{server.port}"
    name = "".join(c for c in f"b-{fault.lower()}" if c.isalnum())
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", b"", method="PUT")).close()
    uri = f"s3://{name}/store?region=us-east-1&endpoint_override={endpoint}"
    path = spec_file(resources=ONE_SLOT, store=uri)
    failed = []

    def fail_for_a_while() -> None:
        failed.append(fault)
        if fault == "gone":
            server.stop()
        else:
            server.every = 3 if "flaky" in fault else 1
            server.refused = fault
        time.sleep(10)
        server.refused = ""
        if fault == "gone":
            server.start()

    watch = meanwhile(lambda: jobs_done(path) >= 3, fail_for_a_while)
    report = run(path)
    watch.join()
    assert failed
    assert (report.done, report.failed, report.left) == (12, 0, 0)
    assert_whole(path)


@pytest.mark.slow
def test_five_hundred_jobs_leave_nothing_behind(cluster, spec_file, tmp_path, monkeypatch):
    path = spec_file(seeds=list(range(84)), resources=ONE_SLOT,
                     recipe={"epochs": 1, "batch_size": 64, "lr": 1e-2})  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(path, limit=4)
    held = memory()
    seen = []

    def look() -> None:
        seen.append(sum(memory(pid) for pid in below(os.getpid(), "ray::")))

    early = meanwhile(lambda: jobs_done(path) >= 100, look)
    late = meanwhile(lambda: jobs_done(path) >= 480, look)
    report = run(path)
    assert (report.done, report.left) == (500, 0)
    early.join()
    late.join()
    assert_whole(path)
    print(f"command {held >> 20} -> {memory() >> 20} MB; below it {[s >> 20 for s in seen]} MB")
    assert memory() - held < 150 << 20
    assert seen[1] - seen[0] < 150 << 20
    assert not placement_groups()
    assert not below(os.getpid(), *TRIAL)
    assert not below(os.getpid(), WORKER)
    assert not list(tmp_path.glob("bikd-*"))
    store = Path(str(load_spec(path).store))
    assert not [file for file in store.glob("_work/**/*") if file.is_file()]
    assert len(list((store / "jobs").iterdir())) == 1


def memory(pid: int | None = None) -> int:
    """Resident bytes of a process that are its own."""
    gc.collect()
    try:
        size = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()
    except OSError:
        return 0
    return (int(size[1]) - int(size[2])) * os.sysconf("SC_PAGE_SIZE")
