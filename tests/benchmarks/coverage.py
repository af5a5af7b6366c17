"""What the statistics promise, counted over simulated sweeps whose truth is known.

python tests/benchmarks/coverage.py [SWEEPS]

A sweep is one learner with a control and P partners, S seeds and N val images, all drawn anew
from these populations:

    before[n]       right if  margin[n] > 0,  margin ~ Normal(MARGIN, 1)
    after[j, s, n]  right if  margin[n] + shift[j] + order[s] + luck[j, s]
                              + churn (shared[n] + own[j, n] + seen[s, n] + rest[j, s, n]) / 2 > 0

for job j (0 is the control) and seed s. `order` is the data order of a seed and `seen` what it does
to an image: the control and all partners share both. `luck` is what else a seed does to a job.
`shared` is what any training does to an image, `own` what this partner teaches of it. All are
normal, so that top-1 over all images and seeds is known exactly, and `shift` is chosen to give the
job the gain that the regime names. Suffixes: W sweeps, J jobs (control first), P partners, S seeds,
N images, V vectors.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from bikd_ray.analysis.scores import Bits
from bikd_ray.analysis.significance import (
    Estimates,
    best_set,
    contrast,
    cross_fitted,
    differences,
    false_discovery,
)

TOP1 = 0.75
MARGIN = ndtri(TOP1)
IMAGES = 1000
TOGETHER = 8
"""Sweeps that share a Gram matrix: their vectors are counted in one call."""


@dataclass(frozen=True)
class Regime:
    """gains: true Δ of the control, then of the partners, percentage points.

    order, luck: standard deviations over seeds, percentage points of top-1. churn: standard
    deviation of an image's margin, where the margins themselves have 1.
    """

    name: str
    gains: tuple[float, ...]
    churn: float
    order: float
    luck: float

    @property
    def deltas_P(self) -> np.ndarray:
        return np.array(self.gains[1:])

    @property
    def nets_P(self) -> np.ndarray:
        return self.deltas_P - self.gains[0]


SHARED = Regime(
    "shared images", (1.0, 1.0, 1.0, 1.0, 1.5, 2.0, 2.5), churn=0.2, order=0.1, luck=0.1
)
LARGE = Regime("large seed variance", SHARED.gains, churn=0.2, order=1.0, luck=1.5)
NOTHING = Regime("no effect", (0.0,) * 7, churn=0.02, order=0.0, luck=0.0)
REGIMES = (SHARED, LARGE, NOTHING)

NO_PARTNER = Regime("no partner helps", (1.0,) * 7, LARGE.churn, LARGE.order, LARGE.luck)
FEW = Regime("few images, all gained", (0.0,) + (0.4,) * 6, churn=0.001, order=0.0, luck=0.0)
BESIDE = (NO_PARTNER, FEW)
"""Harder ones: nothing but luck to choose a partner by; and gains on n / 250 images, no losses."""


INTERVALS = ("Δ", "net Δ", "partner − partner", "mean Δ of all partners")
ANY_SEED = ("Δ, any seed", "net Δ, any seed")


@dataclass(frozen=True)
class Sweeps:
    """Sweeps drawn together: the vectors of all, and where each sweep's are."""

    bits_VB: np.ndarray
    before_W: np.ndarray
    at_WJS: np.ndarray
    gains_WJS: np.ndarray  # true Δ of the very seeds that were drawn, percentage points

    def one(self, w: int) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of one sweep, the untouched model first, and where its partners' are."""
        first, jobs = self.before_W[w], self.at_WJS[w]
        return self.bits_VB[first : first + 1 + jobs.size], jobs[1:] - first


def draw(regime: Regime, rng: np.random.Generator, sweeps: int, seeds: int, n: int) -> Sweeps:
    jobs, point = len(regime.gains), 100 * np.exp(-(MARGIN**2) / 2) / np.sqrt(2 * np.pi)
    order, luck = regime.order / point, regime.luck / point  # sds of top-1 as sds of the margin
    normal = partial(rng.standard_normal, dtype=np.float32)
    spread = np.sqrt(1 + regime.churn**2 + order**2 + luck**2)
    shift_J = spread * ndtri(TOP1 + np.array(regime.gains) / 100) - MARGIN
    of_seed = shift_J[:, None] + order * normal((sweeps, 1, seeds))
    of_seed += luck * normal((sweeps, jobs, seeds))

    margin = MARGIN + normal((sweeps, 1, 1, n))
    pushes = normal((sweeps, jobs, seeds, n))
    pushes += normal((sweeps, 1, 1, n))
    pushes += normal((sweeps, jobs, 1, n))
    pushes += normal((sweeps, 1, seeds, n))
    after = margin + of_seed[..., None].astype(np.float32) + regime.churn / 2 * pushes > 0
    right = np.concatenate([margin[:, 0] > 0, after.reshape(sweeps, -1, n)], axis=1)
    bits = np.packbits(right, axis=-1)
    before_W = np.arange(sweeps) * (1 + jobs * seeds)
    return Sweeps(
        bits.reshape(-1, bits.shape[-1]),
        before_W,
        before_W[:, None, None] + 1 + np.arange(jobs * seeds).reshape(jobs, seeds),
        100 * (ndtr((MARGIN + of_seed) / np.sqrt(1 + regime.churn**2)) - TOP1),
    )


