"""What a search knows: one setting's jobs, what the deciding half says of those that are done, and
which are under way. It is made anew from the store each time; nothing else is remembered.

A control is the pair of a model with itself, so that one array holds both. Suffixes: N models,
S seeds, F features, P partners.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bikd_ray.analysis.halves import on_half
from bikd_ray.analysis.prediction import standardised
from bikd_ray.analysis.scores import Scores
from bikd_ray.analysis.significance import rivals
from bikd_ray.analysis.twoway import DRAWS, Cells, scale_of
from bikd_ray.identity import derived_seed

SEED_SD, SEED_DF = 0.03, 4
"""What is believed of seeds before two of one cell are known: their standard deviation, percentage
points, and how many degrees of freedom that is worth."""

VARIANTS_DISAGREE = 0.015
"""Share of the images on which two variants of a model differ, where no two are known."""

CELLS_A_FEATURE, MOST_FEATURES = 15, 4
"""As many cells are needed for each feature, and so many features are used at most."""

Key = tuple[tuple[str, ...], int]
"""A job: its members' model_ids (one of a control), and its seed."""


@dataclass(frozen=True)
class Rules:
    """What a search may spend and when it is done.

    regret: a target is settled once its best partner is expected to lose at most this against the
    truly best one, percentage points. share: of the map's work, everything counted. start:
    partners that each target is given first. confirm: seeds of a winner; None chooses. draws: from
    the model, for each decision.
    """

    regret: float = 0.05
    share: float = 0.25
    start: int = 4
    confirm: int | None = None
    draws: int = DRAWS


@dataclass(frozen=True)
class Question:
    """What a sweep asks of one setting; it stays the same while the search goes on.

    setting: what makes it one (data_id, recipe_id, objective, metric). targets: model_ids whose
    best partner is wanted. seeds: in the spec's order. jobs: every job of the map, pairs and
    controls, with its work (`Job.work`). features: by ordered pair (learner, teacher), one number
    for each feature; all pairs of the models or none.
    """

    setting: tuple[str, ...]
    targets: Collection[str]
    seeds: Sequence[int]
    jobs: Mapping[Key, float]
    rules: Rules = Rules()
    features: Mapping[tuple[str, str], Sequence[float]] | None = None


@dataclass(frozen=True)
class Seen:
    """What a done job did to one of its members, on the deciding half, percentage points."""

    learner: str
    partner: str | None  # None: its control
    seed: int
    gain: float


