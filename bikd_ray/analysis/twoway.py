"""A Gaussian two-way model of gains: what a learner gains, what a teacher adds, and the rest.

    gain[i, j] - centre = a[i] + t[j] + beta . x[i, j] + w[i, j] + noise,   noise ~ N(0, R[i, j])
    a ~ N(0, 1),  beta ~ N(0, 0.1²),  t ~ N(0, sigma_t²),  w ~ N(0, sigma_w²)

of learner i with teacher j (a diallel: Griffing 1956). Both sigmas have a posterior on a grid under
half-normal priors; w is integrated out, so that each point of the grid is one Cholesky factor.
The best partner of i has the largest u[i, j] = t[j] + beta . x[i, j] + w[i, j]. Gains are in
percentage points; of other metrics all priors are scaled. Suffixes: C cells, N models,
F features, P = 2N + F parameters (a, t, beta), G points of the grid, D draws.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GRID = (0.005, 0.015, 0.03, 0.05, 0.075, 0.11)
"""Standard deviations of teachers and of the rest that are weighed, percentage points."""

SIGMA_A, SIGMA_BETA, SIGMA_PRIOR = 1.0, 0.1, 0.1
"""Of learners, of a feature's slope, and the scale of the half-normal prior of both sigmas."""

USUAL_SPREAD = 0.42
"""Of all gains, percentage points, where the grid and the priors fit as they are."""

DRAWS = 400


@dataclass(frozen=True)
class Cells:
    """C gains of learners with one teacher each, every cell once; models are 0 … N - 1."""

    learner_C: np.ndarray
    teacher_C: np.ndarray
    gain_C: np.ndarray
    var_C: np.ndarray  # R: of the gain's noise, images and seeds together

    @classmethod
    def of(cls, gain_NN: np.ndarray, var_NN: np.ndarray) -> "Cells":
        """The cells that have a gain, in the order of learners and teachers."""
        learner_C, teacher_C = np.nonzero(~np.isnan(gain_NN))
        return cls(
            learner_C, teacher_C, gain_NN[learner_C, teacher_C], var_NN[learner_C, teacher_C]
        )

    def __len__(self) -> int:
        return len(self.gain_C)

    def without(self, model: int) -> "Cells":
        """Those in which a model takes no part."""
        kept_C = (self.learner_C != model) & (self.teacher_C != model)
        return Cells(*(x[kept_C] for x in vars(self).values()))


def scale_of(gain_C: np.ndarray) -> float:
    """What the grid and the priors are multiplied by: 1 unless gains spread by less than half, or
    more than twice, of what is usual.
    """
    ratio = float(np.std(gain_C)) / USUAL_SPREAD if len(gain_C) > 1 else 1.0
    return ratio if ratio > 0 and not 0.5 <= ratio <= 2 else 1.0


