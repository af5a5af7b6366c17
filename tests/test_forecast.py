"""What `bikd plan` says a sweep would do: against sums worked out by hand, and against a sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bikd_pipelines.calibrate import calibrate
from bikd_pipelines.planning import (
    RAY_START,
    SLOT_START,
    TASK_START,
    Forecast,
    cost_lines,
    forecast,
    paces_of,
)
from bikd_ray.errors import UserError
from bikd_ray.plan import Pace
from bikd_ray.resolve import not_kept, plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest, job_row
from bikd_ray.sweep.strategy import PendingJob

ROOT = Path(__file__).parent.parent
CPU, HALF, GPU = ResourceRequest(1, 0), ResourceRequest(1, 0.5), ResourceRequest(1, 1)
TWO_CPUS = [{"CPU": 2, "memory": 2**40}]
ONE_GPU = [{"CPU": 8, "GPU": 1, "memory": 2**40}]


def pending(jobs) -> list[PendingJob]:
    return [PendingJob(str(i), *job) for i, job in enumerate(jobs)]


@pytest.mark.parametrize(
    ("jobs", "nodes", "budget", "expected"),
    [
        # two slots: 9 beside 5, then 4 beside it: both end at 9
        ([(CPU, 4), (CPU, 9), (CPU, 5)], TWO_CPUS, None, Forecast(3, 18, 9, 2)),
        # the control first, although short: 2 beside 9, then 5 and 4 one after the other
        ([(CPU, 4), (CPU, 9), (CPU, 5), (CPU, 2, True)], TWO_CPUS, None, Forecast(4, 20, 11, 2)),
        # the whole GPU first, then two halves at once
        ([(HALF, 6), (GPU, 10), (HALF, 6)], ONE_GPU, None, Forecast(3, 16, 16, 2)),
        # 10 and 6 begin together; a third of 6 would make 16 + 6 of 20
        ([(CPU, 10), (CPU, 6), (CPU, 6)], TWO_CPUS, 20.0, Forecast(3, 22, 12, 2)),
        ([(CPU, 10), (CPU, 6), (CPU, 6)], TWO_CPUS, 17.0, Forecast(2, 16, 10, 2)),
        ([(ResourceRequest(4, 0), 1)], TWO_CPUS, None, Forecast(0, 0, 0, 0)),
        ([], TWO_CPUS, None, Forecast(0, 0, 0, 0)),
    ],
)
def test_jobs_are_played_in_the_order_of_a_sweep(jobs, nodes, budget, expected):
    assert forecast(pending(jobs), nodes, budget) == expected


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
        row = job_row(JobRequest(job, "s", uri), job.flops * 1e-6, {}, None)
        result = {"job_id": job.job_id, "data_id": row["data_id"]}
        Writer(uri).commit_job(row, [result], [])
    plan = plan_jobs(spec, uri)
    paces = paces_of(plan, Store(uri))
    assert paces is not None
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
    command = [sys.executable, "-m", "bikd_pipelines", "plan", str(spec_file()), "--calibrate"]
    options = ["--limit", "3", "--only", "small", "--budget", "5"]
    run = subprocess.run(
        [*command, *options], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "a sweep begins 3 of them" in run.stderr
    assert "(by steps timed here)" in run.stderr


@pytest.mark.parametrize(
    ("jobs", "warm", "expected"),
    [
        ([(CPU, 5)] * 4, 600.0, Forecast(4, 20 + 2 * 3, 13, 2)),  # one start of each of two slots
        ([(CPU, 5)] * 4, 4.0, Forecast(4, 20 + 4 * 3, 16, 2)),  # a new slot for each job
        ([(CPU, 5)] * 4, -1.0, Forecast(4, 20 + 4 * 3, 16, 2)),
        ([(ResourceRequest(2, 0), 5), (CPU, 5)], 600.0, Forecast(2, 16, 16, 1)),  # of other needs
    ],
)
def test_a_slot_starts_once_and_is_taken_again(jobs, warm, expected):
    assert forecast(pending(jobs), TWO_CPUS, None, 3.0, warm) == expected


def test_the_time_of_a_sweep_has_its_start(spec_file, tmp_path):
    spec = load_spec(spec_file(resources={"cpus_per_job": 1}))
    store = Store(str(tmp_path / "store"))
    plan = plan_jobs(spec, store)
    pace = {m.model_id: Pace(0, 0.05) for job in plan.jobs for m in job.members}  # 2 s a baseline
    seconds = [(CPU, j.work(lambda m: Pace(0, 0.05)), j.objective.alone) for j in plan.todo]
    jobs = forecast(pending(seconds), TWO_CPUS)

    def told(where: str, known: Store | None) -> str:
        return cost_lines(spec, plan, pace, "hand", (where, TWO_CPUS), store=known)[1]

    start = RAY_START + SLOT_START
    then = f"about {jobs.until:.0f} s on this machine with 2 at a time"
    assert f" about {start:.0f} s to start, then {then}" in told("this machine", None)
    start += TASK_START + 3 * 2 / 2
    assert f" about {start:.0f} s to start, then {then}" in told("this machine", store)
    start -= RAY_START
    assert f" about {start:.0f} s to start, then" in told("the cluster at auto", store)


def test_a_selection_changed_after_a_sweep_says_which_weights_are_not_there(spec_file, tmp_path):
    uri = str(tmp_path / "store")
    spec = load_spec(spec_file())
    jobs = list(plan_jobs(spec, uri).todo)
    for job in jobs[:5]:
        done = job_row(JobRequest(job, "s", uri), 1.0, {}, None)
        of_job = {"job_id": job.job_id, "data_id": done["data_id"]}
        of_job |= {"metric": "top1", "eval_set": "val"}
        last = {"selection": "last", "weights": "weights/last.safetensors"}
        best = {"selection": "best_val", "weights": None}
        results = [
            {**of_job, "model_id": m.model_id, **r} for m in job.members for r in (last, best)
        ]
        Writer(uri).commit_job(done, results, [])
    store = Store(uri)

    def told(**changes: object) -> str | None:
        changed = load_spec(spec_file(**changes))
        plan = plan_jobs(changed, store)
        assert len(plan.done) == 5
        line = not_kept(changed, plan, store)
        lines = cost_lines(changed, plan, None, "", ("two CPUs", TWO_CPUS), store=store)
        assert (line in lines) == (line is not None)
        return line

    assert told() is None
    assert told(resources={"keep_weights": "none"}) is None
    lacking = told(selection="best_val")
    assert lacking == (
        "5 of 5 done jobs kept no weights of selection best_val, and what is done is not run "
        "again; take those of selection last, or sweep into another --store to have them"
    )
    assert told(resources={"keep_weights": "all"}) == lacking
