"""What numbers say of the network that gave them: no logits, no better than chance, or sound."""

import numpy as np
import pytest
import torch

from bikd_ray.tasks.plausible import Diagnosis, Plausibility, diagnose, plausibility
from tests.answers import statistics


def logits(images: int = 6, classes: int = 5, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(images, classes, generator=torch.Generator().manual_seed(0))


# Logits


@pytest.mark.parametrize(
    "sound",
    [
        logits(),
        logits().log_softmax(1),
        logits(classes=2),
        logits(images=1),
        logits(classes=1),
        logits(scale=1e-4),
        logits(scale=1e4),
        logits().half(),
        logits().clamp(0, 4),  # ends in a ReLU6
    ],
    ids=["logits", "log-softmax", "2 classes", "1 image", "1 class", "small", "large", "half", "6"],
)
def test_sound_logits_are_sound(sound):
    assert diagnose(sound).sound


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("scale", "classes"), [(1, 2), (3, 5), (0.01, 1000), (300, 10)])
def test_rows_within_0_and_1_that_sum_to_1_are_probabilities(kind, scale, classes):
    exact = kind != torch.bfloat16  # rounds each probability by up to 0.4%
    found = diagnose(logits(6, classes, scale).softmax(1).to(kind))
    assert found.probabilities or not exact
    assert not found.bounded or not exact


def test_other_numbers_within_0_and_1_are_bounded():
    assert diagnose(logits().sigmoid()) == Diagnosis(bounded=True)
    assert diagnose(torch.rand(6, 5)) == Diagnosis(bounded=True)  # a judge needs other images too


def test_rows_that_sum_to_1_and_leave_0_to_1_are_logits():
    some = logits()
    assert diagnose(some - some.mean(1, keepdim=True) + 1 / 5).sound


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named_by_image(value):
    some = logits()
    some[2, 1] = some[4, 0] = value
    assert diagnose(some) == Diagnosis(not_finite=(2, 4))
    assert diagnose(torch.full((3, 2), value)) == Diagnosis(not_finite=(0, 1, 2))


def test_the_same_answer_for_every_image_is_constant_and_nothing_else():
    assert diagnose(logits(1).expand(6, 5)) == Diagnosis(constant=True)
    assert diagnose(torch.zeros(4, 3)) == Diagnosis(constant=True)
    assert diagnose(torch.tensor([[0.0, 1.0]]).expand(4, 2)) == Diagnosis(constant=True)
    rounded = logits(1).expand(6, 5) * (1 + 1e-7 * torch.randn(6, 5))
    assert diagnose(rounded).constant


# Accuracy


def judged(right: int, n: int, chance: float, published: float | None = None) -> Plausibility:
    return Plausibility(right, n, chance, published, one_answer=False, reordered=False)


@pytest.mark.parametrize(
    ("right", "n", "chance"),
    [(0, 200, 0.1), (1, 200, 0.1), (25, 200, 10.0), (4, 16, 25.0), (100, 200, 50.0), (5, 50, 10)],
)
def test_what_guessing_gets_too_is_suspicious(right, n, chance):
    assert judged(right, n, chance).at_chance
    assert "no better than chance" in (judged(right, n, chance).suspicion or "")


@pytest.mark.parametrize(
    ("right", "n", "chance"),
    [(3, 200, 0.1), (2, 25, 0.1), (35, 200, 10.0), (16, 16, 25.0), (120, 200, 50.0)],
)
def test_what_guessing_hardly_gets_is_not(right, n, chance):
    assert judged(right, n, chance).suspicion is None


@pytest.mark.parametrize(("right", "n", "chance"), [(3, 3, 25.0), (0, 1, 50.0), (50, 50, 100.0)])
def test_too_few_images_or_one_class_say_nothing(right, n, chance):
    assert judged(right, n, chance).suspicion is None


def test_chance_is_the_test_of_the_binomial_distribution():
    # P(X >= 6 of 20 at 1/10) = 0.0113, P(X >= 7) = 0.0024
    assert judged(6, 20, 10.0).at_chance
    assert not judged(7, 20, 10.0).at_chance


def test_far_below_the_published_value_is_suspicious_and_near_is_not():
    assert "far below" in (judged(120, 200, 0.1, 82.5).suspicion or "")
    assert judged(155, 200, 0.1, 82.5).suspicion is None
    assert judged(17, 25, 0.1, 82.5).suspicion is None  # an accident once in 17
    assert judged(200, 200, 0.1, 82.5).suspicion is None


def test_the_line_names_what_is_known():
    assert judged(161, 200, 0.1, 82.46).line == (
        "80.5% of 200 val images (chance 0.1%, published 82.5%)"
    )
    assert judged(3, 4, 25.0).line == "75.0% of 4 val images (chance 25%)"


def measured(predicted: np.ndarray, labels: np.ndarray, classes: int) -> Plausibility:
    picked = torch.nn.functional.one_hot(torch.from_numpy(predicted), classes).float()
    return plausibility(statistics(9 * picked, torch.from_numpy(labels)), labels)


def test_chance_is_that_of_the_most_frequent_class():
    labels = np.repeat([0, 1], [90, 10])
    always = measured(np.zeros(100, np.int64), labels, 2)
    assert (always.chance, always.top1) == (90.0, 90.0)
    assert "the same answer for all 100 val images" in (always.suspicion or "")
    assert measured(labels, labels, 2).suspicion is None


@pytest.mark.parametrize(("classes", "n"), [(4, 40), (10, 200), (1000, 200)])
def test_classes_in_another_order_are_told_from_a_guess(classes, n):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    knows = np.where(rng.random(n) < 0.8, labels, rng.integers(0, classes, n))
    assert measured(knows, labels, classes).suspicion is None
    moved = measured((knows + 1) % classes, labels, classes).suspicion or ""
    assert "in another order" in moved
    assert "likely causes" not in moved
    guess = measured(rng.integers(0, classes, n), labels, classes).suspicion or ""
    assert "likely causes: another order of classes" in guess
