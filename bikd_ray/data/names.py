"""Many names in little memory."""

import hashlib
import os
from collections.abc import Iterable

import numpy as np


class Names:
    """N file names as one run of bytes and N + 1 offsets.

    A list of paths takes several times the memory, and is slow to pickle for each loader process.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._starts = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(name) for name in encoded], out=self._starts[1:])
        self._content = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._content[self._starts[index] : self._starts[index + 1]])

    def digest(self) -> str:
        """SHA-256 over all names in order, in hexadecimal."""
        return hashlib.sha256(self._starts.tobytes() + self._content).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 over the int64 values of an array in order, in hexadecimal."""
    return hashlib.sha256(array.astype("<i8").tobytes()).hexdigest()
