"""The report of synthetic stores: one file, no network, names as text, numbers as stored."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from bikd_dashboards.blocks import Link, Table, Tag
from bikd_dashboards.downloads import FILES
from bikd_dashboards.figure_data import unpacked
from bikd_dashboards.forest import forest_info
from bikd_dashboards.pages import PAGES, heatmap
from bikd_dashboards.report import write_report
from bikd_dashboards.report_parts import LIMITS
from bikd_dashboards.snapshot import SettingView, Snapshot
from bikd_ray.errors import UserError
from bikd_ray.store import Store
from tests.drawn import HOSTILE, RECIPE, Zoo, id_of, sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A finished sweep with one failed job, and its report."""
    folder = tmp_path_factory.mktemp("swept")
    sweep(folder / "store").failed(["resnet", "vit"], 3, "OutOfMemoryError: no room\n\nat <line>")
    store = Store(str(folder / "store"))
    return store, write_report(store, folder / "deep" / "report.html").read_text()


def markup(text: str) -> str:
    """The page without its scripts and styles: what a browser lays out."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)


def parts(text: str, kind: str) -> list[str]:
    """The unpacked panels, figures or files of a report."""
    found = re.findall(rf'data-packed="{kind}[-\d]*">([^<]*)</script>', text)
    return [unpacked(content) for content in found]


def whole(text: str) -> str:
    """What a browser lays out once every panel has been opened."""
    return markup(text) + "".join(parts(text, "panel"))


def file(text: str, name: str) -> str:
    part = re.findall(rf'data-file="{name}" data-part="([^"]*)"', whole(text))[0]
    return unpacked(text.split(f'data-packed="{part}">')[1].split("<")[0])


def cells(text: str, model: str) -> list[str]:
    """The texts of a model's row in the headline table."""
    headline = markup(text).split('aria-label="Headline table"')[1]
    table = headline.split("<tbody>")[1].split("</tbody>")[0]
    named = re.compile(rf'<th scope="row">\s*(?:<a[^>]*>)?{model}\s*<')
    row = next(r for r in table.split("<tr>") if named.search(r))
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", c)).strip() for c in row.split("<td")[1:]]


def test_the_report_is_one_file_that_loads_nothing(swept):
    _, text = swept
    assert not re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"', markup(text))
    assert not re.search(r"@import|url\(|<link(?![^>]*data:)|<iframe|<img", markup(text))
    assert "<script src" not in text
    assert "default-src 'none'" in text
    assert [code.count("* plotly.js v") for code in parts(text, "plotly")] == [1]


def test_the_headline_shows_what_the_store_answers(swept):
    store, text = swept
    best = max(store.partners("vit").to_pylist(), key=lambda r: r["delta"])
    assert best["partner"] == "convnext"
    assert best["net_low"] > 0
    row = " ".join(cells(text, "vit"))
    for value in (best["delta"], best["control_delta"], best["net_delta"], best["net_low"]):
        assert f"+{value:.2f}" in row


def test_the_sentence_on_top_names_the_models_that_improve(swept):
    store, text = swept
    gains = store.gains().to_pylist()
    up = {row["model"] for row in gains if row["verdict"] == "improves"}
    assert up == {"vit", "mixer"}
    sentence = re.findall(r'<p class="verdict">(.*?)</p>', text)[0]
    assert sentence.startswith("2 of 4 models improve with a partner by more than alone: ")
    assert "vit (with convnext, net Δ +" in sentence
    assert "resnet (" not in sentence


def test_the_downloads_hold_the_numbers_of_the_store(swept):
    store, text = swept
    for name, known in FILES.items():
        table = known.table(Snapshot(store))
        assert known.least(Snapshot(store)) <= len(table)
        got = list(csv.DictReader(io.StringIO(file(text, f"{name}.csv"))))
        want = table.to_pylist()
        assert len(got) == len(want) > 0
        assert list(got[0]) == table.column_names
        for ours, theirs in zip(got, want, strict=True):
            for column, value in theirs.items():
                if value is None:
                    assert ours[column] == ""
                elif isinstance(value, float):
                    assert float(ours[column]) == value
                elif isinstance(value, list):
                    assert ours[column] == " + ".join(value)
                else:
                    assert ours[column] == (
                        str(value).lower() if value in (True, False) else str(value)
                    )


