"""A sweep that searches: a part of the map's jobs, from the store alone; no Ray, no training."""

from dataclasses import replace

import pytest

from bikd_ray.errors import UserError
from bikd_ray.search.questions import questions, refuse_small
from bikd_ray.spec_file import parse_spec
from bikd_ray.store import Store
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import Lease
from bikd_ray.store.sightings import Sightings
from bikd_ray.sweep import scheduler as scheduling
from bikd_ray.sweep.scheduler import JobScheduler
from bikd_ray.sweep.search_strategy import NOTHING, decision_rows
from bikd_ray.sweep.strategy import Running
from tests.plans import jobs_of, spec_of
from tests.search_sweeps import World


def proposed(world, strategy, running=NOTHING, slots=1):
    """Ids of the jobs that a strategy wants; it wants some."""
    found = strategy.propose(world.store, running, lambda needs: slots)
    assert found is not None
    return [job.job_id for job in found]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search over ten models from an empty store to its end: world, jobs, and what it said."""
    world, said = World(tmp_path_factory.mktemp("search") / "store"), []
    world.measure()

    def told(asked, decision):
        said.append(decision)
        world.writer.write_decision(decision_rows(asked, decision, "s"))

    return world, world.play(world.strategy(told), slots=2), said


def test_it_ends_by_its_own_rule_with_a_part_of_the_maps_jobs(searched):
    world, begun, said = searched
    assert len(set(begun)) == len(begun)
    assert set(begun) <= world.jobs.keys()
    assert len(begun) < len(world.jobs) / 2
    assert said[-1].over
    assert world.strategy().left(world.store) == 0
    assert str(said[0]).startswith("search: first partners, 0% of the map")
    assert "10 models settled, expected regret" in str(said[-1])


def test_winners_have_a_control_of_each_of_their_seeds(searched):
    world, begun, said = searched
    done = {(frozenset(world.jobs[i].names), world.jobs[i].seed) for i in begun}
    for standing in said[-1].standings:
        learner, partner = (standing.model[-1], (standing.winner or "")[-1])
        seeds = {s for pair, s in done if pair == {learner, partner}}
        assert seeds
        assert {s for pair, s in done if pair == {learner}} >= seeds


def test_every_decision_is_in_the_log_with_a_row_for_each_target(searched):
    world, begun, said = searched
    rows = world.store.table("decisions").to_pylist()
    assert len(rows) == len(said) * 10
    assert len({row["decision_id"] for row in rows}) == len(said)
    last = max(rows, key=lambda row: (row["at"], row["model"]))
    assert last["job_ids"] == []
    assert last["cost_done"] / last["cost_map"] == pytest.approx(said[-1].share)
    asked = [job for row in rows for job in row["job_ids"]]
    assert set(begun) <= set(asked)


def test_a_search_that_was_cut_off_goes_on_to_the_same_store(tmp_path):
    whole, broken = (World(tmp_path / name, "abcdefgh", n=1000) for name in ("whole", "broken"))
    for world in (whole, broken):
        world.measure()
    jobs = whole.play(whole.strategy())
    first = broken.play(broken.strategy(), most=len(jobs) // 2)
    rest = broken.play(broken.strategy())
    assert [*first, *rest] == jobs


def through_scheduler(world, killed_at=None):
    """The jobs that a sweep of one slot begins; killed in the middle of one it stores nothing."""
    lease = Lease(StoreFS.at(world.store.uri), "s")
    scheduler = JobScheduler(
        world.strategy(),
        lambda: [{"CPU": 1, "memory": 2**40}],
        world.store,
        lease,
        note=pytest.fail,
    )
    begun = []
    while not scheduler.over:
        job_id = scheduler.take()
        if job_id is None:
            break
        if len(begun) == killed_at:
            lease.end()  # as it expires
            break
        begun.append(job_id)
        world.finish(world.jobs[job_id])
        scheduler.release(job_id, 1.0)
    lease.end()
    return begun


def test_a_sweep_decides_before_every_job_whatever_it_had_proposed_before(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduling, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(scheduling, "MOST_PATIENCE", 0.0)  # jobs take longer than it thinks
    plain, whole, broken = (World(tmp_path / n, "abcdefgh", n=1000) for n in ("p", "w", "b"))
    for world in (plain, whole, broken):
        world.measure()
    jobs = plain.play(plain.strategy())
    assert through_scheduler(whole) == jobs
    first = through_scheduler(broken, killed_at=len(jobs) - 6)
    assert [*first, *through_scheduler(broken)] == jobs


def test_a_finished_search_completed_by_a_map_is_the_map(searched, tmp_path):
    world, begun, _ = searched
    of_map = {job.job_id for job in jobs_of(spec_of("abcdefghij"))}
    assert set(begun) < of_map == world.jobs.keys()


def test_the_units_that_report_change_no_decision(tmp_path):
    orders = []
    for other_half in (0, 1):
        world = World(tmp_path / str(other_half), "abcdefgh", other_half=other_half)
        world.measure()
        orders.append(world.play(world.strategy(), slots=3))
    assert orders[0] == orders[1]
    assert (world.before["a"] != World(tmp_path / "x").before["a"]).any()


def test_the_order_in_which_jobs_of_a_batch_end_changes_nothing(tmp_path):
    class Backwards(World):
        def ended(self, some):
            return some[::-1]

    found = []
    for name, kind in (("a", World), ("b", Backwards)):
        world = kind(tmp_path / name, "abcdefgh", n=1000)
        world.measure()
        found.append(set(world.play(world.strategy(), slots=4)))
    assert found[0] == found[1]


def test_what_is_kept_of_a_store_is_what_a_new_look_finds(searched):
    world, _, _ = searched
    setting = world.strategy().asked[0].question.setting
    kept = Sightings(world.store)
    kept.of(setting)
    fresh = Sightings(Store(world.store.uri))
    assert kept.of(setting) == fresh.of(setting)
    assert fresh.done_jobs(setting) == world.store.done()


def test_jobs_under_way_elsewhere_are_waited_for_and_not_proposed(tmp_path):
    world = World(tmp_path / "store")
    world.measure()
    strategy = world.strategy()
    theirs = proposed(world, strategy, slots=4)[:3]
    more = proposed(world, strategy, Running((), theirs), slots=4)
    assert more
    assert not set(more) & set(theirs)
    assert proposed(world, strategy, Running((), list(world.jobs))) == []


def test_a_model_that_is_added_costs_a_few_jobs(searched, tmp_path):
    world, begun, _ = searched
    more = World(tmp_path / "store", "abcdefghijk")
    more.measure()
    for i in begun:
        more.finish(world.jobs[i])
    new = more.play(more.strategy(), slots=2)
    assert 4 <= len(new) < len(begun) / 2
    assert sum("k" in more.jobs[i].names for i in new) >= 4


def test_a_limit_is_of_jobs_begun_here_and_leaves_the_rest_for_later(tmp_path):
    world = World(tmp_path / "store")
    world.measure()
    assert len(world.play(world.strategy(limit=5), slots=2)) == 5
    assert world.strategy().left(world.store) > 0


def test_failed_jobs_are_passed_over_until_they_are_tried_again(tmp_path):
    world = World(tmp_path / "store")
    world.measure()
    first = proposed(world, world.strategy())[0]
    world.finish(world.jobs[first], error="boom")
    assert first not in proposed(world, world.strategy(), slots=20)
    assert first in proposed(world, world.strategy(retry=True), slots=20)


def test_only_anchors_are_targets_and_objectives_take_turns(tmp_path):
    world = World(tmp_path / "store", pairings={"anchors": ["c"]}, objectives=["bikd", "dml"])
    world.measure()
    strategy = world.strategy()
    assert [asked.question.targets for asked in strategy.asked] == [["id-c"], ["id-c"]]
    first = [world.jobs[i] for i in proposed(world, strategy, slots=2)]
    assert [job.objective.name for job in first[:4]] == ["bikd", "dml", "bikd", "dml"]
    assert all("c" in job.names for job in first)


def test_jobs_that_no_search_chooses_are_done_too(tmp_path):
    world = World(tmp_path / "store", objectives=["bikd", "self"])
    world.measure()
    own = [i for i, job in world.jobs.items() if job.objective.name == "self"]
    strategy = world.strategy()
    strategy = replace(strategy, rest=[strategy.jobs[i] for i in own])
    found = proposed(world, strategy, slots=2)
    assert found[-len(own) :] == own
    assert len(found) > len(own)


def test_too_few_models_and_too_small_a_share_are_refused():
    for names, given, said in (
        ("abcdefg", {}, "a map of one seed costs the same"),
        ("abcdefghij", {"search": {"share": 0.1}}, "raise search.share"),
    ):
        spec = spec_of(names, goal="best_partner", **given)
        with pytest.raises(UserError, match=said):
            refuse_small(questions(spec, jobs_of(spec), "top1"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pairings": {"size": 3}}, "set it to 2"),
        ({"pairings": {"list": [["a", "b"]]}}, "use pairings: all or anchors"),
        ({"selection": "best_val"}, "use selection: last or best_select"),
        ({"objectives": ["kd"]}, "kd teaches one of them"),
        ({"search": {"confirm": True}}, "search.confirm must be a whole number >= 1 or auto"),
        ({"search": {"share": 0}}, "search.share must be greater than 0"),
        ({"goal": "best"}, "best_partner"),
    ],
)
def test_what_a_goal_excludes_is_said_in_one_line(given, said):
    spec = {"goal": "best_partner", "zoo": [{"timm": m} for m in "abc"], **given}
    digits = {s: {"source": "digits", "split": s} for s in ("train", "val")}
    with pytest.raises(UserError) as refused:
        parse_spec({**spec, "data": digits})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_sweep_is_for_changes_no_id():
    of_map = [job.job_id for job in jobs_of(spec_of("abcd"))]
    searched = spec_of("abcd", goal="best_partner", search={"regret": 0.1, "share": 0.5})
    assert [job.job_id for job in jobs_of(searched)] == of_map
