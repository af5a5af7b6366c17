"""What was measured, as rows of the store: one for each metric."""

from collections.abc import Mapping, Sequence

import numpy as np

from bikd_ray.analysis.pairs import case_shares, counts, joint_measures
from bikd_ray.analysis.scores import Scores, stored
from bikd_ray.analysis.significance import contrast, p_value
from bikd_ray.metrics import Metric
from bikd_ray.sweep.events import Row
from bikd_ray.tasks.base import AGREEMENT, Measured, Task


def baseline_rows(task: Task, found: Measured, published: float | None) -> list[Row]:
    """What rows of `baselines` say of one model on one set; published: of the primary metric."""
    return [
        {**metric_row(metric, found), "published": published if position == 0 else None}
        for position, metric in enumerate(task.metrics)
    ]


def metric_row(metric: Metric, found: Measured) -> Row:
    """The same of one metric."""
    return {
        "metric": metric.name,
        "n": len(found.scores[metric.name]),
        "value": found.values[metric.name],
        **_kept(found, metric),
    }


def result_rows(
    task: Task,
    before: Measured,
    after: Measured,
    *,
    fair: bool,
    ensembles: Mapping[str, Measured] | None = None,
    members: Sequence[Measured] = (),
) -> list[Row]:
    """What rows of `results` say of one model on one set.

    fair: whether the epoch was chosen on other samples. ensembles: `before` and, where it was
    measured, `after`, of all members. members: all of the job, after it, this one among them.
    """
    rows = []
    for position, metric in enumerate(task.metrics):
        row = change_row(metric, before, after, fair=fair)
        row |= _ensembles(metric, row, ensembles or {})
        if position == 0 and metric.binary and len(members) > 1:
            row |= _together(task, metric, members)
        rows.append(row)
    return rows


def change_row(metric: Metric, before: Measured, after: Measured, *, fair: bool) -> Row:
    """What a row of `results` says of one metric alone."""
    name = metric.name
    kept = [_kept(found, metric) for found in (before, after)]
    n, was, now = len(after.scores[name]), before.values[name], after.values[name]
    scores = Scores.of(kept, n, metric)
    interval = contrast(scores, np.array([[-1.0, 1.0]]))
    if metric.unit == "%":
        interval = interval.within(-was, 100 - was)
    row: Row = {
        "metric": name,
        "n": n,
        "before": was,
        "after": now,
        "delta": now - was,
        "delta_low": float(interval.low) if fair else None,
        "delta_high": float(interval.high) if fair else None,
        "p_value": p_value(scores) if fair else None,
        **kept[1],
    }
    if metric.binary:
        was_N, is_N = before.scores[name], after.scores[name]
        row |= {"gained": int((is_N & ~was_N).sum()), "lost": int((was_N & ~is_N).sum())}
    return row


def _kept(found: Measured, metric: Metric) -> dict[str, bytes | None]:
    return stored(found.scores[metric.name], metric, found.sums.get(metric.name))


def _ensembles(metric: Metric, row: Row, ensembles: Mapping[str, Measured]) -> Row:
    found: Row = {
        f"ensemble_{moment}": together.values[metric.name] for moment, together in ensembles.items()
    }
    if "before" in ensembles:
        room = metric.sign * (found["ensemble_before"] - row["before"])
        found["recovered"] = 100 * metric.sign * row["delta"] / room if room > 0 else None
    return found


def _together(task: Task, metric: Metric, members: Sequence[Measured]) -> Row:
    """What all members know after the job: the overlap of their errors, and of two the cases."""
    wrong = np.stack([~found.scores[metric.name] for found in members])
    some = int(wrong.any(0).sum())
    row: Row = {"error_overlap_after": int(wrong.all(0).sum()) / some if some else None}
    sure = [task.certain_of_truth(found.statistics) for found in members]
    if len(members) == 2 and sure[0] is not None and sure[1] is not None:
        shares = case_shares(~wrong[0], ~wrong[1], sure[0], sure[1])
        row |= {f"{case}_after": share for case, share in shares.items()}
    return row


def pair_rows(task: Task, a: Measured, b: Measured, together: Measured) -> list[Row]:
    """What rows of `pairs` say of two untouched models on one set, and of their ensemble."""
    rows, alike = [], {}
    if AGREEMENT in together.statistics:
        *joint, differ = together.statistics[AGREEMENT].sum(0, dtype=np.int64).tolist()
        if sum(joint):
            alike = {**joint_measures(*joint), "disagreement": differ / sum(joint)}
    for metric in task.metrics:
        name = metric.name
        scores_a, scores_b = (found.scores[name] for found in (a, b))
        row: Row = {
            "metric": name,
            "n": len(scores_a),
            "score_a": a.values[name],
            "score_b": b.values[name],
            "ensemble": together.values[name],
            "correlation": _correlation(scores_a, scores_b),
            **alike,
        }
        if metric.binary:
            row |= counts(scores_a, scores_b)
            sure = [task.certain_of_truth(found.statistics) for found in (a, b)]
            if sure[0] is not None and sure[1] is not None:
                row |= case_shares(scores_a, scores_b, sure[0], sure[1])
        elif not metric.pooled:
            best = np.maximum if metric.higher_is_better else np.minimum
            row["oracle"] = float(best(scores_a, scores_b).mean())
        rows.append(row)
    return rows


def _correlation(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Pearson's; None where one of both does not vary."""
    x_N, y_N = (values.astype(np.float64) - values.mean() for values in (x_N, y_N))
    across = float(np.sqrt((x_N @ x_N) * (y_N @ y_N)))
    return float(x_N @ y_N) / across if across > 0 else None
