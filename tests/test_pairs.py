"""Pair statistics against vectors worked out elsewhere, and ensembles against full softmax."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bikd_ray.analysis.pairs import Answers, counts, ensemble, pair_statistics
from bikd_ray.tasks.classification import outcome

WANT = json.loads((Path(__file__).parent / "data" / "method-vectors.json").read_text())["analysis"]


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
    assert got["oracle_top1"] == pytest.approx(100 * WANT["oracle_accuracy"])
    assert got["error_overlap"] == pytest.approx(2 / 5)


def test_a_model_that_is_always_right_has_no_kappa_rather_than_a_wrong_one():
    got = counts(np.ones(4, bool), np.ones(4, bool))
    assert got["kappa"] is None
    assert got["q"] is None
    assert got["phi"] is None
    assert got["error_overlap"] is None


def answers(logits, labels):
    o = outcome(logits, labels)
    return Answers(o.correct_N, o.predicted_N, o.top_classes_Nk, o.top_probs_Nk)


@pytest.mark.parametrize("classes", [10, 200])
def test_ensembles_from_stored_probabilities_equal_the_full_softmax_where_certain(classes):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 400, classes, generator=g) * 3
    labels = torch.randint(classes, (400,), generator=g)
    a, b = (answers(logits, labels) for logits in z)
    predicted, certain = ensemble(a, b, classes)
    full = z.softmax(-1).mean(0).argmax(-1).numpy()
    assert np.array_equal(predicted[certain], full[certain])
    assert certain.mean() == 1 if classes == 10 else certain.mean() > 0.8


def test_all_pairs_come_once_and_in_order():
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (50,), generator=g)
    zoo = [answers(torch.randn(50, 10, generator=g), labels) for _ in range(4)]
    rows = list(pair_statistics(zoo, labels.numpy(), 10))
    assert [(i, j) for i, j, _ in rows] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert all(r["ensemble_uncertain"] == 0 for *_, r in rows)
