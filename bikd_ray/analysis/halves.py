"""One half of the val images decides, the other half reports.

A search looks at its results again and again, so that the images it chose by can say nothing fair
of what it chose. Images that took no part in any decision can: to them the pairs that were trained
are a fixed design, and every interval has its level under any rule, any stopping and any prior.
Suffixes: V vectors, B bytes, N images.
"""

from functools import lru_cache

import numpy as np


@lru_cache(4)
def deciding_half(n: int) -> np.ndarray:
    """Booleans [n]: the n // 2 images that decide, the same for everyone who asks.

    It is the first of the random halves behind a cross-fitted difference.
    """
    half_N = np.random.default_rng(n).permuted(np.arange(n) < n // 2)
    half_N.setflags(write=False)
    return half_N


def on_half(scores: np.ndarray, n: int, deciding: bool | None) -> tuple[np.ndarray, int]:
    """The same vectors on one half of the images alone (None: on all), and how many these are.

    scores: packed bits uint8 [V, B], of which the other half's become 0 (counts of images on which
    vectors are right divide by the half's size), or floats [V, n], of which its columns are taken.
    """
    if deciding is None:
        return scores, n
    half_N = deciding_half(n) == deciding
    size = int(half_N.sum())
    if scores.dtype == np.uint8:
        return scores & np.packbits(half_N), size
    return scores[:, half_N], size
