"""What Tune is given to run, and when it is told that there is no more; no cluster is started."""

import inspect
import threading

import pytest

from bikd_ray.sweep import ray_env  # noqa: F401  # isort: skip  (before Ray)

from ray.tune import Experiment

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Resources
from bikd_ray.store import Store
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import Lease
from bikd_ray.sweep import searcher as module
from bikd_ray.sweep.capacity import LONG, ResourceRequest
from bikd_ray.sweep.events import JobRequest
from bikd_ray.sweep.scheduler import JobScheduler
from bikd_ray.sweep.searcher import JobGenerator, JobSearcher, StopAtInterrupt, placement_group
from bikd_ray.sweep.strategy import Everything, PendingJob
from bikd_ray.sweep.trial import JobTrial

CPU = ResourceRequest(1, 0)


@pytest.fixture
def made(spec_file, tmp_path):
    """Makes (searcher, scheduler, its event) of a sweep's first jobs on a node of two CPUs."""

    def make(jobs: int, slots: str = "warm") -> tuple[JobSearcher, JobScheduler, threading.Event]:
        spec, uri = load_spec(spec_file()), str(tmp_path / "store")
        planned = list(plan_jobs(spec, uri))[:jobs]
        how = {"needs": CPU, "resources": Resources.model_validate({"slots": slots})}
        requests = {job.job_id: JobRequest(job, spec.name, uri, **how) for job in planned}
        scheduler = JobScheduler(
            strategy=Everything([PendingJob(i, CPU, 1.0) for i in requests]),
            nodes=lambda: [{"CPU": 2, "memory": 2**40}],
            store=Store(uri),
            lease=Lease(StoreFS.at(uri), spec.name),
            note=pytest.fail,
        )
        event = threading.Event()
        return JobSearcher(requests, scheduler, scheduler.look, event), scheduler, event

    return make


def test_a_job_is_suggested_when_there_is_room_for_it(made):
    searcher, scheduler, _ = made(3)
    first, second = searcher.suggest("1"), searcher.suggest("2")
    assert first["job_id"] != second["job_id"]
    assert searcher.suggest("3") is None
    assert not searcher.finished
    scheduler.release(first["job_id"], 1.0)
    assert searcher.suggest("3")["job_id"] not in {first["job_id"], second["job_id"]}


def test_a_searcher_that_has_finished_goes_on_where_a_trial_dies(made, tmp_path):
    searcher, scheduler, _ = made(1)
    generator = JobGenerator(searcher)
    generator.add_configurations(
        Experiment("any", JobTrial, num_samples=9, storage_path=str(tmp_path))
    )
    assert not generator.is_finished()
    job_id = searcher.suggest("1")["job_id"]
    assert generator.is_finished()  # idle slots are given back while it runs
    scheduler.put_back(job_id)
    assert not generator.is_finished()
    assert searcher.suggest("2")["job_id"] == job_id
    scheduler.put_back(job_id)
    generator.set_finished()  # as Tune does when it stops all
    assert generator.is_finished()


def test_a_run_of_tune_ends_at_ctrl_c_and_after_so_many_trials(made, monkeypatch):
    searcher, _, interrupted = made(3)
    interrupted.set()
    assert searcher.finished
    searcher, *_ = made(3)
    monkeypatch.setattr(module, "MOST_TRIALS", 1)
    assert not searcher.finished
    searcher.suggest("1")
    assert searcher.finished


@pytest.mark.parametrize(("slots", "seconds", "own"), [
    ("fresh", 1.0, [True, True]),
    ("warm", 9 * LONG, [False, False]),
    ("auto", LONG / 2, [False, False]),
    ("auto", 2 * LONG, [False, True]),
])  # fmt: skip
def test_a_slot_of_its_own_is_asked_for_before_the_job_begins(made, slots, seconds, own):
    searcher, scheduler, _ = made(2, slots)
    first = searcher.suggest("1")
    scheduler.release(first["job_id"], seconds)
    second = searcher.suggest("2")
    requests = [placement_group(CPU, config["slot"]) for config in (first, second)]
    assert [request != placement_group(CPU) for request in requests] == own
    assert (requests[0] == requests[1]) == (own == [False, False])


def test_what_tune_unpickles_for_each_trial_does_not_grow_with_the_jobs(made):
    searcher, *_ = made(200)
    config = searcher.suggest("1")
    assert searcher.held(config) == placement_group(CPU, config["slot"])
    assert inspect.getclosurevars(searcher.held).nonlocals == {"needs": [CPU]}


def test_ctrl_c_stops_all_trials_and_says_so_once():
    interrupted, said = threading.Event(), []
    stopper = StopAtInterrupt(interrupted, said.append)
    assert not stopper.stop_all()
    interrupted.set()
    assert stopper.stop_all()
    assert stopper.stop_all()
    assert said == ["stopping; Ctrl-C again ends at once"]
    assert not stopper("trial", {})
