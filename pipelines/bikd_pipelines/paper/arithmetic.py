"""What the paper's tables say of themselves: do their rows follow from their own numbers?"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from bikd_pipelines.paper.figures import Figure, figures

Pairing = tuple[str, tuple[str, ...]]  # a learner and its partners


def recovered(figure: Figure) -> float:
    """Eq. 14: 100 (after − before) / (ensemble − before), in percent; of a row of Table 3."""
    assert figure.ensemble is not None
    return 100 * figure.delta / (figure.ensemble - figure.before)


def deviations() -> list[str]:
    """One line for each printed number that its own row or another table contradicts.

    Within rounding; an empty list would be tables without fault. Table 3's recovered is worked out
    by Eq. 14. Its Δ (after − before) must be Table 6a's for K = 2, and possible as one of the 3
    runs of Table 2.
    """
    means = {_pairing(f): f for f in figures("2") if f.objective == "bikd"}
    again = {_pairing(f): f for f in figures("6a")}
    lines = []
    for figure in figures("3"):
        who = f"Table 3, {figure.model} with {' + '.join(figure.partners)}:"
        share, printed = recovered(figure), figure.recovered
        assert printed is not None
        if abs(share - printed) > (0.5 if printed.is_integer() else 0.05) + 1e-9:
            lines.append(f"{who} recovered is printed as {printed:g}, Eq. 14 gives {share:.1f}")
        other = again.get(_pairing(figure))
        if other and other.delta != figure.delta:
            lines.append(f"{who} after − before is {figure.delta:g}, Table 6a has {other.delta:g}")
        mean = means[_pairing(figure)]
        if abs(figure.delta - mean.delta) > _reach(mean):
            lines.append(
                f"{who} after − before is {figure.delta:g}, which no run can be whose 3 seeds make "
                f"Table 2's {mean.delta:g} ± {mean.std:g}"
            )
    return lines


def _pairing(figure: Figure) -> Pairing:
    return figure.model, figure.partners


def _reach(mean: Figure, runs: int = 3, half_unit: float = 0.0005) -> float:
    """How far from the mean of n runs one of them can lie: √(n − 1) standard deviations.

    Of the standard deviation that divides by n, the wider bound: the paper does not say which.
    """
    assert mean.std is not None
    return (runs - 1) ** 0.5 * (mean.std + half_unit) + half_unit


@dataclass(frozen=True)
class IdentityShare:
    """How much of the variance of Δ is told by which model it is, whoever its partner was."""

    explained: float
    by_chance: float  # expected if the values were dealt to the models at random
    models: int
    values: int


def identity_share(table: str) -> IdentityShare:
    """The correlation ratio η² of a table's Δ on the model, over models with several partners.

    η² = sum of squares between models / total. Dealt at random, its mean is (k − 1) / (N − 1)
    for k models and N values.
    """
    by_model: dict[str, list[float]] = defaultdict(list)
    for figure in figures(table):
        by_model[figure.model].append(figure.delta)
    groups = [np.array(deltas) for deltas in by_model.values() if len(deltas) > 1]
    pooled = np.concatenate(groups)
    between = sum(len(g) * (g.mean() - pooled.mean()) ** 2 for g in groups)
    total = ((pooled - pooled.mean()) ** 2).sum()
    chance = (len(groups) - 1) / (len(pooled) - 1)
    return IdentityShare(float(between / total), chance, len(groups), len(pooled))
