"""Which models should train together, K of them: groups for one model, or for all.

Cost: a job of K models is the sum of their training; the map of their pairs is K - 1 times that.
So all models in groups cost 1 / (N - 1) of a map of pairs, whatever K is. Suffixes: M and N models,
n images, C classes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Group = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One model that joined a group, and the accuracy of the mean of all softmaxes with it."""

    model: int
    score: float  # a fraction


def greedy_group(
    softmaxes: Sequence[np.ndarray],
    labels_n: np.ndarray,
    start: int,
    size: int,
    among: Collection[int] | None = None,
) -> list[Step]:
    """The models that join one, each the one with the largest accuracy of the ensemble.

    softmaxes: [n, C] of each model on the deciding half, which may be made when it is asked for
    (`all_classes`). among: those that may join; None for all. Forward selection (Caruana et al.
    2004) without repeats; ties go to the lowest model, and to the lowest class.
    """
    total_nC = np.array(softmaxes[start], np.float64)
    may_join = set(range(len(softmaxes)) if among is None else among) - {start}
    steps = []
    while may_join and len(steps) + 1 < size:
        scores = {
            model: float(((total_nC + softmaxes[model]).argmax(1) == labels_n).mean())
            for model in sorted(may_join)
        }
        joins = max(scores, key=scores.__getitem__)  # the first of equals
        total_nC += softmaxes[joins]
        may_join.remove(joins)
        steps.append(Step(joins, scores[joins]))
    return steps


def all_classes(top_classes_nk: np.ndarray, top_probs_nk: np.ndarray, count: int) -> np.ndarray:
    """[n, count] from the k largest probabilities that are stored: exact with k = count, else what
    is left to 1 is shared out evenly among the other classes.
    """
    k = top_classes_nk.shape[1]
    rest_n = np.maximum(0, 1 - top_probs_nk.sum(1, dtype=np.float64)) / max(1, count - k)
    found = np.repeat(rest_n[:, None], count, axis=1)
    np.put_along_axis(found, top_classes_nk.astype(np.int64), top_probs_nk, axis=1)
    return found


def by_gains(effect_NN: np.ndarray, start: int, size: int) -> Group:
    """A model and those that teach it best: the first one that joins is its best partner.

    effect: the posterior mean of u (`analysis.twoway`), -inf for what is no partner.
    """
    order = np.argsort(-effect_NN[start], kind="stable")
    joins = [int(j) for j in order if j != start and effect_NN[start, j] > -np.inf]
    return (start, *joins[: size - 1])


def nested(group: Sequence[int]) -> list[Group]:
    """The groups that are trained one after another: the first two, the first three, …"""
    return [tuple(group[:size]) for size in range(2, len(group) + 1)]


def next_size(deltas: Mapping[int, float], largest: int) -> int | None:
    """The size of the nested group to train next; None: no more.

    deltas: what the target gained on the deciding half in the groups that are done, by their size.
    It stops where a model more made the target worse.
    """
    for size in range(2, largest + 1):
        if size not in deltas:
            return size
        if size > 2 and deltas[size] < deltas[size - 1]:
            return None
    return None


def best_size(deltas: Mapping[int, float]) -> int | None:
    """The size with the largest gain on the deciding half; the smallest of equals."""
    return max(sorted(deltas), key=deltas.__getitem__) if deltas else None


def random_groups(models: int, size: int, seed: int) -> list[Group]:
    """All models in groups of about equal size, at most `size`, at random: a baseline."""
    order = np.random.default_rng(seed).permutation(models)
    parts = np.array_split(order, -(-models // size))
    return [tuple(sorted(int(m) for m in part)) for part in parts]


def greedy_groups(learns_N: np.ndarray, effect_NN: np.ndarray, size: int) -> list[Group]:
    """All models in groups of about equal size, by what they are expected to give each other.

    Each group begins with one of the models as far apart as there are groups, ranked by what they
    learn; then the groups take turns, and take who gives and gets most: the sum of u_ij + u_ji over
    the group's members.
    """
    models = len(learns_N)
    count = -(-models // size)
    ranks = np.argsort(-learns_N, kind="stable")
    groups = [[int(ranks[k * models // count])] for k in range(count)]
    both_NN = effect_NN + effect_NN.T
    left = sorted(set(range(models)) - {group[0] for group in groups})
    while left:
        group = min(groups, key=len)
        joins = max(left, key=lambda m: both_NN[group, m].sum())
        group.append(joins)
        left.remove(joins)
    return [tuple(sorted(group)) for group in groups]


@dataclass(frozen=True)
class GroupCost:
    """Work of training models in groups, beside that of the map of all pairs, for one seed."""

    groups: float
    controls: float
    pairs: float

    @property
    def ratio(self) -> float:
        """Of the pairs' work to the groups'."""
        return self.pairs / self.groups


def group_cost(work_N: Sequence[float], groups: Sequence[Group]) -> GroupCost:
    """work: of each model's own part in a job (`Job.work` of its control)."""
    return GroupCost(
        sum(work_N[m] for group in groups for m in group),
        sum(work_N[m] for m in {m for group in groups for m in group}),
        (len(work_N) - 1) * sum(work_N),
    )


ENOUGH = 20
"""Jobs of three models and more, from which on the gain by size is told."""


def gain_by_size(
    size_R: np.ndarray, learner_R: np.ndarray, gain_R: np.ndarray
) -> tuple[float, float]:
    """What a model more in a group adds to a learner's gain, and its standard error: least squares
    of R gains on the groups' sizes, within each learner. NaN where no learner has two sizes.
    """
    within = np.zeros((2, len(size_R)))
    learners = np.unique(learner_R)
    for learner in learners:
        mine = learner_R == learner
        within[:, mine] = [x[mine] - x[mine].mean() for x in (size_R, gain_R)]
    size, gain = within
    spread, df = float((size**2).sum()), len(size_R) - len(learners) - 1
    if spread == 0 or df < 1:
        return float("nan"), float("nan")
    slope = float(size @ gain) / spread
    left = gain - slope * size
    return slope, float(left @ left / df / spread) ** 0.5
