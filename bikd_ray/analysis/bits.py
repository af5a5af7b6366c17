"""Correctness as packed bits, and the counts that every statistic here needs of them."""

from collections.abc import Sequence

import numpy as np


def pack(correct_N: np.ndarray) -> bytes:
    """Booleans [N] as bytes, first sample in the highest bit, the last byte filled with zeros."""
    return np.packbits(np.asarray(correct_N, dtype=bool)).tobytes()


def unpack(packed: bytes, count: int) -> np.ndarray:
    """Booleans [count] from `pack`."""
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)


def stack(packed: Sequence[bytes]) -> np.ndarray:
    """uint8 [V, bytes] of V packed vectors of one length."""
    return np.stack([np.frombuffer(p, np.uint8) for p in packed])


def gram(bits_VB: np.ndarray) -> np.ndarray:
    """int64 [V, V]: on how many samples are vectors u and v both 1? The diagonal counts ones."""
    counts = np.empty((len(bits_VB), len(bits_VB)), np.int64)
    words = words_of(bits_VB)
    for v, row in enumerate(words):
        counts[v, v:] = np.bitwise_count(words[v:] & row).sum(1, dtype=np.int64)
        counts[v:, v] = counts[v, v:]
    return counts


def ones_of(bits_VB: np.ndarray) -> np.ndarray:
    """int64 [V]: how many samples of each vector are 1."""
    return np.bitwise_count(words_of(bits_VB)).sum(1, dtype=np.int64)


def words_of(bits_VB: np.ndarray) -> np.ndarray:
    """The same bits as uint64 [V, words], filled with zeros: eight times fewer operations."""
    short = -bits_VB.shape[1] % 8
    return np.ascontiguousarray(np.pad(bits_VB, ((0, 0), (0, short)))).view(np.uint64)