def test_failed_jobs_come_first_with_their_error(swept):
    _, text = swept
    rows = text.split('aria-label="Runs table"')[1].split("</section>")[0].split("<tr>")[2:]
    assert len(rows) == 31
    assert "OutOfMemoryError: no room" in rows[0]
    assert "at &lt;line&gt;" in rows[0]
    assert ">failed<" not in "".join(rows[1:])


def test_a_hostile_name_stays_text_everywhere(tmp_path):
    sweep(tmp_path / "s", (HOSTILE, "b%{x}<b>&amp;"), seeds=(0,))
    text = write_report(Store(str(tmp_path / "s")), tmp_path / "r.html").read_text()
    assert HOSTILE not in text
    assert HOSTILE not in whole(text)
    assert "&lt;script&gt;alert" in markup(text)
    figures = [json.loads(figure) for figure in parts(text, "figure")]
    for figure in figures:
        figure["layout"].pop("meta", None)  # names as they are: the browser sets them as text
    texts = [t for figure in figures for t in strings(figure)]
    assert not any("<script" in t for t in texts)
    assert sum("&lt;script&gt;" in t for t in texts) > 20
    assert any("b%{x}&lt;b&gt;&amp;amp;" in t for t in texts)
    assert not any("b%{x}" in t for f in figures for t in templates(f))


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inner for text in strings(part)]


def templates(figure: dict) -> list[str]:
    return [
        v for t in figure["data"] for k, v in t.items() if k in ("texttemplate", "hovertemplate")
    ]


def report(folder: Path) -> str:
    return write_report(Store(str(folder / "s")), folder / "r.html").read_text()


def test_an_empty_store_says_so(tmp_path):
    assert "This store is empty." in report(tmp_path)


def test_baselines_alone_show_the_pairs_but_claim_nothing(tmp_path):
    Zoo(tmp_path / "s", ("vit", "mixer")).baselines()
    text = report(tmp_path)
    assert "Only baselines are there" in text
    assert "not trained yet" in " ".join(cells(text, "vit"))
    options = re.findall(r'<option value="(\w+)"', text.split('data-choice="show"')[1])[:4]
    assert options == ["ensemble_gain", "error_overlap", "disagreement", "kappa"]


def test_a_store_of_failed_jobs_shows_the_failures(tmp_path):
    zoo = Zoo(tmp_path / "s", ("vit", "mixer"))
    zoo.baselines()
    zoo.failed(["vit", "mixer"], 0, "RuntimeError: boom")
    text = report(tmp_path)
    assert "0 done, 1 failed" in text
    assert "RuntimeError: boom" in text


def test_without_controls_nothing_is_said_about_partners(tmp_path):
    zoo = Zoo(tmp_path / "s", ("vit", "mixer"))
    zoo.baselines()
    zoo.job(["vit", "mixer"], 0)
    assert "Nothing can be said about partners: no control has finished" in report(tmp_path)


def test_controls_alone_show_what_training_on_does(tmp_path):
    zoo = Zoo(tmp_path / "s", ("vit", "mixer"))
    zoo.baselines()
    zoo.job(["vit"], 0, objective="ce")
    text = report(tmp_path)
    assert "Only controls have finished" in text
    alone = zoo_control(tmp_path)
    assert f"{abs(alone):.2f}" in cells(text, "vit")[6]


def zoo_control(folder: Path) -> float:
    return Store(str(folder / "s")).controls().to_pylist()[0]["delta"]


