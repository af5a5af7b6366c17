"""Targets on disk beside the decoded views: arrays whose sizes may differ, one after the other.

Of each name a file of all values and one of places (where each sample's begin, and its shape).
The list of names is written last, so that whoever sees it sees all of them.
"""

import io
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from bikd_ray.cache_dir import replace_file

Target = dict[str, np.ndarray]


class Targets:
    """Kept targets, read where they lie. Raises OSError or ValueError where they are not whole."""

    def __init__(self, path: Path) -> None:
        self._parts = {}
        for name, kind in json.loads(path.read_bytes()).items():
            places, values = np.load(_file(path, name, "npy")), _file(path, name, "bin")
            ends = places[:, 0] + places[:, 1:].prod(1)
            size = int(ends.max())
            mapped = np.memmap(values, kind, "r", shape=(size,)) if size else np.empty(0, kind)
            self._parts[name] = places, mapped

    def of(self, index: int) -> Target:
        """The target of one sample."""
        found = {}
        for name, (places, values) in self._parts.items():
            start, *shape = places[index].tolist()
            found[name] = np.array(values[start : start + int(np.prod(shape))]).reshape(shape)
        return found


@dataclass
class _Part:
    """The targets of one name while they are written."""

    aside: Path
    file: BinaryIO
    places: np.ndarray  # int64 [N, 1 + dimensions]: the first value, then the shape
    kind: str
    end: int = 0


class TargetsWriter:
    """Writes the targets of `count` samples in any order; several threads may."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self._parts: dict[str, _Part] = {}
        self._lock = Lock()

    def add(self, index: int, target: Target) -> None:
        with self._lock:
            for name, array in target.items():
                part = self._parts.get(name) or self._begin(name, array)
                part.places[index] = part.end, *array.shape
                part.file.write(np.ascontiguousarray(array, part.kind).tobytes())
                part.end += array.size

    def _begin(self, name: str, like: np.ndarray) -> _Part:
        handle, aside = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
        os.fchmod(handle, 0o644)  # the next person on this node uses it too
        places = np.zeros((self.count, 1 + like.ndim), np.int64)
        part = _Part(Path(aside), os.fdopen(handle, "wb"), places, like.dtype.str)
        return self._parts.setdefault(name, part)

    def keep(self) -> None:
        """Give the files their names."""
        for name, part in self._parts.items():
            part.file.close()
            os.replace(part.aside, _file(self.path, name, "bin"))
            places = io.BytesIO()
            np.save(places, part.places)
            replace_file(_file(self.path, name, "npy"), places.getbuffer())
        kinds = {name: part.kind for name, part in self._parts.items()}
        replace_file(self.path, json.dumps(kinds).encode())

    def close(self) -> None:
        """Leave nothing half-written behind."""
        for part in self._parts.values():
            part.file.close()
            part.aside.unlink(missing_ok=True)


def _file(path: Path, name: str, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-{name}.{suffix}")
