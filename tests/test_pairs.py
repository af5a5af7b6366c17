"""Pair statistics against vectors worked out elsewhere, and ensembles against full softmax."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bikd_ray.analysis.pairs import (
    StoredPredictions,
    counts,
    ensemble,
    overlaps,
    pair_statistics,
    settle,
)
from bikd_ray.sweep.events import JobRequest
from bikd_ray.train import Fit, fit
from tests.answers import statistics
from tests.jobs import result_of
from tests.plain_loop import CPU, NAMES, job_of, networks_of

VECTORS = json.loads((Path(__file__).parent / "data" / "method-vectors.json").read_text())
WANT = VECTORS["analysis"]


def test_counts_equal_the_vectors():
    got = counts(np.array(WANT["correct_a"]), np.array(WANT["correct_b"]))
    for ours, theirs in {
        "n11": "N11",
        "n10": "N10",
        "n01": "N01",
        "n00": "N00",
        "error_inconsistency": "error_inconsistency",
        "double_fault": "double_fault",
        "kappa": "kappa_error_consistency",
        "q": "Q",
        "phi": "rho_phi",
    }.items():
        assert got[ours] == pytest.approx(WANT[theirs], rel=1e-12), ours
    assert got["oracle"] == pytest.approx(100 * WANT["oracle_accuracy"], rel=1e-12)
    assert got["error_overlap"] == pytest.approx(2 / 5, rel=1e-12)


@pytest.mark.parametrize("other", [[1, 1, 1, 1], [0, 0, 0, 0]])
def test_two_models_that_never_differ_have_no_kappa_rather_than_a_wrong_one(other):
    got = counts(np.array(other, bool), np.array(other, bool))
    assert got["kappa"] is None
    assert got["q"] is None
    assert got["phi"] is None


def test_a_model_that_is_always_right_agrees_with_others_only_by_chance():
    got = counts(np.ones(7, bool), np.arange(7) < 3)
    assert got["kappa"] == 0
    assert got["q"] is None
    assert got["phi"] is None
    assert got["error_overlap"] == 0


def test_rows_of_all_pairs_equal_those_counted_one_sample_at_a_time():
    rng = np.random.default_rng(0)
    labels = rng.integers(300, size=77)
    zoo = [np.where(rng.random(77) < 0.6, labels, rng.integers(300, size=77)) for _ in range(4)]
    rows = list(overlaps(zoo, labels))
    assert [(i, j) for i, j, _ in rows] == list(combinations(range(4), 2))
    for i, j, row in rows:
        seen = [(a == y, b == y, a != b) for a, b, y in zip(zoo[i], zoo[j], labels, strict=True)]
        assert row["n11"] == sum(a and b for a, b, _ in seen)
        assert row["n10"] == sum(a and not b for a, b, _ in seen)
        assert row["n01"] == sum(b and not a for a, b, _ in seen)
        assert row["n00"] == sum(not (a or b) for a, b, _ in seen)
        assert row["disagreement"] == sum(differ for *_, differ in seen) / 77
        assert row == {**counts(zoo[i] == labels, zoo[j] == labels), **row}


def test_only_the_wanted_pairs_come_and_in_their_order():
    labels = np.array([0, 1, 2])
    zoo = [labels, np.array([0, 1, 1]), np.array([0, 0, 0])]
    rows = list(overlaps(zoo, labels, [(2, 0), (0, 1)]))
    assert [(i, j, row["n10"], row["n01"]) for i, j, row in rows] == [(2, 0, 0, 2), (0, 1, 1, 0)]


def test_case_shares_equal_the_vectors():
    probs, labels = np.array(VECTORS["cases"]["probs"]), np.array(VECTORS["cases"]["labels"])
    ((_, _, row, _),) = pair_statistics([stored(p, 3, labels=labels) for p in probs], labels)
    for case in (1, 2, 3, 4):
        assert row[f"case{case}"] == pytest.approx(VECTORS["cases"]["case"].count(case) / 6)


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return (exp / exp.sum(-1, keepdims=True)).astype(np.float32)


def zoo_of_two(classes, sharpness, samples=400, seed=0):
    """Labels and float32 probabilities [2, N, C] of models that share what is hard."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    logits = rng.normal(size=(samples, classes)) + rng.normal(size=(2, samples, classes))
    hard = rng.normal(3.5, 2, samples)
    logits[:, np.arange(samples), labels] += hard + rng.normal(size=(2, samples))
    return labels, softmax(sharpness * logits)


