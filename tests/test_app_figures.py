"""The figures of the pages Why, Objectives and Model, and of an opened pair."""

from dataclasses import astuple

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import pearsonr

from bikd_dashboards.class_map import class_map_figure
from bikd_dashboards.correlates import (
    CLOUD,
    says,
    scatter_figure,
    scatter_info,
)
from bikd_dashboards.figures import Heatmap, Interval, heatmap_info
from bikd_dashboards.group_size import Size, sizes_figure, sizes_info
from bikd_dashboards.headline import headlines
from bikd_dashboards.objectives import objectives_figure, objectives_info
from bikd_dashboards.pair import CLASSES, classes_figure, classes_info, flips_figure
from bikd_dashboards.runs import runs
from bikd_ray.analysis.cases import Case, cases
from bikd_ray.analysis.correlation import centred, correlation
from bikd_ray.store.answer_schemas import GAINS, GROWTH
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.tasks.classification_metrics import TOP1
from tests.figure_tables import CONTROL_TABLE, GAIN_TABLE, NAMES, PAIR_TABLE, gain, traces


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    value, _ = pearsonr(x, y)
    return float(value)  # type: ignore[arg-type]  # scipy's result is a tuple of anything


def ends(models: int) -> np.ndarray:
    """[2, M]: learner and partner of every ordered pair."""
    return np.array([(a, b) for a in range(models) for b in range(models) if a != b]).T


def test_the_correlation_is_pearsons_and_its_interval_leaves_out_one_model_at_a_time():
    rng, pairs = np.random.default_rng(1), ends(7)
    x = rng.normal(size=pairs.shape[1])
    y = 0.6 * x + rng.normal(size=pairs.shape[1]) + 30
    got = correlation(x, y, pairs)
    assert got is not None
    assert got.value == pytest.approx(pearson(x, y))
    without = []
    for model in range(7):
        kept = (pairs != model).all(0)
        without.append(np.arctanh(pearson(x[kept], y[kept])))
    error = np.sqrt(6 / 7 * sum((z - np.mean(without)) ** 2 for z in without))
    reach = 2.446911848791681 * error  # Student's t, 0.975, 6 degrees of freedom
    centre = np.arctanh(got.value)
    assert (got.low, got.high) == pytest.approx(np.tanh([centre - reach, centre + reach]))


def test_its_interval_holds_the_truth_where_models_matter_more_than_pairs():
    rng, pairs, held = np.random.default_rng(2), ends(20), 0
    for _ in range(200):
        a, b, c, d = rng.normal(size=(4, 20))  # x and y depend on the models, not on each other
        noise = rng.normal(scale=0.3, size=(2, pairs.shape[1]))
        x, y = a[pairs[0]] + b[pairs[1]] + noise[0], c[pairs[0]] + d[pairs[1]] + noise[1]
        got = correlation(x, y, pairs)
        assert got is not None
        assert got.low is not None
        assert got.high is not None
        held += got.low <= 0 <= got.high
    assert held >= 180


def test_few_models_get_a_correlation_but_no_interval():
    pairs = ends(3)
    got = correlation(np.arange(6.0), np.array([1.0, 3, 2, 5, 4, 6]), pairs)
    assert got is not None
    assert (got.low, got.high) == (None, None)
    assert correlation(np.zeros(6), np.arange(6.0), pairs) is None


def test_within_a_learner_only_its_partners_are_compared():
    assert centred(np.array([1.0, 3, 10, 30]), np.array([0, 0, 1, 1])).tolist() == [-1, 1, -10, 10]


def matrix(value: np.ndarray) -> Heatmap:
    names = tuple(f"m{i}" for i in range(len(value)))
    return Heatmap(
        "net_delta",
        TOP1,
        names,
        names,
        names,
        names,
        value,
        value - 0.1,
        value + 0.1,
        value,
        value,
        np.abs(value) > 0.1,
        np.full(value.shape, np.nan),
    )


def test_the_gap_in_accuracy_is_the_partners_less_the_learners():
    value = np.array([[np.nan, 0.5], [0.05, np.nan]])
    info = scatter_info("accuracy_gap", matrix(value), np.array([80.0, 70.0]))
    assert info.x_M.tolist() == [-10, 10]
    assert info.y_M.tolist() == [0.5, 0.05]
    assert info.muted_M.tolist() == [False, True]
    assert info.learners_M == ("m0", "m1")
    assert says(info) == "Too few pairs have been trained to correlate anything."


