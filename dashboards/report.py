"""The report: one HTML file that needs no network, no server and no other file."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.csv as pacsv
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bikd_ray.errors import UserError
from bikd_ray.store import Store
from dashboards.curves import MEASURES, Curves, curves_figure
from dashboards.figures import METRICS, Heatmap, heatmap_figure
from dashboards.forest import Forest, forest_figure, frame
from dashboards.pages import Page, page
from dashboards.theme import DARK, LIGHT
from dashboards.wording import NONE, count, listed, plain, signed, span


def write_report(store: Store, path: str | Path) -> Path:
    """Write what the store holds as one self-contained HTML file; returns where it lies.

    Folders on the way are made. Raises UserError if the file cannot be written.
    """
    path = Path(path).expanduser()
    text = render(page(store))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"report {str(path)!r} cannot be written ({error.strerror}); give another --out"
        ) from None
    return path


def render(content: Page) -> str:
    """The page as HTML, with its figures, styles, scripts and downloads inside."""
    environment = Environment(
        loader=PackageLoader("dashboards"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(signed=signed, plain=plain)
    environment.globals.update(span=span, count=count, dash=NONE)
    plots = _Plots()
    groups = [
        {
            "group": group,
            "heatmaps": [(METRICS[h.metric], h.metric, plots.heatmap(h)) for h in group.heatmaps],
            "forests": plots.forests(group.forests),
            "curves": [
                (measure, *MEASURES[measure], [plots.curves(c) for c in drawn])
                for measure in MEASURES
                if (drawn := [c for c in group.curves if c.measure == measure])
            ],
            "reach": max(
                (abs(x) for a in group.answers if a.net for x in (a.net.low, a.net.high) if x),
                default=1.0,
            ),
        }
        for group in content.groups
    ]
    return environment.get_template("report.html.j2").render(
        page=content,
        groups=groups,
        data={
            "figures": plots.drawn,
            "templates": {"light": LIGHT.to_plotly_json(), "dark": DARK.to_plotly_json()},
            "files": {"gains.csv": csv(content.gains), "pairs.csv": csv(content.pairs)},
        },
        plotly=Markup(get_plotlyjs()),
    )


def csv(table: pa.Table) -> str:
    """A table as CSV with a header; lists become text joined with " + ", nulls are empty."""
    columns = [
        pa.array([None if v is None else " + ".join(v) for v in c.to_pylist()], pa.string())
        if pa.types.is_list(c.type)
        else c
        for c in table.columns
    ]
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.table(columns, names=table.column_names), sink)
    return sink.getvalue().to_pybytes().decode()


@dataclass(frozen=True)
class Plot:
    """Where a figure goes: its key in the data, what it says to who cannot see it, its widths."""

    key: str
    title: str
    says: str
    least: int
    most: int


@dataclass
class _Plots:
    """Figures as JSON by key; equal infos (groups share curves) are drawn and stored once."""

    drawn: dict[str, Any] = field(default_factory=dict)
    keys: dict[Hashable, str] = field(default_factory=dict)

    def heatmap(self, info: Heatmap) -> Plot:
        about, columns = METRICS[info.metric], len(info.partners)
        values = [c.interval.value for c in info.cells]
        says = (
            f"Heatmap of {about.title}, {count(len(info.learners), 'model')}: from "
            f"{about.text(min(values))} to {about.text(max(values))} {about.unit}".rstrip()
        )
        key = self._key(info, lambda: heatmap_figure(info))
        return Plot(key, about.title, says, 96 + 50 * columns, 190 + 104 * columns)

    def forests(self, infos: tuple[Forest, ...]) -> list[Plot]:
        shared = frame(infos)
        plots = []
        for info in infos:
            key = self._key((info, shared), lambda info=info: forest_figure(info, shared))
            ranked = [f"{p.name} {signed(p.delta.value)}" for p in info.partners]
            says = f"Δ top-1 of {info.model} with each partner: {listed(ranked, 12)}"
            if info.control:
                says += f"; alone {signed(info.control.value)}"
            plots.append(Plot(key, info.model, says, shared.left + 180, 900))
        return plots

    def curves(self, info: Curves) -> Plot:
        title = MEASURES[info.measure][0]
        says = f"{title} of {info.model} over the epochs, {count(len(info.lines), 'line')}"
        return Plot(self._key(info, lambda: curves_figure(info)), info.model, says, 290, 900)

    def _key(self, info: Hashable, draw: Any) -> str:
        if info not in self.keys:
            self.keys[info] = f"f{len(self.keys)}"
            self.drawn[self.keys[info]] = _json(draw())
        return self.keys[info]


def _json(figure: go.Figure) -> dict[str, Any]:
    """The figure without its template, which the page adds by its theme."""
    content = figure.to_plotly_json()
    del content["layout"]["template"]
    return content
