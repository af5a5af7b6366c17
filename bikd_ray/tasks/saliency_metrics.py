"""CC, NSS, SIM, KLDiv and AUC-Judd of saliency maps, a value a frame.

Suffixes: B frames. A frame's value is NaN where its *truth* does not define the metric: NSS and
AUC-J without a fixation, CC, SIM and KLDiv where the map is constant. So it is left out for every
model alike. A *prediction* that is constant, or not finite, scores as the uniform map does (CC 0,
NSS 0, AUC-J 0.5) and is never left out: else a model that collapsed would gain.

Definitions follow Bylinskii et al. 2019 (What do different evaluation metrics tell us about
saliency models?), where implementations differ: NSS takes the sample standard deviation and each
fixated pixel once; SIM normalises by minimum and maximum, then by the sum; AUC-J has one point for
each distinct fixated value, without jitter, so that ties count as they should.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bikd_ray.tasks.saliency_maps import correlation, divergence, normalised, resized

METRICS = ("cc", "nss", "sim", "kldiv", "auc_j")
"""In the order in which tables have them; the first is what models are ranked by."""

BLUR_SIZE, BLUR_SIGMA = 11, 2.0
"""Pixels: the Gaussian filter after resizing, as evaluation scripts of video models have it."""


def at_size(map_BHW: Tensor, size: tuple[int, int], *, blur: bool = True) -> Tensor:
    """What is scored: the prediction resized to the truth's (height, width), then blurred."""
    found = resized(map_BHW, size)
    return blurred(found) if blur else found