def tied_zoo(classes, samples=400, seed=0):
    """The same in eighths and sixteenths: equal probabilities and equal sums everywhere."""
    rng = np.random.default_rng(seed)
    few = np.array([0, 0.0625, 0.125, 0.25, 0.375], np.float32)
    return rng.integers(classes, size=samples), rng.choice(few, (2, samples, classes))


def stored(probs, k, dtype: Any = np.int32, labels: Any = 0):
    order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(probs, order, 1)
    return StoredPredictions(
        order[:, 0].astype(dtype), order.astype(dtype), top, of_label(probs, labels)
    )


def of_label(probs, labels):
    return probs[np.arange(len(probs)), labels]


CASES = {
    "2 classes": (zoo_of_two, (2, 1), 2, np.uint8),
    "10 classes": (zoo_of_two, (10, 1), 10, np.int32),
    "50 classes, flat": (zoo_of_two, (50, 0.1), 32, np.int32),
    "50 classes, peaked": (zoo_of_two, (50, 2), 32, np.int16),
    "256 classes in bytes": (zoo_of_two, (256, 1), 32, np.uint8),
    "1000 classes, flat": (zoo_of_two, (1000, 0.3), 32, np.uint16),
    "1000 classes, peaked": (zoo_of_two, (1000, 2), 32, np.uint16),
    "ties, all stored": (tied_zoo, (6,), 6, np.int32),
    "ties, half stored": (tied_zoo, (6,), 3, np.int32),
    "ties, one stored": (tied_zoo, (4,), 1, np.int32),
    "ties among 12, all stored": (tied_zoo, (12,), 12, np.int32),
    "ties among 12, most stored": (tied_zoo, (12,), 11, np.int32),
    "ties among 40": (tied_zoo, (40,), 32, np.int32),
}


@pytest.mark.parametrize("case", CASES)
def test_certified_samples_are_right_and_the_others_are_settled_exactly(case):
    make, arguments, k, dtype = CASES[case]
    labels, probs = make(*arguments)
    full = probs.astype(np.float64).sum(0).argmax(-1)
    a, b = (stored(p, k, dtype) for p in probs)
    predicted, certain = ensemble(a, b)
    assert np.array_equal(predicted[certain], full[certain])
    if k == probs.shape[-1]:
        assert certain.all()

    _, _, row, undecided = next(pair_statistics([a, b], labels))
    open_samples = undecided.samples_U
    assert open_samples.dtype == np.int64
    assert np.array_equal(open_samples, np.flatnonzero(~certain))
    want = 100 * float((full == labels).mean())
    assert row["ensemble"] == (None if len(open_samples) else pytest.approx(want, rel=1e-12))
    probs_a, probs_b = probs[:, open_samples]
    settled = settle(row, undecided, probs_a, probs_b, labels[open_samples])
    assert settled == {**row, "ensemble": pytest.approx(want, rel=1e-12)}


def test_models_of_one_mind_on_all_classes_win_the_tie_by_class_order():
    even = np.full((1, 4), 0.25, np.float32)
    predicted, certain = ensemble(stored(even, 4), stored(even, 4))
    assert predicted.tolist() == [0]
    assert certain.all()


def test_a_class_that_neither_model_stored_can_win_and_is_not_certified_away():
    a = np.array([[0.30, 0.25, 0.24, 0.11, 0.10]], np.float32)
    b = np.array([[0.10, 0.11, 0.24, 0.30, 0.25]], np.float32)
    two = stored(a, 2), stored(b, 2)
    _, _, row, undecided = next(pair_statistics(two, np.array([2])))
    assert row["ensemble"] is None
    assert undecided.samples_U.tolist() == [0]
    assert settle(row, undecided, a, b, np.array([2]))["ensemble"] == 100


def test_a_tie_that_may_fall_to_a_lower_class_is_not_certified():
    a = np.array([[0.250, 0.500, 0.250, 0.000]], np.float32)
    b = np.array([[0.125, 0.125, 0.125, 0.625]], np.float32)
    two = stored(a, 2), stored(b, 2)  # class 3 has 0.625 for sure, class 1 has as much at most
    _, _, row, undecided = next(pair_statistics(two, np.array([1])))
    assert undecided.samples_U.tolist() == [0]
    assert settle(row, undecided, a, b, np.array([1]))["ensemble"] == 100