@dataclass(frozen=True)
class Point:
    """The posterior at one pair of sigmas."""

    cells: Cells
    models: int
    features_FNN: np.ndarray
    centre: float
    sigma_t: float
    sigma_w: float
    mean_P: np.ndarray
    root_PP: np.ndarray  # the Cholesky factor of the posterior precision
    log_marginal: float  # of the gains, less n / 2 log 2 pi

    @property
    def learns_N(self) -> np.ndarray:
        return self.mean_P[: self.models]

    @property
    def teaches_N(self) -> np.ndarray:
        return self.mean_P[self.models : 2 * self.models]

    @property
    def beta_F(self) -> np.ndarray:
        return self.mean_P[2 * self.models :]

    @cached_property
    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        """The share k [N, N] of a cell's residual that is believed to be w (0 without a gain), and
        the centred gains [N, N].
        """
        k_NN, y_NN = np.zeros((2, self.models, self.models))
        at = self.cells.learner_C, self.cells.teacher_C
        k_NN[at] = self.sigma_w**2 / (self.sigma_w**2 + self.cells.var_C)
        y_NN[at] = self.cells.gain_C - self.centre
        return k_NN, y_NN

    @cached_property
    def effect_NN(self) -> np.ndarray:
        """The posterior mean of u."""
        return self._effect(self.mean_P)

    @cached_property
    def effect_sd_NN(self) -> np.ndarray:
        """The posterior standard deviation of u."""
        n, k_NN = self.models, self._kept[0]
        half_PP = np.linalg.inv(self.root_PP)  # covariance = half' half
        var_NN = self.sigma_w**2 * (1 - k_NN)
        # u is linear in (a_i, t_j, beta), by these weights
        a, t, beta = half_PP[:, :n], half_PP[:, n : 2 * n], half_PP[:, 2 * n :]
        moved = 1 - k_NN
        var_NN = var_NN + k_NN**2 * (a**2).sum(0)[:, None] + moved**2 * (t**2).sum(0)
        var_NN -= 2 * k_NN * moved * (a.T @ t)
        for f, x_NN in enumerate(self.features_FNN):
            var_NN += 2 * moved**2 * x_NN * (beta[:, f] @ t)
            var_NN -= 2 * k_NN * moved * x_NN * (a.T @ beta[:, f])[:, None]
            for g, z_NN in enumerate(self.features_FNN):
                var_NN += moved**2 * x_NN * z_NN * (beta[:, f] @ beta[:, g])
        return np.sqrt(var_NN)

    def draws(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """[D, N] of a and [D, N, N] of u, from the posterior; a is above the centre."""
        z_PD = rng.standard_normal((len(self.mean_P), count))
        theta_DP = self.mean_P + np.linalg.solve(self.root_PP.T, z_PD).T
        u_DNN = self._effect(theta_DP)
        z_DNN = rng.standard_normal(u_DNN.shape)
        return theta_DP[:, : self.models], u_DNN + self.sigma_w * np.sqrt(1 - self._kept[0]) * z_DNN

    def _effect(self, theta: np.ndarray) -> np.ndarray:
        """The u [..., N, N] at parameters [..., P], with w at its mean."""
        n, (k_NN, y_NN) = self.models, self._kept
        a, t, beta = theta[..., :n, None], theta[..., None, n : 2 * n], theta[..., 2 * n :]
        u = t + np.tensordot(beta, self.features_FNN, 1) if len(self.features_FNN) else t
        return u + k_NN * (y_NN - a - u)


@dataclass(frozen=True)
class TwoWay:
    """The posterior over the grid: a point for each pair of sigmas, and how much each counts."""

    points: tuple[Point, ...]
    weights_G: np.ndarray
    scale: float

    @property
    def centre(self) -> float:
        """The mean of all gains."""
        return self.points[0].centre

    @property
    def likeliest(self) -> Point:
        return self.points[int(np.argmax(self.weights_G))]

    @property
    def sigmas(self) -> tuple[float, float]:
        """Posterior means of sigma_t and sigma_w."""
        t, w = (
            self.weights_G @ [getattr(p, name) for p in self.points]
            for name in ("sigma_t", "sigma_w")
        )
        return float(t), float(w)

    @cached_property
    def effect_NN(self) -> np.ndarray:
        """The posterior mean of u."""
        return self._mean([p.effect_NN for p in self.points])

    @cached_property
    def expected_NN(self) -> np.ndarray:
        """The gain that learner i is expected to have with teacher j."""
        learns_N = self._mean([p.learns_N for p in self.points])
        return self.centre + learns_N[:, None] + self.effect_NN

    def draws(self, seed: int, count: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
        """Draws a [D, N] and u [D, N, N]: each point has as many as its weight says."""
        rng = np.random.default_rng(seed)
        counts_G = apportioned(self.weights_G, count)
        parts = [p.draws(rng, c) for p, c in zip(self.points, counts_G, strict=True) if c]
        a, u = zip(*parts, strict=True)
        return np.concatenate(a), np.concatenate(u)

    def _mean(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.tensordot(self.weights_G, np.array(parts), 1)


def fitted(
    cells: Cells,
    models: int,
    features_FNN: np.ndarray | None = None,
    sigmas: tuple[float, float] | None = None,
    scale: float | None = None,
) -> TwoWay:
    """The posterior given C gains; the prior where there is none.

    features_FNN: of each learner and teacher, about 0 and of about unit size. sigmas: sigma_t and
    sigma_w if they are known, instead of the grid. scale: of the priors; `scale_of` the gains.
    """
    features_FNN = np.zeros((0, models, models)) if features_FNN is None else features_FNN
    scale = scale_of(cells.gain_C) if scale is None else scale
    centre = float(cells.gain_C.mean()) if len(cells) else 0.0
    grid = np.array(GRID) * scale
    pairs = [sigmas] if sigmas else [(float(t), float(w)) for t in grid for w in grid]
    normal = {w: _normal(cells, models, features_FNN, centre, w) for w in {w for _, w in pairs}}
    fixed = (SIGMA_A * scale, SIGMA_BETA * scale)
    points = tuple(
        _point(cells, models, features_FNN, centre, sigma_t, sigma_w, normal[sigma_w], fixed)
        for sigma_t, sigma_w in pairs
    )
    log_G = np.array(
        [
            p.log_marginal - (p.sigma_t**2 + p.sigma_w**2) / (2 * (SIGMA_PRIOR * scale) ** 2)
            for p in points
        ]
    )
    weights_G = np.exp(log_G - log_G.max())
    return TwoWay(points, weights_G / weights_G.sum(), scale)


def _normal(
    cells: Cells, models: int, features_FNN: np.ndarray, centre: float, sigma_w: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Z'WZ [P, P], Z'Wy [P] and y'Wy + sum log(1 / W), of weights W = 1 / (sigma_w² + R)."""
    at = cells.learner_C, cells.teacher_C
    var_C, y_C = sigma_w**2 + cells.var_C, cells.gain_C - centre
    weight_NN, y_NN = np.zeros((2, models, models))
    weight_NN[at], y_NN[at] = 1 / var_C, y_C
    a, t, beta = (slice(0, models), slice(models, 2 * models), slice(2 * models, None))
    square_PP = np.zeros((2 * models + len(features_FNN),) * 2)
    square_PP[a, a] = np.diag(weight_NN.sum(1))
    square_PP[t, t] = np.diag(weight_NN.sum(0))
    square_PP[a, t] = weight_NN
    weighted_FNN = features_FNN * weight_NN
    square_PP[a, beta], square_PP[t, beta] = weighted_FNN.sum(2).T, weighted_FNN.sum(1).T
    square_PP[beta, beta] = np.einsum("fij,gij->fg", weighted_FNN, features_FNN)
    square_PP = np.triu(square_PP) + np.triu(square_PP, 1).T
    wy_NN = weight_NN * y_NN
    right = wy_NN.sum(1), wy_NN.sum(0), (weighted_FNN * y_NN).sum((1, 2))
    return square_PP, np.concatenate(right), float((wy_NN * y_NN).sum() + np.log(var_C).sum())


def _point(
    cells: Cells,
    models: int,
    features_FNN: np.ndarray,
    centre: float,
    sigma_t: float,
    sigma_w: float,
    normal: tuple[np.ndarray, np.ndarray, float],
    fixed: tuple[float, float],
) -> Point:
    square_PP, right_P, constant = normal
    sd = (fixed[0], sigma_t, fixed[1])
    prior_P = np.repeat(1 / np.square(sd), (models, models, len(features_FNN)))
    root_PP = np.linalg.cholesky(square_PP + np.diag(prior_P))
    half_P = np.linalg.solve(root_PP, right_P)
    mean_P = np.linalg.solve(root_PP.T, half_P)
    determinant = 2 * np.log(root_PP.diagonal()).sum() - np.log(prior_P).sum()
    log_marginal = -0.5 * (constant + determinant - half_P @ half_P)
    return Point(
        cells, models, features_FNN, centre, sigma_t, sigma_w, mean_P, root_PP, float(log_marginal)
    )


def apportioned(weights_G: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers with this sum, as near to the weights as that allows (largest remainders)."""
    exact_G = weights_G / weights_G.sum() * count
    counts_G = np.floor(exact_G).astype(int)
    more = np.argsort(counts_G - exact_G, kind="stable")[: count - counts_G.sum()]
    counts_G[more] += 1
    return counts_G
