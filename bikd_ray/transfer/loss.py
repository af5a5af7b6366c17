"""The joint loss of K models: supervision plus what the chosen teachers add.

Suffixes: S sources (K live models, then F frozen ones), B samples, E events, P positions, C
classes.

Total (Jain et al. 2025, with unit weights and no division by K - 1):
    L = sum_k mean_n loss_k(n) + sum_k mean_n sum_s w[s, k, n] * T^2 * KL(q_s(n) || q_k(n)),
q = softmax(log p / T), KL a mean over the valid positions of sample n. Means over n run over all B
samples, also those that nobody teaches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bikd_ray.errors import UserError, choices
from bikd_ray.transfer.objectives import CONFIDENCES, OBJECTIVES, TIES, Rule

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(student [B, E, P], teacher [B, E, P]), log probabilities, to [B], nats."""


@dataclass(frozen=True)
class JointLoss:
    """`total` carries the gradient; the other three are detached measurements. Losses in nats."""

    total: Tensor  # scalar
    supervised: Tensor  # [K] batch-mean of the models' own losses
    divergence: Tensor  # [K] batch-mean T^2 * divergence from the student's teachers
    teacher: Tensor  # [B] int64: index among live then frozen models, -1 for none or several
    weights: tuple[float, float]  # of supervision and divergence in the total


def joint_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | None,
    objective: str = "bikd",
    *,
    temperature: float = 1.0,
    ties: str = "auto",
    detach_teacher: bool = True,
    frozen: Tensor | Sequence[Tensor] | None = None,
    kd_weight: float = 0.5,
    mask: bool = True,
    ce_weight: float = 1.0,
    kl_weight: float = 1.0,
    confidence: str = "auto",
) -> JointLoss:
    """The loss of K classifiers trained together on one batch, by default that of Bi-KD (Jain et
    al. 2025, Eq. 3 and 11; nats): the sum over the models of the mean cross-entropy and of
    T^2 * KL(teacher || student), a mean over all B samples, also those that nobody teaches.

    objective: `bikd`, `dml` (Zhang et al. 2018), `kd` (Hinton et al. 2015), `kl_dp` and
    `kl_dp_supervised` (Roth et al. 2024), `self` (taught by its own frozen start) or `ce`.
    logits: the K live models' [K, B, C], or K tensors [B, C]. labels: int64 [B]; None where the
    cross-entropy has no weight and the confidence is `max` (`supervised` is then 0).
    frozen: [F, B, C], with one live model: the teachers (`self`: the initial student; `kd`:
    several are averaged after the softmax), or the initial student and then the teachers
    (`kl_dp`, `kl_dp_supervised`).
    temperature: softens the distributions that are compared, never the choice of the teacher.
    ties: equal confidence goes to the `first` or `last` model, or teaches nobody (`drop`);
    `auto` is `last` for K = 2 (Eq. 3) and `first` for more (Eq. 11).
    detach_teacher: no gradient reaches a teacher through its lesson.
    kd_weight: the share of the divergence in `kd`; the cross-entropy has the rest.
    mask: False lets every live model teach every other on every sample (`bikd`, an ablation).
    ce_weight, kl_weight: of the two terms where an objective gives both weight 1.
    confidence: models compete by the probability of the true class (`label`) or by the highest one
    (`max`); `auto` is `max` for `kl_dp` and `label` for the others.

    Logits below float32 are raised to it; float64 stays. Raises UserError for values, shapes or
    numbers of models that the objective does not take.
    """
    rule = _rule(objective, temperature, ties, kd_weight, mask)
    by = compete_by(objective, confidence)
    logits_KBC = _stacked(logits, "logits")
    frozen_FBC = logits_KBC[:0] if frozen is None else _stacked(frozen, "frozen").detach()
    _check_shapes(objective, rule, logits_KBC, frozen_FBC, labels)
    live = len(logits_KBC)
    logp_SBC = torch.cat([logits_KBC, frozen_FBC]).log_softmax(-1)
    if labels is not None:
        index = labels.expand(len(logp_SBC), -1)[..., None]
        at_label_SB = logp_SBC.gather(-1, index).squeeze(-1)
    elif by == "max" and not ce_weight * rule.supervised(kd_weight):
        at_label_SB = logp_SBC.new_zeros(logp_SBC.shape[:2])
    else:
        raise UserError(f"{objective} needs labels; without them: confidence max and ce_weight 0")
    return transfer_loss(
        logp_SBC[..., None],
        -at_label_SB[:live],
        at_label_SB if by == "label" else logp_SBC.amax(-1),
        objective,
        temperature=temperature,
        ties=ties,
        detach_teacher=detach_teacher,
        kd_weight=kd_weight,
        mask=mask,
        ce_weight=ce_weight,
        kl_weight=kl_weight,
    )


