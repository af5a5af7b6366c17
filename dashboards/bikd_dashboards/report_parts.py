"""What a report holds: sections that are there at once, and packed parts for the rest.

A part is the HTML of a panel, a figure or a file. It lies compressed in the page until somebody
chooses it, so that a large zoo costs the first look nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
import pyarrow as pa
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from bikd_dashboards.blocks import Block, ChoiceBox, Downloads, Link, Plot, Text, source_of
from bikd_dashboards.components import FEW
from bikd_dashboards.downloads import FILES, OF_ONE_MODEL, csv, of_model
from bikd_dashboards.figure_data import figure_text, packed
from bikd_dashboards.figures import pc
from bikd_dashboards.headers import meaning
from bikd_dashboards.model_page import trained
from bikd_dashboards.pages import Page
from bikd_dashboards.snapshot import Limits, Setting, SettingView, Snapshot
from bikd_ray.formatting import NONE, count, plain, signed, span
from bikd_ray.store.pairings import one_partner

LIMITS = Limits(matrix=600, models=40, pairs=60, rows=100, runs=300, pictures=2)

_NO_SETTING = Setting("", None, None, "last")


@dataclass(frozen=True)
class Panel:
    """What is shown when the choice `name` has this value; part: where its HTML lies."""

    name: str
    value: str
    part: str


@dataclass(frozen=True)
class Section:
    page: Page
    label: str
    choices: list[ChoiceBox]
    blocks: list[Block]
    panels: list[Panel]


@dataclass
class Contents:
    """Draws pages. parts: name to packed content; equal ones are held once."""

    now: Snapshot
    limits: Limits = LIMITS
    parts: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = Environment(
            loader=ChoiceLoader(
                [PackageLoader("bikd_dashboards"), PackageLoader("bikd_dashboards", "assets")]
            ),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self.environment.filters.update(signed=signed, plain=plain, kind=lambda x: type(x).__name__)
        self.environment.globals.update(
            span=span,
            count=count,
            dash=NONE,
            few=FEW,
            meaning=meaning,
            part_of=lambda plot: self._part("figure", figure_text(_with_orders(plot))),
            href=href,
            source_of=source_of,
            files_of=self.files_of,
        )
        parts: Any = self.environment.get_template("parts.html.j2").module
        self._html = parts.blocks

    def section(self, page: Page, setting: Setting | None) -> Section:
        """A page of one setting; of none for a page that says the same for all."""
        view = SettingView(self.now, setting or _NO_SETTING, self.limits)
        blocks = page.draw(view, {})
        choices = [b for b in blocks if isinstance(b, ChoiceBox)]
        panels: list[Panel] = []
        for choice in choices:
            if choice.name == "model":
                panels += self._panels(page, view, choice, self._models(view))
            elif choice.name == "show":
                panels += self._panels(page, view, choice, [v for v, _ in choice.options])
        choices = [_limited(choice, panels) for choice in choices]
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
            pairs, total = _pairs(view)
            panels += [
                self._panel("pair", f"{a}~{b}", page.opened(view, {"pair": f"{a}~{b}"}))
                for a, b in pairs
            ]
            if total > len(pairs):
                blocks.append(
                    Text(
                        f"{len(pairs)} of {total:,} pairs can be opened here, those with the "
                        "largest net Δ; bikd dashboard opens all."
                    )
                )
        return Section(page, view.label if setting else "", choices, blocks, panels)

    def _panels(
        self, page: Page, view: SettingView, choice: ChoiceBox, values: Iterable[str]
    ) -> list[Panel]:
        return [
            self._panel(
                choice.name,
                value,
                [b for b in page.draw(view, {choice.name: value}) if not isinstance(b, ChoiceBox)],
            )
            for value in values
        ]

    def _panel(self, name: str, value: str, blocks: list[Block]) -> Panel:
        return Panel(name, value, self._part("panel", str(self._html(blocks))))

    def _models(self, view: SettingView) -> list[str]:
        """Of too many those that gain most with some partner."""
        ids = trained(view)
        if len(ids) <= self.limits.models:
            return ids
        best = view.gains.group_by("model_id").aggregate([(_measure(view.gains), "max")])
        kept = best.sort_by([(best.column_names[1], "descending"), ("model_id", "ascending")])[
            "model_id"
        ].to_pylist()
        kept = set(kept[: self.limits.models])
        return [i for i in ids if i in kept]

    def _part(self, kind: str, text: str) -> str:
        content = packed(text)
        if content not in self.names:
            name = f"{kind}-{len(self.names)}"
            self.names[content], self.parts[name] = name, content
        return self.names[content]

    def files_of(self, block: Downloads) -> list[tuple[str, str, str]]:
        """(file, part, note) of each download; a file too long to be here has a note instead."""
        found = []
        shown = {r["model_id"]: r["model"] for r in self.now.baselines.to_pylist()}
        for model in block.models:
            for name in block.names:
                table = OF_ONE_MODEL[name](self.now, model)
                found.append((of_model(name, shown[model]), self._part("file", csv(table)), ""))
        for name in block.names if not block.models else ():
            file, rows = f"{name}.csv", FILES[name].least(self.now)
            if rows > self.limits.file:
                note = f"{file} ({rows:,} rows or more) is too long for this page: "
                found.append((file, "", f"{note}bikd dashboard has it."))
            else:
                found.append((file, self._file(name), ""))
        return found

    def _file(self, name: str) -> str:
        def part() -> str:
            return self._part("file", csv(FILES[name].table(self.now)))

        return self.now.once(("file", name), part)


def href(link: Link) -> str:
    """Where a link leads in the report, which is one page: the choices, and what to scroll to."""
    parts = [("page", link.page), *link.choices]
    return "#" + "&".join(f"{quote(k)}={quote(v)}" for k, v in parts)


def _with_orders(plot: Plot) -> go.Figure:
    """The figure; that of a heatmap has the orders of its models in its meta."""
    if plot.orders is None:
        return plot.figure
    layout: Any = plot.figure.layout
    orders = {k: v.tolist() for k, v in plot.orders.items()}
    return go.Figure(plot.figure).update_layout(meta={**layout.meta, "orders": orders})


def _limited(choice: ChoiceBox, panels: list[Panel]) -> ChoiceBox:
    """With only those options that are there."""
    there = {p.value for p in panels if p.name == choice.name}
    if not there:
        return choice
    options = tuple(o for o in choice.options if o[0] in there)
    return ChoiceBox(choice.name, choice.label, options, options[0][0])


def _pairs(view: SettingView) -> tuple[list[tuple[str, str]], int]:
    """Trained pairs to open, by the size of their net Δ, and how many there are."""
    single, partner = one_partner(view.gains)
    if not len(single):
        return [], 0
    size = pc.fill_null(pc.abs(single[_measure(single)]), 0.0)
    keyed = single.append_column("size", size).append_column("with", partner)
    ties = [("model_id", "ascending"), ("with", "ascending")]
    ranked = keyed.sort_by([("size", "descending"), *ties])
    ids = zip(
        ranked["model_id"].to_pylist(),
        ranked["with"].to_pylist(),
        strict=True,
    )
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for a, b in ids:
        pairs.setdefault(frozenset((a, b)), (a, b))
    return [*pairs.values()][: view.limits.pairs], len(pairs)


def _measure(gains: pa.Table) -> str:
    return "net_delta" if len(gains) > gains["net_delta"].null_count else "delta"
