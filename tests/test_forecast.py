"""What `bikd plan` says a sweep would do: against sums worked out by hand, and against a sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bikd_ray.errors import UserError
from bikd_ray.plan import Pace
from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.sweep.messages import Order, job_row
from bikd_ray.sweep.needs import Needs
from pipelines.calibrate import calibrate
from pipelines.planning import Forecast, cost_lines, forecast, paces_of

ROOT = Path(__file__).parent.parent
CPU, HALF, GPU = Needs(1, 0), Needs(1, 0.5), Needs(1, 1)
TWO_CPUS = [{"CPU": 2, "memory": 2**40}]
ONE_GPU = [{"CPU": 8, "GPU": 1, "memory": 2**40}]


@pytest.mark.parametrize(
    ("jobs", "nodes", "budget", "expected"),
    [
        # two slots: 9 beside 5, then 4 beside it: both end at 9
        ([(CPU, 4), (CPU, 9), (CPU, 5)], TWO_CPUS, None, Forecast(3, 18, 9, 2)),
        # the whole GPU first, then two halves at once
        ([(HALF, 6), (GPU, 10), (HALF, 6)], ONE_GPU, None, Forecast(3, 16, 16, 2)),
        # 10 and 6 begin together; a third of 6 would make 16 + 6 of 20
        ([(CPU, 10), (CPU, 6), (CPU, 6)], TWO_CPUS, 20.0, Forecast(3, 22, 12, 2)),
        ([(CPU, 10), (CPU, 6), (CPU, 6)], TWO_CPUS, 17.0, Forecast(2, 16, 10, 2)),
        ([(Needs(4, 0), 1)], TWO_CPUS, None, Forecast(0, 0, 0, 0)),
        ([], TWO_CPUS, None, Forecast(0, 0, 0, 0)),
    ],
)
def test_jobs_are_played_in_the_order_of_a_sweep(jobs, nodes, budget, expected):
    assert forecast(jobs, nodes, budget) == expected


def test_a_job_takes_what_its_images_take_of_each_member(spec_file):
    plan = plan_jobs(load_spec(spec_file(objectives=["bikd", "kd"])), "/nowhere")
    alone = next(j for j in plan.todo if len(j.members) == 1)
    pair = next(j for j in plan.todo if j.objective.name == "bikd")
    taught = next(j for j in plan.todo if j.objective.name == "kd")
    pace = Pace(train=10.0, forward=1.0)
    train, looks = 2 * 62, 3 * 40  # epochs × images; val before and after each epoch
    assert alone.work(lambda m: pace) == train * 10 + looks
    assert pair.work(lambda m: pace) == 2 * (train * 10 + looks)
    assert taught.work(lambda m: pace) == train * (10 + 1) + looks


def test_what_done_jobs_took_tells_what_others_will(spec_file, tmp_path):
    spec, uri = load_spec(spec_file()), str(tmp_path / "store")
    assert paces_of(plan_jobs(spec, uri), Store(uri)) is None
    for job in list(plan_jobs(spec, uri).todo)[:4]:
        row = job_row(Order(job, "s", uri), job.flops * 1e-6, {}, None)
        result = {"job_id": job.job_id, "data_id": row["data_id"]}
        Writer(uri).commit_job(row, [result], [])
    plan = plan_jobs(spec, uri)
    paces = paces_of(plan, Store(uri))
    for job in plan.todo:
        assert job.work(lambda m: paces[m.model_id]) == pytest.approx(job.flops * 1e-6)


def test_calibration_times_every_model_and_leaves_no_trace(spec_file, tmp_path):
    plan = plan_jobs(load_spec(spec_file()), str(tmp_path / "store"))
    said = []
    paces = calibrate(plan.todo, said.append)
    assert set(paces) == {m.model_id for job in plan.jobs for m in job.members}
    assert all(pace.forward > 0 and pace.train > 0 for pace in paces.values())
    assert len(said) == 3
    assert not (tmp_path / "store").exists()


def test_limit_only_and_budget_count_as_in_a_sweep(spec_file, tmp_path):
    spec = load_spec(spec_file(resources={"cpus_per_job": 1}))
    plan = plan_jobs(spec, str(tmp_path / "store"), only="small")
    assert len(plan) == 2 * 3  # seeds × (control and two pairs)
    hour = {m.model_id: Pace(0, 3600 / (3 * 40) / len(j.members)) for j in plan.todo
            for m in j.members if len(j.members) == 2}  # fmt: skip
    here = ("two CPUs", TWO_CPUS)
    lines = cost_lines(spec, plan, hour, "hand", here, limit=4)
    assert lines[1].startswith("a sweep begins 4 of them")
    lines = cost_lines(spec, plan, None, "", here)
    assert "--calibrate" in lines[1]
    with pytest.raises(UserError, match=r"'smal' is not in the zoo; .*did you mean 'small'"):
        plan_jobs(spec, str(tmp_path / "store"), only="smal")


def test_the_command_says_what_is_left_to_pay(spec_file, tmp_path):
    command = [sys.executable, "-m", "pipelines", "plan", str(spec_file()), "--calibrate"]
    options = ["--limit", "3", "--only", "small", "--budget", "5"]
    run = subprocess.run(
        [*command, *options], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "a sweep begins 3 of them" in run.stderr
    assert "(by steps timed here)" in run.stderr
