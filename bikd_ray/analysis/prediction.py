"""What can be said of a pair before it is trained: features of both models, and whether they have
earned belief.

Features are known before training. A slope for each is part of the two-way model
(`analysis.twoway`); here is what goes into it, and how well it would have predicted the models that
it had not seen. Two predictions are reported apart: of a *seen teacher*, one that has taught
others, and of a *new model*, of which only features are known. Suffixes: N models, F features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bikd_ray.analysis.twoway import Cells, TwoWay, fitted

FEATURES = (
    "ensemble_gain",
    "right_where_wrong",
    "disagreement",
    "accuracy_gap",
    "wrong_where_right",
    "error_overlap",
    "partner_nll",
    "same_family",
    "params_ratio",
)
"""In the order in which they are used: the first `cells // 15`, at most four."""

MODELS, CELLS = 8, 30
"""Without so many of one setting nothing is predicted."""

RIDGE = 1.0

BOOTSTRAPS, LOWER = 2000, 0.1
"""Resamplings of the models, and the quantile of their skills that must lie above 0: the lower end
of an 80% interval."""

ROUNDING = 1e-9

BEYOND = 1.0
"""Standard deviations by which a feature may lie outside what was learned from."""


@dataclass(frozen=True)
class About:
    """What is known of a model before training, on the deciding half."""

    score: float  # percent
    nll: float
    params: int
    family: str


def pair_features(
    learner: About, teacher: About, pair: Mapping[str, float]
) -> tuple[float | None, ...]:
    """`FEATURES` of a learner with a teacher; None where it is not known.

    pair: on the deciding half `ensemble` (percent) and, as shares of its images, `n01`
    (the teacher alone is right), `n10` (the learner alone is right) and `n00`.
    """
    n01, n10, n00 = (pair[name] for name in ("n01", "n10", "n00"))
    wrong = n01 + n10 + n00
    ensemble = pair.get("ensemble")
    return (
        None if ensemble is None else ensemble - learner.score,
        n01,
        n01 + n10,
        teacher.score - learner.score,
        n10,
        n00 / wrong if wrong else 0.0,
        teacher.nll,
        float(learner.family == teacher.family),
        float(np.log(teacher.params / learner.params)),
    )


def standardised(raw_FNN: np.ndarray) -> np.ndarray:
    """Each feature centred within every learner, over its partners, and divided by the standard
    deviation of all; 0 where it is not known (NaN), and on the diagonal.
    """
    known = np.isfinite(raw_FNN) & ~np.eye(raw_FNN.shape[1], dtype=bool)
    value = np.where(known, raw_FNN, 0.0)
    size = np.abs(value).max((1, 2), initial=0.0)
    mean = value.sum(2, keepdims=True) / np.maximum(1, known.sum(2, keepdims=True))
    value = np.where(known, value - mean, 0.0)
    sd = np.sqrt((value**2).sum((1, 2)) / np.maximum(1, known.sum((1, 2))))
    told_apart = sd > ROUNDING * size  # the rest of equal numbers less their mean is no feature
    return value * (told_apart / np.where(told_apart, sd, 1.0))[:, None, None]


@dataclass(frozen=True)
class LeftOut:
    """Predictions for learners that took no part in what they are predicted from.

    Each model in turn is left out in both roles. Gains are centred within their learner; percentage
    points. NaN where there is no gain.
    """

    predicted_NN: np.ndarray
    truth_NN: np.ndarray
    noise: float  # the mean variance of a gain's noise, which nothing can predict

    @property
    def rmse(self) -> float:
        return float(np.sqrt(_mean_square(self._errors_NN)))

    @property
    def rmse_null(self) -> float:
        """Of predicting that all partners are alike."""
        return float(np.sqrt(_mean_square(self.truth_NN)))

    @property
    def skill(self) -> float:
        """1 - MSE / MSE of predicting that all partners are alike."""
        return 1 - (self.rmse / self.rmse_null) ** 2 if self.rmse_null else 0.0

    @property
    def skill_above_noise(self) -> float:
        """The same after the gains' own noise is taken from both; -inf where no more is left."""
        return float(self._above_noise(np.ones((1, len(self.truth_NN))))[0])

    def lower_bound(self, seed: int = 0) -> float:
        """Of `skill_above_noise`, over resamplings of the models."""
        rng = np.random.default_rng(seed)
        models = len(self.truth_NN)
        taken_BN = rng.multinomial(models, np.full(models, 1 / models), BOOTSTRAPS)
        return float(np.quantile(self._above_noise(taken_BN), LOWER, method="lower"))

    @property
    def regret_N(self) -> np.ndarray:
        """What the predicted best partner gains less than the best; NaN without gains."""
        known_NN = ~np.isnan(self.truth_NN)
        chosen_N = np.where(known_NN, self.predicted_NN, -np.inf).argmax(1)
        chosen = self.truth_NN[np.arange(len(chosen_N)), chosen_N]
        return _without_rows(np.nanmax, self.truth_NN) - chosen

    @property
    def regret_random_N(self) -> np.ndarray:
        """What an average partner gains less than the best."""
        return _without_rows(np.nanmax, self.truth_NN) - _without_rows(np.nanmean, self.truth_NN)

    @property
    def _errors_NN(self) -> np.ndarray:
        return self.truth_NN - self.predicted_NN

    def _above_noise(self, taken_BN: np.ndarray) -> np.ndarray:
        """[B]: the skill where each model counts so many times."""
        counts_B = taken_BN @ (~np.isnan(self.truth_NN)).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            error_B, null_B = (
                taken_BN @ np.nansum(x_NN**2, 1) / counts_B - self.noise
                for x_NN in (self._errors_NN, self.truth_NN)
            )
            return np.where(null_B > 0, 1 - np.maximum(0, error_B) / null_B, -np.inf)


