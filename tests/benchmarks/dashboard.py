"""The report and the app of a large zoo in a real browser: first paint, hover, pan, and size.

python tests/benchmarks/dashboard.py [--app | --starts] [--pairings 124750] [--keep DIR]

A store is made up (see store.py), with the statistics of all pairs. The report is written twice:
where no answer is kept, and where all are. --app: `bikd dashboard` instead, page by page. --starts:
how soon its Overview answers in a new process where nothing is kept, where everything is, and where
one job has come since.
"""

import argparse
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Locator, Page, sync_playwright

from bikd_dashboards.pages import PAGES
from bikd_dashboards.report import render
from bikd_dashboards.report_parts import LIMITS
from bikd_dashboards.snapshot import Snapshot
from bikd_ray.analysis.bits import unpack
from bikd_ray.store import Store
from bikd_ray.store.kept import FOLDER as ANSWERS
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import new_attempt, serialised
from tests.benchmarks.store import FEW_IMAGES, build
from tests.browser import ARGUMENTS, CHROMIUM

FRAMES = """(seconds) => new Promise((done) => {
  const frames = []; let last = performance.now(); const start = last;
  requestAnimationFrame(function tick(now) {
    frames.push(now - last); last = now;
    if (now - start < 1000 * seconds) requestAnimationFrame(tick); else done(frames.slice(1));
  });
})"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
LOADED = "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
DRAWN = "() => document.querySelector('[data-panel=show]:not([hidden]) .plot[data-drawn]')"
ANSWERED = """() => {
  const card = document.querySelector('main .card');
  return card && !card.innerText.startsWith('Reading') && (
    [...card.querySelectorAll('.js-plotly-plot')].every((e) => e.querySelector('.nsewdrag'))
    && (card.querySelector('.js-plotly-plot') || card.querySelector('table')));
}"""
WAIT_MS = 600_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairings", type=int, default=124_750)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--app", action="store_true")
    parser.add_argument("--starts", action="store_true")
    parser.add_argument("--panels", type=int, default=40, help="models and pairs with a panel")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch) / "store"
        if not folder.exists():
            build(folder, given.pairings, FEW_IMAGES, True)
        if not (folder / "pairs").exists():
            _add_pairs(folder)
        print(f"{'what':40s}  {'figure':>10s}  goal", flush=True)
        if given.app:
            _app(folder)
        elif given.starts:
            _starts(folder)
        else:
            _report(folder, Path(scratch) / "report.html", given.panels)


def _report(folder: Path, path: Path, panels: int) -> None:
    limits = replace(LIMITS, models=panels, pairs=panels)
    shutil.rmtree(folder / ANSWERS, ignore_errors=True)
    for kept, goal in (("nothing", None), ("answers", 60)):
        start = time.perf_counter()
        path.write_text(render(Snapshot(Store(str(folder))), datetime.now(UTC), limits))
        _line(f"report written, {kept} kept", time.perf_counter() - start, "s", goal)
    _line("size", path.stat().st_size / 1e6, "MB", 15)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        _look(browser.new_page(viewport={"width": 1200, "height": 900}), path)
        browser.close()


def _starts(folder: Path) -> None:
    """Overview in a new process: from the command to its address, and from there to its answers."""
    shutil.rmtree(folder / ANSWERS, ignore_errors=True)
    for kept, goal in (("nothing kept", None), ("all kept", 3), ("one job more", 10)):
        if kept == "one job more":
            _add_job(folder)
        start = time.perf_counter()
        with _served(folder) as address, sync_playwright() as playwright:
            _line(f"{kept}: the app is up", time.perf_counter() - start, "s")
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.set_default_timeout(WAIT_MS)
            start = time.perf_counter()
            page.goto(address)
            page.wait_for_function(ANSWERED, polling=50)
            _line(f"{kept}: Overview's answers", time.perf_counter() - start, "s", goal)
            browser.close()


def _add_job(folder: Path) -> None:
    """One more job of two models: the first one of the store with another seed."""
    merged = {name: min((folder / name).glob("merged-*")) for name in ("results", "curves", "jobs")}
    jobs = pq.read_table(merged["jobs"], columns=["job_id", "member_ids"]).to_pylist()
    first = next(job["job_id"] for job in jobs if len(job["member_ids"]) > 1)
    new = {"job_id": secrets.token_hex(8), "attempt": new_attempt(), "seed": secrets.randbits(30)}
    for name, path in merged.items():
        rows = pq.read_table(path, filters=[("job_id", "=", first)])
        for column in new.keys() & {*rows.column_names}:
            field = rows.schema.field(column)
            values = pa.array([new[column]] * len(rows), field.type)
            rows = rows.set_column(rows.schema.get_field_index(column), field, values)
        target = folder / name / f"{new['job_id']}-{new['attempt']}.parquet"
        target.write_bytes(serialised(rows))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """`bikd dashboard` over a store, by its address."""
    command = ["-m", "bikd_pipelines", "dashboard", "--port", "0", "--store", str(folder)]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[0]
        finally:
            peak = Path(f"/proc/{server.pid}/status").read_text().split("VmHWM:")[1].split()[0]
            _line("peak memory of the app", int(peak) / 1e6, "GB")
            server.terminate()


def _app(folder: Path) -> None:
    with _served(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(WAIT_MS)
        _visit(page, f"{address}runs", "cold, Runs")
        _visit(page, address, "cold, Overview")
        for time_of in ("first", "again"):
            for key, known in PAGES.items():
                where = "" if key == "overview" else key
                _visit(page, address + where, f"{known.title}, {time_of}")
        _visit(page, f"{address}pairs", "Pairs")
        plot = page.locator(".pair .nsewdrag").first
        _move(page, plot)
        start = time.perf_counter()
        page.locator('select[data-choice="show"]').select_option("kappa")
        page.get_by_role("heading", name="Cohen's κ").wait_for()
        page.wait_for_function(ANSWERED, polling=50)
        _line("another metric", time.perf_counter() - start, "s")
        start = time.perf_counter()
        box = plot.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 90, box["y"] + 60)
        page.locator("#opened .head").wait_for()
        _line("a pair opened", time.perf_counter() - start, "s")
        browser.close()


def _visit(page: Page, address: str, what: str) -> None:
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function(PAINT)
    _line(f"{what}: first contentful paint", page.evaluate(PAINT) / 1e3, "s", 2)
    page.wait_for_function(ANSWERED, polling=50)
    _line(f"{what}: its answers drawn", time.perf_counter() - start, "s")


def _look(page: Page, path: Path) -> None:
    page.goto(path.as_uri())
    page.wait_for_function(PAINT)
    _line("first contentful paint", page.evaluate(PAINT) / 1e3, "s", 2)
    _line("DOMContentLoaded", page.evaluate(LOADED) / 1e3, "s")
    start = time.perf_counter()
    page.locator('[data-section="pairs"]').first.scroll_into_view_if_needed()
    page.wait_for_function(DRAWN, timeout=120_000)
    _line("heatmap, from scrolling there", time.perf_counter() - start, "s")
    _move(page, page.locator('[data-panel="show"]:visible .nsewdrag').first)
    page.locator('select[data-choice="show"]:visible').select_option("delta")
    start = time.perf_counter()
    page.wait_for_function(DRAWN, timeout=120_000)
    _line("another metric", time.perf_counter() - start, "s")


def _move(page: Page, plot: Locator) -> None:
    """Hover over a heatmap and pan it, and count the frames."""
    _frames("frames at rest", page.evaluate(FRAMES, 1))
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    for what, pressed in (("hover", False), ("pan", True)):
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        if pressed:
            page.mouse.down()
        page.evaluate(f"() => {{ window.measured = ({FRAMES})(3); }}")
        for step in range(180):
            page.mouse.move(box["x"] + 100 + 2 * step, box["y"] + 100 + step)
        assert pressed or "pp" in page.locator(".tip").inner_text()
        if pressed:
            page.mouse.up()
        _frames(f"frames during {what}", page.evaluate("() => window.measured"))


def _line(what: str, figure: float, unit: str, goal: float | None = None) -> None:
    print(f"{what:40s}  {figure:7.2f} {unit:2s}  {f'< {goal} {unit}' if goal else ''}", flush=True)


def _frames(what: str, milliseconds: list[float]) -> None:
    middle, late = np.percentile(milliseconds, [50, 95])
    longest = max(milliseconds)
    text = f"median {middle:.0f} ms, 95% {late:.0f} ms, longest {longest:.0f} ms"
    print(f"{what:40s}  {text}", flush=True)


def _add_pairs(folder: Path) -> None:
    """What each pair knows before training, from the baselines' own bits."""
    table = Store(str(folder)).index("baselines").sort_by("model")
    right_MN = np.stack([unpack(c, FEW_IMAGES) for c in table["bits"].to_pylist()])
    right_MN = right_MN.astype(np.float32)
    both_MM = (right_MN @ right_MN.T).astype(int)
    a, b = np.triu_indices(len(right_MN), 1)
    own, n = right_MN.sum(1).astype(int), FEW_IMAGES
    n11 = both_MM[a, b]
    n10, n01 = own[a] - n11, own[b] - n11
    n00 = n - n11 - n10 - n01
    chance = (own[a] * own[b] + (n - own[a]) * (n - own[b])) / n**2
    columns = {
        **{f"{c}_{s}": table[c].take(i) for s, i in (("a", a), ("b", b)) for c in ("model",)},
        **{f"model_id_{s}": table["model_id"].take(i) for s, i in (("a", a), ("b", b))},
        "eval_set": ["val"] * len(a),
        "metric": ["top1"] * len(a),
        "n": np.full(len(a), n),
        "n11": n11,
        "n10": n10,
        "n01": n01,
        "n00": n00,
        "score_a": 100 * own[a] / n,
        "score_b": 100 * own[b] / n,
        "ensemble": 100 * np.maximum(own[a], own[b]) / n + 2,
        "disagreement": (n10 + n01) / n * 1.2,
        "error_overlap": n00 / np.maximum(1, n - n11),
        "kappa": ((n11 + n00) / n - chance) / (1 - chance),
        "data_id": ["d"] * len(a),
        "attempt": ["0" * 12 + "-" + "0" * 8] * len(a),
    }
    schema = SCHEMAS["pairs"]
    given = pa.table(
        {k: v if isinstance(v, pa.ChunkedArray) else pa.array(v) for k, v in columns.items()}
    )
    arrays = [
        given[f.name].cast(f.type) if f.name in columns else pa.nulls(len(a), f.type)
        for f in schema
    ]
    (folder / "pairs").mkdir()
    rows = pa.Table.from_arrays(arrays, schema=schema)
    (folder / "pairs" / "pairs.parquet").write_bytes(serialised(rows))


if __name__ == "__main__":
    main()
