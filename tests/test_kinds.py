"""What became of a model: the best of each kind by one half of the units, told by the other."""

import numpy as np
import pytest
from typer.testing import CliRunner

from bikd_pipelines.cli import app
from bikd_pipelines.search_views import kinds_lines
from bikd_ray.analysis.halves import deciding_half
from bikd_ray.errors import UserError
from bikd_ray.export.select import select_result
from bikd_ray.export.tables import chosen_among
from bikd_ray.store.advice import search_notes
from bikd_ray.store.kinds import kinds, several_kinds
from bikd_ray.store.searched import searched_partners
from bikd_ray.store.searches import search_note
from bikd_ray.sweep.search_strategy import decision_rows
from tests.search_sweeps import World, told_by

HOW = {"goal": "improve", "improve": {"models": ["b"], "group": 4}, "search": {"confirm": 2}}


def improved_world(uri, **options):
    world = World(uri, "abcdefgh", n=1000, **HOW, **options)
    world.measure()

    def told(wanted, decision):
        world.writer.write_decision(decision_rows(wanted, decision, "s"))

    world.play(world.improving(told))
    return world


@pytest.fixture(scope="module")
def improved(tmp_path_factory):
    return improved_world(tmp_path_factory.mktemp("kinds") / "store")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    rules = {"regret": 2.0, "share": 0.5}
    store = tmp_path_factory.mktemp("searched") / "store"
    world = World(store, "abcdefgh", n=1000, seeds=[0, 1], search=rules)
    world.measure()
    world.play(world.strategy(told_by(world)), slots=4)
    return world


def gains_on(world, some, job_ids, name="b"):
    """By seed, what a model gained on some units, in percentage points."""
    before = world.before[name][some].mean()
    jobs = [world.jobs[job] for job in job_ids]
    return {job.seed: 100 * (world.after(job, name)[some].mean() - before) for job in jobs}


def test_each_kind_is_chosen_on_one_half_and_measured_on_the_other(improved):
    table = kinds(improved.store, "b")
    rows = {row["kind"]: row for row in table.to_pylist()}
    assert set(rows) == {"untouched", "control", "pair", "group"}
    half = deciding_half(improved.n)
    trained = {kind: rows[kind]["job_ids"] for kind in ("control", "pair", "group")}
    chosen_by = {kind: gains_on(improved, half, jobs) for kind, jobs in trained.items()}
    told = {kind: gains_on(improved, ~half, jobs) for kind, jobs in trained.items()}
    shared = set.intersection(*(set(gains) for gains in chosen_by.values()))
    assert shared == {0} < told["pair"].keys()  # the groups ended with the pair
    for kind in trained:
        row = rows[kind]
        assert row["seeds"] == len(told[kind])
        assert row["decided_delta"] == pytest.approx(np.mean([chosen_by[kind][s] for s in shared]))
        assert row["delta"] == pytest.approx(np.mean([*told[kind].values()]))
        assert row["delta_low"] < row["delta"] < row["delta_high"]
        net = np.mean([gain - told["control"][seed] for seed, gain in told[kind].items()])
        assert (row["net_delta"] is None) == (kind == "control")
        assert row["net_delta"] in (None, pytest.approx(net))
    (chosen,) = (row for row in rows.values() if row["chosen"])
    assert chosen is max(rows.values(), key=lambda row: row["decided_delta"])
    assert table["kind"][0].as_py() == chosen["kind"]
    best = told[chosen["kind"]]
    for kind, row in rows.items():
        there = told.get(kind, dict.fromkeys(best, 0.0))
        behind = np.mean([best[seed] - there[seed] for seed in best.keys() & there.keys()])
        assert row["behind"] == (None if row is chosen else pytest.approx(behind))
    assert (rows["untouched"]["decided_delta"], rows["untouched"]["job_ids"]) == (0, [])
    assert {(row["decided_on"], row["n"], row["half"]) for row in rows.values()} == {
        (500, 500, True)
    }
    lines = kinds_lines(table)
    assert lines[0] == "chosen on 500 images, measured on the other 500"
    assert lines[1].startswith("of one seed an interval speaks of the images")  # the group's


def test_the_units_that_report_choose_nothing(improved, tmp_path):
    other = improved_world(tmp_path / "store", other_half=1)
    names = ["kind", "partner", "chosen", "decided_delta", "job_ids"]
    assert kinds(other.store, "b").select(names) == kinds(improved.store, "b").select(names)
    assert kinds(other.store, "b")["delta"] != kinds(improved.store, "b")["delta"]


def test_a_card_shows_both_halves(improved):
    text = chosen_among(kinds(improved.store, "b").to_pylist())
    head, _, *rows = text.split("\n\n")[0].splitlines()
    assert head.startswith("| | chosen by Δ | Δ [95%], pp | net Δ [95%] |")
    assert rows[0].startswith("| **")
    assert len(rows) == 4
    assert text.endswith("measured on the other 500, which chose nothing.")


