"""The loss of any task: dense maps against vectors worked out elsewhere, and slow loops."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bikd_ray.errors import UserError
from bikd_ray.specs import Objective
from bikd_ray.specs.training import CONFIDENCE, OPTIONS
from bikd_ray.transfer import OBJECTIVES, compete_by, joint_loss, transfer_loss

VECTORS = json.loads((Path(__file__).parent / "data" / "dense-vectors.json").read_text())
EPS, IGNORED = VECTORS["about"]["eps"], VECTORS["about"]["ignore"]
CASES = [(key, ties) for key in ("maps_k2", "maps_k3") for ties in VECTORS[key]["by_ties"]]


def exact(actual: Tensor, expected: object) -> None:
    wanted = torch.as_tensor(expected, dtype=actual.dtype)
    assert_close(actual.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("key", "ties"), CASES)
def test_dense_maps_equal_the_vectors(key, ties):
    """The mean over pixels that are no padding; an image without labels has no teacher."""
    given, want = VECTORS[key], VECTORS[key]["by_ties"][ties]
    maps_KBCHW = torch.tensor(given["maps_KBCHW"], dtype=torch.float64, requires_grad=True)
    positive = maps_KBCHW + EPS
    log_prob = (positive / positive.sum(2, keepdim=True)).log().flatten(3)
    labelled_B = (torch.tensor(given["labels_BHW"]) != IGNORED).flatten(1).any(1)
    loss_KB = torch.tensor(given["task_loss_KB"], dtype=torch.float64)
    confidence_KB = (-loss_KB).masked_fill(~labelled_B, -torch.inf)
    valid_BP = torch.tensor(given["valid_BHW"]).flatten(1)
    loss = transfer_loss(log_prob, loss_KB, confidence_KB, ties=ties, valid_BP=valid_BP)
    assert loss.teacher.tolist() == want["teacher_B"]
    exact(loss.divergence, torch.tensor(want["student_kl_KB"], dtype=torch.float64).mean(1))
    exact(loss.divergence.sum(), want["distillation"])
    exact(loss.total, want["total_with_task_losses"])
    loss.total.backward()
    assert maps_KBCHW.grad is not None
    wanted = torch.tensor(want["gradient_KBCHW"], dtype=torch.float64)
    assert_close(maps_KBCHW.grad, wanted, rtol=1e-12, atol=1e-12 * wanted.abs().max().item())


def drawn(models: int, events: int = 5, positions: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """(log probabilities, own losses, valid) of 6 samples."""
    g = torch.Generator().manual_seed(models)
    z = torch.randn(models, 6, events, positions, generator=g, dtype=torch.float64)
    valid_BP = torch.rand(6, positions, generator=g) < 0.7
    valid_BP[0] = False
    return (2 * z).log_softmax(2), torch.rand(models, 6, generator=g).double(), valid_BP


def slow(log_prob: Tensor, valid: Tensor, teacher: list[int], t: float) -> list[float]:
    """The batch-mean divergence of each model, event by event."""
    models, samples, events, positions = log_prob.shape
    q = (log_prob / t).exp()
    q = q / q.sum(2, keepdim=True)
    sums = [0.0] * models
    for k, b in product(range(models), range(samples)):
        places = [p for p in range(positions) if valid[b, p]]
        for p, e in product(places, range(events)):
            if teacher[b] not in (k, -1):
                of, to = q[teacher[b], b, e, p], q[k, b, e, p]
                sums[k] += t**2 * float(of * (of / to).log()) / len(places)
    return [total / samples for total in sums]


@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_surest_of_anything_teaches_where_no_label_says_who_should(models, temperature):
    log_prob, loss_KB, valid_BP = drawn(models)
    sure, teacher = torch.zeros(models, 6, dtype=torch.float64), []
    for b in range(6):
        places = [p for p in range(3) if valid_BP[b, p]]
        for k in range(models):
            highest = [max(log_prob[k, b, :, p].tolist()) for p in places]
            sure[k, b] = sum(highest) / max(1, len(highest))
        order = range(models)
        best = max(order, key=lambda k: (float(sure[k, b]), k if models == 2 else -k))
        teacher.append(best)
    found = transfer_loss(
        log_prob, loss_KB, sure, valid_BP=valid_BP, temperature=temperature, ce_weight=0
    )
    assert found.teacher.tolist() == teacher
    exact(found.divergence, slow(log_prob, valid_BP, teacher, temperature))
    exact(found.total, sum(slow(log_prob, valid_BP, teacher, temperature)))


@pytest.mark.parametrize("models", [2, 3])
def test_bikd_by_the_highest_probability_needs_no_label(models):
    log_prob, _, _ = drawn(models, positions=1)
    z = log_prob.squeeze(3).requires_grad_()
    loss = joint_loss(z, None, confidence="max", ce_weight=0)
    teacher = [max(range(models), key=lambda k: float(z[k, b].detach().max())) for b in range(6)]
    everywhere = torch.ones(6, 1, dtype=torch.bool)
    assert loss.teacher.tolist() == teacher
    exact(loss.divergence, slow(log_prob.detach(), everywhere, teacher, 1.0))
    assert loss.supervised.tolist() == [0] * models
    labels = torch.zeros(6, dtype=torch.int64)
    with_labels = joint_loss(z, labels, confidence="max", ce_weight=0)
    assert torch.equal(
        torch.autograd.grad(loss.total, z)[0], torch.autograd.grad(with_labels.total, z)[0]
    )
    short: list[dict[str, Any]] = [{}, {"confidence": "max"}, {"ce_weight": 0}]
    for options in short:
        with pytest.raises(UserError, match=r"^bikd needs labels; without them: confidence max"):
            joint_loss(z, None, **options)


def reverse(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher) [B], no mixture of teachers gives it."""
    return (student.exp() * (student - teacher)).sum(1).mean(1)


