"""Goal improve: which groups are trained for one model or for all, from the store alone; no Ray."""

import re

import numpy as np
import pytest

from bikd_pipelines.improving import improve_lines, print_improved
from bikd_pipelines.planning import Opened
from bikd_ray.analysis.groups import greedy_group
from bikd_ray.analysis.halves import deciding_half
from bikd_ray.errors import BikdError, UserError
from bikd_ray.grouping import gains_of, wishes
from bikd_ray.plan import plan
from bikd_ray.search.improve import Wish, best_pair, decide, on_shared_seeds
from bikd_ray.spec_file import parse_spec
from bikd_ray.store.kinds import kinds
from bikd_ray.store.searches import searches
from bikd_ray.sweep.search_strategy import decision_rows
from tests.plans import jobs_of, spec_of
from tests.search_sweeps import World

SETTING = ("data", "recipe", "bikd", "top1")
A2, A3, A4 = ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")
GROUPS = (A2, A3, A4)


def wish(nested=True, groups=None, confirm=1, seeds=(0, 1)):
    groups = groups or {"a": GROUPS}
    members = {m for of_it in groups.values() for m in of_it} | {(m,) for m in "abcd"}
    members |= {("a", "c"), ("a", "d")}
    jobs = {(some, seed): float(len(some)) for some in members for seed in seeds}
    return Wish(SETTING, groups, nested, jobs, seeds, confirm, 100.0)


def asked(gains, busy=(), over=(), room=9, **how):
    done = {(members, seed) for members, seeds in gains.items() for seed in seeds}
    found = decide(wish(**how), {"a": gains}, busy, done | {*over}, room)
    return [("".join(a.members), a.seed, a.reason) for a in found.asks], found


def test_sizes_come_one_after_another_and_the_control_at_once():
    first, decision = asked({})
    assert first == [("ab", 0, "group"), ("a", 0, "control")]
    assert str(decision).startswith("improve: 0 of 1 models settled, groups of 2 now, 0.0% of the")
    assert asked({A2: {0: 1.0}})[0][0] == ("abc", 0, "group")
    assert asked({A2: {0: 1.0}, A3: {0: 1.0}, ("a",): {0: 0.5}})[0] == [("abcd", 0, "group")]


def test_it_stops_where_one_more_makes_it_worse_and_closes_the_best():
    worse = {A2: {0: 1.0}, A3: {0: 0.9}}
    asks, decision = asked(worse, confirm=2)
    assert asks == [("a", 0, "control"), ("ab", 1, "confirm"), ("a", 1, "control")]
    assert decision.places[0].best == A2
    grown = {A2: {0: 1.0}, A3: {0: 1.3}, A4: {0: 1.2}, ("a",): {0: 0.1}, ("a", "c"): {0: 1.1}}
    asks, decision = asked(grown, confirm=2)
    assert asks == [("abc", 1, "confirm"), ("a", 1, "control"), ("ac", 1, "pair")]
    assert not decision.over
    more = {A3: {0: 1.3, 1: 1.0}, ("a",): {0: 0.1, 1: 0.1}, ("a", "c"): {0: 1.1, 1: 1.0}}
    asks, decision = asked(grown | more, confirm=2)
    assert (asks, decision.over, decision.settled) == ([], True, 1)
    assert decision.places[0].best == A3


def test_a_further_seed_of_the_best_changes_nothing_that_was_chosen():
    known = {A2: {0: 1.0}, A3: {0: 1.3, 1: -5.0}, A4: {0: 1.2}}
    assert asked(known)[1].places[0].best == A3
    assert on_shared_seeds({A2: {0: 1.0, 1: 3.0}, A3: {0: 2.0, 1: 4.0}}) == {A2: 2.0, A3: 3.0}
    assert on_shared_seeds({A2: {0: 1.0}, A3: {1: 2.0}}) == {A2: 1.0, A3: 2.0}
    assert on_shared_seeds({}) == {}
    assert best_pair("a", {A2: {0: 1.0}, ("a", "c"): {0: 1.0, 1: 9.0}, A3: {0: 8.0}}) == A2
    assert best_pair("a", {("a",): {0: 1.0}}) is None


