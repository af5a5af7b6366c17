"""Paths as people write them: one rule for `~`, `$VAR` and what "relative" means."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{([^}]*)\}|[{(].*)")
"""Also what only a shell understands or what has no end, which is refused."""
_NAME = re.compile(r"[A-Za-z_]\w*")
_NOTHING = re.compile(r"(s3|gs|gcs|https?)://($|[/?#])")


def expanded(path: str) -> str:
    """`path` with `~`, `~USER`, `$VAR` and `${VAR}` replaced; `$$` stands for a plain `$`.

    Raises ValueError, in words that follow the name of a field, for a variable that is not set or
    is empty, for `${VAR` and `$(command)`, for an unknown user, and for a URI such as `s3://` that
    names no bucket or host.
    """
    path = _VARIABLE.sub(_value, path)
    if path.startswith("~"):
        path, written = os.path.expanduser(path), path
        if path.startswith("~"):
            raise ValueError(
                f"no home folder is known for {written.partition('/')[0]!r}; write the path out, "
                f"or ./{written} for a file of that name"
            )
    if nothing := _NOTHING.match(path):
        scheme = nothing[1]
        what = "host" if scheme.startswith("http") else "bucket"
        raise ValueError(f"{path!r} has no {what}; give {scheme}://{what.upper()}/…")
    return path


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    if found[0] == "$$":
        return "$"
    if name is None or not _NAME.fullmatch(name):
        return _refuse(found[0], "is no variable's name")
    return os.environ.get(name) or _refuse(
        found[0], "is empty" if name in os.environ else "is not set"
    )


def _refuse(written: str, why: str) -> str:
    raise ValueError(f"{written} {why}; set the variable, or write $$ for a plain $")


def escaped(path: str) -> str:
    """A path that `expanded` gives back as it is.

    >>> expanded(escaped("/data/$old"))
    '/data/$old'
    """
    return path.replace("$", "$$")


def located(path: str, base: Path | None) -> str:
    """`path` expanded, and a relative one taken from `base` if that is given.

    URIs stay as they are. Raises ValueError as `expanded` does.
    """
    path = expanded(path)
    if base is None or "://" in path or Path(path).is_absolute():
        return path
    return str(base / path)
