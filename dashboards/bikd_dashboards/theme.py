"""Colours that both light and dark pages share, and the two Plotly templates.

Marks and cells use one palette with at least 3:1 contrast on both backgrounds; what must differ
(text, grid, surface) comes from the template, so a page changes its theme without new figures.
"""

from typing import Any

import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#7a828c"

GREEN, PURPLE = "#009e73", "#b565a7"

LINES = (BLUE, GREEN, PURPLE, "#a67c00", "#5b7fd6", "#8a6d5b")
"""After Okabe & Ito (2008), the pale ones darkened; symbols tell them apart as well. Vermilion is
none of them: wherever it is, it means worse, lost or failed.
"""

LIGHTER = {
    BLUE: "#4da8e0",
    VERMILION: "#ff8c42",
    GREY: "#a3acb8",
    GREEN: "#2fc79a",
    PURPLE: "#d98fcc",
    "#a67c00": "#d9ab2e",
    "#5b7fd6": "#8ea9f0",
    "#8a6d5b": "#b89a87",
}
"""What lines, marks and bars have on a dark page, where their own colour is dim."""

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star", "hexagon")

# Fading to transparent instead of white or black lets one scale serve both themes; the ends stay
# short of opaque so that text in the theme's own ink is readable on every cell.
DIVERGING = (
    (0.0, "rgba(213, 94, 0, 0.82)"),
    (0.5, "rgba(128, 136, 146, 0.16)"),
    (1.0, "rgba(0, 114, 178, 0.82)"),
)
REVERSED = tuple(
    (at, colour) for (at, _), (_, colour) in zip(DIVERGING, reversed(DIVERGING), strict=True)
)
"""Where lower is better: blue is always the better side."""
NEUTRAL = ((0.0, "rgba(128, 136, 146, 0.16)"), (1.0, "rgba(128, 136, 146, 0.16)"))
"""Of cells that say nothing: the middle of DIVERGING."""
SEQUENTIAL = ((0.0, "rgba(0, 158, 115, 0.08)"), (1.0, "rgba(0, 158, 115, 0.82)"))


def _template(ink: str, soft: str, grid: str, axis: str, surface: str) -> go.layout.Template:
    lines: dict[str, Any] = {
        "gridcolor": grid,
        "linecolor": axis,
        "zerolinecolor": axis,
        "tickcolor": axis,
        "tickfont": {"color": ink},
        "title": {"font": {"color": soft, "size": 12}, "standoff": 8},
        "automargin": True,
        "fixedrange": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink},
            "paper_bgcolor": surface,
            "plot_bgcolor": surface,
            "xaxis": lines,
            "yaxis": lines,
            "legend": {"font": {"color": ink, "size": 12}},
            "hoverlabel": {
                "bgcolor": surface,
                "bordercolor": axis,
                "font": {"family": FONT, "size": 13, "color": ink},
                "align": "left",
            },
            "coloraxis": {"colorbar": {"tickfont": {"color": soft, "size": 11}}},
            "dragmode": False,
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": axis, "activecolor": ink},
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        },
        data={"heatmap": [{"textfont": {"color": ink, "size": 13}}]},
    )


def for_dark(figure: go.Figure) -> go.Figure:
    """A copy of a figure with the colours of LIGHTER."""
    return go.Figure(_lighter(figure.to_plotly_json()))


def _lighter(value: Any) -> Any:
    if isinstance(value, str):
        return LIGHTER.get(value, value)
    if isinstance(value, dict):
        return {name: _lighter(part) for name, part in value.items()}
    return [_lighter(part) for part in value] if isinstance(value, list | tuple) else value


LIGHT = _template("#1d2229", "#5a636e", "#e9ebee", "#9aa2ad", "#ffffff")
DARK = _template("#e7eaee", "#a3acb8", "#2a3038", "#6d7682", "#171b21")
