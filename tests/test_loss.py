"""The joint loss against vectors worked out elsewhere, and against its plain equations."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from bikd_ray.errors import UserError
from bikd_ray.transfer import OBJECTIVES, joint_loss

VECTORS = json.loads((Path(__file__).parent / "data" / "method-vectors.json").read_text())
CLASSIFICATION = VECTORS["classification"]
LABELS = torch.tensor(CLASSIFICATION["labels"])
LOGITS = torch.tensor(CLASSIFICATION["logits"], dtype=torch.float64)
CASES = [k for k, v in CLASSIFICATION.items() if isinstance(v, dict)]


def exact(actual, expected):
    assert_close(
        actual.detach(), torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-12, atol=1e-12
    )


def gradient(z: torch.Tensor) -> torch.Tensor:
    assert z.grad is not None
    return z.grad


def leaf(models: int) -> torch.Tensor:
    return LOGITS[:models].clone().requires_grad_()


@pytest.mark.parametrize("case", CASES)
def test_bikd_equals_the_vectors(case):
    want = CLASSIFICATION[case]
    models, ties = int(case[1]), case.split("_")[2]
    z = leaf(models)
    loss = joint_loss(
        z,
        LABELS,
        temperature=want["T"],
        ties=ties,
        detach_teacher="no_detach" not in case,
    )
    loss.total.backward()
    exact(loss.total, want["total"])
    exact(loss.supervised, want["ce"])
    exact(loss.divergence, want["kl_per_model"])
    exact(gradient(z), want["grad"])
    assert loss.teacher.tolist() == want["teacher"]


@pytest.mark.parametrize(("models", "rule"), [(2, "last"), (3, "first")])
def test_auto_ties_follow_the_papers_equation_for_that_k(models, rule):
    z = leaf(models)
    assert torch.equal(joint_loss(z, LABELS).teacher, joint_loss(z, LABELS, ties=rule).teacher)


@pytest.mark.parametrize(
    ("key", "t", "weight"), [("kd_T1_lambda0.5", 1, 0.5), ("kd_T4_lambda0.9", 4, 0.9)]
)
def test_kd_equals_the_vectors(key, t, weight):
    want = VECTORS["baselines"][key]
    z = leaf(1)
    loss = joint_loss(z, LABELS, "kd", frozen=LOGITS[1:2], temperature=t, kd_weight=weight)
    loss.total.backward()
    exact(loss.total, want["loss"])
    exact(gradient(z)[0], want["grad_student"])


@pytest.mark.parametrize(
    ("objective", "key"),
    [("kl_dp", "kl_dp_unsupervised"), ("kl_dp_supervised", "kl_dp_supervised")],
)
def test_kl_dp_equals_the_vectors(objective, key):
    want = VECTORS["baselines"][key]
    initial = torch.tensor(VECTORS["baselines"]["student_teacher_logits"], dtype=torch.float64)
    z = leaf(1)
    loss = joint_loss(z, LABELS, objective, frozen=torch.stack([initial, LOGITS[1]]))
    loss.total.backward()
    exact(loss.total, want["loss"])
    exact(gradient(z)[0], want["grad_student"])
    assert (loss.teacher == 2).int().tolist() == want["teacher_mask"]


def test_dml_and_ce_equal_the_vectors():
    z = leaf(3)
    dml = joint_loss(z, LABELS, "dml")
    dml.total.backward()
    exact(
        dml.supervised + dml.divergence,
        VECTORS["baselines"]["dml_K3_simultaneous"]["loss_per_model"],
    )
    exact(gradient(z), VECTORS["baselines"]["dml_K3_simultaneous"]["grad"])
    z = leaf(3)
    ce = joint_loss(z, LABELS, "ce")
    ce.total.backward()
    exact(ce.total, VECTORS["baselines"]["ce_only_K3"]["loss"])
    exact(gradient(z), VECTORS["baselines"]["ce_only_K3"]["grad"])


def test_kd_with_several_teachers_learns_from_their_mean_softened_distribution():
    z = LOGITS[:1]
    q = (LOGITS[1:] / 2).softmax(-1).mean(0)
    kl = (q * (q.log() - (z[0] / 2).log_softmax(-1))).sum(-1).mean() * 4
    loss = joint_loss(z, LABELS, "kd", frozen=LOGITS[1:], temperature=2.0)
    exact(loss.divergence[0], kl)
    assert loss.teacher.tolist() == [-1] * len(LABELS)
    one = joint_loss(z, LABELS, "kd", frozen=LOGITS[1:2])
    assert one.teacher.tolist() == [1] * len(LABELS)


def test_self_is_ce_plus_the_pull_of_the_initial_copy():
    z, initial = leaf(1), LOGITS[1:2]
    loss = joint_loss(z, LABELS, "self", frozen=initial)
    p = initial[0].softmax(-1)
    kl = (p * (p.log() - z[0].log_softmax(-1))).sum(-1).mean()
    ce = torch.nn.functional.cross_entropy(z[0], LABELS)
    exact(loss.total, ce + kl)
    assert joint_loss(initial, LABELS, "self", frozen=initial).divergence.abs().max() < 1e-15


def test_a_sequence_of_models_and_a_stacked_tensor_are_the_same():
    exact(joint_loss(list(LOGITS), LABELS).total, joint_loss(LOGITS, LABELS).total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(dtype):
    z = torch.tensor(
        [[[200.0, 0.0, -200.0]], [[-200.0, 0.0, 200.0]]], dtype=dtype, requires_grad=True
    )
    loss = joint_loss(z, torch.tensor([1]))
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert loss.total.isfinite()
    assert gradient(z).isfinite().all()


def test_float32_agrees_with_float64():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 64, 100, generator=g, dtype=torch.float64) * 5
    y = torch.randint(100, (64,), generator=g)
    for objective in ("bikd", "dml"):
        assert_close(
            joint_loss(z.float(), y, objective).total.double(),
            joint_loss(z, y, objective).total,
            rtol=1e-5,
            atol=1e-6,
        )


def test_a_detached_teacher_gets_only_its_own_cross_entropy():
    z = leaf(2)
    loss = joint_loss(z, LABELS)
    loss.total.backward()
    alone = leaf(2)
    joint_loss(alone, LABELS, "ce").total.backward()
    for n, t in enumerate(loss.teacher.tolist()):
        exact(gradient(z)[t, n], gradient(alone)[t, n])
        assert not torch.equal(gradient(z)[1 - t, n], gradient(alone)[1 - t, n])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "bi-kd"}, "did you mean 'bikd'"),
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be > 0, got nan"),
        ({"ties": "middle"}, "unknown ties 'middle'"),
        ({"kd_weight": 2}, "kd_weight must be in [0, 1], got 2"),
        ({"logits": LOGITS[:1]}, "bikd takes at least 2 live models, got 1"),
        ({"objective": "kd"}, "kd takes exactly 1 live models, got 3"),
        ({"frozen": LOGITS}, "bikd takes exactly 0 frozen models, got 3"),
        ({"labels": LABELS[:2]}, "labels must be [B]"),
        ({"logits": [LOGITS[0], LOGITS[1, :2]]}, "one [B, C] shape"),
    ],
)
def test_a_wrong_value_is_named_with_its_choices(change, words):
    given = {"logits": LOGITS, "labels": LABELS, **change}
    with pytest.raises(UserError) as error:
        joint_loss(given.pop("logits"), given.pop("labels"), **given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_every_objective_of_the_method_is_in_the_table():
    assert sorted(OBJECTIVES) == ["bikd", "ce", "dml", "kd", "kl_dp", "kl_dp_supervised", "self"]
