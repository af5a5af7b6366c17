"""What can go wrong, and whose move it is."""

import difflib
from collections.abc import Iterable

SHOWN = 20
"""Choices that a message lists in full; of more it shows the nearest."""


class BikdError(Exception):
    """Something failed that the command should report in one line (exit code 1)."""


class UserError(BikdError):
    """The person's mistake: one line with the value, the choices and the fix (exit code 2)."""


def _near(value: str, names: list[str]) -> list[str]:
    """Up to three names like a value, whatever their case; the likest first."""
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    found = difflib.get_close_matches(value.casefold(), folded, n=3, cutoff=0.5)
    return [name for one in found for name in folded[one]]


def choices(value: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what there is, and the nearest of it.

    >>> choices("bi-kd", ["bikd", "ce"])
    "choose from bikd, ce (did you mean 'bikd'?)"
    """
    names = sorted(known)
    if not names:
        return "there is none to choose from"
    near = _near(str(value), names)
    listed = names if len(names) <= SHOWN else near or names[:SHOWN]
    more = "" if len(listed) == len(names) else f", … ({len(names)} in all)"
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"choose from {', '.join(listed)}{more}{hint}"
