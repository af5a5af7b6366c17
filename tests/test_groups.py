"""Which models train together: groups of one model and of all, and what they cost."""

import json
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.analysis.groups import (
    all_classes,
    best_size,
    by_gains,
    gain_by_size,
    greedy_group,
    greedy_groups,
    group_cost,
    nested,
    next_size,
    random_groups,
)

VECTORS = json.loads((Path(__file__).parent / "data" / "search-vectors.json").read_text())


def test_a_group_by_ensembles():
    given = VECTORS["greedy_group"]
    probabilities = [np.array(one) for one in given["probabilities"]]
    labels = np.array(given["labels"])
    steps = greedy_group(probabilities, labels, given["start"], given["size"])
    assert [[s.model, pytest.approx(s.score, abs=1e-10)] for s in steps] == given["added"]
    assert {s.model for s in greedy_group(probabilities, labels, 0, 9, among=[3, 1])} == {1, 3}
    assert greedy_group(probabilities, labels, 0, 1) == []


def test_softmaxes_from_their_largest_probabilities():
    whole = np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25]])
    order = np.argsort(-whole, axis=1, kind="stable")
    ranked = np.take_along_axis(whole, order, 1)
    assert all_classes(order, ranked, 3) == pytest.approx(whole)
    assert all_classes(order[:, :1], ranked[:, :1], 3) == pytest.approx(
        np.array([[0.2, 0.6, 0.2], [0.5, 0.25, 0.25]])
    )


def test_a_group_by_gains_begins_with_the_best_partner():
    effect = np.array([[0, 0.1, 0.3, -np.inf], [0.2, 0, 0.2, 0.1], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert by_gains(effect, 0, 4) == (0, 2, 1)
    assert by_gains(effect, 1, 3) == (1, 0, 2)  # equals in their order


def test_nested_groups_grow_until_one_more_makes_it_worse():
    assert nested((4, 1, 7)) == [(4, 1), (4, 1, 7)]
    assert next_size({}, 4) == 2
    assert next_size({2: 0.3}, 4) == 3
    assert next_size({2: 0.3, 3: 0.3}, 4) == 4
    assert next_size({2: 0.3, 3: 0.2}, 4) is None
    assert next_size({2: 0.3, 3: 0.4, 4: 0.5}, 4) is None
    assert best_size({2: 0.3, 3: 0.4, 4: 0.4}) == 3
    assert best_size({}) is None


@pytest.mark.parametrize(("models", "size"), [(10, 4), (12, 4), (5, 2), (3, 8)])
def test_every_model_is_in_one_group_of_about_the_same_size(models, size):
    rng = np.random.default_rng(1)
    effect = rng.standard_normal((models, models))
    for groups in (
        random_groups(models, size, seed=3),
        greedy_groups(rng.standard_normal(models), effect, size),
    ):
        assert sorted(m for group in groups for m in group) == list(range(models))
        sizes = [len(group) for group in groups]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= size
    assert random_groups(models, size, 3) == random_groups(models, size, 3)


def test_greedy_groups_put_together_who_gives_most():
    learns = np.array([0.9, 0.8, 0.2, 0.1])
    effect = np.zeros((4, 4))
    effect[0, 3], effect[2, 1] = 0.5, 0.4
    assert greedy_groups(learns, effect, 2) == [(0, 3), (1, 2)]


def test_what_groups_cost():
    given = VECTORS["cost"]
    looks = (given["epochs"] + 1) * given["n_val"]
    work = [
        given["epochs"] * given["n_train"] * train + looks * forward
        for train, forward in given["pace"].values()
    ]
    for names, expected in given["group"].items():
        group = tuple(range(len(names.split("+"))))
        assert group_cost(work, [group]).groups == pytest.approx(expected, abs=1e-10)
    whole = group_cost(work, [(0, 1, 2, 3)])
    assert whole.pairs == pytest.approx(given["map_of_pairs"], abs=1e-10)
    assert whole.ratio == pytest.approx(given["ratio_map_to_one_group"], abs=1e-10)
    assert whole.controls == whole.groups
    assert group_cost(work, [(0, 1), (2, 3)]).groups == whole.groups


def test_what_a_model_more_adds_is_told_within_each_learner():
    size = np.array([2, 3, 4, 2, 3, 4.0])
    learner = np.array([0, 0, 0, 1, 1, 1])
    noise = np.array([0.01, -0.02, 0.01, -0.01, 0.02, -0.01])
    slope, error = gain_by_size(size, learner, 5.0 * learner + 0.3 * size + noise)
    assert slope == pytest.approx(0.3)
    assert error == pytest.approx((6e-4 * 2 / 3 * 3 / 3 / 4) ** 0.5, rel=0.5)
    assert np.isnan(gain_by_size(size[:3] * 0 + 2, learner[:3], size[:3])).all()
