"""The order in which jobs are handed out, beside other sweeps and within a budget; no Ray."""

import json
import os
import time

import pytest

from bikd_pipelines.planning import sweep_lines
from bikd_ray.store import Store, Writer
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import EXPIRES, FOLDER, About, Lease, at_work
from bikd_ray.sweep import scheduler as module
from bikd_ray.sweep.capacity import SHORTAGE_PATIENCE, ResourceRequest
from bikd_ray.sweep.scheduler import JobScheduler
from bikd_ray.sweep.strategy import Everything, PendingJob, Running
from tests.stores import after, baseline, job

CPU, BIG = ResourceRequest(1, 0), ResourceRequest(2, 0)
TWO = [{"CPU": 2, "memory": 2**40}]


@pytest.fixture(autouse=True)
def looks_always(monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)


def line(tmp_path, jobs, nodes=TWO, **options) -> JobScheduler:
    waiting = [PendingJob(i, needs, work) for i, needs, work in jobs]
    uri = str(tmp_path / "store")
    options.setdefault("note", pytest.fail)
    options.setdefault("strategy", Everything(waiting))
    return JobScheduler(
        nodes=lambda: nodes, store=Store(uri), lease=Lease(StoreFS.at(uri), "s"), **options
    )


def two_models(tmp_path) -> Writer:
    writer = Writer(str(tmp_path / "store"))
    for m in "ab":
        baseline(writer, m)
    return writer


def done_by_another(writer: Writer, job_id: str) -> None:
    job(writer, {"a": after("a", 0.1, 0), "b": after("b", 0.1, 0)}, 0, job_id=job_id)


def test_the_largest_needs_and_the_longest_jobs_come_first_and_only_as_many_as_fit(tmp_path):
    jobs = line(tmp_path, [("short", CPU, 1), ("long", CPU, 9), ("big", BIG, 1)])
    assert jobs.take() == "big"
    assert jobs.take() is None  # two CPUs are taken
    jobs.release("big", 1)
    assert [jobs.take(), jobs.take(), jobs.take()] == ["long", "short", None]
    assert jobs.over


def test_nothing_overtakes_a_job_that_waits_for_room(tmp_path):
    jobs = line(tmp_path, [("big", BIG, 1), ("small", CPU, 1), ("first", ResourceRequest(3, 0), 1)],
                nodes=[{"CPU": 3, "memory": 2**40}])  # fmt: skip
    assert jobs.take() == "first"
    jobs.release("first", 1)
    assert [jobs.take(), jobs.take(), jobs.take()] == ["big", "small", None]


def test_a_cluster_that_grows_is_used(tmp_path):
    nodes = list(TWO)
    jobs = line(tmp_path, [(str(i), CPU, 1) for i in range(5)], nodes)
    assert [jobs.take() for _ in range(3)] == ["0", "1", None]
    nodes.append({"CPU": 2, "memory": 2**40})
    assert [jobs.take() for _ in range(3)] == ["2", "3", None]


def test_a_line_that_has_long_had_nothing_to_hand_out_is_idle(tmp_path, monkeypatch):
    now, nodes = [0.0], list(TWO)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    jobs = line(tmp_path, [("a", BIG, 1), ("b", BIG, 1)], nodes, note=lambda text: None)
    assert jobs.take() == "a"
    now[0] = 100
    assert not jobs.idle  # it runs
    jobs.release("a", 1)
    nodes.clear()
    assert (jobs.take(), jobs.ready) == (None, False)
    now[0] += module.IDLE_SECONDS
    assert not jobs.idle
    now[0] += 1
    assert jobs.idle
    nodes += TWO
    jobs.look()
    assert jobs.ready
    jobs.held = True
    assert not jobs.ready
    jobs.held = False
    jobs.resume()
    assert not jobs.idle  # a new run of Tune, a new patience
    assert jobs.take() == "b"


def test_a_cluster_without_room_for_a_job_is_waited_for_and_that_is_said_once(
    tmp_path, monkeypatch
):
    now, said, nodes = [0.0], [], list(TWO)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    jobs = line(tmp_path, [("a", BIG, 1), ("b", BIG, 1)], nodes, note=said.append)

    def take(at: float) -> tuple[str | None, int]:
        now[0] = at
        return jobs.take(), len(said)

    assert take(0) == ("a", 0)
    nodes[0] = {"CPU": 1, "memory": 2**30}
    assert take(10) == (None, 0)
    assert take(10 + SHORTAGE_PATIENCE) == (None, 1)
    assert take(10 + 9 * SHORTAGE_PATIENCE) == (None, 1)
    short = "a job needs 2 CPUs and 0 GPUs on one node, but the cluster has: "
    assert said == [f"{short}1 CPUs, 0 GPUs, 1 GiB; this sweep waits for nodes"]
    nodes.append(TWO[0])
    jobs.release("a", 1)
    assert take(1000) == ("b", 2)
    assert said[1] == "the cluster has room for every job again"
    nodes.clear()  # from now on only a job that has begun waits
    assert take(1010) == (None, 2)
    jobs.look()
    jobs.look()
    now[0] = 2000
    jobs.look()
    assert said[2:] == [f"{short}no nodes; this sweep waits for nodes"]


