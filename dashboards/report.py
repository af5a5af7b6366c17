"""The report: one HTML file that needs no network, no server and no other file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
import pyarrow as pa
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bikd_ray.errors import UserError
from bikd_ray.store import Store
from dashboards.blocks import Block, Choice, Downloads, Link, Plot, Text
from dashboards.figures import pc
from dashboards.files import FILES, OF_ONE_MODEL, csv
from dashboards.model_page import trained
from dashboards.pages import PAGES, Page
from dashboards.runs import facts
from dashboards.snapshot import Limits, Setting, Snapshot, View, distinct_recipes
from dashboards.theme import DARK, LIGHT
from dashboards.wording import NONE, count, plain, signed, span

LIMITS = Limits(matrix=150, models=40, pairs=60, rows=100, runs=300)


def write_report(store: Store, path: str | Path, written: datetime | None = None) -> Path:
    """Write what the store holds as one self-contained HTML file; returns where it lies.

    Folders on the way are made. written: when, now unless given (UTC). Raises UserError if the
    file cannot be written.
    """
    path = Path(path).expanduser()
    text = render(Snapshot(store), written or datetime.now(UTC))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"report {str(path)!r} cannot be written ({error.strerror}); give another --out"
        ) from None
    return path


def render(now: Snapshot, written: datetime) -> str:
    """All pages as HTML, with figures, styles, scripts and downloads inside."""
    content = _Content(now)
    groups = [
        {"setting": s, "label": now.labels[s.key], "sections": content.sections(s)}
        for s in now.settings
    ]
    jobs = now.jobs
    return (
        _environment(content)
        .get_template("report.html.j2")
        .render(
            sweeps=[s for s in jobs["sweep"].unique().to_pylist() if s],
            facts=facts(now.baselines, now.pairs, jobs, distinct_recipes(jobs), written),
            groups=groups,
            whole=[content.section(page, None) for page in PAGES.values() if page.whole],
            pages=[page for page in PAGES.values() if groups or page.whole],
            data={
                "figures": content.figures,
                "templates": {"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json()},
                "files": content.files,
            },
            plotly=Markup(get_plotlyjs()),
        )
    )


def _environment(content: "_Content") -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("dashboards"), PackageLoader("dashboards", "assets")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(signed=signed, plain=plain, kind=lambda x: type(x).__name__)
    environment.globals.update(
        span=span,
        count=count,
        dash=NONE,
        key_of=content.key_of,
        href=href,
        files_of=content.files_of,
    )
    return environment


def href(link: Link) -> str:
    """Where a link leads in the report, which is one page: the choices, and what to scroll to."""
    parts = [("page", link.page), *link.choices]
    return "#" + "&".join(f"{quote(k)}={quote(v)}" for k, v in parts)


@dataclass(frozen=True)
class Panel:
    """Blocks that are shown when the choice `name` has this value."""

    name: str
    value: str
    blocks: list[Block]


@dataclass(frozen=True)
class Section:
    page: Page
    label: str
    choices: list[Choice]
    blocks: list[Block]
    panels: list[Panel]


@dataclass
class _Content:
    """Draws pages; equal figures and files are held once."""

    now: Snapshot
    figures: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def sections(self, setting: Setting) -> list[Section]:
        return [self.section(page, setting) for page in PAGES.values() if not page.whole]

    def section(self, page: Page, setting: Setting | None) -> Section:
        view = View(self.now, setting or _NO_SETTING, LIMITS)
        blocks = page.draw(view, {})
        choices = [b for b in blocks if isinstance(b, Choice)]
        panels: list[Panel] = []
        for choice in choices:
            if choice.name == "model":
                panels += self._panels(page, view, choice, self._models(view))
            elif choice.name == "metric":
                panels += self._panels(page, view, choice, [v for v, _ in choice.options])
        choices = [self._limited(choice, panels) for choice in choices]
        if panels:
            total = len(trained(view)) if page.key == "model" else 0
            shown = sum(p.name == "model" for p in panels)
            blocks = []
            if total > shown:
                blocks.append(
                    Text(
                        f"The {shown} models that gain most of {total:,}; bikd dashboard shows all."
                    )
                )
        if page.opened is not None:
            pairs, total = self._pairs(view)
            panels += [
                Panel("pair", f"{a}~{b}", page.opened(view, {"pair": f"{a}~{b}"})) for a, b in pairs
            ]
            if total > len(pairs):
                blocks.append(
                    Text(
                        f"{len(pairs)} of {total:,} pairs can be opened here, those with the "
                        "largest net Δ; bikd dashboard opens all."
                    )
                )
        label = view.label if setting else ""
        return Section(page, label, choices, blocks, panels)

    def _panels(self, page: Page, view: View, choice: Choice, values: Iterable[str]) -> list[Panel]:
        return [
            Panel(
                choice.name,
                value,
                [b for b in page.draw(view, {choice.name: value}) if not isinstance(b, Choice)],
            )
            for value in values
        ]

    def _limited(self, choice: Choice, panels: list[Panel]) -> Choice:
        there = {p.value for p in panels if p.name == choice.name}
        if not there:
            return choice
        options = tuple(o for o in choice.options if o[0] in there)
        return Choice(choice.name, choice.label, options, options[0][0])

    def _models(self, view: View) -> list[str]:
        """Of too many those that gain most with some partner."""
        ids = trained(view)
        if len(ids) <= LIMITS.models:
            return ids
        best = view.gains.group_by("model_id").aggregate([(_measure(view.gains), "max")])
        kept = best.sort_by([(best.column_names[1], "descending")])["model_id"].to_pylist()
        kept = set(kept[: LIMITS.models])
        return [i for i in ids if i in kept]

    def _pairs(self, view: View) -> tuple[list[tuple[str, str]], int]:
        """Trained pairs to open, by the size of their net Δ, and how many there are."""
        single = view.gains.filter(pc.equal(pc.list_value_length(view.gains["partner_ids"]), 1))
        if not len(single):
            return [], 0
        size = pc.fill_null(pc.abs(single[_measure(single)]), 0.0)
        ranked = single.append_column("size", size).sort_by([("size", "descending")])
        ids = zip(
            ranked["model_id"].to_pylist(),
            pc.list_flatten(ranked["partner_ids"]).to_pylist(),
            strict=True,
        )
        pairs: dict[frozenset[str], tuple[str, str]] = {}
        for a, b in ids:
            pairs.setdefault(frozenset((a, b)), (a, b))
        return [*pairs.values()][: LIMITS.pairs], len(pairs)

    def key_of(self, plot: Plot) -> str:
        """Where the figure of a plot is held; equal ones (groups share them) in one place."""
        content = _json(plot.figure)
        if plot.orders is not None:
            content["layout"]["meta"] = {"orders": {k: v.tolist() for k, v in plot.orders.items()}}
        text = repr(content)
        if text not in self.keys:
            self.keys[text] = f"f{len(self.keys)}"
            self.figures[self.keys[text]] = content
        return self.keys[text]

    def files_of(self, block: Downloads) -> list[tuple[str, str]]:
        """(file, note) of each download; the note says that a file is too long to be here."""
        found = []
        for name in block.names:
            if block.model:
                alias = next(
                    r["model"]
                    for r in self.now.baselines.to_pylist()
                    if r["model_id"] == block.model
                )
                file = f"{name} of {alias}.csv".replace("/", "_")
                table = OF_ONE_MODEL[name](self.now, block.model)
            else:
                file, table = f"{name}.csv", FILES[name](self.now)
            long = len(table) > LIMITS.file
            if not long and file not in self.files:
                self.files[file] = csv(table)
            note = f"{file} ({len(table):,} rows) is too long for this page" if long else ""
            found.append((file, note))
        return found


_NO_SETTING = Setting("", None, None, "last")


def _measure(gains: pa.Table) -> str:
    return "net_delta" if len(gains) > gains["net_delta"].null_count else "delta_top1"


def _json(figure: go.Figure) -> dict[str, Any]:
    """The figure without its template, which the page adds by its theme."""
    content = figure.to_plotly_json()
    del content["layout"]["template"]
    return content
