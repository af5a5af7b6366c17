"""Words say no more than the statistics, on every surface: worlds whose truth is known."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.cells import cell_len

from bikd_dashboards.blocks import Plot, Table
from bikd_dashboards.components import Maker
from bikd_dashboards.pages import PAGES
from bikd_dashboards.report import render
from bikd_dashboards.report_parts import LIMITS
from bikd_dashboards.snapshot import Limits, SettingView, Snapshot
from bikd_dashboards.theme import LIGHT
from bikd_pipelines.layout import laid_out
from bikd_pipelines.summary import print_summary
from bikd_pipelines.views import VIEWS
from bikd_ray.export.card import _summary
from bikd_ray.export.select import _with_partner
from bikd_ray.export.summary import around, results_of
from bikd_ray.formatting import signed, span
from bikd_ray.store import Store
from bikd_ray.store import verdicts as v
from bikd_ray.store.answer_schemas import GAINS
from tests.synthetic import World, made, zoo

FEW = Limits(matrix=20, models=2, pairs=2, rows=60, runs=5, file=10)
SIXTY = zoo(60)
PLANTED = {
    ("model-003", "model-010"): 14.0,
    ("model-020", "model-007"): 13.0,
    ("model-041", "model-002"): 14.0,
}
NETS = ("ResNet", "ViT", "Mixer")


def text_of(part: object) -> str:
    """What a component of the app shows."""
    if part is None or isinstance(part, str | int | float):
        return str(part or "")
    if isinstance(part, list | tuple):
        return " ".join(map(text_of, part))
    return text_of(getattr(part, "children", None))


def surfaces(uri: str, capsys) -> dict[str, str]:
    """The whole text of the terminal, the report and the app."""
    store = Store(uri)
    print_summary(store)
    terminal = capsys.readouterr().out
    now = Snapshot(store)
    view = SettingView(now, now.settings[0], FEW)
    maker = Maker({}, LIGHT, view.names)
    app = " ".join(
        text_of(maker.blocks(PAGES[key].draw(view, {}))) for key in ("overview", "model", "why")
    )
    html = render(now, datetime.now(UTC), FEW)
    # what it asks, and what its words mean, is no answer
    report = re.sub(r"<(script|style|title|h1|dl)\b.*?</\1>", "", html, flags=re.DOTALL)
    return {"terminal": terminal, "app": app, "report": report}


def card_of(store: Store, model: str, partner: str | None = None) -> str:
    """The card's first words about what `bikd export` would take."""
    row, why, _ = _with_partner(store, model, partner, None, "last")
    return _summary(around(store, results_of(store, row)[0], why))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_no_partner_helps_every_surface_says_so(tmp_path, capsys, seed):
    uri = made(tmp_path, World(SIXTY, n=200, seeds=2, seed=seed))
    for name, text in surfaces(uri, capsys).items():
        assert "No partner helps any model" in text, name
        assert not re.search(r"\bimproves?\b(?! it)(?!:)", text), name
        assert '<span class="clear"' not in text, name
        assert "point clear" not in text, name
    card = card_of(Store(uri), "model-042")
    assert "no difference found" in card
    assert "improves" not in card
    rows = Store(uri).partners("model-042").to_pylist()
    assert {row["verdict"] for row in rows} == {v.NOTHING}


def test_planted_effects_are_found_and_no_other(tmp_path, capsys):
    uri = made(tmp_path, World(SIXTY, PLANTED, n=500, seeds=5))
    store = Store(uri)
    told = [r for r in store.gains().to_pylist() if r["verdict"] != v.NOTHING]
    assert {(r["model"], r["partner"]) for r in told} == set(PLANTED)
    assert {r["verdict"] for r in told} == {v.IMPROVES}
    for name, text in surfaces(uri, capsys).items():
        assert "3 of 60 models improve with a partner by more than alone" in text, name
        for learner, partner in PLANTED:
            assert f"{learner} (with {partner}, net Δ +" in text, name
    for learner, partner in PLANTED:
        first = store.partners(learner).to_pylist()[0]
        assert (first["partner"], first["verdict"]) == (partner, v.IMPROVES)
        assert _with_partner(store, learner, None, None, "last")[0]["partner"] == partner
        card = card_of(store, learner)
        assert "over 5 seeds: improves, q = 0.0" in card
    view = SettingView(now := Snapshot(store), now.settings[0], LIMITS)
    (plot,) = (b for b in PAGES["pairs"].draw(view, {"show": "net_delta"}) if isinstance(b, Plot))
    figure: Any = plot.figure
    coloured = figure.data[0].z
    assert (~np.isnan(coloured)).sum() == 3