def new_model(
    gain_NN: np.ndarray, features_FNN: np.ndarray, noise: float = 0.0, ridge: float = RIDGE
) -> LeftOut:
    """Each model predicted from features alone, with slopes from the other models' gains.

    Slopes are ridge regression of gains on features, both centred within each learner over the
    cells that are used.
    """
    return LeftOut(
        np.stack([_from_features(gain_NN, features_FNN, h, ridge) for h in range(len(gain_NN))]),
        _centred(gain_NN),
        noise,
    )


def seen_teacher(cells: Cells, model: TwoWay) -> LeftOut:
    """Each learner predicted from features and from what its teachers taught the others.

    model: of all cells; its likeliest sigmas are taken, the rest is fitted without the learner.
    """
    likeliest = model.likeliest
    models, sigmas = likeliest.models, (likeliest.sigma_t, likeliest.sigma_w)
    gain_NN = np.full((models, models), np.nan)
    gain_NN[cells.learner_C, cells.teacher_C] = cells.gain_C
    rows = []
    for h in range(models):
        without = fitted(cells.without(h), models, likeliest.features_FNN, sigmas, model.scale)
        rows.append(without.effect_NN[h])
    predicted_NN = np.where(np.isnan(gain_NN), np.nan, np.array(rows))
    noise = float(cells.var_C.mean()) if len(cells) else 0.0
    return LeftOut(_centred(predicted_NN), _centred(gain_NN), noise)


def refusal(left_out: LeftOut) -> str | None:
    """Why nothing is predicted; None where the features have earned it."""
    known_NN = ~np.isnan(left_out.truth_NN)
    models, cells = int(known_NN.any(1).sum()), int(known_NN.sum())
    if models < MODELS or cells < CELLS:
        return (
            f"not predictable here: {cells} gains of {models} models; it takes {CELLS} of {MODELS}"
        )
    if left_out.rmse_null**2 <= left_out.noise:
        return "not predictable here: partners differ by no more than the gains' own noise"
    lower = left_out.lower_bound()
    if not lower > 0:
        return (
            "not predictable here: models that were left out were predicted no better than by "
            f"saying that all partners are alike (skill {left_out.skill_above_noise:.2f}, "
            f"80% interval from {lower:.2f})"
        )
    return None


def outside(features_FNN: np.ndarray, trained_NN: np.ndarray) -> np.ndarray:
    """Booleans [N, N]: pairs with a feature that lies more than BEYOND standard deviations outside
    those of the pairs that were trained. features: `standardised`, so that 1 is their deviation.
    """
    if not len(features_FNN) or not trained_NN.any():
        return np.zeros(trained_NN.shape, bool)
    learned = features_FNN[:, trained_NN]
    low, high = (reach[:, None, None] for reach in (learned.min(1), learned.max(1)))
    return ((features_FNN < low - BEYOND) | (features_FNN > high + BEYOND)).any(0)


def _from_features(
    gain_NN: np.ndarray, features_FNN: np.ndarray, left_out: int, ridge: float
) -> np.ndarray:
    """[N]: the predictions for one learner, centred; NaN where it has no gain."""
    others_NN = gain_NN.copy()
    others_NN[left_out] = others_NN[:, left_out] = np.nan
    used_NN = ~np.isnan(others_NN)
    x_CF = _centred(np.where(used_NN, features_FNN, np.nan))[:, used_NN].T
    y_C = _centred(others_NN)[used_NN]
    slopes_F = np.linalg.solve(x_CF.T @ x_CF + ridge * np.eye(x_CF.shape[1]), x_CF.T @ y_C)
    mine_FN = np.where(np.isnan(gain_NN[left_out]), np.nan, features_FNN[:, left_out])
    return slopes_F @ _centred(mine_FN)


def _centred(x: np.ndarray) -> np.ndarray:
    """Less the mean of what is known along the last axis; the diagonal counts for nothing where it
    is NaN.
    """
    return x - np.expand_dims(_without_rows(np.nanmean, x), -1)


def _without_rows(reduce: Callable[..., np.ndarray], x: np.ndarray) -> np.ndarray:
    """A reduction of NaN rows gives NaN, without a warning."""
    empty = np.isnan(x).all(-1)
    filled = np.where(np.expand_dims(empty, -1), 0.0, x)
    return np.where(empty, np.nan, reduce(filled, axis=-1))


def _mean_square(x: np.ndarray) -> float:
    return float(np.nanmean(x**2)) if (~np.isnan(x)).any() else 0.0
