"""How alike two models see the same images: canonical correlations of their pre-logits features.

Axes: N samples, B of them in a batch, D and E features, P and Q directions.
"""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bikd_ray.errors import UserError
from bikd_ray.zoo.adapters import features_of, reader_of

CCA_TOP = 100
"""Correlations in the mean, as in Fig. 3 of Jain et al. (TMLR 2025)."""


def cca(x_ND: Tensor, y_NE: Tensor, *, top: int = CCA_TOP, ridge: float = 0.0) -> float:
    """Mean of the largest `top` canonical correlations of two models' features, in 0..1; NaN
    where `correlations` finds none.
    """
    return correlations(x_ND, y_NE, top=top, ridge=ridge).mean().item()


def correlations(x_ND: Tensor, y_NE: Tensor, *, top: int = CCA_TOP, ridge: float = 0.0) -> Tensor:
    """The largest canonical correlations of two models' features, float64, `top` at most.

    With centred columns these are the singular values of

        Cxx^(-1/2) Cxy Cyy^(-1/2),   Cxx = XᵀX / (N-1) + ridge · mean(diag(XᵀX / (N-1))) · I

    and Cyy alike, computed as those of QxᵀQy from thin QRs (Björck & Golub 1973) in float64 on
    the tensors' device. With ridge = 0 an invertible linear map or a shift of either side changes
    nothing.

    Only directions that the features have are compared: those whose singular value is above
    √D · eps of the largest one, eps being the precision of the features as given; rounding alone
    makes as much. Constant, repeated and dependent columns (every layer norm makes one) thus
    change nothing, and may leave fewer than `top`.

    None of them where the features cannot tell: one side is constant or not finite; or, with
    ridge = 0, both together have N directions or more, when some correlations are 1 whatever the
    models are (give more samples, or a ridge).
    Raises ValueError for different N, top < 1 or ridge < 0.
    """
    if len(y_NE) != len(x_ND) or top < 1 or ridge < 0:
        raise ValueError(f"got {len(x_ND)} and {len(y_NE)} samples, top={top}, ridge={ridge}")
    return between(directions(x_ND, ridge), directions(y_NE, ridge), top=top, ridge=ridge)


def between(x_NP: Tensor, y_NQ: Tensor, *, top: int = CCA_TOP, ridge: float = 0.0) -> Tensor:
    """`correlations` of features from their `directions`, which take most of the time."""
    p, q = x_NP.shape[1], y_NQ.shape[1]
    if min(p, q) == 0 or (ridge == 0 and p + q >= len(x_NP)):
        return x_NP.new_empty(0)
    return torch.linalg.svdvals(x_NP.mT @ y_NQ)[:top]


def directions(x_ND: Tensor, ridge: float = 0.0) -> Tensor:
    """X Cxx^(-1/2) / √(N-1) over the directions that X has: orthonormal columns if ridge = 0.

    None of them where X is not finite.
    """
    if not x_ND.isfinite().all():
        return x_ND.new_empty(len(x_ND), 0, dtype=torch.float64)
    x = x_ND.double()
    x = x - x[:1]  # a mean is rounded; less their first row, constant columns are exactly zero
    x -= x.mean(0)
    x = x[:, x.any(0)]
    if x.shape[1] > len(x):  # of the shorter side: LAPACK's work grows with its square
        l_NN = torch.linalg.qr(x.mT).R.mT
        left_ND, s_D, _ = torch.linalg.svd(l_NN)
    else:
        q_ND, r_DD = torch.linalg.qr(x)
        u_DD, s_D, _ = torch.linalg.svd(r_DD)
        left_ND = q_ND @ u_DD
    width = x_ND.shape[1]
    has_D = s_D > math.sqrt(width) * torch.finfo(x_ND.dtype).eps * s_D[:1]
    shrink_D = s_D / (s_D**2 + ridge * (s_D**2).sum() / width).sqrt()
    return (left_ND * shrink_D)[:, has_D]


class FeatureTap:
    """Keeps what a network's classifier reads while somebody else runs it in eval mode.

        with FeatureTap(network) as tap:
            evaluate([member], loader)
        tap.features_ND

    These are `features_of` every image, in the order in which they came, at the cost of a few
    images more than the ordinary pass. A timm model in which no module reads them (a mean over
    the inputs of two heads) is run twice.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._name = network, type(network).__name__
        self._hooks: list[RemovableHandle] = []
        self._reader: nn.Module | None = None
        self._read = torch.empty(0)
        self._batches: list[Tensor] = []

    @property
    def features_ND(self) -> Tensor | None:
        """float32 on the CPU; None before the first batch and where no layer makes the logits."""
        return torch.cat(self._batches) if self._batches else None

    def take(self) -> Tensor | None:
        """`features_ND` of what was read since the last time, which is then forgotten."""
        features_BD, self._batches = self.features_ND, []
        return features_BD

    def __enter__(self) -> Self:
        self._hooks = [self._network.register_forward_pre_hook(self._attach)]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _attach(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the first batch: find what reads the features, on its first images."""
        assert not network.training, "features are read in eval mode"
        self._hooks.pop().remove()  # first, since the search runs the network
        try:
            self._reader = reader_of(network, args[0][:2], self._name)
        except UserError:
            return
        if self._reader:
            self._hooks.append(self._reader.register_forward_pre_hook(self._note))
        self._hooks.append(network.register_forward_hook(self._keep))

    def _note(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self._read = _kept(args[0])

    def _keep(self, network: nn.Module, args: tuple[Any, ...], _: object) -> None:
        """After each batch, so that one which failed half-way leaves nothing behind."""
        if not self._reader:
            self._read = _kept(features_of(network, args[0], self._name))
        self._batches.append(self._read)


def _kept(x: Tensor) -> Tensor:
    # A copy even where it is already so: a class token is a view that would keep all tokens alive.
    return x.detach().flatten(1).to("cpu", torch.float32, copy=True)