def transfer_loss(
    log_prob_SBEP: Tensor,
    loss_KB: Tensor,
    confidence_SB: Tensor,
    objective: str = "bikd",
    *,
    valid_BP: Tensor | None = None,
    temperature: float = 1.0,
    ties: str = "auto",
    detach_teacher: bool = True,
    kd_weight: float = 0.5,
    mask: bool = True,
    ce_weight: float = 1.0,
    kl_weight: float = 1.0,
    divergence: Divergence | None = None,
) -> JointLoss:
    """`joint_loss` for models of any task: from what they answer, lose and are sure of.

    log_prob_SBEP: log probabilities of E events at P positions, the K live models first, then the
    frozen ones (`joint_loss` says which an objective takes). loss_KB: the live models' own losses,
    nats. confidence_SB: by which teachers are chosen; a source of -inf cannot teach, and a sample
    on which all have -inf has no teacher. valid_BP: bool, positions that count; None for all.
    divergence: of (student, teacher); None for KL(teacher || student), the mean over the valid
    positions. It gets the distributions at the temperature, and its gradient reaches a teacher
    where `detach_teacher` is False. Others: as in `joint_loss`. Raises UserError.
    """
    rule = _rule(objective, temperature, ties, kd_weight, mask)
    live, sources = len(loss_KB), len(log_prob_SBEP)
    _check_counts(objective, rule, live, sources - live)
    _check_answers(log_prob_SBEP, loss_KB, confidence_SB, valid_BP)
    confidence_SB = confidence_SB.detach()

    logq_SBEP = log_prob_SBEP
    if temperature != 1.0:
        logq_SBEP = (log_prob_SBEP / temperature).log_softmax(2)
    several = rule.mixed and sources - live > 1
    if several:
        mean_1BEP = logq_SBEP[live:].logsumexp(0, keepdim=True) - math.log(sources - live)
        logq_SBEP = torch.cat([logq_SBEP[:live], mean_1BEP])
        confidence_SB = confidence_SB[: live + 1]
    lessons = rule.lessons(confidence_SB, live, ties)
    teacher_B = lessons.teacher_N
    if several:
        teacher_B = torch.full_like(teacher_B, -1)
    logt_SBEP = logq_SBEP.detach() if detach_teacher else logq_SBEP
    if divergence is None:
        divergence_KB = _kl(logq_SBEP[:live], logt_SBEP, lessons.weights_SKN, valid_BP)
    else:
        divergence_KB = _of_pairs(logq_SBEP[:live], logt_SBEP, lessons.weights_SKN, divergence)
    divergence_KB = divergence_KB * temperature**2

    supervised_K, divergence_K = loss_KB.mean(1), divergence_KB.mean(1)
    weights = (ce_weight * rule.supervised(kd_weight), kl_weight * rule.divergence(kd_weight))
    total = weights[0] * supervised_K.sum() + weights[1] * divergence_K.sum()
    return JointLoss(total, supervised_K.detach(), divergence_K.detach(), teacher_B, weights)


def compete_by(objective: str, confidence: str = "auto") -> str:
    """By what the sources of an objective compete: `label` or `max`. Raises UserError."""
    if objective not in OBJECTIVES:
        raise UserError(f"unknown objective {objective!r}; {choices(objective, OBJECTIVES)}")
    if confidence not in CONFIDENCES:
        raise UserError(f"unknown confidence {confidence!r}; {choices(confidence, CONFIDENCES)}")
    return OBJECTIVES[objective].confidence if confidence == "auto" else confidence


def _kl(
    logq_KBEP: Tensor, logt_SBEP: Tensor, weights_SKB: Tensor, valid_BP: Tensor | None
) -> Tensor:
    """sum_s w[s,k,n] KL(t_s || q_k) as [K, B], the mean over the valid positions.

    KL is linear in (t_s, t_s log t_s), so the weighted sources are mixed first: one target
    [B, E, P] for each student, never an [S, K, B, E, P] tensor.
    """
    t_SBEP = logt_SBEP.exp()
    target_KBEP = torch.einsum("skb,sbep->kbep", weights_SKB, t_SBEP)
    negentropy_KBEP = torch.einsum("skb,sbep->kbep", weights_SKB, t_SBEP * logt_SBEP)
    kl_KBP = (negentropy_KBEP - target_KBEP * logq_KBEP).sum(2)
    if valid_BP is None:
        return kl_KBP.mean(-1)
    return kl_KBP.where(valid_BP, 0).sum(-1) / valid_BP.sum(-1).clamp(min=1)


