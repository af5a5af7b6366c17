"""The answers of a searched store, replays of a map, and what is predicted; nothing is trained."""

import numpy as np
import pytest

from bikd_pipelines.commands.search import _shares
from bikd_pipelines.search_views import searched_lines
from bikd_ray.errors import UserError
from bikd_ray.search.state import Rules
from bikd_ray.store.features import judged, with_features
from bikd_ray.store.replays import replays
from bikd_ray.store.searched import searched_partners
from bikd_ray.store.searches import maps, searches, state_in
from tests.search_sweeps import World, told_by


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("searched") / "store", search={"regret": 0.1})
    world.measure()
    world.play(world.strategy(told_by(world)), slots=4)
    return world


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("mapped") / "store", seeds=[0, 1])
    world.measure()
    for job in world.jobs.values():
        world.finish(job)
    return world


def test_trained_partners_have_intervals_and_untrained_ones_only_an_expectation(searched):
    rows = searched_partners(searched.store, "a").to_pylist()
    assert len(rows) == 9
    expected = [row["expected_delta"] for row in rows]
    assert expected == sorted(expected, reverse=True)
    assert sum(row["chance_best"] for row in rows) == pytest.approx(1)
    trained = [row for row in rows if row["trained"]]
    assert 4 <= len(trained) < 9
    assert all(row["delta_low"] < row["delta"] < row["delta_high"] for row in trained)
    assert any(row["best"] for row in trained)
    assert not any(row["delta"] for row in rows if not row["trained"])
    assert {(row["decided_on"], row["n"]) for row in rows} == {(2000, 2000)}
    (line,) = searched_lines(searched_partners(searched.store, "a"))
    assert "chosen on 2,000 images, measured on the other 2,000; an untrained partner is" in line
    assert "more than 0.1 pp better with" in line


def test_what_is_reported_is_the_gain_on_the_other_half(searched):
    from bikd_ray.analysis.halves import deciding_half

    row = next(r for r in searched_partners(searched.store, "b").to_pylist() if r["seeds"] == 1)
    other = ~deciding_half(searched.n)
    pair = {"b", row["partner"]}
    done = searched.store.done()
    (job,) = (j for i, j in searched.jobs.items() if i in done and set(j.names) == pair)
    gain = searched.after(job, "b")[other].mean() - searched.before["b"][other].mean()
    assert row["delta"] == pytest.approx(100 * gain)


def test_a_completed_search_and_a_map_have_the_answers_of_maps(mapped):
    assert len(searched_partners(mapped.store, "a")) == 0
    world = mapped
    (asked,) = world.strategy().asked
    from bikd_ray.search.decision import Decision, Standing

    standing = Standing("id-a", "id-b", "id-b", 0.01, 0.0, True)
    told_by(world)(asked, Decision((), True, (standing,), 1.0))
    assert [search.half for search in searches(world.store)] == [True]
    assert len(searched_partners(world.store, "a")) == 0


def test_a_search_that_decides_on_all_images_reports_on_all_with_wider_intervals(tmp_path):
    world = World(tmp_path / "store", search={"decide_on": "all"}, n=1000)
    world.measure()
    world.play(world.strategy(told_by(world, half=False)), slots=4)
    rows = searched_partners(world.store, "a").to_pylist()
    assert {(row["decided_on"], row["n"]) for row in rows} == {(1000, 1000)}
    row = next(row for row in rows if row["trained"])
    plain = next(x for x in world.store.partners("a").to_pylist() if x["partner"] == row["partner"])
    assert row["delta"] == pytest.approx(plain["delta"])
    assert row["delta_high"] - row["delta_low"] > plain["delta_high"] - plain["delta_low"]
    assert (
        "chosen and measured on the same" in searched_lines(searched_partners(world.store, "a"))[0]
    )


def test_a_replay_of_a_map_costs_less_and_loses_less_than_a_random_partner(mapped):
    table = replays(mapped.store, [0.3, 1.0], repeats=3).to_pylist()
    small, whole = table
    assert small["cost"] <= 0.35
    assert small["jobs"] < small["map_jobs"] / 2
    assert small["lost"] < small["random"] / 2
    assert whole["cost"] <= 1
    assert {row["models"] for row in table} == {10}
    assert replays(mapped.store, [0.3], repeats=3).to_pylist()[0] == small


def test_the_whole_map_as_a_search_loses_nothing_to_itself(mapped):
    (row,) = replays(mapped.store, [1.0], rules=Rules(regret=1e-9), repeats=1).to_pylist()
    assert row["cost"] > 0.7
    assert abs(row["lost"]) < 0.3 < row["random"]


def test_what_is_no_map_is_not_replayed(searched, tmp_path):
    with pytest.raises(UserError, match="its map is not complete"):
        replays(searched.store, [0.25])
    with pytest.raises(UserError, match="there is no map to replay"):
        replays(World(tmp_path / "store").store, [0.25])


def test_a_share_that_the_start_uses_up_is_not_replayed(mapped):
    with pytest.raises(UserError, match=r"raise search\.share"):
        replays(mapped.store, [0.05])


@pytest.mark.parametrize("given", ["", "a", "0.5,2", "0", "nan"])
def test_shares_are_numbers_between_0_and_1(given):
    with pytest.raises(UserError, match="--shares must be"):
        _shares(given)


def test_features_that_tell_nothing_are_refused_and_those_that_do_are_believed(mapped):
    (setting,) = maps(mapped.store)
    state = state_in(mapped.store, setting, Rules())
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in state.models for b in state.models if a != b]
    noise = {pair: tuple(rng.normal(size=4)) for pair in pairs}
    left_out, refused = judged(with_features(state, noise))
    assert left_out is not None
    assert refused is not None
    assert refused.startswith("not predictable here: models that were left out were predicted no")
    told = {(a, b): (mapped.teaches[b[-1]],) for a, b in pairs}
    left_out, refused = judged(with_features(state, told))
    assert refused is None
    assert left_out is not None
    assert left_out.skill > 0.5