def test_the_pair_of_a_search_is_its_winner_with_its_intervals(searched):
    for model in "abcdefgh":
        found = searched_partners(searched.store, model).to_pylist()
        winner = next(row for row in found if row["trained"])
        table = kinds(searched.store, model)
        assert several_kinds(searched.store, table)
        (row,) = (row for row in table.to_pylist() if row["kind"] == "pair")
        assert row["partner"] == winner["partner"]
        for name in ("delta", "delta_low", "delta_high", "net_delta", "net_low", "net_high"):
            assert row[name] == pytest.approx(winner[name])
        assert len(kinds_lines(table)) == 1


def setting_of(world):
    return next(iter(world.jobs.values())).recipe_id, "bikd"


def test_figures_of_all_images_are_marked_until_the_map_is_complete(searched, tmp_path):
    data_id, setting = searched.data.data_id, setting_of(searched)
    note = search_note(searched.store, data_id, *setting)
    assert "of 28 pairs) by what they gained on half of these images" in note
    noted = search_notes(searched.store)
    assert noted
    assert noted(data_id, *setting) == note
    assert search_note(searched.store, "other", *setting) == ""
    world = World(tmp_path / "store", "abcdefgh", n=200, seeds=[0], search={"regret": 2.0})
    world.measure()
    assert search_notes(world.store) is None
    world.play(world.strategy(told_by(world)))
    assert search_note(world.store, data_id, *setting_of(world))
    done = world.store.done()
    for job in world.jobs.values():
        if job.job_id not in done:
            world.finish(job)
    assert search_note(world.store, data_id, *setting_of(world)) == ""


def test_of_anchors_only_their_pairs_are_missed(tmp_path):
    world = World(
        tmp_path / "store",
        "abcdefghij",
        n=400,
        seeds=[0],
        pairings={"anchors": ["a", "b"]},
        search={"regret": 2.0},
    )
    world.measure()
    world.play(world.strategy(told_by(world)))
    partners = {
        row["partner"]
        for row in searched_partners(world.store, "c").to_pylist()
        if not row["trained"]
    }
    assert partners <= {"a", "b"}
    for job in world.jobs.values():
        world.finish(job)
    assert len(searched_partners(world.store, "a")) == 0
    assert len(searched_partners(world.store, "c")) == 0


def test_a_map_without_groups_is_no_choice_among_kinds(tmp_path):
    world = World(tmp_path / "store", "abc", n=200, seeds=[0])
    world.measure()
    assert len(kinds(world.store, "a")) == 0
    assert not several_kinds(world.store, kinds(world.store, "a"))
    for job in world.jobs.values():
        world.finish(job)
    table = kinds(world.store, "a")
    assert set(table["kind"].to_pylist()) == {"untouched", "control", "pair"}
    assert not several_kinds(world.store, table)
    assert len(kinds(world.store, "a", selection="best_val")) == 0


class Losing(World):
    """Everybody forgets a tenth of what it knew."""

    def after(self, job, name):
        right = self.before[name].copy()
        known = np.flatnonzero(right)
        right[np.random.default_rng(job.seed).permutation(known)[: len(known) // 10]] = False
        return right


def test_a_model_that_is_best_as_it_is_is_not_exported_unasked(tmp_path):
    world = Losing(tmp_path / "store", "abcdefgh", n=400, **HOW)
    world.measure()
    world.play(world.improving())
    first = kinds(world.store, "b").to_pylist()[0]
    assert (first["kind"], first["chosen"]) == ("untouched", True)
    with pytest.raises(UserError, match="b is best as it is, by the 200 images that decide"):
        select_result(world.store, "b")


def test_the_commands_say_by_what_a_search_chose(searched):
    def said(*words):
        found = CliRunner().invoke(app, [*words, "--store", searched.store.uri])
        assert found.exit_code == 0, found.output
        return " ".join(found.output.split())

    note = "A search has chosen which pairs to train"
    assert note in said("summary")
    plainly = said("partners", "a", "--all-images")
    assert note in plainly
    assert "cross-fitted" not in plainly  # which dropping partners early has spoiled
    assert "chosen on 500 images, measured on the other 500" in said("partners", "a")
    assert "chosen on 500 images, measured on the other 500" in said("best", "a")


def test_a_summary_lets_the_deciding_half_choose_what_is_taken_home(tmp_path):
    rules = {"n": 2000, "seeds": [0, 1], "search": {"regret": 2.0}, "kept": True}
    world = World(tmp_path / "store", "abcdefgh", **rules)
    world.teaches = dict.fromkeys("abcdefgh", 3.0)
    world.measure()
    world.play(world.strategy(told_by(world)), slots=4)

    def said():
        out = CliRunner().invoke(app, ["summary", "--store", world.store.uri]).output
        assert "improve with a partner by more than alone" in out
        return next(line for line in out.splitlines() if line.strip().startswith("bikd export"))

    assert "--partner" not in said()
    done = world.store.done()
    for job in world.jobs.values():
        if job.job_id not in done:
            world.finish(job)
    assert "--partner" in said()
