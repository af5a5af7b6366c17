"""What is predicted of pairs, how well it held for models that were left out, and when not."""

import json
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.analysis.prediction import (
    FEATURES,
    About,
    new_model,
    outside,
    pair_features,
    refusal,
    seen_teacher,
    standardised,
)
from bikd_ray.analysis.twoway import Cells, fitted

VECTORS = json.loads((Path(__file__).parent / "data" / "search-vectors.json").read_text())


def test_each_model_is_left_out_in_both_roles():
    given = VECTORS["leave_one_model_out"]
    gain = np.array(given["gain"])
    np.fill_diagonal(gain, np.nan)
    found = new_model(gain, np.array([given["feature"]]), ridge=given["ridge"])
    off = ~np.eye(len(gain), dtype=bool)
    assert found.predicted_NN[off] == pytest.approx(np.array(given["predicted"])[off], abs=1e-10)
    assert np.isnan(found.predicted_NN[~off]).all()
    for name in ("rmse", "rmse_null", "skill"):
        assert getattr(found, name) == pytest.approx(given[name], abs=1e-10)
    assert found.regret_N == pytest.approx(given["regret"], abs=1e-10)
    assert found.regret_random_N == pytest.approx(given["regret_random"], abs=1e-10)
    assert found.skill_above_noise == pytest.approx(given["skill"], abs=1e-10)
    gain[2] = gain[:, 2] = 9.0
    gain[2, 2] = np.nan
    other = new_model(gain, np.array([given["feature"]]))
    rest = [0, 1, 3, 4, 5]
    assert other.predicted_NN[2, rest] == pytest.approx(found.predicted_NN[2, rest], abs=1e-10)


def world(models, slope, noise=0.04, teacher=0.0, seed=0):
    """Gains with a feature that moves them by `slope` a standard deviation."""
    rng = np.random.default_rng(seed)
    features = standardised(rng.standard_normal((1, models, models)))
    gain = rng.normal(0.5, 0.4, (models, 1)) + slope * features[0]
    gain = gain + teacher * rng.standard_normal(models)
    gain = gain + noise * rng.standard_normal((models, models))
    np.fill_diagonal(gain, np.nan)
    return gain, features


def test_skill_is_of_what_lies_above_the_noise():
    gain, features = world(12, slope=0.08)
    raw, clean = new_model(gain, features), new_model(gain, features, noise=0.04**2)
    assert raw.skill == pytest.approx(0.8, abs=0.06)  # 0.08² of 0.08² + 0.04²
    assert clean.skill_above_noise == pytest.approx(1.0, abs=0.08)
    assert refusal(clean) is None
    assert clean.regret_N.mean() < clean.regret_random_N.mean() / 3


def test_what_has_not_earned_it_is_refused():
    gain, features = world(12, slope=0.0)
    assert "no better than" in str(refusal(new_model(gain, features)))
    assert "own noise" in str(refusal(new_model(gain, features, noise=0.05**2)))
    few, some = world(7, slope=0.1)
    assert refusal(new_model(few, some)) == (
        "not predictable here: 42 gains of 7 models; it takes 30 of 8"
    )
    sparse, some = world(9, slope=0.1)
    sparse[:, 3:] = np.nan
    assert "25 gains of 9 models" not in str(refusal(new_model(sparse, some)))
    assert "gains of 9 models" in str(refusal(new_model(sparse, some)))


def test_teachers_that_were_seen_tell_more_than_features():
    gain, features = world(12, slope=0.0, teacher=0.1)
    cells = Cells.of(gain, np.full_like(gain, 0.04**2))
    model = fitted(cells, 12, features)
    seen, new = seen_teacher(cells, model), new_model(gain, features, noise=0.04**2)
    assert seen.noise == pytest.approx(0.04**2)
    assert seen.skill_above_noise > 0.7
    assert refusal(seen) is None
    assert refusal(new) is not None


def test_pairs_outside_what_was_learned_from():
    features = np.zeros((2, 3, 3))
    trained = np.array([[False, True, False], [True, False, False], [False, False, False]])
    features[0, 0, 1], features[0, 1, 0] = -1.0, 1.0
    features[0, 0, 2], features[0, 2, 0], features[1, 2, 1] = 1.9, 2.1, -1.1
    expected = np.zeros((3, 3), bool)
    expected[2, 0] = expected[2, 1] = True
    assert (outside(features, trained) == expected).all()
    assert not outside(features, np.zeros((3, 3), bool)).any()


def test_features_of_a_pair_by_hand():
    learner, teacher = About(80.0, 0.9, 20_000_000, "vit"), About(82.0, 0.8, 5_000_000, "vit")
    pair = {"n01": 0.10, "n10": 0.08, "n00": 0.10, "ensemble": 83.5}
    found = dict(zip(FEATURES, pair_features(learner, teacher, pair), strict=True))
    assert found == pytest.approx(
        {
            "ensemble_gain": 3.5,
            "right_where_wrong": 0.10,
            "disagreement": 0.18,
            "accuracy_gap": 2.0,
            "wrong_where_right": 0.08,
            "error_overlap": 0.10 / 0.28,
            "partner_nll": 0.8,
            "same_family": 1.0,
            "params_ratio": np.log(0.25),
        }
    )
    assert pair_features(learner, teacher, {"n01": 0.0, "n10": 0.0, "n00": 0.0})[0] is None


def test_features_are_centred_within_learners_and_scaled():
    raw = np.random.default_rng(0).standard_normal((2, 5, 5)) + 7
    raw[0, 1, 2] = np.nan
    raw[1] = np.arange(5.0)[:, None] / 3  # the same for all partners of a learner
    found = standardised(raw)
    off = ~np.eye(5, dtype=bool)
    assert found.sum(2) == pytest.approx(np.zeros((2, 5)), abs=1e-12)
    assert found[0, 1, 2] == 0
    assert (found[0][off] ** 2).sum() / 19 == pytest.approx(1)
    assert not found[1].any()
    assert not found[:, ~off].any()
    assert standardised(np.zeros((0, 3, 3))).shape == (0, 3, 3)
