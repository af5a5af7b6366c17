"""Any metric on any evaluation set: in the answers, on the command line, in the report and app."""

import json
import re
import sys
from datetime import UTC, datetime

import pytest

from bikd_dashboards.app import make_app
from bikd_dashboards.report import render
from bikd_dashboards.snapshot import Snapshot
from bikd_pipelines import baselines, cli
from bikd_pipelines.layout import laid_out
from bikd_ray.errors import UserError
from bikd_ray.store import Store
from tests.synthetic import World, made

NETS = ("ResNet", "ViT", "Mixer")


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    world = World(NETS, {("ViT", "ResNet"): 12.0}, sets=("v2",), losses=True)
    return made(tmp_path_factory.mktemp("measures"), world)


@pytest.fixture
def said(monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bikd", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return out if left.value.code == 0 else err

    return run


@pytest.mark.parametrize(
    "command",
    [
        ["partners", "ViT"],
        ["pairs"],
        ["pairs", "--matrix"],
        ["groups", "ViT"],
        ["teachers"],
        ["flips", "ViT"],
        ["classes", "ViT"],
    ],
    ids=" ".join,
)
def test_every_answer_is_of_the_set_that_was_asked_for(said, uri, command):
    asked = [*command, "--store", uri, "--format", "json"]
    on_val, on_v2 = json.loads(said(*asked)), json.loads(said(*asked, "--eval-set", "v2"))
    assert on_val
    assert on_val != on_v2
    assert json.loads(said(*asked, "--metric", "top1")) == on_val


def test_what_helps_on_val_harms_on_the_other_set_and_lowers_the_loss(uri):
    store = Store(uri)
    first = store.partners("ViT").to_pylist()[0]
    assert (first["partner"], first["verdict"]) == ("ResNet", "improves")
    there = {r["partner"]: r for r in store.partners("ViT", eval_set="v2").to_pylist()}
    assert there["ResNet"]["verdict"] == "harmed"
    loss = store.partners("ViT", metric="nll").to_pylist()[0]
    assert (loss["partner"], loss["verdict"], loss["unit"]) == ("ResNet", "improves", "nats")
    assert loss["net_delta"] == pytest.approx(-2 * first["net_delta"] / 100, abs=1e-6)


@pytest.mark.parametrize("command", [["flips"], ["classes", "ViT"]], ids=" ".join)
def test_a_loss_has_no_right_and_wrong(said, uri, command):
    (line,) = said(*command, "--store", uri, "--metric", "nll").splitlines()
    assert line.startswith("bikd: nll has no right and wrong answers")
    assert "top1" in line


def test_a_baseline_has_a_column_for_each_metric_with_its_unit(uri):
    store = Store(uri)
    table = baselines.measured(store)
    assert len(table) == 2 * len(NETS)
    columns = baselines.view(store.metrics, table)
    assert [c.title for c in columns][:3] == ["model", "top-1, %", "NLL, nats"]
    lines = [line.plain for line in laid_out(table.to_pylist(), columns, 80)]
    row = table.to_pylist()[0]
    assert any(f"{row['top1']:.2f}" in line and f"{row['nll']:.4f}" in line for line in lines)


def test_a_report_is_of_the_primary_metric_on_val_unless_another_is_named(uri):
    store, now = Store(uri), datetime(2026, 1, 1, tzinfo=UTC)
    plain = render(Snapshot(store), now)
    assert "1 of 3 models improves with a partner" in plain
    assert "A model&#39;s top-1 on the val images" in plain or "top-1 on the val images" in plain
    other = render(Snapshot(store, "nll", "v2"), now)
    assert "NLL on the v2 images" in other
    row = store.partners("ViT", metric="nll", eval_set="v2").to_pylist()[0]
    number = f"{abs(row['net_delta']):.4f}"
    assert number in other
    assert number not in plain
    with pytest.raises(UserError, match="did you mean 'v2'"):
        render(Snapshot(store, eval_set="v3"), now)


def test_the_app_lets_a_person_choose_both(uri):
    app = make_app(Store(uri))
    client = app.server.test_client()

    def page(search: str) -> str:
        inputs = [
            {"id": "link", "property": "pathname", "value": "/"},
            {"id": "link", "property": "search", "value": search},
            {"id": "seen", "property": "data", "value": 0},
            {"id": "colours", "property": "data", "value": "light"},
        ]
        names = ("head.children", "nav.children", "page.children", "opened.children", "drawn.data")
        body = {
            "output": f"..{'...'.join(names)}..",
            "outputs": [dict(zip(("id", "property"), n.split("."), strict=True)) for n in names],
            "inputs": inputs,
            "changedPropIds": ["link.search"],
            "state": [{"id": "drawn", "property": "data", "value": None}],
        }
        answer = client.post("/_dash-update-component", json=body)
        return json.dumps(answer.get_json()["response"]["page"], ensure_ascii=False)

    plain, other = page(""), page("?set=v2&metric=nll")
    for name in ("metric", "set"):
        assert f'"data-choice": "{name}"' in plain
    assert "percentage points" in plain
    assert "NLL, nats" in other
    harmed = re.search(r"in \d of \d cases the partner harms", other)
    assert harmed
    assert "top-1, percentage points" in page("?set=nothing")  # an old link still leads somewhere
