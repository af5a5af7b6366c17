"""The report in a real browser, opened from disk as a person would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bikd_dashboards.downloads import FILES, csv
from bikd_dashboards.report import write_report
from bikd_dashboards.snapshot import Snapshot
from bikd_ray.store import Store
from tests.browser import number
from tests.drawn import HOSTILE, sweep


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    folder = tmp_path_factory.mktemp("report")
    zoo = sweep(folder / "s", ("vit", "convnext", HOSTILE), seeds=(0, 1))
    zoo.job(["vit", "convnext"], 0, objective="bikd(temperature=2.0)")
    store = Store(str(folder / "s"))
    return store, write_report(store, folder / "report.html")


@pytest.fixture
def opened(browser, report) -> Iterator:
    """The report's page, and at the end: nothing on the console, nothing asked of a network."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    every_pair = next(s for s in Snapshot(report[0]).settings if s.objective == "bikd")
    page.goto(f"{report[1].as_uri()}#group={every_pair.key}")
    yield page
    assert said == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {
        page.url.split("#")[0]
    }
    page.close()


def heatmap(page) -> list[str]:
    """The numbers in the cells of the heatmap that is shown."""
    plot = page.locator('[data-panel="show"]:visible .plot')
    plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-panel=show] .plot')]"
        ".some((e) => e.offsetParent && e.querySelector('.heatmap-label text'))"
    )
    return plot.locator(".heatmap-label text").all_text_contents()


def test_the_heatmap_shows_the_chosen_metric(opened, report):
    gains = [r for r in report[0].gains().to_pylist() if r["objective"] == "bikd"]
    shown = heatmap(opened)
    assert sorted(shown) == sorted(number(r["net_delta"], 2) for r in gains)
    opened.locator('select[data-choice="show"]:visible').select_option("kappa")
    kappa = {f"{r['kappa']:.2f}" for r in report[0].pairs().to_pylist()}
    assert set(heatmap(opened)) == kappa
    assert set(shown) != kappa


def test_the_chooser_works_by_keyboard_and_the_link_keeps_the_choice(opened):
    opened.locator('select[data-choice="show"]:visible').focus()
    opened.keyboard.press("ArrowDown")
    assert "show=delta" in opened.url
    before = heatmap(opened)
    opened.reload()
    assert opened.locator('select[data-choice="show"]:visible').input_value() == "delta"
    assert heatmap(opened) == before


def test_one_group_is_shown_at_a_time(opened):
    labels = opened.locator("p.label")
    first = [labels.nth(i).is_visible() for i in range(2)]
    assert sorted(first) == [False, True]
    group = opened.locator('select[data-choice="group"]')
    key = next(
        v
        for v in group.locator("option").evaluate_all("(all) => all.map((o) => o.value)")
        if v.startswith("bikd(")
    )
    group.select_option(key)
    assert [labels.nth(i).is_visible() for i in range(2)] == first[::-1]
    opened.get_by_role("link", name="Model", exact=True).click()
    assert opened.locator('[data-section="model"]:visible').count() == 1
    assert "group=bikd%28temperature" in opened.url


@pytest.mark.parametrize("name", ["gains", "pairs"])
def test_the_download_is_the_table(opened, report, name):
    with opened.expect_download() as waiting:
        opened.locator(f'button[data-file="{name}.csv"]:visible').first.click()
    assert waiting.value.suggested_filename == f"{name}.csv"
    assert Path(waiting.value.path()).read_text() == csv(FILES[name].table(Snapshot(report[0])))


def test_a_click_on_a_cell_opens_its_pair(opened):
    heatmap(opened)
    opened.locator('select[data-choice="order"]:visible').select_option("name")
    heatmap(opened)
    ticks = opened.locator('[data-panel="show"]:visible .ytick text').all_text_contents()
    box = opened.locator('[data-panel="show"]:visible .nsewdrag').first.bounding_box()
    width, height = box["width"] / 3, box["height"] / 3
    opened.mouse.move(box["x"] + 2.4 * width, box["y"] + 1.5 * height)
    opened.mouse.click(box["x"] + 2.5 * width, box["y"] + 1.5 * height)
    pair = opened.locator('[data-panel="pair"]:visible')
    pair.wait_for()
    head = pair.locator("h3.head").inner_text()
    assert {t.strip() for t in ticks[1:]} == set(head.split(" and "))
    assert opened.evaluate("document.activeElement.dataset.panel") == "pair"
    assert "pair=id-" in opened.url


