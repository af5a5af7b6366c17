"""The live dashboard in a real browser: `bikd dashboard` over a store that grows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from bikd_dashboards.downloads import FILES, csv
from bikd_dashboards.pages import PAGES
from bikd_dashboards.snapshot import Snapshot
from bikd_ray.store import Store
from tests.browser import number
from tests.drawn import HOSTILE, Zoo, sweep

NAMES = ("vit", "convnext", HOSTILE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Zoo, Store, str]]:
    """A store, and the address where `bikd dashboard` shows it."""
    folder = tmp_path_factory.mktemp("live") / "s"
    zoo = sweep(folder, NAMES, seeds=(0, 1))
    zoo.job(["vit", "convnext"], 0, objective="kd")
    command = [sys.executable, "-m", "bikd_pipelines", "dashboard", "--store", str(folder)]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        yield zoo, Store(str(folder)), address
        server.terminate()


@pytest.fixture(scope="module")
def opened(browser, served) -> Iterator:
    """One page for all tests, and at the end: a silent console, and no request elsewhere."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page.set_default_timeout(120_000)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.goto(served[2])
    yield page
    assert said == []
    assert [u for u in asked if not u.startswith((served[2], "data:", "blob:"))] == []
    page.close()


def visit(page, title: str) -> None:
    page.get_by_role("link", name=title, exact=True).first.click()
    page.get_by_role("heading", name=title, exact=True).first.wait_for()


def cells(page) -> list[str]:
    page.locator(".heatmap-label text").first.wait_for()
    return page.locator(".heatmap-label text").all_text_contents()


def test_the_setting_with_the_clearest_verdict_is_shown_first(opened, served):
    opened.get_by_role("heading", name="Overview", exact=True).wait_for()
    first = Snapshot(served[1]).opening
    assert first is not None
    assert first.objective == "kd"
    settings = opened.locator('select[data-choice="group"]')
    assert settings.input_value() == first.key
    assert "1 of 2 models improves" in opened.locator("p.verdict").inner_text()
    settings.select_option(label="bikd · last epoch")
    opened.get_by_text("more than training alone does").wait_for()


def test_every_page_can_be_reached_and_says_something(opened):
    opened.get_by_role("heading", name="Overview", exact=True).wait_for()
    for page in PAGES.values():
        visit(opened, page.title)
        assert opened.locator("main .card").inner_text().count("\n") > 3
    assert HOSTILE in opened.locator("main").inner_text()


def test_the_heatmap_shows_what_was_chosen_and_the_link_keeps_it(opened, served):
    visit(opened, "Pairs")
    gains = [r for r in served[1].gains().to_pylist() if r["objective"] == "bikd"]
    assert sorted(cells(opened)) == sorted(number(r["net_delta"], 2) for r in gains)
    opened.locator('select[data-choice="show"]').select_option("kappa")
    opened.get_by_role("heading", name="Cohen's κ").wait_for()
    assert set(cells(opened)) == {f"{r['kappa']:.2f}" for r in served[1].pairs().to_pylist()}
    opened.locator('select[data-choice="order"]').select_option("name")
    opened.wait_for_function("() => location.search.includes('order=name')")
    opened.reload()
    opened.get_by_role("heading", name="Cohen's κ").wait_for()
    assert opened.locator('select[data-choice="order"]').input_value() == "name"


def test_a_click_on_a_cell_opens_its_pair(opened):
    visit(opened, "Pairs")
    cells(opened)
    box = opened.locator(".nsewdrag").first.bounding_box()
    width, height = box["width"] / 3, box["height"] / 3
    opened.mouse.move(box["x"] + 1.4 * width, box["y"] + height / 2)
    opened.mouse.click(box["x"] + 1.5 * width, box["y"] + height / 2)
    opened.locator("#opened .card").wait_for()
    assert "pair=" in opened.url
    told = opened.locator("#opened").inner_text()
    for part in ("Images learned and forgotten", "What the two know", "class by class"):
        assert part in told


def test_every_download_is_the_table(served):
    now = Snapshot(served[1])
    for name, known in FILES.items():
        with urlopen(f"{served[2]}csv/{name}.csv") as answer:
            assert answer.read().decode() == csv(known.table(now))
    with urlopen(f"{served[2]}csv/classes.csv?model=id-vit") as answer:
        assert answer.read().decode() == csv(served[1].classes("vit"))


def test_another_name_for_this_machine_gets_nothing(served):
    with pytest.raises(OSError, match="403"):
        urlopen(Request(f"{served[2]}csv/gains.csv", headers={"Host": "evil.example:80"}))


def test_a_new_result_appears_by_itself(opened, served):
    visit(opened, "Runs")
    opened.get_by_text("13 jobs, 0 failed").wait_for()
    served[0].failed(["vit", "convnext"], 5, "OutOfMemoryError: no room")
    opened.get_by_text("14 jobs, 1 failed").wait_for()
    failed = opened.locator("tbody tr").filter(has_text="no room")
    assert failed.count() == 1


def test_figures_follow_the_colour_scheme_and_a_phone_needs_no_sideways_scrolling(opened):
    visit(opened, "Model")
    colour = "() => getComputedStyle(document.querySelector('.xtick text')).fill"
    opened.locator(".xtick text").first.wait_for()
    light = opened.evaluate(colour)
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function(
        f"(light) => document.querySelector('.xtick text') && ({colour})() !== light", arg=light
    )
    opened.set_viewport_size({"width": 390, "height": 844})
    for page in PAGES.values():
        visit(opened, page.title)
        assert opened.evaluate("document.documentElement.scrollWidth") == 390, page.title


def test_a_port_that_is_taken_is_named(served, tmp_path):
    port = served[2].rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "bikd_pipelines", "dashboard", "--port", port, "--store"]
    folder = Path(served[1].uri)
    run = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert f"port {port} cannot be used" in run.stderr
    assert run.stderr.count("\n") == 1
