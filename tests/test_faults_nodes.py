"""Nodes that die and nodes that come, on a cluster of several Ray nodes on this machine."""

import contextlib
import os
import signal
import time
from typing import Any

import pytest

from tests.faults import TRIAL, WORKER, assert_whole, begin, below, jobs_done, lines_of, wait_until

JOBS = 600
NODE: dict[str, Any] = {"num_cpus": 1, "memory": 3 * 2**30, "object_store_memory": 100 * 2**20}
NOTICED_SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def nodes():
    """A head without CPUs, and two nodes with room for one slot each."""
    from ray.cluster_utils import Cluster

    from bikd_ray.sweep import ray_env  # noqa: F401  (before Ray)

    head = {**NODE, "num_cpus": 0, "memory": 2**29, "_system_config": NOTICED_SOON}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(**NODE)
    yield made
    made.shutdown()


def raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def has(node, *titles: str) -> bool:
    return bool(below(raylet(node), *titles))


def power_off(nodes, node) -> None:
    """All processes of a node end at once, and tell nobody."""
    for pid in [*below(raylet(node), ""), raylet(node)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    nodes.remove_node(node, allow_graceful=False)  # of the bookkeeping


@pytest.mark.slow
@pytest.mark.parametrize(
    ("titles", "resources"),
    [
        (TRIAL, {"cpus_per_job": 1}),
        (TRIAL, {"cpus_per_job": 2, "placement": "data_parallel"}),
        ((WORKER,), {"cpus_per_job": 2, "placement": "data_parallel"}),
    ],
)
def test_a_node_that_dies_takes_no_job_with_it_and_a_new_one_is_used(
    nodes, spec_file, titles, resources
):
    path = spec_file(seeds=list(range(JOBS // 6)), resources=resources)
    process = begin(path, "--address", nodes.address)
    assert wait_until(lambda: jobs_done(path) >= 3 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    power_off(nodes, next(node for node in nodes.worker_nodes if has(node, *titles)))
    for node in nodes.list_all_nodes():  # it may have been on the node that died
        for pid in below(raylet(node), "ray::PlacementGroupCleaner"):
            os.kill(pid, signal.SIGKILL)
    died = time.monotonic()
    comes = nodes.add_node(**NODE)
    used = wait_until(lambda: has(comes, *TRIAL, WORKER) or process.poll() is not None)
    print(f"a worker on the new node after {time.monotonic() - died:.0f} s, {jobs_done(path)} done")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert used, err
    assert_whole(path)


@pytest.mark.slow
@pytest.mark.parametrize("once", ["baselines of 3 models", "[3/"])
def test_a_sweep_whose_nodes_all_die_waits_for_others_and_says_so(nodes, spec_file, once):
    path = spec_file(seeds=list(range(20)), resources={"cpus_per_job": 1})
    process = begin(path, "--address", nodes.address)
    said = lines_of(process)
    assert any(once in line for line in said)
    for node in list(nodes.worker_nodes):
        power_off(nodes, node)
    assert any("0 CPUs, 0 GPUs, 0.5 GiB; this sweep waits for nodes" in line for line in said)
    assert jobs_done(path) < 120
    nodes.add_node(**NODE)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "the cluster has room for every job again" in err
    assert_whole(path)
