"""The order of models in a heatmap."""

import numpy as np

from bikd_dashboards.figures import Heatmap

ORDERS = {
    "before": "score before",
    "name": "name",
    "gain": "gain as learner",
    "cluster": "cluster",
}


def order(info: Heatmap, by: str) -> np.ndarray:
    """[L]: which row comes where, by one of `ORDERS`.

    before: as they come, the best first. gain: by the mean of the row, the highest first, which
    for a metric of pairs is what the model has in common with the rest. cluster: rows and columns
    of like values side by side (average linkage).
    """
    if by == "name":
        return np.array(
            sorted(range(len(info.learners)), key=lambda i: info.learners[i].casefold())
        )
    if by == "gain":
        known = info.known_LP
        mean = np.where(known, info.value_LP, 0).sum(1) / np.maximum(1, known.sum(1))
        return np.argsort(np.where(known.any(1), -mean, np.inf), kind="stable")
    if by == "cluster" and len(info.learners) > 2:
        return _clustered(info)
    return np.arange(len(info.learners))


def _clustered(info: Heatmap) -> np.ndarray:
    from scipy.cluster.hierarchy import leaves_list, linkage

    square = info.value_LP[:, : len(info.learners)]
    known = ~np.isnan(square)
    mean = square[known].mean() if known.any() else 0.0
    filled = np.where(known, square, mean)
    return leaves_list(linkage(np.hstack([filled, filled.T]), "average"))
