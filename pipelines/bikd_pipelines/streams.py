"""Standard output and error as they may be: closed, on a full disk, in an encoding without Δ."""

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import TextIO

PLAIN = {
    "Δ": "d",
    "κ": "k",
    "×": "x",
    "±": "+-",
    "·": "|",
    "•": "*",
    "≥": ">=",
    "≤": "<=",
    "←": "<",
    "→": ">",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "~",
    "“": '"',
    "”": '"',
}
"""What stands for a sign that an encoding lacks; of most one character, which keeps columns."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class _Notes(io.TextIOWrapper):
    """Standard error: where it cannot be written there is nobody to tell, and the work goes on."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare() -> None:
    """Make the standard streams safe to write to."""
    _hold_closed()
    codecs.register_error("plain", _plain)
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        raw = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
        sys.stderr = _Notes(raw, sys.stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _hold_closed() -> None:
    """Have closed streams (of cron, of a daemon) refuse what is written, and keep their numbers:
    else the next file that is opened gets them, and what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = _Notes(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "utf-8")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of encodings: PLAIN, and escapes for the rest."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    escaped = (c.encode("ascii", "backslashreplace").decode() for c in signs)
    return "".join(PLAIN.get(c, e) for c, e in zip(signs, escaped, strict=True)), error.end


def why_unwritten(error: OSError) -> str | None:
    """Why an answer could not be written, if that is what an error tells of."""
    if error.filename is not None or error.errno not in _FULL:
        return None
    return "standard output is closed" if error.errno == errno.EBADF else str(error.strerror)


def abandon(stream: TextIO) -> None:
    """Let go what is left in a stream's buffer, on which Python would fail at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
