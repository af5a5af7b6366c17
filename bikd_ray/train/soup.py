"""A partner soup: the mean of one model's weights after training with different partners.

At small learning rates all of them stay near where they began, so their mean behaves like their
ensemble at the cost of one model (Wortsman et al. 2022, arXiv 2203.05482). Its fair comparison is a
soup of as many control runs: averaging alone removes noise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bikd_ray.errors import UserError

State = Mapping[str, Tensor]

LAMBDAS = (0.5, 1.0)
"""Beside 1 / K: what the sum of all changes is multiplied by."""


def averaged(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of state dicts of one architecture.

    Floating tensors are added in float64 and rounded once; all others (counters of batches) are the
    first one's. Names that share a tensor in every state share one in the mean. Raises UserError
    where names or shapes differ.
    """
    return _combined(states, lambda tensors: torch.stack(list(tensors)).mean(0))


def moved(start: State, states: Sequence[State], scale: float) -> dict[str, Tensor]:
    """The start + scale · sum of (state - start): at scale 1 / K the mean (Ilharco et al. 2023).

    Buffers that are no weights move alike: batch statistics have to be estimated anew.
    """

    def combine(tensors: Sequence[Tensor]) -> Tensor:
        first, *others = tensors
        return first + scale * (torch.stack(others) - first).sum(0)

    return _combined([start, *states], combine)


def _combined(
    states: Sequence[State], combine: Callable[[Sequence[Tensor]], Tensor]
) -> dict[str, Tensor]:
    if not states:
        raise UserError("a soup needs one ingredient at least")
    first = states[0]
    for number, state in enumerate(states[1:], 2):
        unlike = sorted(first.keys() ^ state.keys()) or [
            name for name in first if first[name].shape != state[name].shape
        ]
        if unlike:
            raise UserError(
                f"ingredient {number} of the soup is another network than the first one: "
                f"{unlike[0]} differs; take variants of one model only"
            )
    made: dict[tuple, Tensor] = {}
    soup = {}
    for name, tensor in first.items():
        tensors = [state[name] for state in states]
        where = tuple((t.data_ptr(), t.shape, t.stride()) if t.numel() else name for t in tensors)
        if where not in made:
            made[where] = tensor.clone()
            if tensor.is_floating_point():
                made[where] = combine([t.double() for t in tensors]).to(tensor.dtype)
        soup[name] = made[where]
    return soup


@dataclass(frozen=True)
class Tried:
    """A soup that was measured on the deciding half, by its ingredients."""

    ingredients: tuple[int, ...]
    score: float
    kept: bool


def greedy_soup(
    alone: Sequence[float], measure: Callable[[tuple[int, ...]], float]
) -> tuple[tuple[int, ...], list[Tried]]:
    """Ingredients from the best one on, each kept if the soup is not worse with it; and the trail.

    alone: the accuracy of each ingredient on the deciding half. measure: that of the soup of some
    (recipe 1 of Wortsman et al. 2022). Ingredients are in ascending order, ties go to the first.
    """
    order = sorted(range(len(alone)), key=lambda k: -alone[k])
    kept, best, trail = order[:1], alone[order[0]], []
    for k in order[1:]:
        tried = tuple(sorted([*kept, k]))
        score = measure(tried)
        trail.append(Tried(tried, score, score >= best))
        if score >= best:
            kept, best = list(tried), score
    return tuple(sorted(kept)), trail


def best_scale(ingredients: int, measure: Callable[[float], float]) -> tuple[float, float]:
    """Of 1 / K and LAMBDAS the scale with the largest accuracy on the deciding half, and that.

    The smallest of equals, which stays nearest to where training began.
    """
    found = {scale: measure(scale) for scale in sorted({1 / ingredients, *LAMBDAS})}
    best = max(found, key=found.__getitem__)
    return best, found[best]


def has_batch_statistics(network: nn.Module) -> bool:
    return any(True for _ in _with_statistics(network))


def reestimate_batchnorm(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Take the running statistics of batch normalisation anew, in place; how many images they saw.

    A mean of networks has other activations than they have: their running means and variances are
    not its own (Izmailov et al. 2018; Jordan et al. 2023). batches: of train images as the model
    sees them in evaluation, of one size but the last; each batch counts the same.
    Weights do not change, nor do counters and modes of other layers. Raises UserError where a
    network with such layers gets no images, or a batch of one. Without such layers nothing is read.
    """
    norms = list(_with_statistics(network))
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    images = 0
    with _only_training(network, norms), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative mean
            for batch in batches:
                if len(batch) < 2:
                    raise UserError("batch statistics need batches of two images or more, not of 1")
                network(batch)
                images += len(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not images:
        raise UserError("the batch statistics of a soup need train images, and there are none")
    return images


def _with_statistics(network: nn.Module) -> Iterator[_BatchNorm]:
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield module


@contextmanager
def _only_training(network: nn.Module, norms: Sequence[nn.Module]) -> Iterator[None]:
    """All in evaluation (no dropout, no dropped paths) but these layers; afterwards as before."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
