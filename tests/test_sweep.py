"""Real sweeps on a real Ray. One slot each, since every slot costs seconds to start."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store
from bikd_ray.store.read import Reader, is_merged
from bikd_ray.sweep import searcher
from bikd_ray.sweep.capacity import DRIVER_MEMORY
from bikd_ray.sweep.events import JobRequest
from tests.faults import assert_whole, run
from tests.jobs import result_of

ONE_SLOT = {"cpus_per_job": 2}
SHAPE = {"input": {"size": 8, "crop_pct": 1.0}}


def statuses(store: Store) -> dict[str, int]:
    found = store.table("jobs")["status"].to_pylist()
    return {s: found.count(s) for s in set(found)}


def test_a_sweep_does_every_job_once_and_a_rerun_nothing(cluster, spec_file, capfd):
    path = spec_file(resources=ONE_SLOT)
    planned = list(plan_jobs(load_spec(path), str(path.parent / "store")))

    first = run(path, limit=3)
    assert (first.done, first.failed, first.left, first.skipped) == (3, 0, 9, 0)
    assert not first.complete
    rest = run(path)
    assert (rest.done, rest.failed, rest.left, rest.skipped) == (9, 0, 0, 3)
    reserved = [group["bundles"] for group in cluster.util.placement_group_table().values()]
    assert {0: {"CPU": 2.0, "memory": DRIVER_MEMORY}} in reserved  # a job's, while it ran
    again = run(path)
    assert (again.done, again.left, again.skipped) == (0, 0, 12)
    assert again.complete

    store = Store(again.store)
    assert statuses(store) == {"done": 12}
    assert pq.read_table(f"{store.uri}/jobs").num_rows == 12  # none twice
    assert all(is_merged(path) for path in Reader(store.uri).listing("results"))  # at its end
    assert store.done() == {job.job_id for job in planned}
    assert store.table("results").num_rows == 4 * 2 * (6 + 2 * 6)  # metrics, selections
    assert store.table("pairs").num_rows == 3
    assert [r["seeds"] for r in store.partners("small").to_pylist()] == [2, 2]
    kept = [path for path in store.table("results")["weights"].unique().to_pylist() if path]
    assert len(kept) == 6 + 2 * 6
    assert all(Reader(store.uri).fs.exists(path) for path in kept)

    # before every job each model was what its baseline says, image for image
    tops = {r["model"]: r["value"] for r in store.baselines().to_pylist()}
    stored = {}
    for row in store.table("results").to_pylist():
        if row["metric"] == "top1":
            assert row["before"] == pytest.approx(tops[row["model"]])
        stored[row["job_id"], row["model"], row["selection"], row["metric"]] = row

    # a job that ran after others in a warm slot equals the same job in a fresh process
    for job in planned[-2:]:
        end = result_of(JobRequest(job, "tiny", "/nowhere"))
        for row in end.results:
            same = stored[row["job_id"], row["model"], row["selection"], row["metric"]]
            assert (same["bits"], same["after"]) == (row["bits"], row["after"])

    out, err = capfd.readouterr()
    assert out == ""  # progress and notes go to standard error, and Ray says nothing
    assert all(line.startswith("bikd ") for line in err.splitlines()), err
    assert err.count("jobs to do") == 2


def test_bad_jobs_and_dead_workers_stop_no_other_job(cluster, spec_file, tmp_path):
    died = tmp_path / "died"
    entries = {
        "good": ("tests.conftest:net", {}),
        "fragile": ("tests.failing:dies", {"marker": str(died)}),
        "diverging": ("tests.failing:bad_gradient", {}),
        "hungry": ("tests.failing:hungry", {}),
        "unbuilt": ("tests.failing:broken", {}),  # on any worker
        "lost": ("tests.failing:broken", {"after": str(tmp_path / "built")}),  # after its baseline
    }
    zoo = [
        {"factory": factory, "alias": alias, "kwargs": kwargs, **SHAPE}
        for alias, (factory, kwargs) in entries.items()
    ]
    failing = ("diverging", "unbuilt", "lost")
    pairs = [["good", other] for other in entries if other != "good"] + [["fragile", "hungry"]]
    path = spec_file(zoo=zoo, pairings={"list": pairs}, seeds=[0], resources=ONE_SLOT)
    report = run(path)
    assert died.exists()  # a training worker did kill itself
    assert (report.done, report.failed, report.left) == (6, 6, 0)
    store = assert_whole(path, failing)
    assert len(store.models()) == 5  # all but the one that cannot be measured

    licence = "no licence for the weights"
    why = {"diverging": "NaN or infinite", "unbuilt": licence, "lost": licence}
    for row in store.table("jobs").to_pylist():
        blamed = [why[name] for name in row["members"] if name in why]
        assert not blamed or any(text in row["error"] for text in blamed)
        assert not blamed or "unbuilt" in row["members"] or "Traceback" in row["error"]
        if "hungry" in row["members"]:  # of 16 images it has memory for 2 at a time
            assert '"micro_batch":2' in row["resources"]

    later = run(path)  # failures are not retried unless asked
    assert (later.done, later.failed, later.skipped) == (0, 6, 6)
    assert len(plan_jobs(load_spec(path), report.store, retry_failed=True)) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "long", "processes"),
    [("warm", 0.0, 1), ("fresh", 600.0, 3), ("auto", 600.0, 1), ("auto", 0.0, 3)],
)
def test_a_fresh_slot_is_a_process_of_its_own(
    cluster, spec_file, tmp_path, monkeypatch, slots, long, processes
):
    monkeypatch.setattr(searcher, "LONG", long)
    zoo = [
        {
            "factory": "tests.failing:signs",
            "alias": alias,
            "kwargs": {"marker": str(tmp_path / alias)},
            **SHAPE,
        }
        for alias in ("one", "other")
    ]
    path = spec_file(zoo=zoo, seeds=[0], resources={**ONE_SLOT, "slots": slots})
    assert run(path).done == 3
    pids = {pid for diary in tmp_path.glob("*.txt") for pid in diary.read_text().split()}
    assert len(pids) == processes
    assert_whole(path)


def test_a_job_that_no_node_can_hold_is_refused_at_the_start(cluster, spec_file):
    from bikd_ray.errors import UserError

    path = spec_file(resources={"cpus_per_job": 64})
    with pytest.raises(
        UserError,
        match="64 CPUs and 0 GPUs on one node, but the cluster has: 2 CPUs",
    ):
        run(path)
    assert not (path.parent / "store").exists()


def test_what_a_killed_sweep_asked_an_autoscaler_for_is_taken_back_by_the_next_command(cluster):
    asked = {"CPU": 64.0}
    cluster.autoscaler.sdk.request_resources(bundles=[asked])
    assert asked_for(cluster) == [asked]
    code = "import sys; from bikd_ray.sweep.connection import connected\n"
    code += "with connected(sys.argv[1]): pass"
    address = cluster.get_runtime_context().gcs_address
    subprocess.run([sys.executable, "-c", code, address], check=True)
    assert asked_for(cluster) == []


def asked_for(ray) -> list[dict]:
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))


@pytest.mark.slow
def test_models_on_workers_of_their_own_go_on_where_one_was_killed(cluster, spec_file, tmp_path):
    diary = tmp_path / "diary"
    fragile = {
        "factory": "tests.failing:dies_at",
        "alias": "fragile",
        "kwargs": {"diary": str(diary), "step": 60},
        **SHAPE,
    }
    whole = {"factory": "tests.conftest:net", "alias": "small", "kwargs": {"width": 4}, **SHAPE}
    path = spec_file(
        zoo=[whole, fragile],
        seeds=[0],
        controls=False,
        recipe={"epochs": 40, "batch_size": 16, "lr": 1e-2},
        resources={"placement": "one_model_per_worker", "cpus_per_job": 2, "save_every": 0},
    )
    report = run(path)
    assert (report.done, report.failed, report.left) == (1, 0, 0)
    lives = [int(line) for line in diary.read_text().split()]
    assert lives == [60, 160 - 50]  # killed at the 60th of 160 steps, and on from the 50th
    store = Store(report.store)
    assert not any((tmp_path / "store" / "_work").glob("*/*.pt"))

    (job,) = plan_jobs(load_spec(path), str(tmp_path / "empty"))
    end = result_of(JobRequest(job, "tiny", report.store))  # alone, at one go
    rows = store.table("results").to_pylist()
    stored = {(r["model"], r["selection"], r["metric"]): r for r in rows}
    for row in end.results:
        same = stored[row["model"], row["selection"], row["metric"]]
        assert (same["bits"], same["epoch"]) == (row["bits"], row["epoch"])
    used = store.table("jobs").to_pylist()[0]["resources"]
    assert '"placement":"one_model_per_worker"' in used
    assert '"workers":2' in used
