"""How many jobs fit where: plain numbers, no Ray running."""

import pytest

from bikd_ray.errors import UserError
from bikd_ray.specs import Resources
from bikd_ray.sweep.resources import needs_of, slots
from bikd_ray.sweep.slot import Needs

GIB = 2**30


def node(cpus: float, gpus: float = 0, memory: float = 64) -> dict[str, float]:
    return {"CPU": cpus, "memory": memory * GIB, **({"GPU": gpus} if gpus else {})}


@pytest.mark.parametrize(
    ("nodes", "needs", "count"),
    [
        ([node(2)], Needs(1, 0), 2),
        ([node(64), node(2, 1)], Needs(2, 1), 1),  # the head's CPUs are no use to a GPU
        ([node(64), node(8, 8)], Needs(1, 1), 8),
        ([node(32, 4), node(32, 4)], Needs(4, 1), 8),
        ([node(2, memory=1)], Needs(1, 0), 1),
    ],
)
def test_auto_uses_every_gpu_and_asks_for_what_one_node_has(nodes, needs, count):
    got = needs_of(Resources(), nodes)
    assert got == needs
    assert slots(got, nodes) == count


def test_fractions_share_a_gpu_and_never_straddle_two():
    got = needs_of(Resources(gpus_per_job=0.4, cpus_per_job=1), [node(16, 2)])
    assert slots(got, [node(16, 2)]) == 4


@pytest.mark.parametrize("asked", [{"cpus_per_job": 64}, {"gpus_per_job": 1}, {"gpus_per_job": 2}])
def test_what_no_node_can_hold_is_refused_with_what_there_is(asked):
    with pytest.raises(UserError, match=r"on one node, but the cluster has: 8 CPUs, 0 GPUs"):
        needs_of(Resources(**asked), [node(8)])
    with pytest.raises(UserError, match="on one node"):
        needs_of(Resources(gpus_per_job=1, cpus_per_job=32), [node(64), node(8, 1)])
