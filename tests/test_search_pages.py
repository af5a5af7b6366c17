"""The pages of a searched store: what was not trained is hatched, who is settled, what it cost."""

from typing import Any

import numpy as np
import pytest

from bikd_dashboards.blocks import Notes, Plot, Table, Text
from bikd_dashboards.figures import HATCHED, Interval, heatmap_figure
from bikd_dashboards.model_page import about
from bikd_dashboards.pages import heatmap, overview, pairs
from bikd_dashboards.searching import looks, regret_figure
from bikd_dashboards.snapshot import Limits, SettingView, Snapshot
from bikd_ray.store.searched import searched_partners
from tests.search_sweeps import World, told_by

RULES = {"regret": 2.0, "share": 0.5}
LIMITS = Limits(matrix=60, models=10, pairs=10, rows=50, runs=50)


def traces(figure) -> list[Any]:
    return [*figure.data]


def view_of(world):
    snapshot = Snapshot(world.store)
    return SettingView(snapshot, snapshot.settings[0], LIMITS)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    world = World(
        tmp_path_factory.mktemp("pages") / "store", "abcdefgh", n=1000, seeds=[0, 1], search=RULES
    )
    world.measure()
    world.play(world.strategy(told_by(world)), slots=4)
    return world


def test_untrained_cells_are_hatched_in_the_colour_of_what_is_expected(searched):
    info = heatmap(view_of(searched), "delta")
    untrained = np.argwhere(info.untrained_LP)
    assert 0 < len(untrained) < 50
    assert not (info.untrained_LP & info.known_LP).any()
    rows = {
        (r["model"], r["partner"]): r
        for name in "abcdefgh"
        for r in searched_partners(searched.store, name).to_pylist()
    }
    for row, column in untrained:
        told = rows[info.learners[row], info.partners[column]]
        assert not told["trained"]
        assert info.expected_LP[row, column] == pytest.approx(told["expected_delta"])
    data = traces(heatmap_figure(info))
    assert len(data) == 4
    assert {text for line in data[2].text for text in line} == {"", HATCHED}
    assert np.isfinite(np.array(data[2].z, float)).sum() == len(untrained)
    (plot,) = [b for b in pairs(view_of(searched), {"show": "delta"}) if isinstance(b, Plot)]
    assert f"{len(untrained)} cells not trained, hatched" in plot.says
    assert "Hatched: not trained" in plot.meaning


def test_net_gains_of_models_without_a_control_are_hatched_in_grey(searched):
    info = heatmap(view_of(searched), "net_delta")
    grey = info.untrained_LP & np.isinf(info.expected_LP)
    assert np.isfinite(np.array(traces(heatmap_figure(info))[3].z, float)).sum() == grey.sum()
    assert not heatmap(view_of(searched), "kappa").untrained_LP.any()


def test_the_first_page_says_who_is_settled_and_what_it_cost(searched):
    blocks = overview(view_of(searched), {})
    (table,) = [b for b in blocks if isinstance(b, Table) and b.label == "Search"]
    assert len(table.rows) == 8
    (plot,) = [b for b in blocks if isinstance(b, Plot)]
    assert plot.key == "search-regret"
    assert "8 of 8 models are settled" in plot.says
    assert any(isinstance(b, Text) and b.text == "The search" for b in blocks)


def test_the_first_page_says_that_a_search_has_chosen_what_it_shows(searched):
    (notes,) = [b for b in overview(view_of(searched), {}) if isinstance(b, Notes)]
    assert any("A search has chosen which pairs to train" in text for text in notes.items)


def test_a_models_page_has_the_partners_on_the_half_that_reports(searched):
    view = view_of(searched)
    blocks = about(view, "id-c")
    (table,) = [b for b in blocks if isinstance(b, Table) and b.label == "What the search says"]
    rows = searched_partners(searched.store, "c").to_pylist()
    assert len(table.rows) == len(rows) == 7
    assert "measured on the other 500" in table.caption
    for shown, row in zip(table.rows, rows, strict=True):
        delta = shown[2]
        if row["trained"]:
            assert isinstance(delta, Interval)
            assert delta.value == row["delta"]
        else:
            assert delta == "not trained"


def test_a_set_that_is_only_measured_on_is_not_what_a_search_decides_by(searched):
    snapshot = Snapshot(searched.store)
    other = SettingView(snapshot.measured(None, "real"), snapshot.settings[0], LIMITS)
    assert (other.decisions, other.search_note, other.expected, other.searched("id-a")) == (
        [],
        "",
        {},
        [],
    )


def test_the_curve_has_a_mark_for_each_look_that_had_a_model(searched):
    rows = view_of(searched).decisions
    found = looks(rows)
    assert len(found) == len({row["decision_id"] for row in rows})
    assert found[0].regret is None
    shares = [one.share for one in found]
    assert shares == sorted(shares)
    figure = regret_figure(found, 0.05, "pp")
    (line,) = traces(figure)
    known = [one for one in found if one.regret is not None]
    assert list(line.y) == [one.regret for one in known]


def test_a_store_that_nobody_searched_has_no_such_part(tmp_path):
    world = World(tmp_path / "store", "abc", n=200, seeds=[0])
    world.measure()
    for job in world.jobs.values():
        world.finish(job)
    view = view_of(world)
    assert view.decisions == []
    assert not heatmap(view, "delta").untrained_LP.any()
    assert len(traces(heatmap_figure(heatmap(view, "delta")))) == 2
    assert not [b for b in overview(view, {}) if isinstance(b, Plot)]