def test_what_runs_is_waited_for_and_what_failed_ends_the_growth():
    asks, decision = asked({A2: {0: 1.0}, ("a",): {0: 0}}, busy=[(A3, 0)])
    assert (asks, decision.over) == ([], False)
    known = {A2: {0: 1.0}, ("a",): {0: 0}}
    asks, decision = asked(known, over=[(A3, 0)])
    assert (asks, decision.over, decision.places[0].best) == ([], True, A2)
    asks, decision = asked({}, over=[(A2, 0), (("a",), 0)])
    assert (asks, decision.over, decision.places[0].best) == ([], True, None)
    assert asked({}, room=1)[0] == [("ab", 0, "group")]


def test_in_groups_of_all_every_model_waits_for_one_job_and_its_control():
    groups = {"a": [A2], "b": [A2], "c": [("c", "d")], "d": [("c", "d")]}
    asks, _ = asked({}, nested=False, groups=groups)
    assert [who for who, _, why in asks if why == "group"] == ["ab", "cd"]
    assert {who for who, _, why in asks if why == "control"} == {*"abcd"}


@pytest.fixture(scope="module")
def improved(tmp_path_factory):
    """A group for b among eight models: world, the jobs in their order, and what it said."""
    world = World(
        tmp_path_factory.mktemp("improve") / "store",
        "abcdefgh",
        n=1000,
        goal="improve",
        improve={"models": ["b"], "group": 4},
        search={"confirm": 2},
    )
    world.measure()
    said = []

    def told(wanted, decision):
        said.append(decision)
        world.writer.write_decision(decision_rows(wanted, decision, "s"))

    return world, world.play(world.improving(told)), said


def test_a_group_by_ensembles_is_the_greedy_one_of_the_deciding_half(improved):
    world, *_ = improved
    (one,) = wishes(world.spec, world.zoo, world.data, world.store)
    half = deciding_half(world.n)
    softmaxes = []
    for name in world.before:
        table = world.predictions(name, world.before[name])
        probs = np.zeros((world.n, 10))
        classes = np.array(table["top_classes"].to_pylist())
        np.put_along_axis(probs, classes, np.array(table["top_probs"].to_pylist()), 1)
        softmaxes.append(probs[half])
    steps = greedy_group(softmaxes, np.zeros(half.sum()), 1, 4)
    order = ["id-b", *(f"id-{'abcdefgh'[step.model]}" for step in steps)]
    assert one.wish.groups == {"id-b": [tuple(sorted(order[:k])) for k in (2, 3, 4)]}


def test_a_sweep_ends_with_the_best_group_and_what_stands_beside_it(improved):
    world, begun, said = improved
    assert len(set(begun)) == len(begun) < 20
    (place,) = said[-1].places
    assert place.settled
    assert place.best
    (gains,) = gains_of(world.store, world.improving().asked[0].setting, ["id-b"]).values()
    groups = world.improving().asked[0].wish.groups["id-b"]
    done = [group for group in groups if group in gains]
    assert place.best == max(done, key=lambda group: gains[group][0])
    if len(done) < len(groups):  # it stopped because one more made it worse
        assert gains[done[-1]][0] < gains[done[-2]][0]
    assert gains[place.best].keys() == gains[("id-b",)].keys() == {0, 1}
    pair = best_pair("id-b", gains)
    assert pair
    assert gains[pair].keys() == {0, 1}
    assert world.improving().left(world.store) == 0


def test_what_a_model_gained_is_of_the_deciding_half(improved):
    world, begun, _ = improved
    setting = world.improving().asked[0].setting
    half, job = deciding_half(world.n), world.jobs[begun[0]]
    members = tuple(m.model_id for m in job.members)
    for on, some in ((True, half), (False, ~half), (None, half | ~half)):
        found = gains_of(world.store, setting, ["id-b"], half=on)["id-b"][members][job.seed]
        gain = world.after(job, "b")[some].mean() - world.before["b"][some].mean()
        assert found == pytest.approx(100 * gain)


def test_decisions_are_in_the_log_and_make_no_searched_store(improved):
    world, begun, said = improved
    rows = world.store.table("decisions").to_pylist()
    assert len(rows) == len(said)
    assert {row["goal"] for row in rows} == {"improve"}
    assert set(begun) <= {job for row in rows for job in row["job_ids"]}
    last = max(rows, key=lambda row: row["at"])
    assert tuple(last["group_ids"]) == said[-1].places[0].best
    assert searches(world.store) == []


