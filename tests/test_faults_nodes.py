"""Nodes that die and nodes that come, on a cluster of several Ray nodes on this machine."""

import pytest

from tests.faults import assert_whole, begin, below, jobs_done, wait_until

JOBS = 240
NODE = {"num_cpus": 1, "memory": 3 * 2**30, "object_store_memory": 100 * 2**20}


@pytest.fixture
def nodes():
    """A head without CPUs, and two nodes with room for one slot each."""
    from ray.cluster_utils import Cluster

    from bikd_ray.sweep import quiet  # noqa: F401  (before Ray)

    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "memory": 2**29})
    made.workers = [made.add_node(**NODE), made.add_node(**NODE)]
    yield made
    made.shutdown()


def has(node, title: str) -> bool:
    return bool(below(node.all_processes["raylet"][0].process.pid, title))


@pytest.mark.slow
@pytest.mark.parametrize("title", ["ray::RayTrainWorker", "ray::ResourceTrainable"])
def test_a_node_that_dies_takes_no_job_with_it_and_a_new_one_is_used(nodes, spec_file, title):
    path = spec_file(seeds=list(range(JOBS // 6)), resources={"cpus_per_job": 1})
    process = begin(path, "--address", nodes.address)
    assert wait_until(lambda: jobs_done(path) >= 3 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    dies = next(node for node in nodes.workers if has(node, title))
    nodes.remove_node(dies, allow_graceful=False)
    comes = nodes.add_node(**NODE)
    used = wait_until(lambda: has(comes, "ray::RayTrainWorker") or process.poll() is not None)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert used
    assert_whole(path)
