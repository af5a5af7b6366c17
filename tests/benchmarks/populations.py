"""Populations of sweeps whose truth is known: of 0s and 1s, of losses, of ratios of sums.

A sweep is one learner with a control and P partners, S seeds and N units, all drawn anew. Job j (0
is the control) and seed s push unit n by

    push[j, s, n] = (shared[n] + own[j, n] + seen[s, n] + rest[j, s, n]) / 2

`shared` is what any training does to a unit, `own` what this partner teaches of it, `seen` what the
data order of a seed does to it: the control and all partners share that. The metric is moved, too:
by the gain that the regime names, by `order[s]`, and by `luck[j, s]`, what else a seed does to a
job. All are standard normal, times the regime's churn, order and luck. Suffixes: W sweeps, J jobs
(control first), P partners, S seeds, N units, C classes, V vectors, T parts of a set.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from bikd_ray.analysis.scores import Bits, Scores, Values, influence

TOP1 = 0.75
MARGIN = ndtri(TOP1)


@dataclass(frozen=True)
class Sweeps:
    """Sweeps drawn together: the vectors of all, and where each sweep's are.

    one: of sweep w its own scores, the untouched model first, and where its partners' are.
    """

    scores: Scores
    before_W: np.ndarray
    at_WJS: np.ndarray
    gains_WJS: np.ndarray  # true Δ of the very seeds that were drawn, in the metric's unit
    one: Callable[[int], tuple[Scores, np.ndarray]]


@dataclass(frozen=True)
class Regime:
    """0s and 1s: an image is right if its margin is above 0.

        before[n]       margin[n],  margin ~ Normal(MARGIN, 1)
        after[j, s, n]  margin[n] + shift[j] + order[s] + luck[j, s] + churn push[j, s, n]

    so that top-1 over all images and seeds is known exactly; `shift` is chosen to give the job its
    gain. gains: true Δ of the control, then of the partners, percentage points. order, luck:
    standard deviations over seeds, percentage points of top-1. churn: standard deviation of an
    image's margin, where the margins themselves have 1. n: units.
    """

    name: str
    gains: tuple[float, ...]
    churn: float
    order: float
    luck: float
    n: int = 1000
    sign = 1

    @property
    def deltas_P(self) -> np.ndarray:
        return np.array(self.gains[1:])

    @property
    def nets_P(self) -> np.ndarray:
        return self.deltas_P - self.gains[0]

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> Sweeps:
        jobs, point = len(self.gains), 100 * np.exp(-(MARGIN**2) / 2) / np.sqrt(2 * np.pi)
        order, luck = self.order / point, self.luck / point  # sds of top-1 as sds of the margin
        spread = np.sqrt(1 + self.churn**2 + order**2 + luck**2)
        shift_J = spread * ndtri(TOP1 + np.array(self.gains) / 100) - MARGIN
        of_seed = shift_J[:, None] + _of_seeds(rng, (sweeps, jobs, seeds), order, luck)
        margin = MARGIN + rng.standard_normal((sweeps, 1, 1, self.n), np.float32)
        pushes = self.churn * _pushes(rng, (sweeps, jobs, seeds), self.n)
        after = margin + of_seed[..., None].astype(np.float32) + pushes > 0
        truth = 100 * (ndtr((MARGIN + of_seed) / np.sqrt(1 + self.churn**2)) - TOP1)
        bits = np.packbits(_stacked(margin[:, 0] > 0, after), axis=-1)
        return _sweeps(bits, truth, lambda bits_VB: Bits(bits_VB, self.n))


@dataclass(frozen=True)
class Losses(Regime):
    """Heavy-tailed losses, lower is better: before[n] is log-normal, with mean 1, and

        after[j, s, n] = before[n] (1 + gain[j] + order[s] + luck[j, s]) exp(churn push - churn²/2)

    tail: standard deviation of the logarithm; with 1.2 a percent of the images have a third of the
    squares.
    """

    tail: float = 1.2
    sign = -1

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> Sweeps:
        shape = sweeps, len(self.gains), seeds
        moved = np.array(self.gains)[:, None] + _of_seeds(rng, shape, self.order, self.luck)
        before = np.exp(self.tail * rng.standard_normal((sweeps, 1, 1, self.n)) - self.tail**2 / 2)
        push = self.churn * _pushes(rng, shape, self.n)
        after = before * (1 + moved[..., None]) * np.exp(push - self.churn**2 / 2)
        values = _stacked(before[:, 0], after).astype(np.float32)
        return _sweeps(values, moved, lambda values_VN: Values(values_VN, self.sign))


@dataclass(frozen=True)
class Pooled(Regime):
    """mIoU, percent: a mean over classes of ratios of sums over the images.

    A class is in an image with a chance from 60% down to 4%, with a log-normal number of pixels;
    EXTRA times as many are said to be of it elsewhere. The share of them that is right is moved by
    the gains, by a push of the image and by one of the class in the image.
    """

    CLASSES = 20
    EXTRA = 0.25

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> Sweeps:
        shape, classes = (sweeps, len(self.gains), seeds), self.CLASSES
        moved = np.array(self.gains)[:, None] + _of_seeds(rng, shape, self.order, self.luck)
        there = rng.random((sweeps, 1, 1, self.n, classes)) < np.geomspace(0.6, 0.04, classes)
        pixels, extra = there * np.exp(rng.standard_normal((2, *there.shape)))
        share = np.linspace(0.85, 0.45, classes) + 0.1 * rng.standard_normal((*there.shape[:4], 1))
        push = _pushes(rng, shape, self.n)[..., None] + _pushes(rng, shape, self.n, classes)
        lifted = share + moved[..., None, None] * (1 + self.EXTRA) / 100 + self.churn * push
        noise = 1 + self.churn * rng.standard_normal(push.shape, np.float32)
        right = _stacked((share * pixels)[:, 0], lifted * pixels)
        union = _stacked((pixels + self.EXTRA * extra)[:, 0], pixels + self.EXTRA * extra * noise)
        return _sweeps(np.stack([100 * right, union]).swapaxes(0, 1), moved, ratio_scores)


@dataclass(frozen=True)
class Clustered(Regime):
    """A mean over the frames of videos of a score between 0 and 1: a ratio of sums over videos.

    Lengths are log-normal, SPREAD the standard deviation of the logarithm, for which a video scores
    0.1 and gains SLOPE times as much more. Each frame has noise of its own.
    """

    SPREAD = 0.8
    SLOPE = 0.5

    def draw(self, rng: np.random.Generator, sweeps: int, seeds: int) -> Sweeps:
        shape = sweeps, len(self.gains), seeds
        moved = np.array(self.gains)[:, None] + _of_seeds(rng, shape, self.order, self.luck)
        length, other = rng.standard_normal((2, sweeps, 1, 1, self.n))
        frames = 150 * np.exp(self.SPREAD * length)
        # the mean over frames of their video's `length` is SPREAD
        slope = (1 + self.SLOPE * length) / (1 + self.SLOPE * self.SPREAD)
        before = 0.5 + 0.1 * (length + other)
        noise = 0.2 * rng.standard_normal((*shape, self.n), np.float32) / np.sqrt(frames)
        after = before + slope * moved[..., None] + self.churn * _pushes(rng, shape, self.n) + noise
        sums = _stacked((frames * before)[:, 0], frames * after)
        counts = np.stack([sums, np.broadcast_to(frames[:, 0], sums.shape)], 1)
        return _sweeps(counts[..., None], moved, ratio_scores)


def ratio_scores(counts_2VNC: np.ndarray) -> Values:
    """Of the mean over classes of sum / sum; a class that a part of the units lacks drops out."""

    def metric(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nanmean(np.where(bottom > 1e-9, top / bottom, np.nan), axis=-1)

    def parts(masks_TN: np.ndarray) -> np.ndarray:
        return metric(*(np.tensordot(1.0 * masks_TN, x, (1, 1)) for x in counts_2VNC))

    sums_2VC = counts_2VNC.sum(2, dtype=np.float64)
    without_VN = metric(*(sums_2VC[:, :, None] - counts_2VNC))
    values_VN = influence(metric(*sums_2VC), without_VN)
    return Values(values_VN.astype(np.float32), pooled=True, parts=parts)


def _of_seeds(
    rng: np.random.Generator, shape: tuple[int, int, int], order: float, luck: float
) -> np.ndarray:
    """[W, J, S]: what a seed does to the metric of all jobs, and to that of one."""
    sweeps, jobs, seeds = shape
    of_seed = order * rng.standard_normal((sweeps, 1, seeds), np.float32)
    return of_seed + luck * rng.standard_normal((sweeps, jobs, seeds), np.float32)


def _pushes(rng: np.random.Generator, shape: tuple[int, int, int], *units: int) -> np.ndarray:
    """[W, J, S, …]: standard normal, of four parts."""
    sweeps, jobs, seeds = shape
    pushes = rng.standard_normal((sweeps, jobs, seeds, *units), np.float32)
    pushes += rng.standard_normal((sweeps, 1, 1, *units), np.float32)
    pushes += rng.standard_normal((sweeps, jobs, 1, *units), np.float32)
    pushes += rng.standard_normal((sweeps, 1, seeds, *units), np.float32)
    return pushes / 2


def _stacked(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[W, 1, …] and [W, J, S, …] as one array [W, 1 + J S, …], the untouched model first."""
    return np.concatenate([before, after.reshape(len(after), -1, *after.shape[3:])], axis=1)


def _sweeps(
    drawn: np.ndarray, truth_WJS: np.ndarray, kind: Callable[[np.ndarray], Scores]
) -> Sweeps:
    """Of what was drawn [W, V, …] (or [W, 2, V, …])."""
    sweeps, jobs, seeds = truth_WJS.shape
    at_JS = 1 + np.arange(jobs * seeds).reshape(jobs, seeds)
    before_W = np.arange(sweeps) * (1 + at_JS.size)
    every = np.concatenate(drawn, axis=-3 if drawn.ndim > 3 else 0)
    return Sweeps(
        kind(every),
        before_W,
        before_W[:, None, None] + at_JS,
        truth_WJS,
        lambda w: (kind(drawn[w]), at_JS[1:]),
    )
