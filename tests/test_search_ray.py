"""Searches on a real Ray: killed in the middle one goes on to the very same store."""

import pytest
import yaml

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store
from bikd_ray.store.kinds import kinds
from bikd_ray.store.lease import at_work
from bikd_ray.store.read import Reader
from bikd_ray.store.searched import searched_partners
from tests.faults import assert_whole, begin, run, wait_until

SHAPE = {"input": {"size": 8, "crop_pct": 1.0}}
QUICK = {"epochs": 1, "batch_size": 16, "lr": 1e-2}
SLOWER_THAN_THOUGHT = QUICK | {"epochs": 10}
"""Jobs that take longer than a decision, so that one is made before each of them."""
ONE_AT_A_TIME = {"cpus_per_job": 2}


def nets(widths):
    net = {"factory": "tests.conftest:net", **SHAPE}
    return [{**net, "alias": f"n{w}", "kwargs": {"width": w}} for w in widths]


def trained(store):
    """What every done job found, without when and on what."""
    rows = store.table("results").to_pylist()
    left_out = ("attempt", "weights")
    found = [{k: v for k, v in row.items() if k not in left_out} for row in rows]
    return sorted(found, key=lambda r: (r["job_id"], r["model_id"], r["selection"], r["metric"]))


@pytest.fixture
def address(cluster):
    return cluster.get_runtime_context().gcs_address


@pytest.mark.slow
def test_a_search_that_is_killed_ends_with_the_store_of_an_unbroken_one(
    spec_file, tmp_path, address
):
    def spec(name):
        return spec_file(
            zoo=nets(range(4, 12)),
            goal="best_partner",
            search={"regret": 2.0, "share": 0.5, "start": 3},
            recipe=SLOWER_THAN_THOUGHT,
            similarity="none",
            resources=ONE_AT_A_TIME,
            store=str(tmp_path / name),
        )

    whole = Store(run(spec("whole")).store)
    path = spec("broken")
    store = Store(yaml.safe_load(path.read_text())["store"])
    for more in (4, 14):  # of the start, and of what is decided then
        process = begin(path, "--address", address)
        assert wait_until(lambda: store.exists and len(store.done()) >= more)  # noqa: B023
        process.kill()
        process.wait()
        assert wait_until(lambda: not at_work(Reader(store.uri).fs))  # what it was at is free again
    before = store.done()
    assert before < whole.done()
    report = run(path)
    assert report.complete
    assert trained(store) == trained(whole)
    assert len(store.table("jobs")) == len(store.done())
    jobs = plan_jobs(load_spec(path), store).jobs
    assert store.done() < {job.job_id for job in jobs}
    assert run(path).done == 0  # nothing is left to ask for
    rows = searched_partners(store, "n4").to_pylist()
    assert {row["trained"] for row in rows} == {True, False}
    # and switched back to a map, it is the map
    path.write_text(path.read_text().replace("goal: best_partner", "goal: map"))
    assert run(path).complete
    assert_whole(path)


@pytest.mark.slow
def test_groups_that_are_killed_end_with_the_store_of_unbroken_ones(spec_file, tmp_path, address):
    def spec(name):
        return spec_file(
            zoo=nets((4, 6, 8, 10)),
            goal="improve",
            improve={"models": ["n4"], "group": 4},
            search={"confirm": 2},
            recipe=QUICK,
            similarity="none",
            resources=ONE_AT_A_TIME,
            store=str(tmp_path / name),
        )

    whole = Store(run(spec("whole")).store)
    path = spec("broken")
    store = Store(yaml.safe_load(path.read_text())["store"])
    process = begin(path, "--address", address)
    assert wait_until(lambda: store.exists and len(store.done()) >= 2)
    process.kill()
    process.wait()
    report = run(path)
    assert report.complete
    assert trained(store) == trained(whole)
    assert run(path).done == 0
    assert {row["goal"] for row in store.table("decisions").to_pylist()} == {"improve"}
    rows = kinds(store, "n4").to_pylist()
    assert [row["kind"] for row in rows if row["chosen"]]
    assert {"untouched", "control", "pair"} <= {row["kind"] for row in rows}