def test_settings_are_groups_of_their_own(tmp_path):
    zoo = Zoo(tmp_path / "s", ("vit", "mixer"))
    zoo.baselines()
    both = ("last", "best_val")
    for objective in ("bikd", "bikd(temperature=2.0)"):
        zoo.job(["vit", "mixer"], 0, objective=objective, selections=both)
    zoo.job(["vit"], 0, objective="ce", selections=both)
    zoo.job(["vit", "mixer"], 0, recipe_id="ffff000011112222")
    now = Snapshot(Store(str(tmp_path / "s")))
    found = [(s.objective, s.selection, s.recipe_id) for s in now.settings]
    hot, other = "bikd(temperature=2.0)", "ffff000011112222"
    assert sorted(found) == sorted(
        [(o, s, RECIPE) for o in ("bikd", hot) for s in both] + [("bikd", "last", other)]
    )
    assert len(set(now.labels.values())) == len(now.settings)
    assert all(len(SettingView(now, s, LIMITS).gains) == 2 for s in now.settings)


def test_an_epoch_chosen_on_the_reported_images_gets_no_interval(tmp_path):
    zoo = Zoo(tmp_path / "s", ("vit", "mixer"))
    zoo.baselines()
    for members, objective in ((["vit", "mixer"], "bikd"), (["vit"], "ce"), (["mixer"], "ce")):
        zoo.job(members, 0, objective, ("last", "best_val"))
    last, chosen = views(tmp_path)
    assert chosen.setting.selection == "best_val"
    assert "these gains are too high" in report(tmp_path)
    for before, after in zip(last.gains.to_pylist(), chosen.gains.to_pylist(), strict=True):
        assert before["net_low"] is not None
        assert (after["delta_low"], after["net_low"], after["net_high"]) == (None, None, None)
        assert after["net_delta"] == before["net_delta"]
    assert "[" not in " ".join(chosen_row(chosen, "vit"))


def views(folder: Path) -> list[SettingView]:
    now = Snapshot(Store(str(folder / "s")))
    return [SettingView(now, setting, LIMITS) for setting in now.settings]


def chosen_row(view: SettingView, model: str) -> list[str]:
    """A model's row of the headline, as text."""
    (table,) = [b for b in PAGES["overview"].draw(view, {}) if isinstance(b, Table)]
    (row,) = [r for r in table.rows if text_of(r[0]) == model]
    return [text_of(cell) for cell in row]


def text_of(cell: object) -> str:
    if isinstance(cell, tuple):
        return "".join(map(text_of, cell))
    if isinstance(cell, Link):
        return cell.text
    return cell.word if isinstance(cell, Tag) else str(getattr(cell, "value", cell))


def test_a_group_of_three_stands_among_partners_but_not_in_the_matrix(tmp_path):
    names = ("vit", "mixer", "resnet")
    zoo = Zoo(tmp_path / "s", names)
    zoo.baselines()
    for seed in (0, 1):
        zoo.job(names, seed)
        zoo.job(names[:2], seed)
    (view,) = views(tmp_path)
    infos = [forest_info(i, view.gains, view.controls, view.names) for i in view.names]
    forests = {f.model: {p.name for p in f.partners} for f in infos}
    assert forests == {
        "vit": {"mixer", "mixer + resnet"},
        "mixer": {"vit", "vit + resnet"},
        "resnet": {"vit + mixer"},
    }
    assert set(heatmap(view, "delta").learners) == {"vit", "mixer"}
    assert chosen_row(view, "resnet")[2] == "(only) vit + mixer"
    assert "1 larger group" in report(tmp_path)


def test_two_models_of_one_name_keep_apart(tmp_path):
    zoo = Zoo(tmp_path / "s", ("vit", "mixer"))
    zoo.ids = lambda name: {"model": "same", "model_id": id_of(name), "weights_id": name}
    zoo.baselines()
    zoo.job(["vit", "mixer"], 0)
    (view,) = views(tmp_path)
    assert set(view.names.values()) == {"same (id-vit)", "same (id-mix)"}
    assert heatmap(view, "delta").known_LP.sum() == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/r\.html' cannot be written"):
        write_report(Store(str(tmp_path / "s")), tmp_path / "file" / "r.html")
