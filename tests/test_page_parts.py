"""Parts of the pages by themselves: the small matrix, heads, the timeline, causes, dark colours."""

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest

from bikd_dashboards.blocks import Plot, Shade, Table
from bikd_dashboards.headers import MEANINGS, meaning
from bikd_dashboards.pages import PAGES
from bikd_dashboards.report_parts import LIMITS
from bikd_dashboards.snapshot import SettingView, Snapshot
from bikd_dashboards.theme import BLUE, DARK, LIGHT, LIGHTER, for_dark
from bikd_dashboards.timeline import timeline, timeline_figure
from bikd_ray.formatting import signed
from bikd_ray.store import Store
from bikd_ray.store.schema import SCHEMAS
from tests.synthetic import World, made

NETS = ("ResNet", "ViT", "Mixer")


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> SettingView:
    effects = {("ViT", "ResNet"): 12.0, ("Mixer", "ViT"): -9.0}
    world = World(NETS, effects, failed=[("ResNet", "Mixer")], own=5.0)
    now = Snapshot(Store(made(tmp_path_factory.mktemp("parts"), world)))
    return SettingView(now, now.settings[0], LIMITS)


def table(view: SettingView, page: str, label: str) -> Table:
    found = [b for b in PAGES[page].draw(view, {}) if isinstance(b, Table) and b.label == label]
    assert len(found) == 1
    return found[0]


def test_the_small_matrix_leads_to_its_pairs_and_colours_what_is_told(view):
    matrix = table(view, "overview", "Who helps whom")
    names = [c.title for c in matrix.columns[1:]]
    assert [row[0] for row in matrix.rows] == names
    gains = {(r["model"], r["partner"]): r for r in view.gains.to_pylist()}
    for learner, *cells in matrix.rows:
        for partner, cell in zip(names, cells, strict=True):
            row = gains.get((str(learner), partner))
            if row is None:
                assert not isinstance(cell, Shade)
                continue
            assert isinstance(cell, Shade)
            assert cell.link.text == signed(row["net_delta"])
            assert dict(cell.link.choices)["pair"] == f"{row['model_id']}~{row['partner_ids'][0]}"
            tones = {"improves": "better", "harmed": "worse", "no difference found": "none"}
            assert cell.tone == tones[row["verdict"]]


def test_the_first_page_has_the_old_self_where_it_was_run(view):
    headline = table(view, "overview", "Headline table")
    at = [c.title for c in headline.columns].index("Old self (self)")
    own = {r["model"]: r["self_delta"] for r in view.gains.to_pylist()}
    for row in headline.rows:
        (name,) = [row[0].text]  # type: ignore[union-attr]
        assert row[at].value == pytest.approx(own[name])  # type: ignore[union-attr]


def test_who_teaches_and_who_learns_stands_on_the_page_of_reasons(tmp_path):
    now = Snapshot(Store(made(tmp_path, World(NETS, {("ViT", "ResNet"): 12.0}, n=300))))
    view = SettingView(now, now.settings[0], LIMITS)
    found = table(view, "why", "Teachers")
    rows = {r["model"]: r for r in view.teachers.to_pylist()}
    assert {row[0] for row in found.rows} == set(rows)
    for name, teaches, *_ in found.rows:
        assert teaches.value == rows[str(name)]["teaches"]  # type: ignore[union-attr]


def test_failures_are_counted_by_their_cause(view):
    (row,) = table(view, "runs", "Why jobs failed").rows
    assert row[:2] == ("CUDA out of memory", "3")
    assert "micro_batch" in str(row[2])


def test_every_head_with_a_meaning_is_on_some_page(view):
    heads = set()
    for page in PAGES.values():
        for block in page.draw(view, {}):
            heads |= {c.title for c in block.columns} if isinstance(block, Table) else set()
    assert sum(bool(meaning(title)) for title in heads) > 15
    assert meaning("worst class, pp") == MEANINGS["Worst class"]
    assert meaning("resnet50") == ""


def job(end: float, seconds: float, members: str = "ab", status: str = "done") -> dict:
    row = dict.fromkeys(SCHEMAS["jobs"].names)
    ids = [f"id-{m}" for m in members]
    return row | {
        "attempt": f"{round(1000 * end):012x}-0",
        "seconds": seconds,
        "members": [*members],
        "member_ids": ids,
        "objective": "bikd",
        "seed": 0,
        "status": status,
    }


def test_jobs_that_ran_at_once_lie_in_lanes_of_their_own_and_gaps_are_seen():
    rows = [job(1010, 10), job(1010, 5, "a"), job(1030, 10), job(1031, 1, status="failed")]
    found = timeline(pa.Table.from_pylist(rows, SCHEMAS["jobs"]))
    assert [(b.lane, b.begin, b.end) for b in found.bars] == [
        (0, 1000, 1010), (1, 1005, 1010), (0, 1020, 1030), (0, 1030, 1031),
    ]  # fmt: skip
    assert found.lanes == 2
    assert found.busy == pytest.approx((10 + 5 + 10 + 1) / (2 * 31))
    figure: Any = timeline_figure(found)
    assert [trace.name for trace in figure.data] == ["with a partner", "control", "failed"]
    assert list(figure.data[0].x) == [10_000, 10_000]
    assert timeline(pa.Table.from_pylist([], SCHEMAS["jobs"])).lanes == 0


def test_the_runs_page_has_the_timeline(view):
    assert any(isinstance(b, Plot) and b.key == "timeline" for b in PAGES["runs"].draw(view, {}))


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


def test_on_a_dark_page_marks_and_lines_are_bright():
    surface = DARK.layout.paper_bgcolor  # type: ignore[union-attr]
    for light, dark in LIGHTER.items():
        assert contrast(dark, surface) > max(5, contrast(light, surface))
    figure = go.Figure(go.Scatter(x=np.array([1.0, 2.0]), y=[1, 2], line={"color": BLUE}))
    figure.update_layout(template=LIGHT)
    drawn: Any = for_dark(figure)
    assert drawn.data[0].line.color == LIGHTER[BLUE]
    before, after = (json.loads(f.to_json() or "")["data"][0] for f in (figure, drawn))
    assert (before["x"], before["line"]["color"]) == (after["x"], BLUE)
