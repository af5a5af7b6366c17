"""Who teaches and who learns: against least squares with explicit dummies, and zoos of known truth.

Suffixes: R pairings, M models, N images.
"""

import numpy as np
import pytest
from scipy import stats

from bikd_ray.analysis.effects import Effects, PairGains
from bikd_ray.store import Store, Writer
from tests.stores import BEFORE, N, after, baseline, job


def every_pairing(models):
    return [(a, b) for a in range(models) for b in range(models) if a != b]


def some_gains(rng, pairs, n):
    """[R, N] means of three seeds: 10-20% of the images gained, 10% lost."""
    right = rng.random((len(pairs), 3, n)) < rng.uniform(0.1, 0.2, (len(pairs), 1, 1))
    wrong = rng.random((len(pairs), 3, n)) < 0.1
    return (right.astype(np.float32) - wrong).mean(1)


def fitted(models, pairs, gains_RN) -> Effects:
    pairings = PairGains(models, gains_RN.shape[1])
    for (learner, teacher), gain_N in zip(pairs, gains_RN, strict=True):
        pairings.add(learner, np.array([teacher]), gain_N[None])
    return pairings.effects()


def plain(pairs, gains_RN):
    """kind -> model -> (effect, its interval), percentage points, and R² of learners, then of all.

    Every learner has a dummy; all teachers but the last have one, which is -1 where the last
    teaches, so that their effects sum to zero.
    """
    learners, teachers = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    alone_RL = np.array([[float(m == a) for m in learners] for a, _ in pairs])
    coded_RT = np.array([[(t == b) - float(teachers[-1] == b) for t in teachers] for _, b in pairs])
    design = np.hstack([alone_RL, coded_RT[:, :-1]])
    last = np.append(np.zeros(len(learners)), -np.ones(len(teachers) - 1))
    every = np.vstack([np.eye(len(design.T)), last])  # learners, then all teachers

    gains_R, n = gains_RN.mean(1), gains_RN.shape[1]
    effect = every @ np.linalg.lstsq(design, gains_R)[0]
    rest_R = gains_R - design @ np.linalg.lstsq(design, gains_R)[0]
    free = len(pairs) - np.linalg.matrix_rank(design)
    of_pairings = np.diag(every @ np.linalg.inv(design.T @ design) @ every.T) * (
        rest_R @ rest_R / free if free else np.nan
    )
    of_images = (every @ np.linalg.lstsq(design, gains_RN)[0]).var(1) / n
    t = [stats.t.ppf(0.975, df) for df in (n - 1, max(1, free))]
    se = np.sqrt(of_images + of_pairings)
    half = (t[0] * of_images + t[1] * of_pairings) / (of_images + of_pairings) * se
    rows = 100 * np.stack([effect, effect - half, effect + half], 1)
    explained = []
    for part in (alone_RL, design):
        left = gains_R - part @ np.linalg.lstsq(part, gains_R)[0]
        explained.append(1 - left @ left / ((gains_R - gains_R.mean()) ** 2).sum())
    learns = dict(zip(learners, rows, strict=False))
    return learns, dict(zip(teachers, rows[len(learners) :], strict=True)), explained


WHOLE = every_pairing(5)
HOLES = [pair for pair in every_pairing(6) if pair not in [(0, 1), (0, 2), (3, 1), (4, 5), (5, 4)]]
ANCHORS = [pair for pair in every_pairing(5) if 0 in pair or 1 in pair]
STUDENTS = [(a, b) for a in (0, 1, 2) for b in (3, 4, 5)]  # they learn only, the others only teach


@pytest.mark.parametrize("pairs", [WHOLE, HOLES, ANCHORS, STUDENTS])
def test_effects_and_intervals_are_those_of_least_squares_with_dummies(pairs):
    gains_RN = some_gains(np.random.default_rng(len(pairs)), pairs, 300)
    effects = fitted(7, pairs, gains_RN)  # the last model is in no pairing
    *kinds, (by_learner, by_both) = plain(pairs, gains_RN)
    for estimates, want in zip((effects.learns, effects.teaches), kinds, strict=True):
        for model in range(7):
            got = [getattr(estimates, name)[model] for name in ("mean", "low", "high")]
            assert got == pytest.approx(want.get(model, [np.nan] * 3), rel=1e-4, nan_ok=True)
    assert effects.learner_share == pytest.approx(by_learner, rel=1e-4)  # gains are float32
    assert effects.teacher_share == pytest.approx(by_both - by_learner, rel=1e-4)
    assert np.nansum(effects.teaches.mean) == pytest.approx(0, abs=1e-9)


def test_an_additive_zoo_gives_its_effects_back():
    rng = np.random.default_rng(0)
    learns, teaches = rng.normal(0.02, 0.02, 6), rng.normal(0, 0.01, 6)
    of_learner, of_teacher = rng.normal(0, 0.3, (2, 6, 400))
    gains_RN = np.array([learns[a] + teaches[b] + of_learner[a] + of_teacher[b] for a, b in HOLES])
    effects = fitted(6, HOLES, gains_RN.astype(np.float32))
    learns, teaches = learns + of_learner.mean(1), teaches + of_teacher.mean(1)
    assert effects.teaches.mean == pytest.approx(100 * (teaches - teaches.mean()), abs=1e-5)
    assert effects.learns.mean == pytest.approx(100 * (learns + teaches.mean()), abs=1e-5)
    assert effects.learner_share + effects.teacher_share == pytest.approx(1)