@pytest.mark.parametrize("k", [1, 3])
def test_sums_that_only_float32_would_call_equal_are_told_apart(k):
    a = np.array([[0.5, 0.5, 0]], np.float32)
    b = np.array([[0.25, 0.25 + 2**-25, 0.5]], np.float32)
    assert (a + b)[0, 0] == (a + b)[0, 1]
    two, labels = (stored(a, k), stored(b, k)), np.array([1])
    _, _, row, undecided = next(pair_statistics(two, labels))
    samples = undecided.samples_U
    row = settle(row, undecided, a[samples], b[samples], labels[samples])
    assert row["ensemble"] == 100


def test_a_winner_that_one_model_did_not_store_is_certified_when_nothing_can_reach_it():
    a = np.array([[0.90, 0.04, 0.03, 0.02, 0.01]], np.float32)
    b = np.array([[0.01, 0.02, 0.03, 0.54, 0.40]], np.float32)
    predicted, certain = ensemble(stored(a, 2), stored(b, 2))
    assert predicted.tolist() == [0]
    assert certain.all()


@pytest.mark.parametrize(("classes", "sharpness"), [(50, 2), (1000, 2)])
def test_nearly_all_samples_of_peaked_models_are_certified(classes, sharpness):
    _, probs = zoo_of_two(classes, sharpness, samples=1000)
    a, b = (stored(p, 32) for p in probs)
    differ = a.predicted_N != b.predicted_N
    _, certain = ensemble(a, b)
    assert differ.mean() > 0.2
    assert certain.mean() > 0.98
    assert certain[differ].mean() > 0.95


@pytest.mark.parametrize("classes", [10, 200])
def test_ensembles_of_measured_models_equal_the_mean_softmax(classes):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 400, classes, generator=g) * 3
    labels = torch.randint(classes, (400,), generator=g)
    measured = [statistics(logits, labels) for logits in z]
    zoo = [StoredPredictions(*(o[name] for name in STORED)) for o in measured]
    _, _, row, undecided = next(pair_statistics(zoo, labels.numpy()))
    samples = undecided.samples_U
    probs_a, probs_b = z[:, samples].softmax(-1).numpy()
    row = settle(row, undecided, probs_a, probs_b, labels.numpy()[samples])
    want = (z.softmax(-1).mean(0).argmax(-1) == labels).float().mean().item()
    assert row["ensemble"] == pytest.approx(100 * want)


RECIPE = {"epochs": 2, "batch_size": 16, "lr": 1e-2}
STORED = ("predicted", "top_classes", "top_probs", "label_prob")
AFTER = ("case1_after", "case2_after", "case3_after", "case4_after")


@pytest.mark.parametrize("name", ["bikd", "kd"])
@pytest.mark.parametrize("selection", ["last", "best_val"])
def test_a_job_of_two_says_what_both_know_after_it(spec_file, tmp_path, name, selection):
    job = job_of(spec_file, NAMES[:2], {"name": name}, recipe=RECIPE)
    end = result_of(JobRequest(job, "tiny", str(tmp_path)))
    rows = [r for r in end.results if (r["selection"], r["metric"]) == (selection, "top1")]
    *_, whole = fit(job, networks_of(job, lambda network: network), CPU)
    assert isinstance(whole, Fit)
    known = [chosen.outcome for chosen in whole.chosen[selection]]
    a, b = [*known, whole.before.outcomes[1]][:2]
    told = [0, 0, 0, 0]
    for right_a, right_b, prob_a, prob_b in zip(
        *(o.scores["top1"] for o in (a, b)),
        *(o.statistics["label_prob"] for o in (a, b)),
        strict=True,
    ):
        teacher, student = (right_a, right_b) if prob_a > prob_b else (right_b, right_a)
        told[(0 if student else 1) if teacher else (3 if student else 2)] += 1
    for row in rows:
        assert [row[case] for case in AFTER] == [count / len(a.scores["top1"]) for count in told]
    assert len(rows) == (2 if name == "bikd" else 1)


def test_a_job_of_one_or_three_has_no_cases(spec_file, tmp_path):
    for names, objective in ((NAMES[:1], "ce"), (NAMES[:3], "bikd")):
        job = job_of(spec_file, names, {"name": objective}, recipe={**RECIPE, "epochs": 1})
        end = result_of(JobRequest(job, "tiny", str(tmp_path)))
        assert not any(case in row for row in end.results for case in AFTER)