def _of_pairs(
    logq_KBEP: Tensor, logt_SBEP: Tensor, weights_SKB: Tensor, divergence: Divergence
) -> Tensor:
    """The same with a divergence that is not linear in the teacher: every pair by itself.

    Who teaches whom is known to the device alone: only a model as its own teacher is left out.
    """
    rows = []
    for k, student in enumerate(logq_KBEP):
        row_B = weights_SKB.new_zeros(weights_SKB.shape[2])
        for s, teacher in enumerate(logt_SBEP):
            if s != k:
                weight_B = weights_SKB[s, k]
                found_B = weight_B * divergence(student, teacher)
                row_B = row_B + found_B.where(weight_B != 0, 0)
        rows.append(row_B)
    return torch.stack(rows)


def _stacked(logits: Tensor | Sequence[Tensor], name: str) -> Tensor:
    if not isinstance(logits, Tensor):
        shapes = {tuple(z.shape) for z in logits}
        if len(shapes) != 1:
            raise UserError(f"{name}: all models need one [B, C] shape, got {sorted(shapes)}")
        logits = torch.stack(tuple(logits))
    if logits.ndim != 3:
        raise UserError(f"{name} must be [models, B, C], got shape {list(logits.shape)}")
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def _rule(objective: str, temperature: float, ties: str, kd_weight: float, mask: bool) -> Rule:
    if objective not in OBJECTIVES:
        raise UserError(f"unknown objective {objective!r}; {choices(objective, OBJECTIVES)}")
    if not temperature > 0:
        raise UserError(f"temperature must be > 0, got {temperature}")
    if ties not in TIES:
        raise UserError(f"unknown ties {ties!r}; {choices(ties, TIES)}")
    if not 0 <= kd_weight <= 1:
        raise UserError(f"kd_weight must be in [0, 1], got {kd_weight}")
    rule = OBJECTIVES[objective]
    if mask:
        return rule
    if rule.unmasked is None:
        raise UserError(f"{objective} has no mask to leave off; mask=False goes with bikd")
    return replace(rule, lessons=rule.unmasked)


def _check_counts(objective: str, rule: Rule, live: int, frozen: int) -> None:
    for what, count, (fewest, most) in (
        ("live", live, rule.live),
        ("frozen", frozen, rule.frozen),
    ):
        if count < fewest or (most is not None and count > most):
            bound = f"at least {fewest}" if count < fewest else f"at most {most}"
            bounds = f"exactly {most}" if fewest == most else bound
            raise UserError(f"{objective} takes {bounds} {what} models, got {count}")


def _check_shapes(
    objective: str, rule: Rule, logits_KBC: Tensor, frozen_FBC: Tensor, labels: Tensor | None
) -> None:
    _check_counts(objective, rule, len(logits_KBC), len(frozen_FBC))
    if labels is not None and labels.shape != logits_KBC.shape[1:2]:
        raise UserError(
            f"labels must be [B] = {list(logits_KBC.shape[1:2])}, got {list(labels.shape)}"
        )
    if len(frozen_FBC) and frozen_FBC.shape[1:] != logits_KBC.shape[1:]:
        raise UserError(
            f"frozen must be [F, {', '.join(map(str, logits_KBC.shape[1:]))}], "
            f"got {list(frozen_FBC.shape)}"
        )


def _check_answers(
    log_prob_SBEP: Tensor, loss_KB: Tensor, confidence_SB: Tensor, valid_BP: Tensor | None
) -> None:
    if log_prob_SBEP.ndim != 4:
        raise UserError(f"log_prob must be [S, B, E, P], got {list(log_prob_SBEP.shape)}")
    sources, samples, _, positions = log_prob_SBEP.shape
    asked = {"loss": (loss_KB, [len(loss_KB), samples])}
    asked["confidence"] = (confidence_SB, [sources, samples])
    if valid_BP is not None:
        asked["valid"] = (valid_BP, [samples, positions])
    for name, (tensor, shape) in asked.items():
        if list(tensor.shape) != shape:
            raise UserError(f"{name} must be {shape}, got {list(tensor.shape)}")
    if valid_BP is not None and valid_BP.dtype != torch.bool:
        raise UserError(f"valid must be bool, got {valid_BP.dtype}")
