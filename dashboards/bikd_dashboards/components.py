"""Blocks as Dash components: what the report's templates are for the report."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import plotly.graph_objects as go
from dash import dcc, html

from bikd_dashboards.blocks import (
    Block,
    Cell,
    ChoiceBox,
    Downloads,
    Failure,
    Gallery,
    Grid,
    Link,
    Notes,
    Plot,
    Shade,
    Steps,
    Strip,
    Table,
    Tag,
    Text,
    source_of,
)
from bikd_dashboards.downloads import of_model
from bikd_dashboards.figures import Interval
from bikd_dashboards.headers import meaning
from bikd_dashboards.theme import DARK, for_dark
from bikd_ray.formatting import NONE

FEW = 8
"""Rows of a table that need no filter."""

Made = Any
"""A component or text; Dash has no type for both."""


class Maker:
    """Makes components for one page. kept: choices that links carry on; template: of figures;
    names: of the models.
    """

    def __init__(
        self, kept: Mapping[str, str], template: go.layout.Template, names: Mapping[str, str]
    ) -> None:
        self.kept, self.template, self.names = kept, template, names

    def blocks(self, blocks: Sequence[Block]) -> list[Made]:
        return [self.block(block) for block in blocks]

    def block(self, block: Block) -> Made:
        match block:
            case Text(text, "head"):
                return html.H3(text, className="head")
            case Text(text, style):
                return html.P(text, className=style)
            case Notes(items):
                return html.Ul([html.Li(item) for item in items], className="notes")
            case Steps(items):
                return html.Ol([html.Li(step(*item)) for item in items], className="steps")
            case Table():
                return self.table(block)
            case Plot():
                return self.plot(block)
            case Grid():
                return html.Div([self.plot(plot) for plot in block.plots], className="grid")
            case Gallery():
                return gallery(block)
            case ChoiceBox():
                return choice(block)
            case Downloads():
                return self.downloads(block)

    def link(self, page: str, choices: Mapping[str, str]) -> str:
        """The address of a page with some choices."""
        query = urlencode({**self.kept, **choices})
        return f"/{page}" + (f"?{query}" if query else "")

    def downloads(self, block: Downloads) -> Made:
        files = [(f"{name}.csv", name, {}) for name in block.names if not block.models]
        files += [
            (of_model(name, self.names[model]), name, {"model": model})
            for model in block.models
            for name in block.names
        ]
        return html.Div(
            [
                html.A(
                    file,
                    href=self.link(f"csv/{name}.csv", query),
                    download=file,
                    className="button",
                )
                for file, name, query in files
            ],
            className="buttons",
        )

    def plot(self, plot: Plot) -> Made:
        drawn_in = for_dark(plot.figure) if self.template is DARK else go.Figure(plot.figure)
        figure: Any = drawn_in.update_layout(template=self.template, uirevision=plot.key)
        graph = dcc.Graph(
            id={"plot": plot.key, "opens": plot.opens},
            figure=figure,
            config={
                "responsive": True,
                "displaylogo": False,
                "modeBarButtons": [["toImage"]],
                "scrollZoom": figure.layout.dragmode == "pan",
            },
            style={"minWidth": plot.least, "maxWidth": plot.most, "height": figure.layout.height},
        )
        drawn = html.Figure(
            html.Div(graph, role="img", **named(plot.says)),
            tabIndex=0,
            className="scroll",
            **named(plot.says),
        )
        if not plot.opens:
            parts = [html.H3(plot.title), drawn]
            meaning = [html.P(plot.meaning, className="soft small")] if plot.meaning else []
            return html.Div([*parts, *meaning])
        title = plot.title[:1].upper() + plot.title[1:]
        about = [html.H3(title), html.P(plot.meaning, className="soft")]
        if plot.legend:
            about.append(legend())
        return html.Div([drawn, html.Div(about)], className="pair")

    def table(self, table: Table) -> Made:
        head = [
            html.Th(
                [
                    html.Button(c.title, className="sort", **attribute("data-sort", "")),
                    *(
                        [html.Span("?", className="help", title=told, tabIndex=0, **named(told))]
                        if (told := meaning(c.title))
                        else []
                    ),
                ],
                scope="col",
                className="num" if c.number else None,
            )
            for c in table.columns
        ]
        rows = [
            html.Tr(
                [
                    html.Th(self.cell(first), scope="row"),
                    *(
                        html.Td(
                            self.cell(c),
                            className="num" if column.number else None,
                            **attribute("data-label", column.title),
                        )
                        for c, column in zip(rest, table.columns[1:], strict=True)
                    ),
                ]
            )
            for first, *rest in table.rows
        ]
        scrolled = html.Div(
            html.Table([html.Caption(table.caption), html.Thead(html.Tr(head)), html.Tbody(rows)]),
            className="scroll tall" if len(rows) > 12 else "scroll",
            tabIndex=0,
            role="region",
            **named(table.label),
        )
        sought = [dcc.Input(type="search", placeholder="Filter rows", className="filter")]
        scrolled = html.Div([*(sought if len(rows) > FEW else []), scrolled])
        note = [html.P(table.left_out, className="soft small")] if table.left_out else []
        if table.folded:
            return html.Details([html.Summary(f"{table.label} as a table"), scrolled, *note])
        return html.Div([scrolled, *note])

    def cell(self, cell: Cell | tuple[Cell, ...]) -> Made:
        match cell:
            case None:
                return NONE
            case str():
                return cell
            case tuple():
                return [self.cell(c) for c in cell]
            case Link(text, page, choices):
                return dcc.Link(text, href=self.link(page, dict(choices)))
            case Shade(link, tone):
                return html.Span(self.cell(link), className=f"shade {tone}")
            case Tag(word):
                return html.Span(word, className=f"tag {word}")
            case Interval():
                value = html.Span(cell.number, className="clear" if cell.told else None)
                return [value, html.Span(cell.ends, className="range")]
            case Strip(interval, reach):
                return strip(interval, reach)
            case Failure(error, trace):
                more = [html.Details([html.Summary("Traceback"), html.Pre(trace)])] if trace else []
                return html.Span([error, *more], className="error")


def named(text: str) -> dict[str, Any]:
    """What a component says to who cannot see it."""
    return attribute("aria-label", text)


def attribute(name: str, value: str) -> dict[str, Any]:
    """An attribute whose name is no Python name, to hand over with `**`."""
    return {name: value}


def step(why: str, lines: str) -> list[Made]:
    return [why, *([html.Pre(lines)] if lines else [])]


def choice(block: ChoiceBox) -> Made:
    """A plain list of the browser: known to phones, keyboards and screen readers."""
    options = [
        html.Option(text, value=value, selected=value == block.value)
        for value, text in block.options
    ]
    # a list that is kept on the page keeps what a person chose; a new key makes a new one
    key = f"{block.name}={block.value}"
    listed = html.Select(options, key=key, **attribute("data-choice", block.name))
    return html.Label([f"{block.label} ", listed], className="choice")


def gallery(block: Gallery) -> Made:
    """A line of pictures for each sample."""
    rows = [
        html.Figure(
            [
                html.Figcaption(row.title),
                html.Div(
                    [
                        html.Div([html.Img(src=source_of(picture), alt=caption), caption])
                        for caption, picture in row.pictures
                    ],
                    className="pictures",
                ),
            ],
            className="pictured",
        )
        for row in block.rows
    ]
    return html.Div([html.H3(block.title), html.P(block.meaning, className="soft small"), *rows])


def legend() -> Made:
    strong = "Coloured: net Δ differs from 0 (q < 0.05, corrected for all comparisons)"
    pale = "Grey: no difference from 0 is found"
    return html.Ul(
        [
            html.Li([html.Span(className="swatch"), html.Span(strong)]),
            html.Li([html.Span(className="swatch pale"), html.Span(pale)]),
        ],
        className="legend",
    )


def strip(interval: Interval, reach: float) -> Made:
    """An interval around 0, which is the middle."""
    low, high = interval.low or 0.0, interval.high or 0.0
    half = 50 / reach
    whisker = {"left": f"{50 + low * half:.1f}%", "width": f"{(high - low) * half:.1f}%"}
    point = {"left": f"{50 + interval.value * half:.1f}%"}
    kind = "point clear" if interval.told else "point"
    return html.Span(
        [html.Span(className="whisker", style=whisker), html.Span(className=kind, style=point)],
        className="strip",
        **attribute("aria-hidden", "true"),
    )