def test_one_q_value_whoever_asks(tmp_path):
    uri = made(tmp_path, World(NETS, {("ViT", "ResNet"): 6.0}, n=500))
    store = Store(uri)
    whole = {(r["model"], r["partner"]): r for r in store.gains().to_pylist()}
    for _ in range(2):  # worked out, and remembered
        for model in NETS:
            for row in Store(uri).partners(model).to_pylist():
                assert row == whole[model, row["partner"]]
    p = sorted(row["p_value"] for row in whole.values())
    first = min(p[k] * len(p) / (k + 1) for k in range(len(p)))
    assert min(row["q_value"] for row in whole.values()) == pytest.approx(first)


def test_a_job_that_comes_later_counts_among_what_was_remembered(tmp_path):
    from bikd_ray.store import Writer
    from tests.stores import after, baseline, job

    writer = Writer(str(tmp_path))
    for m in "abc":
        baseline(writer, m)
    for seed in range(3):
        for m in "abc":
            job(writer, {m: after(m, 0.05, seed)}, seed)
        job(writer, {m: after(m, 0.3, seed) for m in "ab"}, seed)
    first = Store(str(tmp_path)).partners("a")["q_value"].to_pylist()
    for seed in range(3):
        job(writer, {m: after(m, 0.05, seed + 7) for m in "bc"}, seed)
    store = Store(str(tmp_path))
    assert store.partners("a")["q_value"].to_pylist() != first
    whole = {(r["model"], r["partner"]): r["q_value"] for r in store.gains().to_pylist()}
    assert store.partners("a")["q_value"].to_pylist() == [whole["a", "b"]]


def test_a_model_that_only_loses_less_is_not_to_be_trained(tmp_path, capsys):
    world = World(NETS, {("ResNet", "ViT"): 9.0}, {"ResNet": -20.0})
    uri = made(tmp_path, world)
    (row, *_) = Store(uri).partners("ResNet").to_pylist()
    assert (row["partner"], row["verdict"]) == ("ViT", v.LESS)
    assert row["delta"] < 0 < row["net_low"]
    for name, text in surfaces(uri, capsys).items():
        assert "No partner is sure to improve any model" in text, name
        assert "1 model only loses less than alone, do not train it: ResNet (with ViT" in text, name
        assert "past the ensemble" not in text, name
    assert "loses less than alone: do not train it" in card_of(Store(uri), "ResNet", "ViT")


def test_where_all_jobs_failed_the_cause_and_the_cure_are_said(tmp_path, capsys):
    uri = made(tmp_path, World(NETS, failed=list(combinations(NETS, 2))))
    said = (
        "All 9 jobs with a partner failed (CUDA out of memory): set resources.micro_batch or "
        "gpus_per_job, then bikd sweep SPEC --retry-failed."
    )
    for name, text in surfaces(uri, capsys).items():
        assert said in " ".join(text.split()), name
    assert Store(uri).why_nothing("ViT").startswith("All 6 jobs of ViT with a partner failed (CUDA")
    rows = Snapshot(Store(uri))
    (table,) = (
        b
        for b in PAGES["overview"].draw(SettingView(rows, rows.settings[0], FEW), {})
        if isinstance(b, Table)
    )
    assert all("CUDA out of memory" in str(row) for row in table.rows)


def test_a_pair_whose_jobs_failed_is_named_beside_the_others(tmp_path):
    from bikd_pipelines.tables import failed_lines

    store = Store(made(tmp_path, World(NETS, failed=[("ViT", "Mixer")])))
    assert len(store.partners("ViT")) == 1
    assert failed_lines(store.failed_jobs("ViT")) == [
        "ViT + Mixer: all of its jobs failed: CUDA out of memory (3), set resources.micro_batch "
        "or gpus_per_job"
    ]
    assert failed_lines(store.failed_jobs("ResNet")) == []