def study(
    regime: Regime, sweeps: int, seeds: int = 3, n: int = IMAGES, start: int = 0
) -> dict[str, np.ndarray]:
    """Name -> one row for each sweep, of what the statistics said about it; see `_answers`."""
    rng = np.random.default_rng([start, seeds, n])
    found = defaultdict(list)
    for first in range(0, sweeps, TOGETHER):
        drawn = draw(regime, rng, min(TOGETHER, sweeps - first), seeds, n)
        for name, rows in _answers(regime, drawn, n):
            found[name].append(rows)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _answers(regime: Regime, drawn: Sweeps, n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of all sweeps: what intervals cover, how wide they are, sets, discoveries, best gains.

    With one seed an interval speaks of the weights that this seed gave; "any seed" asks whether it
    holds the mean over all seeds, which it does not promise.
    """
    scores, alone, after = Bits(drawn.bits_VB, n), drawn.at_WJS[:, :1], drawn.at_WJS[:, 1:]
    seeds, partners = after.shape[-1], after.shape[1]
    delta = differences(scores, after, drawn.before_W[:, None, None])
    net = differences(scores, after, alone)
    rivals = differences(scores, after[:, :, None], after[:, None])
    upper = np.triu_indices(partners, 1)
    pairs = _some(rivals, (slice(None), *upper))
    each = np.eye(len(drawn.bits_VB))
    group = contrast(scores, each[after].mean(1) - each[drawn.before_W][:, None])
    of_seeds = drawn.gains_WJS.mean(-1) if seeds == 1 else np.array([regime.gains])
    gains_P, alone_1 = of_seeds[:, 1:], of_seeds[:, :1]
    truths = (
        (delta, gains_P),
        (net, gains_P - alone_1),
        (pairs, gains_P[:, upper[0]] - gains_P[:, upper[1]]),
        (group, gains_P.mean(1)),
        (delta, regime.deltas_P),
        (net, regime.nets_P),
    )
    for name, (estimate, truth) in zip(INTERVALS + ANY_SEED, truths, strict=True):
        error = np.abs(estimate.mean - truth)
        half = estimate.half_width
        yield f"{name}: covers", error <= half
        yield f"{name}: width", 2 * half
        yield f"{name}: Satterthwaite covers", error <= _satterthwaite(estimate)

    sweeps = range(len(after))
    yield "set", np.array([best_set(_some(rivals, w)) for w in sweeps])
    p = net.p_value
    yield "p", p
    yield "q", np.array([false_discovery(p[w]) for w in sweeps])
    top = delta.mean.argmax(1)
    yield "best", top
    yield "best Δ", delta.mean.max(1)
    fitted = [cross_fitted(Bits(one, n), at, 0) for one, at in map(drawn.one, sweeps)]
    yield "cross-fitted Δ", np.array(fitted)


def _some(estimates: Estimates, which: Any) -> Estimates:
    """Those of an index of the arrays."""
    e = estimates
    arrays = (array[which] for array in (e.mean, e.var_images, e.var_seeds, e.seeds))
    mean, var_images, var_seeds, seeds = arrays
    return Estimates(mean, var_images, var_seeds, seeds, e.n)


def _satterthwaite(e: Estimates) -> np.ndarray:
    """Half-width with Satterthwaite's degrees of freedom, which Cochran & Cox replace."""
    parts = e.var_images**2 / (e.n - 1) + e.var_seeds**2 / np.maximum(1, e.seeds - 1)
    df = (e.var_images + e.var_seeds) ** 2 / parts
    return stdtrit(df, 0.975) * e.se


def shares(regime: Regime, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One number for each sweep: what the sets, the discoveries and the best gains come to."""
    null_P = np.isclose(regime.nets_P, 0)
    true_best = regime.deltas_P.argmax()
    discovered = found["q"] < 0.05
    false = (discovered & null_P).sum(1)
    answer = {
        "true best in the set": found["set"][:, true_best],
        "size of the set": found["set"].sum(1),
        "false discoveries": false / np.maximum(1, discovered.sum(1)),
        "best Δ, less its partner's true Δ": found["best Δ"] - regime.deltas_P[found["best"]],
        "best Δ, less that of the true best": found["best Δ"] - regime.deltas_P[true_best],
        "cross-fitted, less that of the true best": (
            found["cross-fitted Δ"] - regime.deltas_P[true_best]
        ),
    }
    if null_P.any():
        answer["p < 0.05 where there is no effect"] = found["p"][:, null_P] < 0.05
    if not null_P.all():
        answer["q < 0.05 where there is an effect"] = discovered[:, ~null_P]
    return answer


def with_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over sweeps and its Monte Carlo error; what one sweep holds is averaged first."""
    of_sweep = values.reshape(len(values), -1).mean(1)
    return float(of_sweep.mean()), float(of_sweep.std() / np.sqrt(len(of_sweep)))


def report(regime: Regime, found: dict[str, np.ndarray], seeds: int) -> None:
    title = f"{regime.name}, seeds: {seeds}, sweeps: {len(found['p']):,}"
    print(f"\n{title:52s}  covers          worst   width  Satterthwaite")
    for name in INTERVALS if seeds > 1 else INTERVALS + ANY_SEED:
        covers = found[f"{name}: covers"]
        mean, error = with_error(covers)
        other, _ = with_error(found[f"{name}: Satterthwaite covers"])
        width = found[f"{name}: width"].mean()
        print(
            f"  {name:50s}  {mean:.4f} ± {error:.4f} {covers.mean(0).min():.4f}"
            f"  {width:6.2f}  {other:.4f}"
        )
    for name, values in shares(regime, found).items():
        mean, error = with_error(values)
        print(f"  {name:50s} {mean:7.4f} ± {error:.4f}")


def main() -> None:
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for regime in REGIMES:
        report(regime, study(regime, sweeps), 3)
    for regime in BESIDE:
        report(regime, study(regime, sweeps // 10), 3)
    for seeds in (1, 2, 5):
        for regime in REGIMES:
            report(regime, study(regime, sweeps // 10, seeds), seeds)


if __name__ == "__main__":
    main()