def test_a_job_whose_trial_died_is_the_first_in_line_again(tmp_path):
    jobs = line(tmp_path, [("a", CPU, 3), ("b", CPU, 2), ("c", CPU, 1)])
    assert [jobs.take(), jobs.take(), jobs.take()] == ["a", "b", None]
    jobs.put_back("a")
    assert [jobs.take(), jobs.take()] == ["a", None]
    jobs.release("b", 1)
    assert jobs.take() == "c"
    assert jobs.over
    jobs.put_back("c")
    assert not jobs.over
    assert jobs.take() == "c"


def test_an_autoscaler_is_asked_for_what_is_left_and_no_longer_for_what_is_over(tmp_path):
    asked = []
    jobs = line(
        tmp_path, [(str(i), CPU, 1) for i in range(3)], ask=lambda needs: asked.append(len(needs))
    )
    for _ in range(3):
        jobs.release(jobs.take() or "", 1)
    jobs.take()
    assert asked == [3, 2, 1, 0]


def test_a_job_that_another_sweep_is_at_waits_and_is_dropped_once_that_has_done_it(tmp_path):
    writer = two_models(tmp_path)
    other = Lease(writer.fs, "other")
    other.say(frozenset({"x", "y"}))
    jobs = line(tmp_path, [("x", CPU, 3), ("y", CPU, 2), ("z", CPU, 1)])
    assert jobs.take() == "z"
    assert jobs.take() is None
    jobs.release("z", 1)
    assert not jobs.over  # they may still become ours
    assert not jobs.ready
    done_by_another(writer, "x")
    other.end()  # it has done x, and died at y
    assert jobs.take() == "y"
    assert jobs.over
    assert jobs.done_elsewhere("xyz") == {"x"}


def test_what_another_sweep_did_since_the_last_look_is_not_done_again(tmp_path, monkeypatch):
    writer, work = two_models(tmp_path), [(i, CPU, 3) for i in "vwxyz"]
    one = line(tmp_path, work)
    time.sleep(0.002)
    other = line(tmp_path, work)
    monkeypatch.setattr(module, "POLL_SECONDS", 1e6)  # neither looks again
    for job_id in "vwx":
        assert one.take() == job_id
        one.release(job_id, 1)
        done_by_another(writer, job_id)
    assert one.take() == "y"
    assert other.take() == "z"
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    assert other.take() is None
    assert other.done_elsewhere("vwxyz") == set("vwx")


def test_the_older_of_two_sweeps_takes_no_job_that_the_younger_is_at(tmp_path, monkeypatch):
    two_models(tmp_path)
    older = line(tmp_path, [("x", CPU, 3), ("y", CPU, 2)])
    time.sleep(0.002)
    younger = line(tmp_path, [("x", CPU, 3), ("y", CPU, 2)])
    monkeypatch.setattr(module, "POLL_SECONDS", 1e6)
    assert younger.take() == "x"
    assert older.take() == "y"


def test_a_failure_elsewhere_is_tried_here_a_moment_later(tmp_path, monkeypatch):
    two_models(tmp_path)
    one, other = (line(tmp_path, [("x", CPU, 1), ("y", CPU, 1)]) for _ in range(2))
    assert one.take() == "x"
    one.release("x", 1)  # failed: nothing of it is in the store
    assert one.take() == "y"
    assert other.take() is None
    monkeypatch.setattr(module, "ENDED_SECONDS", 0.0)
    one.release("y", 1)
    one.look()
    one.lease.say(frozenset({"another"}), ended=[])
    assert other.take() == "x"


def test_jobs_done_between_planning_and_the_first_look_are_dropped(tmp_path):
    writer = two_models(tmp_path)
    done_by_another(writer, "x")  # its sweep has ended meanwhile
    jobs = line(tmp_path, [("x", CPU, 1), ("y", CPU, 1)])
    assert jobs.take() == "y"
    assert jobs.done_elsewhere("xy") == {"x"}