def row(**changes) -> dict:
    plain = {
        "model_id": "m",
        "selection": "last",
        "best": True,
        "tie": False,
        "delta": 1.0,
        "delta_low": 0.5,
        "net_delta": 1.0,
        "q_value": 0.01,
        "partner": "p",
        "seeds": 3,
    }
    return plain | changes


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, v.IMPROVES),
        ({"delta_low": -0.1}, v.MORE),
        ({"delta": 0.0, "delta_low": -1.0}, v.LESS),
        ({"delta": -3.0, "delta_low": -4.0}, v.LESS),
        ({"net_delta": -1.0}, v.HARMED),
        ({"q_value": 0.05}, v.NOTHING),
        ({"net_delta": None, "q_value": None}, v.NO_CONTROL),
        ({"selection": "best_val", "q_value": None, "delta_low": None}, v.ON_VAL),
        ({"net_delta": 0.0, "q_value": 0.01}, v.NOTHING),
    ],
)
def test_every_row_has_one_verdict(changes, verdict):
    table = pa.Table.from_pylist([row(**changes)], GAINS)
    assert v.judged(table)["verdict"].to_pylist() == [verdict]


def test_the_first_row_is_a_proven_gain_then_the_highest_net_gain_of_the_best_set():
    rows = [
        row(partner="outside", best=False, net_delta=9.0, q_value=0.3),
        row(partner="large", net_delta=8.2, q_value=0.2),
        row(partner="proven", net_delta=4.7),
        row(partner="harm", net_delta=-4.7),
        row(partner="same", net_delta=4.7),
    ]
    table = v.judged(pa.Table.from_pylist(rows, GAINS))
    assert table["partner"].to_pylist() == ["proven", "same", "large", "harm", "outside"]


def test_causes_are_grouped_and_the_frequent_one_comes_first():
    errors = ["ValueError: no\n\ntrace", "CUDA out of memory. Tried", "x: CUDA out of memory"]
    first, second = v.causes([*errors, None])[:2]
    assert (first.what, first.jobs) == ("CUDA out of memory", 2)
    assert (second.what, second.jobs, second.remedy) == ("ValueError: no", 1, "")


# -- tables on a terminal --------------------------------------------------------------


def wide(name: str) -> dict:
    """A row with everything that a view may ask for, as wide as it gets."""
    long = f"{name}_vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"
    numbers = dict.fromkeys((f.name for f in GAINS if pa.types.is_floating(f.type)), -100.0)
    row = {**numbers, "model": long, "partner": f"{long} + {long}", "role": "student"}
    row |= {"model_a": long, "model_b": long, "members": f"{long} + {long}"}
    more = (
        *("value", "top1", "seconds", "published", "params", "flops", "memory"),
        *(
            "n",
            "features",
            "to_do",
            "done",
            "failed",
            "epoch",
            "train_score",
            "score",
            "loss",
            "kl",
            "size",
        ),
        *("teacher_share", "students", "teachers", "groups", "label", "files", "into", "bytes"),
        *("gained", "gained_known", "lost", "lost_known", "control_gained", "control_lost"),
        *("score_a", "score_b", "ensemble", "error_overlap", "disagreement", "kappa", "seed"),
        *("paper_delta", "paper_std", "paper_ensemble", "paper_recovered", "paper_before"),
        *("expected_delta", "expected_sd", "chance_best", "decided_delta", "map_jobs", "models"),
        *("share", "jobs", "cost", "lost_se", "claimed", "same", "settled", "random"),
        *("behind", "behind_low", "behind_high"),
    )
    row |= {name: 12345.0 if name in ("n", "params", "flops") else 99.0 for name in more}
    row |= dict.fromkeys(("n", "files"), 10000)
    for mean in ("teaches", "learns"):
        row |= {mean: -100.0, f"{mean}_low": -100.0, f"{mean}_high": 100.0}
    for side in "ab":
        row |= {f"delta_{side}": -100.0, f"delta_low_{side}": -100.0}
        row |= {f"delta_high_{side}": 100.0}
    row |= {"best": True, "tie": True, "verdict": v.LESS, "seeds": 12, "measure": "net_delta"}
    row |= {"objective": "kd(temperature=4.0, alpha=0.9)", "recipe_id": name * 16}
    row |= {"data_id": name * 16, "kind": "model", "name": long, "weights": long, "licence": long}
    row |= {"table": "similarities", "job_id": "0123456789abcdef", "our_objective": "bikd"}
    row |= {"input": "224", "metric": "top1", "unit": "%", "eval_set": "val", "data": "hollywood2"}
    row |= {"trained": True, "chosen": True, "reason": "confirm"}
    return row | {"error": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}