def test_very_many_points_are_counted_not_drawn():
    value = np.random.default_rng(0).normal(size=(60, 60))
    info = scatter_info("error_overlap", matrix(value), matrix(value / 2))
    assert len(info.x_M) == 3600 > CLOUD
    (grid,) = traces(scatter_figure(info))
    assert sum(n or 0 for row in grid.z for n in row) == 3600
    assert info.overall is not None
    assert info.overall.value == pytest.approx(1)


def test_a_reason_is_matched_by_model_not_by_place():
    pairs = heatmap_info("kappa", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    net = heatmap_info("net_delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    info = scatter_info("error_overlap", net, pairs.taken(np.array([1, 0])))
    assert sorted(zip(info.learners_M, info.x_M, strict=True)) == [("mixer", 0.25), ("vit", 0.25)]


OBJECTIVES = pa.Table.from_pylist(
    [
        gain("1", "2", (0.5, 0.1, 0.9), (0.2, -0.4, 0.8)),
        gain("1", "2", (0.7, 0.3, 1.1), (0.4, -0.2, 1.0), objective="kd"),
        gain("2", "1", (0.6, 0.1, 1.1), None),
        gain("2", "1", (0.1, -0.3, 0.5), None, objective="kd"),
        gain("1", "3", (0.2, -0.3, 0.7), (-0.1, -0.5, 0.3), objective="kd"),
        gain("1", "23", (9.0, 8.0, 10.0), None),
    ],
    GAINS,
)


def test_objectives_are_compared_where_both_have_trained_the_same_pair():
    info = objectives_info(OBJECTIVES, CONTROL_TABLE, NAMES)
    assert info.names == ("bikd", "kd", "ce")
    bikd, kd = info.summaries
    assert astuple(bikd) == ("bikd", 2, pytest.approx(0.55), pytest.approx(0.2), 0, None, 0, 0)
    assert astuple(kd) == (
        "kd",
        3,
        pytest.approx(1 / 3),
        pytest.approx(0.15),
        2,
        pytest.approx(-0.15),
        1,
        1,
    )
    assert [(line.learner, line.partner) for line in info.lines] == [
        ("vit", "mixer"),
        ("vit", "resnet"),
        ("mixer", "vit"),
    ]
    assert dict(info.lines[0].gains)["ce"] == Interval(0.3, -0.2, 0.8)


def test_of_many_pairs_those_are_drawn_whose_objectives_differ_most():
    info = objectives_info(OBJECTIVES, CONTROL_TABLE, NAMES, most=1)
    assert [(line.learner, line.partner) for line in info.lines] == [("mixer", "vit")]
    assert info.left_out == 2
    assert [trace.name for trace in traces(objectives_figure(info, TOP1))] == [
        "bikd",
        "kd",
        "ce (control)",
    ]


def test_the_dose_is_drawn_by_size_and_the_control_is_a_group_of_one():
    row = gain("1", "", (0.5, 0.1, 0.9), (0.2, -0.1, 0.5))
    rows = [{**row, "size": 3, "groups": 1}, {**row, "size": 2, "groups": 2}]
    growth = pa.Table.from_pylist(rows, GROWTH)
    info = sizes_info("1", "vit", growth, Interval(0.3, 0.1, 0.5))
    assert info.sizes[0] == Size(2, 2, Interval(0.5, 0.1, 0.9), Interval(0.2, -0.1, 0.5))
    assert [s.models for s in info.sizes] == [2, 3]
    assert [*traces(sizes_figure(info, TOP1))[-1].x] == [1.0]


def test_what_both_know_after_training_follows_from_accuracies_and_error_overlap():
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 500)) < [[0.7], [0.6]]
    wrong = (~a | ~b).sum()
    after = {"score_a": 100 * a.mean(), "score_b": 100 * b.mean()}
    after["error_overlap_after"] = (~a & ~b).sum() / wrong
    after["case2_after"] = None  # as in an older store
    before = {"n": 500, "n11": 300, "n10": 80, "n01": 40, "n00": 80, "case2": 0.2}
    first, last = cases(before, [], [after])
    assert first == Case("before", 0.6, 0.24, 0.16, 0.2)
    assert (last.both, last.one, last.none) == pytest.approx(
        ((a & b).mean(), (a ^ b).mean(), (~a & ~b).mean())
    )
    assert last.teacher is None
    *_, told = cases(before, [], [{**after, "case2_after": 0.1}, {**after, "case2_after": 0.2}])
    assert told.teacher == pytest.approx(0.15)