def test_of_two_sweeps_that_want_a_job_at_once_the_older_has_it(tmp_path, monkeypatch):
    uri = str(tmp_path / "store")
    old = Lease(StoreFS.at(uri), "old")
    time.sleep(0.002)  # leases are named by the millisecond
    new = line(tmp_path, [("x", CPU, 1)])
    look = new.look
    monkeypatch.setattr(new, "look", lambda: (look(), old.say(frozenset({"x"}))))
    assert new.take() is None
    assert not new.running


def test_a_job_whose_trial_died_at_the_end_may_be_done_by_another_sweep(tmp_path):
    writer = two_models(tmp_path)
    jobs, other = line(tmp_path, [("x", CPU, 1)]), Lease(writer.fs, "other")
    assert jobs.take() == "x"
    assert jobs.over
    jobs.put_back("x")
    other.say(frozenset({"x"}))
    assert jobs.take() is None
    assert not jobs.over
    done_by_another(writer, "x")
    other.say(frozenset(), ended=["x"])
    assert jobs.take() is None
    assert jobs.over


class Halves:
    """A strategy that knows from the store whether the second half of its jobs is due."""

    patience = float("inf")

    def __init__(self, first: str, second: str) -> None:
        self.first, self.second = first, second
        self.asked: list[tuple[set[str], set[str], int]] = []

    def propose(self, store, running, free):
        self.asked.append((set(running.here), set(running.elsewhere), free(CPU)))
        done = store.done()
        due = self.second if done >= set(self.first) else self.first
        if done >= {*self.first, *self.second}:
            return None
        return [PendingJob(i, CPU, 1) for i in due if i not in {*done, *running.here}]


def test_a_strategy_sees_what_has_been_stored_before_it_proposes_more(tmp_path):
    writer, halves = two_models(tmp_path), Halves("ab", "yz")
    Lease(writer.fs, "other").say(frozenset({"q"}))
    jobs = line(tmp_path, [], strategy=halves)
    assert [jobs.take(), jobs.take(), jobs.take()] == ["a", "b", None]
    for job_id in "ab":
        assert not jobs.over
        done_by_another(writer, job_id)
        jobs.release(job_id, 1)
    assert [jobs.take(), jobs.take(), jobs.take()] == ["y", "z", None]
    jobs.put_back("y")
    assert jobs.take() == "y"
    for job_id in "yz":
        done_by_another(writer, job_id)
        jobs.release(job_id, 1)
    assert jobs.take() is None
    assert jobs.over
    begun = [here for here, *_ in halves.asked]
    assert begun == [set(), set("ab"), set("ab"), set("abyz"), set("abyz"), set("abyz")]
    assert halves.asked[0] == (set(), {"q"}, 2)  # room for two on TWO
    assert halves.asked[1][2] == 0


def test_a_strategy_that_proposes_nothing_while_nothing_runs_has_ended(tmp_path):
    two_models(tmp_path)
    jobs = line(tmp_path, [], strategy=Halves("", ""))
    jobs.look()
    assert jobs.over


def test_everything_that_is_missing_is_proposed_in_order_whoever_is_at_it(tmp_path):
    writer = two_models(tmp_path)
    store, all_jobs = Store(writer.fs.uri), [PendingJob(i, CPU, 1) for i in "abc"]
    all_jobs += [PendingJob("long", CPU, 9), PendingJob("big", BIG, 1)]
    all_jobs += [PendingJob("control", CPU, 0.5, early=True)]
    done_by_another(writer, "a")
    at_work = Running(here={"b"}, elsewhere={"c"})
    proposed = Everything(all_jobs).propose(store, at_work, lambda needs: 0)
    assert proposed is not None
    assert [job.job_id for job in proposed] == ["control", "big", "long", "c"]
    assert Everything(all_jobs[:2]).propose(store, at_work, lambda needs: 0) is None