@pytest.mark.parametrize(("objective", "live"), [("bikd", 3), ("dml", 3), ("kd", 1), ("kl_dp", 1)])
def test_a_divergence_of_a_tasks_own_is_that_of_every_pair_by_itself(objective, live):
    log_prob, loss_KB, _ = drawn(3)
    log_prob = log_prob.requires_grad_()
    confidence = log_prob.detach().amax(2).mean(2)
    found = transfer_loss(log_prob, loss_KB[:live], confidence, objective, divergence=reverse)
    other = log_prob.detach()
    if objective == "kd":  # two teachers are one, their mean
        other = torch.cat([other[:1], other[1:].exp().mean(0, keepdim=True).log()])
    for k in range(live):
        each = torch.stack([reverse(log_prob[k], teacher) for teacher in other]).detach()
        if objective == "dml":
            wanted = (each.sum(0) - each[k]).mean() / 2
        elif objective == "kd":
            wanted = each[1].mean()
        else:
            teacher = found.teacher
            wanted = (each.gather(0, teacher[None])[0] * (teacher != k)).mean()
        exact(found.divergence[k], wanted)
    (gradient,) = torch.autograd.grad(found.total, log_prob)
    assert gradient[:live].abs().sum() > 0
    assert not gradient[live:].any()


def test_an_infinite_divergence_of_one_who_does_not_teach_changes_nothing():
    log_prob, loss_KB, _ = drawn(2)

    def infinite(student: Tensor, teacher: Tensor) -> Tensor:
        return torch.where(torch.arange(6) < 3, torch.inf, reverse(student, teacher))

    confidence = torch.zeros(2, 6).double()
    confidence[1] = torch.tensor([-torch.inf] * 3 + [1.0] * 3)
    confidence[0, :3] = -torch.inf
    found = transfer_loss(log_prob, loss_KB, confidence, divergence=infinite)
    assert found.teacher.tolist() == [-1] * 3 + [1] * 3
    assert found.total.isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_prob_SBEP": torch.zeros(2, 6, 5)}, r"log_prob must be \[S, B, E, P\], got \[2, 6"),
        ({"loss_KB": torch.zeros(2, 4)}, r"loss must be \[2, 6\], got \[2, 4\]"),
        ({"confidence_SB": torch.zeros(3, 6)}, r"confidence must be \[2, 6\], got \[3, 6\]"),
        ({"valid_BP": torch.ones(6, 2).bool()}, r"valid must be \[6, 3\], got \[6, 2\]"),
        ({"valid_BP": torch.ones(6, 3)}, "valid must be bool, got torch.float32"),
        ({"loss_KB": torch.zeros(1, 6)}, "bikd takes at least 2 live models, got 1"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    log_prob, loss_KB, _ = drawn(2)
    given: dict[str, Any] = {
        "log_prob_SBEP": log_prob,
        "loss_KB": loss_KB,
        "confidence_SB": -loss_KB,
    }
    with pytest.raises(UserError, match=f"^{message}"):
        transfer_loss(**{**given, **changes})


def test_who_competes_by_what():
    assert [compete_by(name) for name in ("bikd", "kl_dp", "kl_dp_supervised")] == [
        "label",
        "max",
        "label",
    ]
    assert compete_by("bikd", "max") == "max"
    with pytest.raises(
        UserError, match=r"^unknown confidence 'most'; choose from auto, label, max"
    ):
        compete_by("bikd", "most")


def test_the_confidence_of_an_objective_is_in_its_label_only_where_it_is_chosen():
    assert Objective().label == "bikd"
    assert Objective(confidence="max", ce_weight=0).label == "bikd(ce_weight=0.0, confidence=max)"
    with pytest.raises(ValueError, match=r"dml takes .*, not confidence"):
        Objective(name="dml", confidence="max")


@pytest.mark.parametrize(
    ("name", "by", "label"),
    [
        ("bikd", "label", "bikd"),
        ("kl_dp", "max", "kl_dp"),
        ("kl_dp", "label", "kl_dp_supervised"),
        ("kl_dp_supervised", "label", "kl_dp_supervised"),
        ("kl_dp_supervised", "max", "kl_dp"),
    ],
)
def test_one_way_to_train_has_one_label(name, by, label):
    found = Objective(name=name, confidence=by)
    assert found.label == label
    assert compete_by(found.name, found.confidence) == by


def test_specs_and_losses_agree_on_who_chooses_by_what():
    assert set(CONFIDENCE) == {name for name, known in OPTIONS.items() if "confidence" in known}
    assert {name: OBJECTIVES[name].confidence for name in CONFIDENCE} == CONFIDENCE


@pytest.mark.parametrize("by", ["label", "max"])
@pytest.mark.parametrize("name", CONFIDENCE)
@pytest.mark.parametrize("count", [2, 3])
def test_every_objective_that_chooses_its_teachers_does_so_by_the_label_or_by_anything(
    name, by, count
):
    """Image by image in plain floats, from softmaxes."""
    directed = name != "bikd"
    z = drawn(count + directed, positions=1)[0].squeeze(3)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    objective = Objective(name=name, confidence=by)
    live, frozen = (z[:1], z[1:]) if directed else (z, None)
    found = joint_loss(live, labels, objective.name, frozen=frozen, confidence=objective.confidence)
    p, pupils = z.softmax(2).tolist(), 1 if directed else count
    teachers, divergence, supervised = [], [0.0] * pupils, [0.0] * pupils
    for b, label in enumerate(labels.tolist()):
        first = 1 if directed else 0
        sure = {k: p[k][b][label] if by == "label" else max(p[k][b]) for k in range(first, len(p))}
        teacher = max(sure, key=lambda k: sure[k])
        teachers.append(teacher)
        for k in range(pupils):
            supervised[k] -= math.log(p[k][b][label]) / len(labels)
            both = zip(p[teacher][b], p[k][b], strict=True)
            divergence[k] += sum(t * math.log(t / q) for t, q in both) / len(labels)
    assert found.teacher.tolist() == teachers
    exact(found.divergence, divergence)
    exact(found.supervised, supervised)
    exact(found.total, sum(divergence) + (0 if directed else sum(supervised)))