@pytest.mark.parametrize("width", [40, 80, 100, None])
@pytest.mark.parametrize("view", sorted(VIEWS))
def test_no_table_cuts_a_number(view, width):
    rows = [wide("a"), wide("b")]
    if view == "failures":
        rows = [r | {"members": [r["model"]]} for r in rows]
    columns = VIEWS[view]
    lines = [line.plain for line in laid_out(rows, columns, width)]
    text = "\n".join(lines)
    assert "…" not in re.sub(r"…\s+it\s+knew", "", text)
    told = re.search(r"Too narrow for: (.*)", text)
    for c in columns:
        dropped = told is not None and c.drop and c.title.split()[0] in text.split("Too narrow")[1]
        for r in rows if not c.words and not dropped else ():
            assert c.cell(r) in text, (c.title, c.cell(r))
    if width in (80, 100):  # at 40 two names and an interval are wider, and stay whole
        assert max(map(cell_len, lines)) <= width


def test_what_all_rows_agree_on_stands_above():
    lines = [line.plain for line in laid_out([wide("a"), wide("a")], VIEWS["partners"], None)]
    assert lines[0] == (
        "self −100.00 · seeds 12 · metric top1, pp · on val · "
        "objective kd(temperature=4.0, alpha=0.9) · recipe aaaaaa · data aaaaaa"
    )


def test_rows_of_another_recipe_stand_in_a_table_of_their_own():
    rows = [wide("a"), wide("b"), wide("a")]
    lines = [line.plain for line in laid_out(rows, VIEWS["partners"], None)]
    assert "recipe" not in lines[0]
    first, second = (lines.index(f"recipe {n * 6} · data {n * 6}") for n in "ab")
    assert [line[:5] for line in lines[first + 2 : second]] == ["← a_v", "← a_v", ""]
    assert [line[:5] for line in lines[second + 2 :]] == ["← b_v"]


def in_terminal(width: int, *arguments: str) -> str:
    """What the command prints to a real pseudo-terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    keep = {k: x for k, x in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bikd_pipelines", *arguments],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**keep, "TERM": "xterm"},
    )
    os.close(theirs)
    read = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(ours, 65536):
            read += part
    os.close(ours)
    assert process.wait() == 0
    return read.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> str:
    names = ("vit_base_patch16_224.augreg_in21k", "resnet50.a1_in1k", "model")
    world = World(names, {(names[0], names[1]): 15.0}, {names[0]: -30.0})
    return made(tmp_path_factory.mktemp("several"), world)


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_terminal_shows_whole_numbers_and_bold_where_they_are_told(several, width):
    text = in_terminal(width, "partners", "vit_base_patch16_224.augreg_in21k", "--store", several)
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    rows = Store(several).partners("vit_base_patch16_224.augreg_in21k").to_pylist()
    for row in rows:
        assert f"{signed(row['net_delta'])} {span(row['net_low'], row['net_high'])}" in plain
    assert "…" not in plain
    assert max(map(len, plain.splitlines())) <= width
    bold = re.findall(r"\x1b\[1m([^\x1b]*)", text)
    assert any(f"{rows[0]['net_delta']:+.2f}" in part for part in bold)
    assert not any(f"{signed(rows[1]['net_delta'])} [" in part for part in bold)


def test_a_matrix_has_signs_and_marks_and_a_model_called_model(several):
    text = in_terminal(80, "pairs", "--matrix", "--show", "net_delta", "--store", several)
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert plain.count("*") == 2  # one cell and what the mark means
    assert "e-" not in plain
    assert re.search(r"\+1\d\.\d\d\*", plain)