def test_an_autoscaler_is_asked_again_after_a_while(tmp_path, monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    jobs = line(tmp_path, [("a", CPU, 1)], ask=lambda needs: asked.append(len(needs)))
    for now[0] in (0, module.ASK_SECONDS, module.ASK_SECONDS + 1):
        jobs.look()
    assert asked == [1, 1]


def test_an_older_sweep_gives_way_to_a_younger_one_that_had_looked_before_it_spoke(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "GIVE_WAY_SECONDS", 0.01)
    two_models(tmp_path)
    older = line(tmp_path, [("x", CPU, 1), ("y", CPU, 1)])
    time.sleep(0.002)
    younger = Lease(StoreFS.at(str(tmp_path / "store")), "younger")
    has_room = older._has_room
    monkeypatch.setattr(older, "_has_room", lambda needs: (spoken(), has_room(needs))[1])

    def spoken() -> None:
        younger.say(frozenset({"x"}))  # and it saw nobody at x

    assert older.take() == "y"
    assert older.running.keys() == {"y"}


def test_a_younger_sweep_that_has_given_way_leaves_the_job_to_the_older_one(tmp_path, monkeypatch):
    two_models(tmp_path)
    older = line(tmp_path, [("x", CPU, 1)])
    time.sleep(0.002)
    younger = Lease(StoreFS.at(str(tmp_path / "store")), "younger")
    has_room = older._has_room
    monkeypatch.setattr(
        older, "_has_room", lambda needs: (younger.say(frozenset({"x"})), has_room(needs))[1]
    )
    monkeypatch.setattr(module.time, "sleep", lambda seconds: younger.say(frozenset()))
    assert older.take() == "x"


def test_a_lease_that_is_not_renewed_holds_nothing(tmp_path):
    fs = StoreFS.at(str(tmp_path))
    lease = Lease(fs, "gone")
    lease.say(frozenset({"x"}), left=3)
    ((_, sweep),) = at_work(fs)
    assert (sweep.name, sweep.jobs, sweep.about, sweep.pid) == (
        "gone", {"x"}, About(left=3), os.getpid()
    )  # fmt: skip
    then = time.time() - EXPIRES - 1
    os.utime(fs.path(lease.path), (then, then))
    assert at_work(fs) == []


def test_a_lease_of_another_version_is_read_for_what_is_known(tmp_path):
    fs, mine = StoreFS.at(str(tmp_path)), Lease(StoreFS.at(str(tmp_path)), "mine")
    known = {"name": "newer", "host": "elsewhere", "pid": 7, "jobs": ["x"]}
    newer = {
        **known, "shape": [2, 3], "about": {"left": 4, "eta": None, "pace": 1.5, "ended": ["y"]}
    }  # fmt: skip
    unknown = {"a": newer, "b": known, "c": {"tasks": ["z"]}, "d": {**known, "jobs": 3}, "e": []}
    for name, content in unknown.items():
        fs.write(f"{FOLDER}/{name}.json", json.dumps(content).encode())
    found = [sweep for _, sweep in at_work(fs)]
    assert [(s.name, s.jobs, s.ended, s.about.left) for s in found] == [
        ("newer", {"x"}, {"y"}, 4),
        ("newer", {"x"}, frozenset(), None),
    ]
    assert len(sweep_lines(str(tmp_path))) == 2
    assert [s.name for _, s in mine.others()] == ["newer", "newer"]
    mine.say(frozenset())
    mine.end()  # what cannot be read may be alive
    assert len(fs.listing(FOLDER, ".json")) == len(unknown)


def test_a_budget_ends_the_handing_out_before_it_is_exceeded(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    jobs = line(tmp_path, [(str(i), CPU, 1) for i in range(9)], budget=100.0)
    taken = []
    while not jobs.over:
        taken.append(jobs.take())
        if taken[-1] is None:
            break
        now[0] += 30  # each takes half a minute, one after the other
        jobs.release(taken[-1], 30)
    assert taken == ["0", "1", "2", None]
    assert jobs.stopped


def test_a_trial_that_dies_has_used_up_budget_and_a_budget_that_is_spent_asks_for_nothing(
    tmp_path, monkeypatch
):
    now, asked = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    how = {"budget": 100.0, "ask": lambda needs: asked.append(len(needs))}
    jobs = line(tmp_path, [(str(i), CPU, 1) for i in range(9)], **how)
    assert jobs.take() == "0"
    now[0] = 101
    jobs.put_back("0")
    assert jobs.take() is None
    assert jobs.stopped
    jobs.look()
    assert asked == [9, 9, 0]  # the second time since so long has passed


def test_the_estimate_counts_the_work_that_is_left_and_the_jobs_side_by_side(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    jobs = line(tmp_path, [("a", CPU, 4), ("b", CPU, 4), ("c", CPU, 2), ("d", CPU, 2)])
    assert jobs.eta is None
    assert [jobs.take(), jobs.take()] == ["a", "b"]
    now[0] = 40.0
    jobs.release("a", 40)
    assert jobs.take() == "c"
    # 10 s for each unit: b (4, begun 40 s ago), c (2) and d (2) are left, two at a time
    assert jobs.eta == pytest.approx((40 + 20 + 20 - 40) / 2)
