"""The joint loss of K models: supervision plus what the chosen teachers add.

Suffixes: S sources, K live models, F frozen models, B samples, C classes.

Total (Jain et al. 2025, with unit weights and no division by K - 1):
    L = sum_k mean_n CE_k(n) + sum_k mean_n sum_s w[s, k, n] * T^2 * KL(q_s(n) || q_k(n)),
q = softmax(z / T). Means run over all B samples, also those that nobody teaches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bikd_ray.errors import UserError, choices
from bikd_ray.transfer.objectives import OBJECTIVES, TIES, Rule


@dataclass(frozen=True)
class JointLoss:
    """`total` carries the gradient; the other three are detached measurements. Losses in nats."""

    total: Tensor  # scalar
    supervised: Tensor  # [K] batch-mean cross-entropy
    divergence: Tensor  # [K] batch-mean T^2 * KL from the student's teachers
    teacher: Tensor  # [B] int64: index among live then frozen models, -1 for none or several
    weights: tuple[float, float]  # of supervision and divergence in the total


def joint_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor,
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
) -> JointLoss:
    """The loss of K models trained together on one batch, by default that of Bi-KD (Jain et al.
    2025, Eq. 3 and 11; nats): the sum over the models of the mean cross-entropy and of
    T^2 * KL(teacher || student), a mean over all B samples, also those that nobody teaches.

    objective: `bikd`, `dml` (Zhang et al. 2018), `kd` (Hinton et al. 2015), `kl_dp` and
    `kl_dp_supervised` (Roth et al. 2024), `self` (taught by its own frozen start) or `ce`.
    logits: the K live models' [K, B, C], or K tensors [B, C]. labels: int64 [B].
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

    Logits below float32 are raised to it; float64 stays. Raises UserError for values, shapes or
    numbers of models that the objective does not take.
    """
    rule = _rule(objective, temperature, ties, kd_weight, mask)
    logits_KBC = _stacked(logits, "logits")
    frozen_FBC = logits_KBC[:0] if frozen is None else _stacked(frozen, "frozen").detach()
    _check_shapes(objective, rule, logits_KBC, frozen_FBC, labels)

    live = len(logits_KBC)
    logp_SBC = torch.cat([logits_KBC, frozen_FBC]).log_softmax(-1)
    at_label_SB = logp_SBC.gather(-1, labels.expand(len(logp_SBC), -1)[..., None]).squeeze(-1)
    confidence_SB = (at_label_SB if rule.confidence == "label" else logp_SBC.amax(-1)).detach()
    supervised_KB = -at_label_SB[:live]

    logq_SBC = logp_SBC
    if temperature != 1.0:
        logq_SBC = (torch.cat([logits_KBC, frozen_FBC]) / temperature).log_softmax(-1)
    several = rule.mixed and len(frozen_FBC) > 1
    if several:
        mean_1BC = logq_SBC[live:].logsumexp(0, keepdim=True) - math.log(len(frozen_FBC))
        logq_SBC = torch.cat([logq_SBC[:live], mean_1BC])
        confidence_SB = confidence_SB[: live + 1]
    lessons = rule.lessons(confidence_SB, live, ties)
    teacher_B = lessons.teacher_N.new_full((len(labels),), -1) if several else lessons.teacher_N
    divergence_KB = _divergence(logq_SBC, lessons.weights_SKN, live, detach_teacher)
    divergence_KB = divergence_KB * temperature**2

    supervised_K, divergence_K = supervised_KB.mean(1), divergence_KB.mean(1)
    weights = (ce_weight * rule.supervised(kd_weight), kl_weight * rule.divergence(kd_weight))
    total = weights[0] * supervised_K.sum() + weights[1] * divergence_K.sum()
    return JointLoss(total, supervised_K.detach(), divergence_K.detach(), teacher_B, weights)


def _divergence(logq_SBC: Tensor, weights_SKB: Tensor, live: int, detach: bool) -> Tensor:
    """sum_s w[s,k,n] KL(q_s || q_k) as [K, B].

    KL is linear in (q_s, q_s log q_s), so the weighted sources are mixed first: one target [B, C]
    for each student, never an [S, K, B, C] tensor.
    """
    logt_SBC = logq_SBC.detach() if detach else logq_SBC
    q_SBC = logt_SBC.exp()
    target_KBC = torch.einsum("skb,sbc->kbc", weights_SKB, q_SBC)
    negentropy_KBC = torch.einsum("skb,sbc->kbc", weights_SKB, q_SBC * logt_SBC)
    return (negentropy_KBC - target_KBC * logq_SBC[:live]).sum(-1)


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


def _check_shapes(
    objective: str, rule: Rule, logits_KBC: Tensor, frozen_FBC: Tensor, labels: Tensor
) -> None:
    for what, count, (fewest, most) in (
        ("live", len(logits_KBC), rule.live),
        ("frozen", len(frozen_FBC), rule.frozen),
    ):
        if count < fewest or (most is not None and count > most):
            bound = f"at least {fewest}" if count < fewest else f"at most {most}"
            bounds = f"exactly {most}" if fewest == most else bound
            raise UserError(f"{objective} takes {bounds} {what} models, got {count}")
    if labels.shape != logits_KBC.shape[1:2]:
        raise UserError(
            f"labels must be [B] = {list(logits_KBC.shape[1:2])}, got {list(labels.shape)}"
        )
    if len(frozen_FBC) and frozen_FBC.shape[1:] != logits_KBC.shape[1:]:
        raise UserError(
            f"frozen must be [F, {', '.join(map(str, logits_KBC.shape[1:]))}], "
            f"got {list(frozen_FBC.shape)}"
        )
