"""What a page is made of: plain values that the report writes as HTML and the app as components."""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from bikd_dashboards.figures import Interval


@dataclass(frozen=True)
class Text:
    """A paragraph; style: verdict (the page's answer), label (above it), head or soft."""

    text: str
    style: str = "soft"


@dataclass(frozen=True)
class Notes:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Steps:
    """What to do next: (why, the commands or the lines of a spec, as they are typed)."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Link:
    """Leads to a page of `bikd_dashboards.pages.PAGES` with some choices made."""

    text: str
    page: str
    choices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tag:
    """One of best, tie, failed, done."""

    word: str


@dataclass(frozen=True)
class Strip:
    """An interval drawn around 0, in a row of such; reach: the end of the scale, both ways."""

    interval: Interval
    reach: float


@dataclass(frozen=True)
class Failure:
    error: str
    trace: str


@dataclass(frozen=True)
class Shade:
    """A number of a small matrix; tone: better, worse, or none where it is not told from 0."""

    link: Link
    tone: str


Cell = str | Link | Tag | Strip | Failure | Interval | Shade | None
"""None is a dash."""


@dataclass(frozen=True)
class TableColumn:
    title: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """rows: the first cell is the row's head; a cell may be several. left_out: what is not here."""

    label: str
    caption: str
    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[Cell | tuple[Cell, ...], ...], ...]
    left_out: str = ""
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure. says: for who cannot see it; least, most: its width in pixels.

    opens: a click on x, y chooses that pair. orders: row permutations by name, for a heatmap that
    is ordered where it is shown. legend: explain what is bold and what is pale.
    """

    key: str
    title: str
    figure: go.Figure
    says: str
    least: int = 290
    most: int = 900
    meaning: str = ""
    opens: bool = False
    legend: bool = False
    orders: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    plots: tuple[Plot, ...]


@dataclass(frozen=True)
class PictureRow:
    """One sample in several pictures: (caption, WebP) of each; title: which sample it is."""

    title: str
    pictures: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Gallery:
    title: str
    meaning: str
    rows: tuple[PictureRow, ...]


@dataclass(frozen=True)
class ChoiceBox:
    """A list to choose from; options: (value, what it says)."""

    name: str
    label: str
    options: tuple[tuple[str, str], ...]
    value: str


@dataclass(frozen=True)
class Downloads:
    """Names of `downloads.FILES` to offer as CSV; models: each has files of its own."""

    names: tuple[str, ...]
    models: tuple[str, ...] = ()


def source_of(picture: bytes) -> str:
    """A WebP as the `src` of an image."""
    return f"data:image/webp;base64,{b64encode(picture).decode()}"


Block = Text | Notes | Steps | Table | Plot | Grid | Gallery | ChoiceBox | Downloads