def blurred(map_BHW: Tensor) -> Tensor:
    """Gaussian filter of 11 × 11 pixels, σ = 2, mirrored at the border without repeating it (as
    OpenCV's GaussianBlur).
    """
    offsets = range(-(BLUR_SIZE // 2), BLUR_SIZE // 2 + 1)
    weights = [math.exp(-(offset**2) / (2 * BLUR_SIGMA**2)) for offset in offsets]
    weights = [weight / sum(weights) for weight in weights]
    for axis in (1, 2):
        map_BHW = _filtered(map_BHW, weights, axis)
    return map_BHW


def _filtered(map_BHW: Tensor, weights: list[float], axis: int) -> Tensor:
    """A symmetric filter along one axis: sums of shifted maps, a quarter of conv2d's CPU time."""
    length, half = map_BHW.shape[axis], len(weights) // 2
    padded = map_BHW.index_select(axis, _mirrored(length, half, map_BHW.device))
    found = padded.narrow(axis, half, length) * weights[half]
    for k in range(1, half + 1):
        both = padded.narrow(axis, half - k, length) + padded.narrow(axis, half + k, length)
        found.add_(both, alpha=weights[half + k])
    return found


def _mirrored(length: int, beyond: int, device: torch.device) -> Tensor:
    """int64 [length + 2 * beyond]: which pixel stands at each place, for any length."""
    place = torch.arange(-beyond, length + beyond, device=device)
    period = max(2 * (length - 1), 1)
    place = place.remainder(period)
    return torch.where(place < length, place, period - place)


def measure(map_BHW: Tensor, truth_BHW: Tensor, fixated_BHW: Tensor) -> dict[str, Tensor]:
    """Each metric [B] on the maps' device, in their precision (float32 at least).

    map: predictions of the truth's size (`at_size`). truth: continuous maps of any scale. fixated:
    non-zero where a pixel was fixated; nothing is ever taken from the map in its place.
    """
    found, truth = _usable(map_BHW), truth_BHW.to(map_BHW.dtype)
    fixated = fixated_BHW != 0
    told_B = _varies(truth)
    looked_B = fixated.any(-1).any(-1)
    values = {
        "cc": _where(told_B, correlation(found, truth)),
        "nss": _where(looked_B, nss(found, fixated)),
        "sim": _where(told_B, similarity(found, truth)),
        "kldiv": _where(told_B, divergence(truth, _or_uniform(found))),
        "auc_j": auc_judd(found, fixated),
    }
    assert tuple(values) == METRICS
    return values


def nss(map_BHW: Tensor, fixated_BHW: Tensor) -> Tensor:
    """Normalised scanpath saliency [B]: the mean over fixated pixels of (p − μ) / σ, σ with N − 1.

    0 for a constant map. NaN without a fixation.
    """
    low, high = map_BHW.amin((-2, -1), keepdim=True), map_BHW.amax((-2, -1), keepdim=True)
    varies = low < high
    centred = map_BHW - map_BHW.mean((-2, -1), keepdim=True)
    centred = centred / torch.where(varies, high - low, 1)  # squares of tiny values would vanish
    count = map_BHW.shape[-2] * map_BHW.shape[-1]
    deviation_B = (centred.square().sum((-2, -1)) / max(count - 1, 1)).sqrt()
    at_fixations_B = (centred * fixated_BHW).sum((-2, -1)) / fixated_BHW.sum((-2, -1))
    varies_B = varies[:, 0, 0]
    value_B = at_fixations_B / torch.where(varies_B, deviation_B, 1)
    return torch.where(varies_B, value_B, value_B * 0)


def similarity(map_BHW: Tensor, truth_BHW: Tensor) -> Tensor:
    """Σ min(P, G) [B] of maps that are normalised by minimum and maximum, then by their sum.

    A constant prediction is the uniform map.
    """
    found, truth = (normalised(_or_uniform(_stretched(one))) for one in (map_BHW, truth_BHW))
    return torch.minimum(found, truth).sum((-2, -1))


def auc_judd(map_BHW: Tensor, fixated_BHW: Tensor) -> Tensor:
    """Area under the curve of hits against false alarms [B] (Judd et al. 2009), ties handled.

    A point for each distinct value at a fixation: the share of fixated and of other pixels that
    reach it. NaN without a fixation, or without a pixel beside them.
    """
    found_BN, fixated_BN = map_BHW.flatten(1), fixated_BHW.flatten(1)
    hits_B1 = fixated_BN.sum(1, keepdim=True)
    others_B1 = found_BN.shape[1] - hits_B1
    most = int(hits_B1.max()) if len(found_BN) else 0
    masked_BN = found_BN.masked_fill(~fixated_BN, torch.inf)
    at_fixations_BF = masked_BN.topk(most, 1, largest=False).values  # ascending, then infinity
    hit_BF = hits_B1 - torch.searchsorted(at_fixations_BF, at_fixations_BF)  # that reach each value
    reach_BF = found_BN.shape[1] - torch.searchsorted(_sorted(found_BN), at_fixations_BF)
    true_BF, false_BF = hit_BF.double() / hits_B1, (reach_BF - hit_BF).double() / others_B1
    # from the lowest threshold, that all pixels reach, to one that none does
    rate_2BF = functional.pad(torch.stack([true_BF, false_BF]), (0, 1))
    true_BF, false_BF = functional.pad(rate_2BF, (1, 0), value=1.0)
    area_B = torch.trapezoid(true_BF, false_BF, dim=1).neg()
    return _where(((hits_B1 > 0) & (others_B1 > 0))[:, 0], area_B).to(found_BN.dtype)


def _sorted(value_BN: Tensor) -> Tensor:
    """Ascending; on a CPU by NumPy, which takes a twentieth of the time."""
    if value_BN.device.type == "cpu":
        return torch.from_numpy(np.sort(value_BN.detach().numpy(), axis=1))
    return value_BN.sort(1).values


def _where(defined_B: Tensor, value_B: Tensor) -> Tensor:
    return torch.where(defined_B, value_B, torch.nan)


def _varies(map_BHW: Tensor) -> Tensor:
    return map_BHW.amin((-2, -1)) < map_BHW.amax((-2, -1))


def _usable(map_BHW: Tensor) -> Tensor:
    """The maps, with zeros for one that has a value that is not finite."""
    good_B = map_BHW.isfinite().all(-1).all(-1)
    return torch.where(good_B[:, None, None], map_BHW, 0)


def _stretched(map_BHW: Tensor) -> Tensor:
    """From 0 to 1; 0 everywhere where it is constant."""
    low, high = map_BHW.amin((-2, -1), keepdim=True), map_BHW.amax((-2, -1), keepdim=True)
    return (map_BHW - low) / torch.where(low < high, high - low, 1)


def _or_uniform(map_BHW: Tensor) -> Tensor:
    """The maps, with 1 everywhere for one that is 0 everywhere."""
    return torch.where((map_BHW != 0).any(-1).any(-1)[:, None, None], map_BHW, 1)
