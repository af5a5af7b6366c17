"""Numbers and names as people read them: the terminal, the report, the app and the card."""

MINUS = "\u2212"
NONE = "\u2013"


def digits_of(unit: str) -> int:
    """Decimals of values in a unit: two of percent, four of what is mostly below 1."""
    return 2 if unit == "%" else 4


def difference_unit(unit: str) -> str:
    """Of a difference of two values in a unit: percentage points for percent."""
    return "pp" if unit == "%" else unit


def shown(value: float | None, unit: str, title: str = "") -> str:
    """A value in its unit: `mIoU 83.42 %`."""
    return f"{title} {number(value, digits_of(unit))} {unit}".strip()


def difference(value: float | None, unit: str) -> str:
    """A difference of two values in a unit, with its own unit: `+0.42 pp`."""
    return f"{signed(value, digits_of(unit))} {difference_unit(unit)}".rstrip()


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


def number(value: float | None, digits: int) -> str:
    """A number as Python writes it, or a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


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


def with_span(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """A difference with its 95% interval, where it has one: `+0.42 [+0.10, +0.74]`."""
    if value is None:
        return NONE
    return f"{signed(value, digits)} {span(low, high, digits)}".rstrip()


def count(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`, `12,345 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: list[str], most: int = 6) -> str:
    """`A`, `A and B`, `A, B and C`; a long list ends in how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