def test_it_goes_on_where_it_was_cut_off_and_reporting_units_change_nothing(improved, tmp_path):
    _, begun, _ = improved
    how = {"goal": "improve", "improve": {"models": ["b"], "group": 4}, "search": {"confirm": 2}}
    for number, other_half in enumerate((0, 1)):
        broken = World(tmp_path / str(number), "abcdefgh", n=1000, other_half=other_half, **how)
        broken.measure()
        first = broken.play(broken.improving(), most=2)
        assert [*first, *broken.play(broken.improving())] == begun


@pytest.mark.parametrize("by", ["ensemble", "random"])
def test_all_models_are_in_one_group_each_for_a_fraction_of_a_map(tmp_path, by):
    world = World(tmp_path / "store", n=400, goal="improve", improve={"group": 4, "by": by})
    assert wishes(world.spec, world.zoo, world.data, world.store) == []  # nobody is measured
    world.measure()
    said = []
    begun = world.play(world.improving(lambda _, decision: said.append(decision)), slots=3)
    sizes = [len(world.jobs[i].members) for i in begun]
    assert sorted(size for size in sizes if size > 1) == [3, 3, 4]
    assert sizes.count(1) == 10
    assert said[-1].settled == 10
    # groups cost 1 / (N - 1) of a map of pairs with one seed, and the controls as much again
    pairs = 3 * 9 / (3 * 10)  # of a map with controls
    assert said[-1].share == pytest.approx(2 / 9 / 3 * pairs)


def test_groups_by_gains_begin_with_the_best_partners_that_were_trained(tmp_path):
    world = World(tmp_path / "store", "abcdefgh", seeds=[0])
    world.measure()
    for job in world.jobs.values():
        if set("".join(job.names)) != {"a", "h"}:
            world.finish(job)
    spec = spec_of(
        "abcdefgh", seeds=[0], goal="improve", improve={"models": ["a"], "by": "gains", "group": 8}
    )
    (one,) = wishes(spec, world.zoo, world.data, world.store)
    groups = one.wish.groups["id-a"]
    assert "id-h" not in groups[-2]  # not trained with a, so the last one
    gains = gains_of(world.store, one.setting, ["id-a"])["id-a"]
    others = {m: s[0] for m, s in gains.items() if len(m) == 2}
    first = max(others, key=others.__getitem__)
    assert set(groups[0]) <= {"id-a", *first} | {
        m for pair in sorted(others, key=others.__getitem__)[-3:] for m in pair
    }
    spec = spec_of("abcdefgh", seeds=[0], goal="improve", improve={"by": "gains", "group": 4})
    (one,) = wishes(spec, world.zoo, world.data, world.store)
    assert sorted(m for group in {g for (g,) in one.wish.groups.values()} for m in group) == sorted(
        one.wish.groups
    )


def opened(world):
    """As `bikd plan` opens a spec; the jobs of its map are not asked for."""
    return Opened(world.zoo, world.data, plan([], set(), {}), world.store)


def test_a_plan_says_who_joins_and_what_that_costs_at_least_and_at_most(improved, tmp_path):
    world, begun, said = improved
    cost, size = improve_lines(world.spec, opened(world))
    told = re.fullmatch(
        r"improve: 3–(\d+) jobs for b, joined by (\w), then (\w), then (\w): ([\d.]+)–([\d.]+)% of "
        r"the work of the map's (\d+) jobs",
        cost,
    )
    assert told
    most, *joined, low, high, of_map = told.groups()
    groups = world.improving().asked[0].wish.groups["id-b"]
    assert [{f"id-{name}" for name in ("b", *joined[:k])} for k in (1, 2, 3)] == [
        {*group} for group in groups
    ]
    assert 3 <= len(begun) <= int(most)
    assert float(low) < 100 * said[-1].share <= float(high)
    assert int(of_map) == 3 * (28 + 8)
    groups = sum(len(world.jobs[job].members) > 2 for job in begun)
    assert size == f"gain by size: not predicted ({groups} of 20 group jobs are stored)"
    empty = World(tmp_path / "store", "abcdefgh", goal="improve", improve={"models": ["b"]})
    (cost, _) = improve_lines(empty.spec, opened(empty))
    assert "groups of 2 to 4 for 1 model, at most about" in cost
    assert "who joins is told once all models are measured" in cost
    assert improve_lines(spec_of("abcdefgh"), opened(empty)) == []


