"""The report of a large zoo in a real browser: first paint, hover and pan, and its size.

python tests/benchmarks/dashboard.py [--pairings 124750] [--keep DIR] [--tables FILE]

A store is made up (see store.py), with the statistics of all pairs. --tables keeps the store's
slow answers in a file between runs: what is measured is the page, not the store.
"""

import argparse
import pickle
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from playwright.sync_api import Page, sync_playwright

from bikd_ray.analysis.bits import unpack
from bikd_ray.store import Store
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import serialised
from dashboards.contents import LIMITS
from dashboards.report import render
from dashboards.snapshot import Snapshot
from tests.benchmarks.store import FEW_IMAGES, build
from tests.test_report_browser import ARGUMENTS, CHROMIUM

ANSWERS = ("gains", "controls", "groups", "teachers")
FRAMES = """(seconds) => new Promise((done) => {
  const frames = []; let last = performance.now(); const start = last;
  requestAnimationFrame(function tick(now) {
    frames.push(now - last); last = now;
    if (now - start < 1000 * seconds) requestAnimationFrame(tick); else done(frames.slice(1));
  });
})"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
LOADED = "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
DRAWN = "() => document.querySelector('[data-panel=metric]:not([hidden]) .plot[data-drawn]')"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairings", type=int, default=124_750)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--panels", type=int, default=40, help="models and pairs with a panel")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch) / "store"
        if not folder.exists():
            build(folder, given.pairings, FEW_IMAGES, True)
        if not (folder / "pairs").exists():
            _add_pairs(folder)
        now = Snapshot(Store(str(folder)))
        if given.tables and given.tables.exists():
            now._held.update(pickle.loads(given.tables.read_bytes()))
        held = {(name, "last"): getattr(now, name)("last") for name in ANSWERS}
        if given.tables and not given.tables.exists():
            given.tables.write_bytes(pickle.dumps(held))
        limits = replace(LIMITS, models=given.panels, pairs=given.panels)
        start = time.perf_counter()
        path = Path(scratch) / "report.html"
        path.write_text(render(now, datetime.now(UTC), limits))
        print(f"{'what':40s}  {'figure':>10s}  goal")
        _line("report written, beside the store's answers", time.perf_counter() - start, "s")
        _line("size", path.stat().st_size / 1e6, "MB", 15)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            _look(browser.new_page(viewport={"width": 1200, "height": 900}), path)
            browser.close()


def _look(page: Page, path: Path) -> None:
    page.goto(path.as_uri())
    page.wait_for_function(PAINT)
    _line("first contentful paint", page.evaluate(PAINT) / 1e3, "s", 2)
    _line("DOMContentLoaded", page.evaluate(LOADED) / 1e3, "s")
    start = time.perf_counter()
    page.locator('[data-section="pairs"]').first.scroll_into_view_if_needed()
    page.wait_for_function(DRAWN, timeout=120_000)
    _line("heatmap, from scrolling there", time.perf_counter() - start, "s")
    still = page.evaluate(FRAMES, 1)
    _frames("frames at rest", still)
    plot = page.locator('[data-panel="metric"]:visible .nsewdrag').first
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
    page.locator('select[data-choice="metric"]:visible').select_option("delta_top1")
    start = time.perf_counter()
    page.wait_for_function(DRAWN, timeout=120_000)
    _line("another metric", time.perf_counter() - start, "s")


def _line(what: str, figure: float, unit: str, goal: float | None = None) -> None:
    print(f"{what:40s}  {figure:7.2f} {unit:2s}  {f'< {goal} {unit}' if goal else ''}", flush=True)


def _frames(what: str, milliseconds: list[float]) -> None:
    middle, late = np.percentile(milliseconds, [50, 95])
    longest = max(milliseconds)
    text = f"median {middle:.0f} ms, 95% {late:.0f} ms, longest {longest:.0f} ms"
    print(f"{what:40s}  {text}", flush=True)


def _add_pairs(folder: Path) -> None:
    """What each pair knows before training, from the baselines' own bits."""
    table = Store(str(folder)).reader.committed("baselines").sort_by("model")
    right_MN = np.stack([unpack(c, FEW_IMAGES) for c in table["correct"].to_pylist()])
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
        "split": ["val"] * len(a),
        "n": np.full(len(a), n),
        "n11": n11,
        "n10": n10,
        "n01": n01,
        "n00": n00,
        "top1_a": 100 * own[a] / n,
        "top1_b": 100 * own[b] / n,
        "ensemble_top1": 100 * np.maximum(own[a], own[b]) / n + 2,
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
