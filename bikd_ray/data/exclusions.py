"""What a listing passes over: one rule for every source, counted and said in a line for each kind.

Hidden files and folders are those whose name begins with a dot (`._x`, `.ipynb_checkpoints`), and
`__MACOSX`; among Parquet files also names that begin with an underscore (`_temporary`), as Spark,
pyarrow and DuckDB have it. The rule holds below the path that a person gave, never for its parts.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from bikd_ray.data.decode import EXTENSIONS

_LISTED = 5
_IMAGES = frozenset(EXTENSIONS)


def is_hidden(name: str, *, underscores: bool = False) -> bool:
    """Whether a file or folder of this name is left out; a partition `_x=1` is not."""
    if name.startswith(".") or name == "__MACOSX":
        return name not in (".", "..")
    return underscores and name.startswith("_") and "=" not in name


def below(pattern: str, path: str) -> Iterator[str]:
    """The parts of `path` that a glob or folder `pattern` did not name: hidden ones are left out.

    `a/*/.b/*` names `.b`, though not what else begins with a dot.
    """
    fixed = re.split(r"[*?[]", pattern)[0]
    named = [part for part in pattern.split("/") if part[:1] in (".", "_")]
    root = pattern if fixed == pattern else fixed.rpartition("/")[0]
    for part in path.removeprefix(root).split("/"):
        if not any(fnmatchcase(part, given) for given in named):
            yield part


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return os.path.splitext(name)[1].lower() in _IMAGES


def listed(names: Iterable[str]) -> str:
    """Some names in a message: the first few, and how many there are.

    >>> listed("abcdefg")
    'a, b, c, d, e, … (7 in all)'
    """
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


@dataclass
class LeftOut:
    """Counts by kind, with the first example of each. `{s}` in a kind is its plural's ending."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    extensions: Counter[str] = field(default_factory=Counter)

    def hidden(self, name: str) -> None:
        self.add("hidden file{s} or folder{s}", name)

    def other(self, name: str) -> None:
        """A file whose name is not that of an image (or of a Parquet file)."""
        self.add(_OTHER, name)
        self.extensions[os.path.splitext(name)[1].lower() or "none"] += 1

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, example)

    def merge(self, parts: "Iterable[LeftOut]") -> "LeftOut":
        """This one with the counts of others, whose examples come after its own."""
        for part in parts:
            self.counts.update(part.counts)
            self.extensions.update(part.extensions)
            self.first = part.first | self.first
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each kind."""
        return tuple(self._line(kind, count) for kind, count in self.counts.items())

    def _line(self, kind: str, count: int) -> str:
        by = self.extensions.most_common() if kind == _OTHER else []
        what = kind.format(s="s" * (count > 1))
        of = f" ({listed(f'{extension} {n}' for extension, n in by)})" if by else ""
        return f"left out {count:,} {what}{of}, such as {self.first[kind]}"


_OTHER = "file{s} with another extension"