@pytest.mark.parametrize("of_pairing", [0.002, 0.02])
def test_intervals_cover_the_truth_when_images_and_pairings_are_drawn_anew(of_pairing):
    """of_pairing: standard deviation of what is neither the learner's nor the teacher's doing."""
    rng = np.random.default_rng(1)
    n, runs = 150, 400
    learns, teaches = np.array([0.0, 0.02, 0.03, 0.05, 0.1]), np.array([-2, -1, 0, 1, 2]) / 100
    truths = {"learns": 100 * learns, "teaches": 100 * teaches}
    found = {name: ([], [], []) for name in truths}
    learner, teacher = np.array(WHOLE).T
    for _ in range(runs):
        mean_R = learns[learner] + teaches[teacher] + rng.normal(0, of_pairing, len(WHOLE))
        of_learner, of_teacher = rng.normal(0, 0.15, (2, 5, n))
        images_RN = of_learner[learner] + of_teacher[teacher] + rng.normal(0, 0.1, (len(WHOLE), n))
        effects = fitted(5, WHOLE, (mean_R[:, None] + images_RN).astype(np.float32))
        for name, truth in truths.items():
            e = getattr(effects, name)
            for kept, value in zip(
                found[name],
                ((e.low <= truth) & (truth <= e.high), e.mean - truth, e.half_width),
                strict=True,
            ):
                kept.append(value)
    for covers, error, half in found.values():
        assert np.mean(covers) >= 0.94
        assert np.abs(np.mean(error, 0)).max() < 4 * np.std(error) / runs**0.5
        assert np.mean(half) < 1.4 * 1.96 * np.std(error)


def test_one_learner_shows_its_teachers_and_no_interval():
    """A pairing for each effect leaves nothing to tell how much pairings differ by themselves."""
    pairs = [(0, 1), (0, 2), (0, 3)]
    gains_RN = some_gains(np.random.default_rng(3), pairs, 200)
    effects, gain = fitted(4, pairs, gains_RN), 100 * gains_RN.mean(1)
    assert effects.learns.mean == pytest.approx([gain.mean()] + [np.nan] * 3, nan_ok=True)
    assert effects.teaches.mean == pytest.approx([np.nan, *(gain - gain.mean())], nan_ok=True)
    assert np.isnan(effects.learns.low[0])
    assert np.isnan(effects.teaches.high).all()
    assert (effects.learner_share, effects.teacher_share) == pytest.approx((0, 1))


def test_two_models_have_no_interval():
    pairs = every_pairing(2)
    effects = fitted(2, pairs, some_gains(np.random.default_rng(4), pairs, 200))
    for estimates in (effects.learns, effects.teaches):
        assert np.isnan(estimates.low).all()
        assert np.isnan(estimates.high).all()


MODELS = sorted(BEFORE)
GAINS = {"ab": 0.10, "ac": 0.30, "ba": 0.05, "bc": 0.07, "ca": 0.06, "cb": 0.04}
"""learner + teacher -> share of the images that it gains."""


def zoo_of_three(uri, controls="abc", **how):
    writer = Writer(uri)
    for m in MODELS:
        baseline(writer, m)
    for seed in (0, 1):
        for m in controls:
            job(writer, {m: after(m, 0.05, seed)}, seed, **how)
        for a, b in ("ab", "ac", "bc"):
            pair = {a: after(a, GAINS[a + b], seed), b: after(b, GAINS[b + a], seed)}
            job(writer, pair, seed, **how)
    return writer


def expected(net):
    pairs, gains_RN = every_pairing(3), []
    for a, b in pairs:
        learner, gain = MODELS[a], GAINS[MODELS[a] + MODELS[b]]
        runs = [after(learner, gain, seed).astype(np.float32) for seed in (0, 1)]
        old = [after(learner, 0.05, s) if net else BEFORE[learner] for s in (0, 1)]
        gains_RN.append(np.mean(runs, axis=0) - np.mean(old, axis=0))
    return plain(pairs, np.array(gains_RN))


@pytest.mark.parametrize(("controls", "measure"), [("abc", "net_delta"), ("ab", "delta")])
def test_the_store_answers_with_net_gains_or_else_with_gains(tmp_path, controls, measure):
    zoo_of_three(str(tmp_path), controls)
    rows = Store(str(tmp_path)).teachers().to_pylist()
    learns, teaches, (by_learner, by_both) = expected(net=measure == "net_delta")
    assert [row["teaches"] for row in rows] == sorted((r["teaches"] for r in rows), reverse=True)
    assert sorted(row["model"] for row in rows) == MODELS
    for row in rows:
        m = MODELS.index(row["model"])
        assert (row["measure"], row["n"], row["students"], row["teachers"]) == (measure, N, 2, 2)
        for kind, want in (("learns", learns[m]), ("teaches", teaches[m])):
            got = [row[kind], row[f"{kind}_low"], row[f"{kind}_high"]]
            assert got == pytest.approx(want, rel=1e-4)
        assert row["learner_share"] == pytest.approx(by_learner, rel=1e-4)
        assert row["teacher_share"] == pytest.approx(by_both - by_learner, rel=1e-4)


def test_the_store_leaves_groups_out_and_settings_apart(tmp_path):
    writer = zoo_of_three(str(tmp_path))
    alone = Store(str(tmp_path)).teachers().to_pylist()
    job(writer, {m: after(m, 0.4, 0) for m in MODELS}, 0)
    zoo_of_three(str(tmp_path), recipe="r2")
    rows = Store(str(tmp_path)).teachers().to_pylist()
    assert [row for row in rows if row["recipe_id"] == "r"] == alone
    assert [row["recipe_id"] for row in rows] == ["r"] * 3 + ["r2"] * 3
