"""What the statistics promise, counted over simulated sweeps whose truth is known.

python tests/benchmarks/coverage.py [SWEEPS]

Populations are in tests/benchmarks/populations.py. Suffixes: W sweeps, J jobs (control first), P
partners, S seeds.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.special import stdtrit

from bikd_ray.analysis.significance import (
    Estimates,
    best_set,
    contrast,
    cross_fitted,
    differences,
    false_discovery,
    rivals,
)
from tests.benchmarks.populations import Clustered, Losses, Pooled, Regime, Sweeps

TOGETHER = 8
"""Sweeps that share a Gram matrix: their vectors are counted in one call."""


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

FEWER = (0.98, 0.98, 0.98, 0.98, 0.97, 0.96, 0.95)
LOSSES = Losses("losses", tuple(x - 1 for x in FEWER), churn=0.2, order=0.001, luck=0.001)
LOSSES_APART = Losses("losses, large seed variance", LOSSES.gains, 0.2, order=0.01, luck=0.015)
MIOU = Pooled("mIoU", SHARED.gains, churn=0.1, order=0.1, luck=0.1, n=500)
MIOU_APART = Pooled("mIoU, large seed variance", SHARED.gains, 0.1, order=1.0, luck=1.5, n=500)
VIDEOS = Clustered("videos", (0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.03), 0.05, 0.001, 0.001, n=100)
VIDEOS_APART = Clustered("videos, large seed variance", VIDEOS.gains, 0.05, 0.01, 0.015, n=100)
SCORES = (LOSSES, LOSSES_APART, MIOU, MIOU_APART, VIDEOS, VIDEOS_APART)
"""Of floats: means over images, a mean of ratios of sums over them, and one over videos."""


INTERVALS = ("Δ", "net Δ", "partner − partner", "mean Δ of all partners")
ANY_SEED = ("Δ, any seed", "net Δ, any seed")


def study(regime: Regime, sweeps: int, seeds: int = 3, start: int = 0) -> dict[str, np.ndarray]:
    """Name -> one row for each sweep, of what the statistics said about it; see `_answers`."""
    rng = np.random.default_rng([start, seeds, regime.n])
    found = defaultdict(list)
    for first in range(0, sweeps, TOGETHER):
        drawn = regime.draw(rng, min(TOGETHER, sweeps - first), seeds)
        for name, rows in _answers(regime, drawn):
            found[name].append(rows)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _answers(regime: Regime, drawn: Sweeps) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of all sweeps: what intervals cover, how wide they are, sets, discoveries, best gains.

    With one seed an interval speaks of the weights that this seed gave; "any seed" asks whether it
    holds the mean over all seeds, which it does not promise.
    """
    scores, alone, after = drawn.scores, drawn.at_WJS[:, :1], drawn.at_WJS[:, 1:]
    seeds, partners = after.shape[-1], after.shape[1]
    delta = differences(scores, after, drawn.before_W[:, None, None])
    net = differences(scores, after, alone)
    upper = np.triu_indices(partners, 1)
    pairs = differences(scores, after[:, upper[0]], after[:, upper[1]])
    each = np.eye(len(scores.totals))
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

    sweeps = [drawn.one(w) for w in range(len(after))]
    yield "set", np.array([best_set(rivals(one, at)) for one, at in sweeps])
    p = net.p_value
    yield "p", p
    yield "q", np.array([false_discovery(of_sweep) for of_sweep in p])
    top = (regime.sign * delta.mean).argmax(1)
    yield "best", top
    yield "best Δ", np.take_along_axis(delta.mean, top[:, None], 1)[:, 0]
    yield "cross-fitted Δ", np.array([cross_fitted(one, at, 0) for one, at in sweeps])


def _satterthwaite(e: Estimates) -> np.ndarray:
    """Half-width with Satterthwaite's degrees of freedom, which Cochran & Cox replace."""
    parts = e.var_images**2 / (e.n - 1) + e.var_seeds**2 / np.maximum(1, e.seeds - 1)
    df = (e.var_images + e.var_seeds) ** 2 / parts
    return stdtrit(df, 0.975) * e.se


def shares(regime: Regime, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One number for each sweep: what the sets, the discoveries and the best gains come to."""
    null_P = np.isclose(regime.nets_P, 0)
    true_best = (regime.sign * regime.deltas_P).argmax()
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
            f"  {width:7.3g}  {other:.4f}"
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
    for regime in SCORES:
        for seeds in (3, 1):
            report(regime, study(regime, sweeps // 10, seeds), seeds)
    for seeds in (1, 2, 5):
        for regime in REGIMES:
            report(regime, study(regime, sweeps // 10, seeds), seeds)


if __name__ == "__main__":
    main()