@dataclass(frozen=True)
class State:
    """A question with what is known. Models are in the order of their ids, seeds in the spec's and
    then those that only the store has, of which no job is asked.
    """

    setting: tuple[str, ...]
    rules: Rules
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    target_N: np.ndarray
    gain_NNS: np.ndarray  # of learner i with partner j, NaN: not done; i = j: its control
    busy_NNS: np.ndarray  # jobs under way, here or elsewhere
    open_NNS: np.ndarray  # the map's jobs, done or not, without those that failed
    work_NN: np.ndarray
    image_var_N: np.ndarray  # of one cell of a learner; NaN: not known
    images: int  # of the deciding half
    features_FNN: np.ndarray

    @cached_property
    def done_NNS(self) -> np.ndarray:
        """Jobs: one is done for both of its members."""
        known = ~np.isnan(self.gain_NNS)
        return known | known.transpose(1, 0, 2)

    @cached_property
    def begun_NNS(self) -> np.ndarray:
        return self.done_NNS | self.busy_NNS

    @cached_property
    def partner_NN(self) -> np.ndarray:
        """Whether j is, or can become, a partner of i in this map."""
        return self.open_NNS.any(2) & ~np.eye(len(self.models), dtype=bool)

    @cached_property
    def trained_NN(self) -> np.ndarray:
        """Whether learner i has a result with partner j."""
        return ~np.isnan(self.gain_NNS).all(2) & ~np.eye(len(self.models), dtype=bool)

    @cached_property
    def seed_variance(self) -> tuple[float, float]:
        """s², the variance of a cell's gain over seeds, pooled, and its degrees of freedom."""
        scale = scale_of(self._means_NN[self.trained_NN])
        partners_NNS = np.where(self.trained_NN[..., None], self.gain_NNS, np.nan)
        return pooled_variance(partners_NNS, (scale * SEED_SD) ** 2, SEED_DF)

    @cached_property
    def cells(self) -> Cells:
        """One for each learner and trained partner: the mean over seeds, and its noise."""
        gain_NN = np.where(self.trained_NN, self._means_NN, np.nan)
        seeds_NN = np.maximum(1, (~np.isnan(self.gain_NNS)).sum(2))
        var_NN = self.cell_var_N[:, None] + self.seed_variance[0] / seeds_NN
        return Cells.of(gain_NN, var_NN)

    @cached_property
    def cell_var_N(self) -> np.ndarray:
        """`image_var_N`; the mean of the others where a learner's is not known."""
        known_N = self.image_var_N[~np.isnan(self.image_var_N)]
        usual = 1e4 * VARIANTS_DISAGREE / self.images / 2
        rest = known_N.mean() if len(known_N) else usual
        return np.where(np.isnan(self.image_var_N), rest, self.image_var_N)

    @cached_property
    def used_features_FNN(self) -> np.ndarray:
        """The first few of the features, one for CELLS_A_FEATURE cells."""
        return self.features_FNN[: min(MOST_FEATURES, len(self.cells) // CELLS_A_FEATURE)]

    @cached_property
    def spent(self) -> float:
        """The work of the map's jobs that are done or under way."""
        return self._work(self.open_NNS & self.begun_NNS)

    @cached_property
    def map_work(self) -> float:
        return self._work(self.open_NNS)

    def _work(self, jobs_NNS: np.ndarray) -> float:
        """Each job once."""
        return float(np.triu(jobs_NNS.sum(2) * self.work_NN).sum())

    @cached_property
    def _means_NN(self) -> np.ndarray:
        known_NNS = ~np.isnan(self.gain_NNS)
        return np.where(known_NNS, self.gain_NNS, 0).sum(2) / np.maximum(1, known_NNS.sum(2))

    def seed(self, *more: object) -> int:
        """Of random numbers that are the same for the same done pairs."""
        pairs = np.triu(self.done_NNS.transpose(2, 0, 1), 1)
        done = np.packbits(pairs).tobytes().hex()
        return derived_seed("search", self.setting, self.models, self.seeds, done, *more)


def state_of(
    question: Question,
    seen: Iterable[Seen],
    image_var: Mapping[str, float],
    images: int,
    busy: Collection[Key] = (),
    failed: Collection[Key] = (),
) -> State:
    """The state, whatever the order of the rows.

    seen: of all jobs of the setting that the store has done, those that are not in the map among
    them: they say something of their models. image_var: of learners of whom `image_variance` knows
    it. images: of the deciding half. busy: under way, here or in another sweep. failed: jobs that
    are not tried again.
    """
    rows = list(seen)
    ids = {m for members, _ in question.jobs for m in members} | set(question.targets)
    ids |= {m for row in rows for m in (row.learner, row.partner or row.learner)}
    models = tuple(sorted(ids))
    seeds = (*question.seeds, *sorted({row.seed for row in rows} - set(question.seeds)))
    at, seed_at = ({x: i for i, x in enumerate(some)} for some in (models, seeds))
    shape = len(models), len(models), len(seeds)
    gain_NNS, work_NN = np.full(shape, np.nan), np.zeros(shape[:2])
    for row in rows:
        gain_NNS[at[row.learner], at[row.partner or row.learner], seed_at[row.seed]] = row.gain
    marks = {"open": question.jobs, "busy": busy, "failed": failed}
    marked = {name: np.zeros(shape, bool) for name in marks}
    for name, keys in marks.items():
        for members, seed in keys:
            if seed in seed_at and at.keys() >= set(members):
                i, j = at[members[0]], at[members[-1]]
                marked[name][[i, j], [j, i], seed_at[seed]] = True
    for (members, _), work in question.jobs.items():
        i, j = at[members[0]], at[members[-1]]
        work_NN[[i, j], [j, i]] = work
    done_NNS = ~np.isnan(gain_NNS) | ~np.isnan(gain_NNS.transpose(1, 0, 2))
    features = question.features or {}
    width = len(next(iter(features.values()), ()))
    raw_FNN = np.full((width, *shape[:2]), np.nan)
    for (learner, teacher), values in features.items():
        if learner in at and teacher in at:
            raw_FNN[:, at[learner], at[teacher]] = values
    return State(
        question.setting,
        question.rules,
        models,
        seeds,
        np.isin(models, list(question.targets)),
        gain_NNS,
        marked["busy"] & ~done_NNS,
        marked["open"] & (done_NNS | ~marked["failed"]),
        work_NN,
        np.array([image_var.get(model, np.nan) for model in models]),
        images,
        standardised(raw_FNN),
    )


def pooled_variance(gain_CS: np.ndarray, prior: float, prior_df: int) -> tuple[float, float]:
    """The variance over seeds within cells [..., S], pooled over all with two seeds or more, and
    its degrees of freedom; a prior value counts as so many of them.
    """
    known_CS = ~np.isnan(gain_CS)
    seeds_C = known_CS.sum(-1, keepdims=True)
    mean_C = np.where(known_CS, gain_CS, 0).sum(-1, keepdims=True) / np.maximum(1, seeds_C)
    squares = float((np.where(known_CS, gain_CS - mean_C, 0) ** 2).sum())
    df = int(np.maximum(0, seeds_C - 1).sum()) + prior_df
    return (squares + prior_df * prior) / max(1, df), df


def gains_on_half(
    scores: Scores, at_PS: np.ndarray, before: int, deciding: bool | None = True
) -> np.ndarray:
    """[P, S] in the metric's unit: how much better than before, on one half of the units (None: on
    all); NaN where `at_PS`, which vector is partner p's with seed s, has -1.
    """
    half = on_half(scores, deciding)
    gain_PS = half.sign * half.scale * (half.totals[at_PS] - half.totals[before]) / half.n
    return np.where(at_PS >= 0, gain_PS, np.nan)


def image_variance(scores: Scores, at_PS: np.ndarray, deciding: bool | None = True) -> float:
    """What the units (by default the deciding half) add to the variance of a learner's cell.

    In the metric's unit squared: half of the mean, over pairs of its partners, of what they add to
    a difference. NaN where no two partners share a seed.
    """
    if len(at_PS) < 2:
        return float("nan")
    between = rivals(on_half(scores, deciding), at_PS)
    pairs = np.triu(~np.isnan(between.var_images), 1)
    return float(between.var_images[pairs].mean() / 2) if pairs.any() else float("nan")