def test_case_shares_of_an_epoch_count_both_students():
    rows = [
        {"epoch": 1, "case1": 0.3, "case2": 0.1, "case3": 0.1, "case4": 0.0},
        {"epoch": 1, "case1": 0.2, "case2": 0.2, "case3": 0.1, "case4": 0.0},
        {"epoch": 0, "case1": None, "case2": None, "case3": None, "case4": None},
    ]
    (epoch,) = cases(None, rows, [])
    assert epoch.when == "epoch 1"
    assert (epoch.both, epoch.one, epoch.none, epoch.teacher) == pytest.approx((0.5, 0.3, 0.2, 0.3))


def test_flips_stand_right_and_left_of_zero_with_the_control_below():
    row = {"gained": 10.0, "gained_known": 6.0, "lost": 4.0, "lost_known": 1.0}
    row |= {"control_gained": 5.0, "control_lost": 3.0}
    bars = traces(flips_figure([("vit", "mixer", row)]))
    assert [bar.x for bar in bars] == [(6.0, 0.0), (4.0, 5.0), (-1.0, 0.0), (-3.0, -3.0)]


def test_of_many_classes_the_largest_gains_and_losses_are_drawn():
    same = {"name": None, "n": 50, "control_delta": None}
    rows = [{**same, "label": i, "delta": float(i)} for i in range(100)]
    info = classes_info("vit", "mixer", rows)
    assert len(info.gains) == CLASSES
    assert info.gains[0].title == "class 99"
    assert info.gains[-1].title == "class 0"
    assert info.left_out == 100 - CLASSES


def test_classes_are_called_what_the_data_calls_them_and_stay_apart():
    names = [
        "a very long name of some first <class>",
        "a very long name of that other <class>",
        "7",
    ]
    rows = [
        {"label": i, "name": name, "n": 5, "delta": 1.0 - i, "control_delta": 0.5}
        for i, name in enumerate(names)
    ]
    figure = classes_figure(classes_info("vit", "mixer", rows), TOP1)
    bars, marks = traces(figure)
    assert (bars.x, bars.y) == ((1.0, 0.0, -1.0), (0, 1, 2))
    assert marks.y == (0, 1, 2)
    shown = figure.to_dict()["layout"]["yaxis"]["ticktext"]
    assert len({*shown}) == 3
    assert shown[0].startswith("a very long")
    assert "&lt;class" in "".join(bars.hovertext)
    assert shown[2] == "class 7 "
    lines = [("vit", "mixer", rows)]
    drawn = class_map_figure(lines, TOP1).to_dict()["layout"]
    assert drawn["xaxis"]["ticktext"][2] == "7"


def test_a_long_tie_names_a_few_and_counts_the_rest():
    names = {str(i): f"m{i}" for i in range(12)}
    rows = []
    for i in reversed(range(1, 12)):
        row = gain("1", "2", (i / 10, 0.0, 1.0), (0.1, 0.0, 0.2), best=i > 2, tie=i > 2)
        rows.append({**row, "model_id": "0", "partner_ids": [str(i)], "partners": [names[str(i)]]})
    table = pa.Table.from_pylist(rows, GAINS)
    baselines = [{"model_id": i, "value": 70.0} for i in names]
    answer = headlines(table, [], baselines, names, SCHEMAS["jobs"].empty_table())[0]
    assert answer.partners == ("m11", "m10", "m9", "m8")
    assert (answer.standing, answer.others) == ("tie", 5)
    assert answer.partner_ids == ("11", "10", "9", "8")


def test_runs_show_speed_and_memory_where_they_were_measured():
    job = {"members": ["a"], "objective": "ce", "seed": 0, "seconds": 3.0, "error": None}
    job["job_id"] = "j"
    used = '{"device":"cuda","images_per_s":1234.5,"peak_memory":3221225472}'
    table = pa.Table.from_pylist(
        [
            {**job, "status": "done", "resources": used},
            {**job, "status": "failed", "resources": None, "error": "Boom: x\n\ntrace"},
        ]
    )
    failed, done = runs(table)
    assert (failed.error, failed.trace, failed.throughput) == ("Boom: x", "trace", "–")
    assert (done.throughput, done.memory, done.device) == ("1,234 samples/s", "3.0 GiB", "cuda")
