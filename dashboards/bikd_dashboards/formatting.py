"""Names in the labels of figures."""

import html


def label(name: str, most: int | None = None) -> str:
    """A name for Plotly, which reads HTML tags and entities in labels: escaped, so it stays text.

    most: characters to keep; a longer name loses its middle, as model names differ at both ends.
    """
    if most and len(name) > most:
        head = (most - 1) // 2
        name = f"{name[:head]}\u2026{name[head + 1 - most :]}"
    return html.escape(name, quote=False)
