"""The report: one HTML file that needs no network, no server and no other file."""

from datetime import UTC, datetime
from errno import EACCES, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from pathlib import Path

from plotly.offline import get_plotlyjs

from bikd_dashboards.figure_data import packed
from bikd_dashboards.headers import QUESTION, reading
from bikd_dashboards.pages import PAGES
from bikd_dashboards.report_parts import LIMITS, Contents
from bikd_dashboards.runs import brief, facts
from bikd_dashboards.snapshot import Limits, Snapshot
from bikd_dashboards.theme import DARK, LIGHT, LIGHTER
from bikd_ray.cache_dir import keep_file
from bikd_ray.errors import BikdError, UserError
from bikd_ray.store import Store
from bikd_ray.store.upgrade import VAL

_MISTAKEN = (EACCES, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM)
"""Errors of a path that a person can only change."""


def write_report(
    store: Store,
    path: str | Path,
    written: datetime | None = None,
    *,
    metric: str | None = None,
    eval_set: str = VAL,
) -> Path:
    """Write what the store holds as one self-contained HTML file; returns where it lies.

    Folders on the way are made; a report that is there stays until the new one is whole. written:
    when, now unless given (UTC). metric: None for the primary one of each data set; eval_set: on
    which set. Raises UserError for a path that can hold no file, and for what the store lacks, and
    BikdError where writing fails.
    """
    path = Path(path)
    text = render(Snapshot(store, metric, eval_set), written or datetime.now(UTC))
    try:
        keep_file(path, text.encode())
    except OSError as error:
        mistaken = error.errno in _MISTAKEN
        raise (UserError if mistaken else BikdError)(
            f"report {str(path)!r} cannot be written ({error.strerror})"
            f"{'; give another --out' if mistaken else ''}"
        ) from None
    return path


def render(now: Snapshot, written: datetime, limits: Limits = LIMITS) -> str:
    """All pages as HTML, with figures, styles, scripts and downloads inside."""
    contents = Contents(now, limits)
    settings = sorted(now.settings, key=lambda s: s != now.opening)
    groups = [
        {
            "setting": s,
            "label": now.labels[s.key],
            "sections": [contents.section(p, s) for p in PAGES.values() if not p.whole],
        }
        for s in settings
    ]
    jobs = now.jobs
    return contents.environment.get_template("report.html.j2").render(
        sweeps=[s for s in now.runs["sweep"].unique().to_pylist() if s],
        facts=facts(now.baselines, now.pairs, jobs, now.recipes, written, now.units),
        brief=brief(now.baselines, now.pairs, jobs, now.units),
        question=QUESTION,
        reading=reading(now.about, now.units),
        groups=groups,
        whole=[contents.section(page, None) for page in PAGES.values() if page.whole],
        pages=[page for page in PAGES.values() if groups or page.whole],
        templates={"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json()},
        lighter=LIGHTER,
        parts=contents.parts,
        plotly=packed(get_plotlyjs()),
    )
