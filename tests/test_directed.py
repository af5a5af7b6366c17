"""Directed objectives: one student learns, its teachers are frozen; who makes which jobs."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from bikd_ray.plan import make_job
from bikd_ray.sweep.events import JobRequest
from bikd_ray.train import fit
from tests.jobs import result_of
from tests.plain_loop import (
    CPU,
    NAMES,
    assert_equal,
    job_of,
    networks_of,
    noisy_zoo,
    run,
    states,
)
from tests.plans import jobs_of, resolved, spec_of

DIRECTED = ("kd", "kl_dp", "kl_dp_supervised")
RECIPE = {"epochs": 2, "batch_size": 31, "lr": 1e-2}


def test_a_sweep_of_several_objectives_over_three_models_counts_each_as_its_kind_asks():
    names = ["bikd", "kd", "self", "dml", "kl_dp"]
    jobs = jobs_of(spec_of("abc", objectives=names, seeds=[0, 1]))
    counts = Counter((job.objective.name, job.seed) for job in jobs)
    pairs, ordered, each = 3, 6, 3
    for seed in (0, 1):
        assert counts["ce", seed] == counts["self", seed] == each
        assert counts["bikd", seed] == counts["dml", seed] == pairs
        assert counts["kd", seed] == counts["kl_dp", seed] == ordered
    assert len({job.job_id for job in jobs}) == len(jobs) == 2 * 24
    roles = {(job.objective.name, job.role) for job in jobs}
    assert roles == {
        ("ce", "control"),
        ("self", "control"),
        ("bikd", "peer"),
        ("dml", "peer"),
        ("kd", "student"),
        ("kl_dp", "student"),
    }


def test_a_pair_is_two_directed_jobs_and_one_joint_job():
    spec = spec_of("ab", objectives=["kd", "bikd"], controls=False, seeds=[0])
    directed = [job for job in jobs_of(spec) if job.objective.directed]
    assert [job.names for job in directed] == [("a", "b"), ("b", "a")]
    assert [[m.name for m in job.live] for job in directed] == [["a"], ["b"]]
    assert [[m.name for m in job.teachers] for job in directed] == [["b"], ["a"]]
    (joint,) = [job for job in jobs_of(spec) if not job.objective.directed]
    assert (joint.live, joint.teachers) == (joint.members, ())


def test_teachers_are_a_set_and_the_student_is_not_one_of_them():
    spec = spec_of("abc", pairings={"size": 3}, objectives=["kd"], controls=False, seeds=[0])
    zoo, data = resolved(spec)
    a, b, c = zoo.values()

    def job(*members):
        return make_job(members, spec.objectives[0], 0, spec.recipe, "recipe", data)

    assert job(b, c, a) == job(b, a, c)
    assert job(b, c, a).names == ("b", "a", "c")
    assert len({job(*m).job_id for m in ((a, b, c), (b, a, c), (c, a, b))}) == 3
    assert [j.names[0] for j in jobs_of(spec)] == ["a", "b", "c"]


def test_labels_say_who_learns_from_whom():
    spec = spec_of("abc", pairings={"list": [["a", "b"], ["a", "b", "c"]]}, seeds=[0],
                   objectives=["kd", "bikd", "self"])  # fmt: skip
    labels = {job.label for job in jobs_of(spec)}
    assert labels > {
        "a ← b · kd · seed 0",
        "b ← a · kd · seed 0",
        "c ← a + b · kd · seed 0",
        "a + b · bikd · seed 0",
        "a · self · seed 0",
        "a · ce · seed 0",
    }


def modes_seen(network: nn.Module) -> set[bool]:
    """Fills with whether any module of the network was in train mode when it answered."""
    seen: set[bool] = set()

    def record(module: nn.Module, _: object) -> None:
        seen.update(m.training for m in module.modules())

    network.register_forward_pre_hook(record)
    return seen


@pytest.mark.parametrize("objective", DIRECTED)
@pytest.mark.parametrize("members", [2, 3])
def test_teachers_stay_as_they_are_to_the_last_statistic(spec_file, objective, members):
    """Batch normalisation would move its statistics, and dropout its answers, in train mode."""
    job = job_of(spec_file, NAMES[:members], {"name": objective}, zoo=noisy_zoo(), recipe=RECIPE)
    networks = networks_of(job, lambda network: network)
    start = [copy.deepcopy(network.state_dict()) for network in networks]
    modes = [modes_seen(network) for network in networks]
    for _ in fit(job, networks, CPU, similarity=False):
        pass
    assert modes == [{True, False}, *[{False}] * (members - 1)]
    for network, before in zip(networks[1:], start[1:], strict=True):
        assert_equal(network.state_dict(), before)
        assert all(p.grad is None for p in network.parameters())
    assert not torch.equal(networks[0].state_dict()["3.running_mean"], start[0]["3.running_mean"])


@pytest.mark.parametrize("objective", [*DIRECTED, "self"])
def test_only_the_student_has_results_and_curves(spec_file, tmp_path, objective):
    names = NAMES[:1] if objective == "self" else NAMES
    job = job_of(spec_file, names, {"name": objective}, recipe=RECIPE)
    end = result_of(JobRequest(job, "tiny", str(tmp_path), similarity=False))
    assert end.error is None
    assert [row["epoch"] for row in end.curves] == [0, 1, 2]
    assert {row["model"] for row in (*end.curves, *end.results)} == {"small"}
    assert {row["selection"] for row in end.results} == {"last", "best_val"}
    for row in end.results:
        assert row["role"] == ("control" if objective == "self" else "student")
        assert set(row["partners"]) == set(names[1:])
        assert (row.get("ensemble_before") is None) == (objective == "self")
    assert end.job["members"] == list(job.names)


@pytest.mark.parametrize("objective", ["self", "kl_dp"])
def test_the_old_self_is_the_student_at_the_start_and_not_at_present(spec_file, objective):
    """One step an epoch and no noise: only before its first step is the student its old self."""
    names = NAMES[:1] if objective == "self" else NAMES[:2]
    recipe = {"epochs": 2, "batch_size": 62, "lr": 1e-1, "weight_decay": 0.1}
    zoo = noisy_zoo(dropout=0.0, norm=False)
    job = job_of(spec_file, names, {"name": objective}, zoo=zoo, recipe=recipe)
    networks = networks_of(job)
    for parameter in networks[-1].parameters() if len(networks) > 1 else ():
        nn.init.zeros_(parameter)  # a teacher that knows nothing leaves every image to the old self
    rows, _ = run(job, networks)
    assert rows[1][0].kl == 0
    assert rows[2][0].kl > 1e-4


def test_who_the_teacher_is_decides_what_the_student_learns(spec_file):
    ends = []
    for teacher in NAMES[1:]:
        job = job_of(spec_file, ["small", teacher], {"name": "kd"}, recipe=RECIPE)
        assert job.names == ("small", teacher)
        ends.append(states(run(job)[1])[0])
    assert not torch.equal(ends[0]["2.weight"], ends[1]["2.weight"])


@pytest.mark.parametrize(("objective", "members"), [("kd", 2), ("kd", 3), ("kl_dp", 3)])
def test_a_student_has_case_shares_where_each_sample_has_one_teacher(spec_file, objective, members):
    """Several teachers of kd are mixed: none of them is the one that was right or wrong."""
    job = job_of(spec_file, NAMES[:members], {"name": objective}, recipe=RECIPE)
    for (row,) in run(job)[0][1:]:
        cases = [row.case1, row.case2, row.case3, row.case4]
        if (objective, members) == ("kd", 3):
            assert [row.teacher_share, *cases] == [None] * 5
        else:
            assert row.teacher_share == 0
            assert sum(cases) == pytest.approx(1)
