"""What a job occupies, and what fits where: plain numbers, no Ray running."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import product
from math import floor
from typing import Any

import psutil
import pytest

from bikd_ray.errors import UserError
from bikd_ray.plan import Cost, Job, ResolvedData, ResolvedInput, ResolvedModel, all_jobs
from bikd_ray.spec_file import parse_spec
from bikd_ray.specs import GrownNode, Resources
from bikd_ray.sweep.capacity import GPU_MEMORY, Node, ResourceRequest, fits, shortage
from bikd_ray.sweep.resources import (
    baseline_needs,
    check_fits,
    grown,
    job_needs,
    part_of,
    this_machine,
)
from tests.plans import SPLIT

GIB = 2**30
INPUT = ResolvedInput(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "bicubic")
TINY = Cost(params=10, flops=20, activations=40, peak=40, features=3)


def node(cpus: float, gpus: float = 0, memory: float = 64, each: float = 0) -> dict[str, float]:
    """A node of so many GiB, with GPUs of `each` GiB."""
    found = {"CPU": cpus, "memory": memory * GIB, **({"GPU": gpus} if gpus else {})}
    return {**found, GPU_MEMORY: each * GIB} if each else found


@cache
def job_of(members: int, cost: Cost = TINY) -> Job:
    """One that trains so many models; of one it is the control."""
    names = "abcd"[: max(2, members)]
    digits = {split: {"source": "digits", "split": split} for split in ("train", "val")}
    zoo = [{"factory": "m:f", "alias": name} for name in names]
    pairings = {"mode": "all", "size": len(names)}
    spec = parse_spec({"zoo": zoo, "data": digits, "pairings": pairings, "seeds": [0]})
    models = {
        e.name: ResolvedModel(e, f"w-{e.name}", f"id-{e.name}", INPUT, 10, cost) for e in spec.zoo
    }
    data = ResolvedData(spec.data, "data", "samples", SPLIT, SPLIT, 10, None)
    return next(job for job in all_jobs(spec, models, data) if len(job.members) == members)


def needs_of(spec: Resources, nodes: Sequence[Node], members: int = 2) -> ResourceRequest:
    """Of a job, once it is seen to fit."""
    needs = job_needs(spec, job_of(members), nodes)
    check_fits(needs, nodes)
    return needs


def room(needs: ResourceRequest, nodes: list[dict[str, float]]) -> int:
    return next(count for count in range(100) if not fits([needs] * (count + 1), nodes))


@pytest.mark.parametrize(
    ("nodes", "needs", "count"),
    [
        ([node(2)], ResourceRequest(1, 0), 2),
        ([node(64), node(2, 1)], ResourceRequest(2, 1), 1),  # the head's CPUs are no use to a GPU
        ([node(64), node(8, 8)], ResourceRequest(1, 1), 8),
        ([node(32, 4), node(32, 4)], ResourceRequest(4, 1), 8),
        ([node(2, memory=1)], ResourceRequest(1, 0), 1),
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
    half, whole, both = ResourceRequest(1, 0.5), ResourceRequest(1, 1), ResourceRequest(1, 2)
    assert fits([whole, half, half], two)
    assert not fits([whole, half, half, half], two)
    assert not fits([both, half], two)
    assert fits([both], two)
    assert not fits([both], [node(8, 1), node(8, 1)])


def test_jobs_of_other_needs_are_put_where_there_is_room():
    nodes = [node(4, 1), node(8)]
    gpu, cpu = ResourceRequest(4, 1), ResourceRequest(8, 0)
    assert fits([cpu, gpu], nodes)
    assert not fits([cpu, gpu, ResourceRequest(1, 0)], nodes)


def test_a_job_takes_as_much_of_a_gpu_as_its_memory_asks_for():
    whole, nodes = ResourceRequest(4, 1), [node(16, 4, each=80)]
    assert part_of(whole, 1 * GIB, nodes) == ResourceRequest(1, 1 / 8)
    assert part_of(whole, 15 * GIB, nodes) == ResourceRequest(1, 1 / 4)
    assert part_of(whole, 30 * GIB, nodes) == ResourceRequest(2, 1 / 2)
    assert part_of(whole, 60 * GIB, nodes) == whole
    assert part_of(whole, 300 * GIB, nodes) == whole
    assert part_of(whole, 1 * GIB, [node(16, 4)]) == whole  # of a GPU of which nothing is known


def test_a_job_is_planned_for_the_smallest_gpu_that_could_take_it():
    whole, small, large = ResourceRequest(4, 1), node(16, 2, each=24), node(16, 2, each=80)
    assert part_of(whole, 8 * GIB, [large, small]).gpus == 1 / 2
    assert part_of(whole, 8 * GIB, [small, large]).gpus == 1 / 2
    assert part_of(whole, 8 * GIB, [large]).gpus == 1 / 8
    assert part_of(whole, 30 * GIB, [small, large]).gpus == 1  # too much for one of the two
    few = node(2, 2, each=24)  # too few CPUs for the job
    assert part_of(whole, 8 * GIB, [few, large]).gpus == 1 / 8
    assert part_of(whole, 8 * GIB, [node(16, 2), large]).gpus == 1 / 8  # one may be unknown


@pytest.mark.parametrize("placement", ["together", "one_model_per_worker", "data_parallel"])
@pytest.mark.parametrize("gpus", ["auto", 0.25, 1, 8])
def test_a_baseline_is_one_process_whatever_its_jobs_are(placement, gpus):
    spec, nodes = Resources(placement=placement, gpus_per_job=gpus), [node(8, 1, each=80)] * 8
    large = replace(TINY, params=10 * GIB // 4)
    assert baseline_needs(spec, TINY, nodes) == ResourceRequest(1, 1 / 8)
    assert baseline_needs(spec, large, nodes) == ResourceRequest(1, 1 / 4)
    assert baseline_needs(spec, replace(TINY, params=300 * GIB), nodes) == ResourceRequest(4, 1)


def test_a_baseline_without_gpus_takes_the_cpus_of_a_job_as_far_as_a_node_has_them():
    shared = Resources(placement="data_parallel", cpus_per_job=8)
    assert baseline_needs(shared, TINY, [node(1)] * 8) == ResourceRequest(1, 0)
    assert baseline_needs(Resources(cpus_per_job=3), TINY, [node(8)]) == ResourceRequest(3, 0)
    assert baseline_needs(Resources(), TINY, [node(8)]) == ResourceRequest(1, 0)
    assert baseline_needs(
        Resources(gpus_per_job=0), TINY, [node(8, 1, each=80)]
    ) == ResourceRequest(1, 0)


def test_given_cpus_are_not_made_fewer_by_a_part_of_a_gpu():
    got = job_needs(Resources(cpus_per_job=6), job_of(2), [node(16, 1, each=80)])
    assert got == ResourceRequest(6, 1 / 8)


def test_the_driver_of_several_workers_may_be_on_another_node():
    several, alone = ResourceRequest(2, 2, workers=2), ResourceRequest(1, 1)
    short = [node(0, memory=8), node(1, 1, memory=0.5), node(1, 1, memory=0.5)]
    assert fits([several], short)
    assert not fits([alone], short)


def test_more_than_one_gpu_is_a_whole_number_of_them():
    for placement in ("together", "data_parallel"):
        with pytest.raises(ValueError, match=r"gpus_per_job must be whole .* got 2\.5"):
            Resources(placement=placement, gpus_per_job=2.5)
    assert Resources(placement="one_model_per_worker", gpus_per_job=2.5).gpus_per_job == 2.5


def test_this_machine_is_there():
    (here,) = this_machine()
    assert here["CPU"] >= 1
    assert 2**20 < here["memory"] < psutil.virtual_memory().total


# What is admitted, beside a calculation of its own: every way to put the workers on the nodes.

CLUSTERS = [
    [(8, 8)],
    [(8, 1)] * 8,
    [(1, 1)] * 4,
    [(2, 0)],
    [(1, 0)] * 4,
    [(16, 2), (4, 1)],
    [(64, 0), (8, 4)],
    [(2, 4)],
]
ASKED_GPUS = ["auto", 0, 0.25, 0.5, 1, 2, 3, 4, 8, 16]
ASKED_CPUS = ["auto", 0.5, 1, 3, 4, 8, 300]


@pytest.mark.parametrize("placement", ["together", "one_model_per_worker", "data_parallel"])
@pytest.mark.parametrize("machines", CLUSTERS, ids=str)
def test_what_is_admitted_is_what_can_be_put_on_the_nodes(placement, machines):
    nodes = [node(cpus, gpus) for cpus, gpus in machines]
    outcomes = set()
    for members, gpus, cpus in product((1, 2, 3, 4), ASKED_GPUS, ASKED_CPUS):
        spec = Resources(placement=placement, gpus_per_job=gpus, cpus_per_job=cpus)
        workers, each = plain_workers(placement, members, gpus, cpus, machines)
        needs = job_needs(spec, job_of(members), nodes)
        assert needs.workers == workers, (members, gpus, cpus)
        expected = tuple(float(amount) for amount in each)
        assert (needs.worker.cpus, needs.worker.gpus) == pytest.approx(expected, abs=1e-9)
        free = tuple(sorted((Fraction(c), (Fraction(1),) * g) for c, g in machines))
        holds = can_hold(workers, each, free)
        assert (shortage(needs, nodes) is None) == holds, (members, gpus, cpus)
        outcomes.add(holds)
    assert outcomes == {True, False}


def plain_workers(placement, members, gpus, cpus, machines) -> tuple[int, tuple]:
    """(workers, (CPUs, GPUs) of each), as docs/training.md says."""
    on_gpus = any(g for _, g in machines) if gpus == "auto" else gpus > 0
    if placement == "together":
        workers = 1
    elif placement == "one_model_per_worker":
        workers = members
    else:
        of = gpus if on_gpus else cpus
        workers = 2 if of == "auto" else max(1, floor(of))
    share = Fraction(int(on_gpus)) if gpus == "auto" else in_steps(gpus, workers)
    if placement != "together":
        share = min(share, Fraction(1))
    if cpus != "auto":
        return workers, (in_steps(cpus, workers), share)
    beside = [floor(c * share / g) for c, g in machines if g] if share else []
    return workers, (Fraction(max(1, min([4, *beside]))) if beside else Fraction(1), share)


def in_steps(given, workers) -> Fraction:
    """A share in the ten-thousandths that Ray counts in."""
    return Fraction(floor(Fraction(given) / workers * 10_000), 10_000)


@cache
def can_hold(workers: int, each: tuple, free: tuple) -> bool:
    """Whether so many workers can be put on nodes of (CPUs, what is free of each GPU)."""
    if not workers:
        return True
    return any(can_hold(workers - 1, each, left) for left in set(places(each, free)))


def places(each: tuple, free: tuple) -> Iterator[tuple]:
    """What is left of the nodes for every place that one worker could have."""
    cpus, share = each
    for i, (has, gpus) in enumerate(free):
        if cpus > has:
            continue
        if share >= 1:
            whole = [k for k, part in enumerate(gpus) if part == 1]
            ways = [whole[: int(share)]] if len(whole) >= share else []
            taken = Fraction(1)
        else:
            ways = [[k] for k, part in enumerate(gpus) if part >= share] if share else [[]]
            taken = share
        for way in ways:
            rest = tuple(sorted(p - taken if k in way else p for k, p in enumerate(gpus)))
            yield tuple(sorted((*free[:i], (has - cpus, rest), *free[i + 1 :])))


@pytest.mark.parametrize(
    ("resources", "members", "nodes", "needs"),
    [
        ({"placement": "data_parallel", "gpus_per_job": 8}, 2, [node(4, 1)] * 8, (32, 8, 8)),
        ({"placement": "data_parallel", "gpus_per_job": 3}, 2, [node(16, 8)], (6, 3, 3)),
        ({"placement": "one_model_per_worker"}, 4, [node(4, 1)] * 4, (16, 4, 4)),
        (
            {"placement": "one_model_per_worker", "gpus_per_job": 4},
            4,
            [node(4, 1)] * 4,
            (16, 4, 4),
        ),
        ({"placement": "one_model_per_worker", "gpus_per_job": 4}, 1, [node(4, 1)] * 4, (4, 1, 1)),
        ({"placement": "one_model_per_worker", "gpus_per_job": 1}, 3, [node(6, 1)], None),
        (
            {"placement": "one_model_per_worker", "workers_per_model": 2},
            3,
            [node(8, 2)] * 3,
            (24, 6, 6),
        ),
        (
            {"placement": "one_model_per_worker", "workers_per_model": 2, "gpus_per_job": 4},
            2,
            [node(4, 1)] * 4,
            (16, 4, 4),
        ),
    ],
)
def test_a_job_that_is_shared_is_admitted_by_its_own_workers(resources, members, nodes, needs):
    got = needs_of(Resources(**resources), nodes, members)
    if needs:
        assert (got.cpus, got.gpus, got.workers) == needs
    else:  # thirds, of which Ray takes three on one GPU
        assert got.worker.gpus == pytest.approx(0.3333)


def test_six_workers_share_one_gpu_as_ray_counts():
    spec = Resources(placement="one_model_per_worker", gpus_per_job=1, cpus_per_job=1)
    got = job_needs(spec, replace(job_of(2), members=job_of(2).members * 3), [node(8, 1)])
    assert 6 * round(got.worker.gpus, 4) <= 1
    check_fits(got, [node(8, 1)])


@pytest.mark.parametrize("asked", [{"cpus_per_job": 64}, {"gpus_per_job": 1}, {"gpus_per_job": 2}])
def test_what_no_node_can_hold_is_refused_with_what_there_is(asked):
    with pytest.raises(UserError, match=r"on one node, but the cluster has: 8 CPUs, 0 GPUs"):
        needs_of(Resources(**asked), [node(8)])
    with pytest.raises(UserError, match="on one node"):
        needs_of(Resources(gpus_per_job=1, cpus_per_job=32), [node(64), node(8, 1)])


def test_an_autoscaler_that_has_started_nothing_yet_is_judged_by_what_it_may_start():
    asked: dict[str, Any] = {"gpus_per_job": 1, "cpus_per_job": 8}
    head = node(0)
    with pytest.raises(UserError, match=r"say under resources\.autoscaler what nodes"):
        needs_of(Resources(**asked), [head])
    may = Resources(**asked, autoscaler=(GrownNode(cpus=8, gpus=1),))
    assert needs_of(may, grown(may, [head])) == ResourceRequest(8, 1)
    auto = Resources(autoscaler=(GrownNode(cpus=8, gpus=1), GrownNode(cpus=64)))
    assert needs_of(auto, grown(auto, [head])) == ResourceRequest(4, 1)
    small = Resources(**asked, autoscaler=(GrownNode(cpus=4, gpus=1, memory=16),))
    with pytest.raises(UserError, match="has: 0 CPUs, 0 GPUs, 64 GiB; 4 CPUs, 1 GPUs, 16 GiB"):
        needs_of(small, grown(small, [head]))


def test_what_has_grown_is_not_counted_again():
    spec = Resources(autoscaler=(GrownNode(cpus=8, gpus=1, count=3),))
    assert len(grown(spec, [node(2)])) == 1 + 3
    assert len(grown(spec, [node(2), node(8, 1)])) == 2 + 2
    assert len(grown(spec, [node(8, 1)] * 4)) == 4
    three = ResourceRequest(3, 3, workers=3)
    assert fits([three], grown(spec, [node(2)]))
    assert not fits([three, three], grown(spec, [node(2)]))