def test_a_plan_for_all_costs_a_fraction_of_a_one_seed_map_and_learns_the_gain_by_size(
    tmp_path, monkeypatch
):
    world = World(
        tmp_path / "store", n=400, goal="improve", improve={"by": "random"}, search={"confirm": 2}
    )
    world.measure()
    (cost, size) = improve_lines(world.spec, opened(world))
    assert cost == (
        "improve: 3 groups of at most 4, each of 10 models once with each of 2 seeds: 22.2% of a "
        "one-seed map of pairs, controls as much again, in place of the map's 165 jobs"
    )
    assert size == "gain by size: not predicted (0 of 20 group jobs are stored)"
    world.play(world.improving(), slots=3)
    (_, size) = improve_lines(world.spec, opened(world))
    assert size == "gain by size: not predicted (6 of 20 group jobs are stored)"
    monkeypatch.setattr("bikd_pipelines.improving.ENOUGH", 6)
    (_, size) = improve_lines(world.spec, opened(world))
    assert "not predicted" in size  # each model is in groups of one size
    for job in [job for job in jobs_of(spec_of("abcdefghij")) if set(job.names) < set("abc")]:
        world.finish(job)
    (_, size) = improve_lines(world.spec, opened(world))
    assert re.fullmatch(
        r"gain by size: a model more adds [+−]\d+\.\d\d ± \d+\.\d\d pp \(by 6 groups of three and "
        r"more\)",
        size,
    )


def test_a_sweep_ends_with_what_became_of_the_model_and_how_to_take_it_home(improved, capsys):
    world, *_ = improved
    print_improved(world.store, world.spec)
    said = " ".join(capsys.readouterr().out.split())
    for row in kinds(world.store, "b").to_pylist():
        assert row["kind"] in said
    assert "chosen on 500 images, measured on the other 500" in said
    assert f"bikd export b --out b-better --store {world.store.uri}" in said


def test_groups_that_cannot_be_made_are_refused(tmp_path):
    world = World(tmp_path / "store", "abcdefgh")
    world.measure()

    def refused(**improve):
        spec = spec_of("abcdefgh", goal="improve", improve=improve)
        with pytest.raises(UserError) as error:
            wishes(spec, world.zoo, world.data, world.store)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "needs 8 gains of pairs of this recipe, and 0 are stored" in refused(by="gains")
    assert "pairs change the gains that make them" in refused(by="gains", group=3)


def test_predictions_that_are_gone_are_named(tmp_path):
    world = World(tmp_path / "store", "abcd", goal="improve", improve={"models": ["a"], "group": 2})
    world.predictions = lambda name, right: None
    world.measure()
    with pytest.raises(BikdError, match=r"predictions of model id-a are damaged or gone"):
        wishes(world.spec, world.zoo, world.data, world.store)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"improve": {"group": 4}}, "improve.group is 4, but the zoo has 3 models; add models or"),
        ({"improve": {"models": ["x"], "group": 2}}, "improve.models: 'x' is not in the zoo"),
        ({"improve": {"models": [], "group": 2}}, "names no model; give some, or all"),
        ({"improve": {"models": 3, "group": 2}}, "must be all, or names of models in a list"),
        ({"improve": {"group": 1}}, "improve.group must be"),
        ({"improve": {"by": "luck"}}, "improve.by"),
        ({"improve": {"grup": 2}}, "(did you mean 'group'?)"),
        ({"improve": {"group": 2}, "pairings": {"size": 3}}, "its groups' size in improve.group"),
        (
            {"improve": {"group": 2}, "pairings": {"list": [["a", "b"]]}},
            "chooses the groups itself",
        ),
        ({"improve": {"group": 2}, "selection": "best_val"}, "use selection: last or best_select"),
        ({"improve": {"group": 2}, "objectives": ["kd"]}, "kd teaches one of them"),
        (
            {"improve": {"group": 2, "soup": True}, "resources": {"keep_weights": "none"}},
            "improve.soup averages kept weights",
        ),
    ],
)
def test_what_improve_excludes_is_said_in_one_line(given, said):
    spec = {"goal": "improve", "zoo": [{"timm": m} for m in "abc"], **given}
    digits = {s: {"source": "digits", "split": s} for s in ("train", "val")}
    with pytest.raises(UserError) as refused:
        parse_spec({**spec, "data": digits})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
