"""Numbers and names as people read them, in HTML text and in figure labels."""

import html

MINUS = "\u2212"
NONE = "\u2013"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, or a dash. Zero has none: `+0.42`, `−0.10`, `0.00`."""
    if value is None:
        return NONE
    text = f"{abs(value):.{digits}f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else MINUS
    return sign + text


def plain(value: float | None, digits: int = 2) -> str:
    """A measure, or a dash; only negative ones carry a sign."""
    return NONE if value is None else signed(value, digits).lstrip("+")


def recovered(value: float | None, digits: int = 0) -> str:
    """Percent of the way to the ensemble; empty where a model lost."""
    if value is None or value < 0:
        return ""
    return plain(value, digits) + (" (past the ensemble)" if value > 100 else "")


def percent(value: float | None) -> str:
    """What was recovered, with its unit."""
    number, _, past = recovered(value).partition(" ")
    return f"{number} %{' ' * bool(past)}{past}" if number else ""


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval in brackets; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def count(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`, `12,345 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: list[str], most: int = 6) -> str:
    """`A`, `A and B`, `A, B and C`; a long list ends in how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def label(name: str, most: int | None = None) -> str:
    """A name for Plotly, which reads HTML tags and entities in labels: escaped, so it stays text.

    most: characters to keep; a longer name loses its middle, as model names differ at both ends.
    """
    if most and len(name) > most:
        head = (most - 1) // 2
        name = f"{name[:head]}\u2026{name[head + 1 - most :]}"
    return html.escape(name, quote=False)
