"""Maps of where people look: what models of them are compared by, their loss and their lesson.

A map [..., H, W] is non-negative and is only ever divided by its sum. Everything here is computed
in float32 at least, outside autocast: in float16 the ε below is 0. Suffixes: K models, B samples.

    KL(g || p) = Σ G · log(ε + G / (P + ε)),  P = p / Σp, G = g / Σg     (nats)
    L = KL(g || p) − CC(p, g)                 the own loss of a sample; CC is Pearson's correlation
    lesson of j from i: KL(p_i || p_j)
(Jain et al. 2025, Eq. 10–12; ε and the roles of the two maps in the lesson as in their code.)
"""

import torch
from torch import Tensor
from torch.nn import functional

from bikd_ray.errors import UserError

EPSILON = 2.2204e-16

HIGHEST_KL = 36.04367412807086
"""−log ε: no divergence is larger."""


def full_precision(map_HW: Tensor) -> Tensor:
    """The map in float32, or as it is where it has float64."""
    return map_HW if map_HW.dtype in (torch.float32, torch.float64) else map_HW.float()


def as_maps(output: Tensor) -> Tensor:
    """A network's answer as [B, H, W]: axes of length 1 between the first and the last two go.

    Raises UserError for any other shape.
    """
    inner = output.shape[1:-2]
    if output.ndim < 3 or any(length != 1 for length in inner):
        raise UserError(
            f"a saliency model must return one map a clip, [B, H, W] or [B, 1, H, W], "
            f"got {list(output.shape)}"
        )
    return output.reshape(output.shape[0], *output.shape[-2:])


def fault(output: Tensor) -> str | None:
    """Why a network's answer [B, H, W] is no map, in a few words; None if it is one."""
    if not bool(output.isfinite().all()):
        return "it has values that are not finite"
    if bool((output < 0).any()):
        return f"it has values below 0, the least {float(output.min()):.3g}; end it in a sigmoid"
    if bool((output.amax((-2, -1)) == 0).any()):
        return "it is 0 everywhere"
    return None


def resized(map_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, without antialias and with aligned pixel edges (OpenCV's INTER_LINEAR), to `size`
    (height, width).
    """
    map_BHW = full_precision(map_BHW)
    if map_BHW.shape[-2:] == size:
        return map_BHW
    with _no_autocast(map_BHW):
        return functional.interpolate(
            map_BHW[:, None], size, mode="bilinear", align_corners=False, antialias=False
        )[:, 0]


def normalised(map_HW: Tensor) -> Tensor:
    """The map divided by its sum; one that is 0 everywhere stays so."""
    map_HW = full_precision(map_HW)
    total = map_HW.sum((-2, -1), keepdim=True)
    return map_HW / torch.where(total == 0, 1, total)


def divergence(target_HW: Tensor, map_HW: Tensor) -> Tensor:
    """KL(target || map) [...] in nats, at most `HIGHEST_KL`; 0 for a target that is 0 everywhere.

    The lesson of a student's map from a teacher's, whose gradient the caller cuts if it is to be.
    """
    with _no_autocast(map_HW):
        target, found = normalised(target_HW), normalised(map_HW)
        ratio = EPSILON + target / (found + EPSILON)
        return (target * ratio.log()).sum((-2, -1))


def correlation(a_HW: Tensor, b_HW: Tensor) -> Tensor:
    """Pearson's correlation [...] over pixels; 0, with no gradient, where a map is constant."""
    with _no_autocast(a_HW):
        a, b = _standardised(a_HW), _standardised(b_HW)
        return (a * b).sum((-2, -1))


def _standardised(map_HW: Tensor) -> Tensor:
    """The map less its mean, divided by its norm; 0 where it is constant."""
    map_HW = full_precision(map_HW)
    low, high = map_HW.amin((-2, -1), keepdim=True), map_HW.amax((-2, -1), keepdim=True)
    constant = ~(low < high)  # told by equality: the mean of equal values may differ from them
    scale = torch.where(constant, 1, high - low).detach()  # squares of tiny values would vanish
    centred = (map_HW - map_HW.mean((-2, -1), keepdim=True)) / scale
    square = centred.square().sum((-2, -1), keepdim=True)
    found = centred / torch.where(constant, 1, square).sqrt()
    return torch.where(constant, torch.zeros_like(found), found)


def has_truth(truth_BHW: Tensor) -> Tensor:
    """Which truths [B] are not 0 everywhere; a sample whose truth is has weight 0."""
    return truth_BHW.amax((-2, -1)) > 0


def task_loss(map_BHW: Tensor, truth_BHW: Tensor) -> Tensor:
    """L = KL(truth || map) − CC(map, truth), [B], at the truth's size.

    0, and without a gradient, where the truth is 0 everywhere (`has_truth`).
    """
    return divergence(truth_BHW, map_BHW) - correlation(map_BHW, truth_BHW)


def confidence(loss_KB: Tensor, truth_BHW: Tensor) -> Tensor:
    """−L [K, B], by which models compete to teach; NaN, so that nobody teaches, without a truth."""
    return (-loss_KB).masked_fill(~has_truth(truth_BHW), torch.nan)


def mean_map(map_KBHW: Tensor) -> Tensor:
    """[B, H, W]: the mean of K sum-normalised maps, so that no loud model outweighs the others."""
    return normalised(map_KBHW).mean(0)


def _no_autocast(of: Tensor) -> torch.autocast:
    return torch.autocast(of.device.type, enabled=False)
