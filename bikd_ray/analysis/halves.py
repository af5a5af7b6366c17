"""One half of the units (images, videos) decides, the other half reports.

A search looks at its results again and again, so that the units it chose by can say nothing fair
of what it chose. Units that took no part in any decision can: to them the pairs that were trained
are a fixed design, and every interval has its level under any rule, any stopping and any prior.
"""

import numpy as np

from bikd_ray.analysis.scores import Bits, Scores, Values, halves


def deciding_half(n: int) -> np.ndarray:
    """Booleans [n]: the n // 2 units that decide, the same for everyone who asks.

    It is the first of the random halves behind a cross-fitted difference.
    """
    return halves(n)[0]


def on_half(scores: Scores, deciding: bool | None) -> Scores:
    """The same vectors on one half of the units alone; on all of them for None.

    Of a pooled metric it is the influence of that half's units, whose mean is the metric of the
    half to first order.
    """
    if deciding is None:
        return scores
    half_N = deciding_half(scores.n) == deciding
    if isinstance(scores, Bits):
        right_VN = np.unpackbits(scores.bits_VB, axis=1, count=scores.n)[:, half_N]
        return Bits(np.packbits(right_VN, axis=1), right_VN.shape[1], scores.sign)
    assert isinstance(scores, Values)
    return Values(scores.values_VN[:, half_N], scores.sign, scores.pooled)