def test_a_cell_tells_its_numbers_to_mouse_and_keys(opened, report):
    heatmap(opened)
    names = [r["model"] for r in report[0].baselines().to_pylist()]
    gains = {(r["model"], r["partner"]): r for r in report[0].gains("bikd").to_pylist()}

    def says(learner: str, partner: str) -> list[str]:
        r = gains[learner, partner]
        low, high = (number(r[f"net_{end}"], 2) for end in ("low", "high"))
        return [
            f"{learner} with {partner}",
            f"net Δ top-1 {number(r['net_delta'], 2)} pp",
            f"95% interval [{low}, {high}]",
            f"2 seeds, n = {r['n']}",
        ]

    tip = opened.locator(".tip")
    box = opened.locator('[data-panel="show"]:visible .nsewdrag').first.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.2)
    opened.mouse.move(box["x"] + box["width"] * 0.83, box["y"] + box["height"] * 0.2)
    tip.wait_for()
    assert tip.inner_text().split("\n") == says(names[0], names[2])
    opened.mouse.move(5, 5)
    tip.wait_for(state="hidden")
    opened.locator('[data-panel="show"]:visible figure').focus()
    for key in ("ArrowDown", "ArrowRight"):
        opened.keyboard.press(key)
    assert tip.inner_text() == f"{names[1]} with {names[1]}: nothing"
    opened.keyboard.press("ArrowLeft")
    assert tip.inner_text().split("\n") == says(names[1], names[0])
    opened.keyboard.press("Enter")
    opened.locator('[data-panel="pair"]:visible h3.head').wait_for()
    assert opened.evaluate("document.activeElement.dataset.panel") == "pair"


def test_a_link_in_the_headline_leads_to_the_model(opened):
    opened.get_by_role("link", name="convnext", exact=True).first.click()
    panel = opened.locator('[data-panel="model"]:visible')
    panel.wait_for()
    assert panel.get_attribute("data-value") == "id-convnext"


def test_figures_follow_the_colour_scheme(opened):
    heatmap(opened)
    colour = (
        "() => getComputedStyle([...document.querySelectorAll('.plot')]"
        ".find((e) => e.offsetParent).querySelector('.xtick text')).fill"
    )
    light = opened.evaluate(colour)
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_function(f"(before) => ({colour})() !== before", arg=light)
    assert sum(map(int, opened.evaluate(colour)[4:-1].split(","))) > 3 * 200


def test_a_hostile_name_is_shown_as_it_is(opened):
    heatmap(opened)
    ticks = opened.locator('[data-panel="show"]:visible .ytick text').all_text_contents()
    start = HOSTILE[:8]
    assert any(tick.startswith(start) for tick in ticks)
    assert opened.get_by_role("row").filter(has_text=HOSTILE).count() > 0


def test_a_figure_keeps_its_height_when_the_window_changes(opened):
    heatmap(opened)
    plot = opened.locator('[data-panel="show"]:visible .plot')
    drawn = plot.locator(".main-svg").first
    whole = drawn.bounding_box()["height"]
    width = drawn.bounding_box()["width"]
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.wait_for_function(
        "(w) => [...document.querySelectorAll('[data-panel=show] .main-svg')]"
        ".find((e) => e.getBoundingClientRect().width).getBoundingClientRect().width < w",
        arg=width,
    )
    assert plot.bounding_box()["height"] == whole > 0


def test_a_phone_needs_no_sideways_scrolling(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    heatmap(opened)
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    net = opened.locator('[data-section="overview"]:visible td[data-label="Net Δ"]').first
    box = net.bounding_box()
    assert box["x"] + box["width"] <= 390


def test_each_partner_of_a_tie_leads_to_its_own_pair(opened, report):
    ids = {r["model"]: r["model_id"] for r in report[0].baselines().to_pylist()}
    tables = opened.locator('[data-section="overview"]:visible table')
    row = tables.filter(has_text="Best partner").locator("tbody tr").first
    model = row.locator("th").inner_text()
    links = row.locator("td a")
    for partner in links.all_text_contents():
        href = row.get_by_role("link", name=partner, exact=True).get_attribute("href")
        assert href == f"#page=pairs&pair={ids[model]}~{ids[partner]}"
    assert links.count() == 2
