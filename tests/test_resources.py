"""What a job occupies, and what fits where: plain numbers, no Ray running."""

import pytest

from bikd_ray.errors import UserError
from bikd_ray.specs import Resources
from bikd_ray.sweep import resources
from bikd_ray.sweep.needs import Needs, fit
from bikd_ray.sweep.resources import grown, needs_of, part_of

GIB = 2**30


def node(cpus: float, gpus: float = 0, memory: float = 64) -> dict[str, float]:
    return {"CPU": cpus, "memory": memory * GIB, **({"GPU": gpus} if gpus else {})}


def room(needs: Needs, nodes: list[dict[str, float]]) -> int:
    return next(count for count in range(100) if not fit([needs] * (count + 1), nodes))


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
    assert room(got, nodes) == count


def test_fractions_share_a_gpu_and_never_straddle_two():
    got = needs_of(Resources(gpus_per_job=0.4, cpus_per_job=1), [node(16, 2)])
    assert room(got, [node(16, 2)]) == 4


def test_a_gpu_that_is_shared_is_not_given_whole():
    two = [node(16, 2)]
    half, whole, both = Needs(1, 0.5), Needs(1, 1), Needs(1, 2)
    assert fit([whole, half, half], two)
    assert not fit([whole, half, half, half], two)
    assert not fit([both, half], two)
    assert fit([both], two)
    assert not fit([both], [node(8, 1), node(8, 1)])


def test_jobs_of_other_needs_are_put_where_there_is_room():
    nodes = [node(4, 1), node(8)]
    gpu, cpu = Needs(4, 1), Needs(8, 0)
    assert fit([cpu, gpu], nodes)
    assert not fit([cpu, gpu, Needs(1, 0)], nodes)


def test_a_job_takes_as_much_of_a_gpu_as_its_memory_asks_for(monkeypatch):
    monkeypatch.setattr(resources, "gpu_bytes", lambda: 80 * GIB)
    most = Needs(4, 1)
    assert part_of(most, 1 * GIB) == Needs(1, 1 / 8)
    assert part_of(most, 15 * GIB) == Needs(1, 1 / 4)
    assert part_of(most, 30 * GIB) == Needs(2, 1 / 2)
    assert part_of(most, 60 * GIB) == most
    assert part_of(most, 300 * GIB) == most
    assert part_of(Needs(2, 0.5), 60 * GIB) == Needs(2, 0.5)


@pytest.mark.parametrize("asked", [{"cpus_per_job": 64}, {"gpus_per_job": 1}, {"gpus_per_job": 2}])
def test_what_no_node_can_hold_is_refused_with_what_there_is(asked):
    with pytest.raises(UserError, match=r"on one node, but the cluster has: 8 CPUs, 0 GPUs"):
        needs_of(Resources(**asked), [node(8)])
    with pytest.raises(UserError, match="on one node"):
        needs_of(Resources(gpus_per_job=1, cpus_per_job=32), [node(64), node(8, 1)])


def test_an_autoscaler_that_has_started_nothing_yet_is_judged_by_what_it_may_start():
    asked = {"gpus_per_job": 1, "cpus_per_job": 8}
    head = node(0)
    with pytest.raises(UserError, match=r"say under resources\.autoscaler what nodes"):
        needs_of(Resources(**asked), [head])
    may = Resources(**asked, autoscaler={"cpus": 8, "gpus": 1})
    assert needs_of(may, grown(may, [head])) == Needs(8, 1)
    auto = Resources(autoscaler=[{"cpus": 8, "gpus": 1}, {"cpus": 64}])
    assert needs_of(auto, grown(auto, [head])) == Needs(4, 1)
    small = Resources(**asked, autoscaler={"cpus": 4, "gpus": 1, "memory": 16})
    with pytest.raises(UserError, match="has: 0 CPUs, 0 GPUs, 64 GiB; 4 CPUs, 1 GPUs, 16 GiB"):
        needs_of(small, grown(small, [head]))


def test_what_has_grown_is_not_counted_again():
    spec = Resources(autoscaler={"cpus": 8, "gpus": 1, "count": 3})
    assert len(grown(spec, [node(2)])) == 1 + 3
    assert len(grown(spec, [node(2), node(8, 1)])) == 2 + 2
    assert len(grown(spec, [node(8, 1)] * 4)) == 4
    three = Needs(3, 3, workers=3)
    assert fit([three], grown(spec, [node(2)]))
    assert not fit([three, three], grown(spec, [node(2)]))
