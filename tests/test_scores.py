"""Scores of either kind against plain per-unit arithmetic, and against each other.

Suffixes: V vectors, N units, S seeds, P partners, C classes.
"""

import numpy as np
import pytest
from scipy import stats

from bikd_ray.analysis.bits import pack, stack
from bikd_ray.analysis.effects import PairGains
from bikd_ray.analysis.scores import Bits, Scores, Values, halves, influence
from bikd_ray.analysis.significance import (
    Estimates,
    best_set,
    contrast,
    cross_fitted,
    differences,
    mcnemar,
    p_value,
    rivals,
)
from bikd_ray.metrics import Metric
from bikd_ray.store.gains import gain_table, growth_rows, p_values
from bikd_ray.store.series import ModelSeries
from bikd_ray.store.teachers import teacher_rows

NLL = Metric("nll", "NLL", "nats", higher_is_better=False)
ESTIMATED = ("mean", "var_images", "var_seeds", "seeds")
AT = np.array([[1, 2, 3], [4, -1, 5], [6, 7, -1], [-1, 8, -1]])
ALONE = np.array([9, 10, 11])


def both_kinds(n, vectors=12, seed=0):
    """The same 0s and 1s as bits and as floats."""
    right = np.random.default_rng(seed).random((vectors, n)) < 0.7
    right[1:] = right[0] ^ (np.random.default_rng(seed + 1).random((vectors - 1, n)) < 0.1)
    return Bits(stack([pack(one) for one in right]), n), Values(right.astype(np.float32))


def nll(n=3000, vectors=12, seed=0, size=1.0):
    """Like negative log-likelihoods: heavy-tailed, what they share larger than what they do not."""
    rng = np.random.default_rng(seed)
    shared = rng.exponential(2.3, n)
    return Values((shared + size * rng.standard_t(3, (vectors, n))).astype(np.float32))


def plainly(values_VN, plus_S, minus_S):
    """mean, var_images, var_seeds, seeds of the n - 1 formulas, unit by unit."""
    x = values_VN.astype(np.float64)
    gains = [x[p] - x[m] for p, m in zip(plus_S, minus_S, strict=True) if p >= 0 and m >= 0]
    if not gains:
        return np.nan, np.nan, np.nan, 0
    gains_SN = np.array(gains)
    seeds, n = gains_SN.shape
    of_seeds = gains_SN.mean(1).var(ddof=1) / seeds if seeds > 1 else 0.0
    return gains_SN.mean(), gains_SN.mean(0).var(ddof=1) / n, of_seeds, seeds


@pytest.mark.parametrize("n", [9, 500, 40_000])  # more than is worked on at a time
def test_values_have_the_plain_variance_of_each_difference(n):
    values = nll(n)
    minus = np.broadcast_to(ALONE, AT.shape)
    found = differences(values, AT, ALONE)
    for p, at_S in enumerate(AT):
        want = plainly(values.values_VN, at_S, minus[p])
        got = [getattr(found, name)[p] for name in ESTIMATED]
        assert got == pytest.approx(want, rel=1e-9, abs=1e-18, nan_ok=True)


def test_a_contrast_of_values_is_that_of_its_combination():
    values, rng = nll(), np.random.default_rng(2)
    weights_SV = rng.normal(size=(4, 3, 12))
    found = contrast(values, weights_SV)
    per_seed = weights_SV @ values.values_VN.astype(np.float64)
    assert found.mean == pytest.approx(per_seed.mean((1, 2)), rel=1e-9)
    assert found.var_images == pytest.approx(per_seed.mean(1).var(1, ddof=1) / 3000, rel=1e-9)
    assert found.var_seeds == pytest.approx(per_seed.mean(2).var(1, ddof=1) / 3, rel=1e-9)


@pytest.mark.parametrize("n", [8, 501])
def test_both_kinds_agree_on_zeros_and_ones_but_for_the_pseudo_units(n):
    bits, floats = both_kinds(n)
    assert (bits.totals == floats.totals).all()
    each = np.eye(12)
    pairs = [
        (differences(kind, AT, ALONE), rivals(kind, AT), contrast(kind, each[[1, 2]] - each[0]))
        for kind in (bits, floats)
    ]
    for of_bits, of_floats in zip(*pairs, strict=True):
        assert of_bits.mean == pytest.approx(100 * of_floats.mean, rel=1e-12, nan_ok=True)
        assert of_bits.var_seeds == pytest.approx(1e4 * of_floats.var_seeds, nan_ok=True)
        assert (of_bits.seeds == of_floats.seeds).all()
        # ((square + 3) / n - mean²) / n of bits, (square - n mean²) / n / (n - 1) of floats
        pseudo = of_floats.var_images * (n - 1) / n + 3 / n**2
        assert of_bits.var_images == pytest.approx(1e4 * pseudo, rel=1e-9, nan_ok=True)
    assert cross_fitted(bits, AT, 0) == pytest.approx(100 * cross_fitted(floats, AT, 0))
    minus_TS = np.broadcast_to(ALONE, AT.shape)
    apart_TS = AT[:3], minus_TS[:3]
    assert bits.unit_gains(*apart_TS) == pytest.approx(floats.unit_gains(*apart_TS), abs=1e-7)


@pytest.mark.parametrize("rows", [(0,), (2, 0), (3,)])
def test_a_contrast_of_nothing_is_the_same_of_both_kinds(rows):
    """Of no seed, as before a control has run, and of weights that are all 0."""
    bits, values = both_kinds(20)
    told, same = (contrast(one, np.zeros((*rows, 12))) for one in (bits, values))
    for name in ("mean", "seeds"):
        assert np.array_equal(getattr(told, name), getattr(same, name), equal_nan=True)


def test_rivals_of_values_are_the_differences_of_any_two_also_where_seeds_are_missing():
    values = nll(40_000)
    got, want = rivals(values, AT), differences(values, AT[:, None], AT[None])
    for name in (*ESTIMATED, "low"):
        there = want.seeds > 0
        assert getattr(got, name)[there] == pytest.approx(
            getattr(want, name)[there], rel=1e-9, abs=1e-18
        )
    assert np.isnan(got.mean[want.seeds == 0]).all()


def test_unit_gains_are_means_over_the_seeds_that_both_have():
    values = nll(50)
    gains_TN = values.unit_gains(AT[:2], np.array([[0, 0, 0], [-1, 0, 0]]))
    x = values.values_VN.astype(np.float64)
    assert gains_TN[0] == pytest.approx(x[1:4].mean(0) - x[0], abs=1e-6)
    assert gains_TN[1] == pytest.approx(x[5] - x[0], abs=1e-6)


@pytest.mark.parametrize("size", [1e-5, 1e-3])
def test_small_differences_of_large_scores_do_not_cancel(size):
    """NLL of 2.3 on average and up to 30, where two models differ by 1e-5."""
    rng = np.random.default_rng(3)
    shared = rng.exponential(2.3, 50_000)
    values = Values((shared + size * rng.normal(1, 1, (5, 50_000))).astype(np.float32))
    at = np.arange(1, 5)[:, None]
    of_rivals = rivals(values, at)
    for q, p in [(0, 1), (2, 3), (3, 0)]:
        mean, var, *_ = plainly(values.values_VN, at[q], at[p])
        assert of_rivals.mean[q, p] == pytest.approx(mean, rel=1e-6, abs=1e-14)
        assert of_rivals.var_images[q, p] == pytest.approx(var, rel=1e-9)
    mean, var, *_ = plainly(values.values_VN, [1], [0])
    found = contrast(values, np.array([[-1.0, 1.0, 0.0, 0.0, 0.0]]))
    assert (found.mean, found.var_images) == pytest.approx((mean, var), rel=1e-7, abs=1e-14)


def test_p_of_one_job_is_that_of_the_paired_t_test_or_of_mcnemar():
    values = nll(200, 2)
    after, before = (values.values_VN[v].astype(np.float64) for v in (1, 0))
    assert p_value(values) == pytest.approx(stats.ttest_rel(after, before).pvalue, rel=1e-9)
    bits, _ = both_kinds(200, 2)
    before, after = np.unpackbits(bits.bits_VB, axis=1, count=200).astype(bool)
    assert p_value(bits) == mcnemar(int((after & ~before).sum()), int((before & ~after).sum()))


def test_what_did_not_change_on_any_unit_is_zero_for_sure():
    same = Values(np.tile(nll(30, 1).values_VN, (2, 1)))
    found = differences(same, np.array([1]), np.array([0]))
    assert (found.mean, found.low, found.high, found.p_value, p_value(same)) == (0, 0, 0, 1, 1)


def test_one_unit_has_no_interval():
    found = differences(Values(np.array([[1.0], [3.0]], np.float32)), np.array([1]), np.array([0]))
    assert found.mean == 2
    assert np.isnan([found.low, found.p_value]).all()


def test_where_lower_is_better_the_best_and_the_cross_fit_turn():
    values = nll(4000, 7, size=0.3)
    values.values_VN[3] -= 0.5  # the lowest by far; the highest of the others is not best
    values.values_VN[5] += 0.5
    at = np.arange(1, 7)[:, None]
    lower, higher = (Values(values.values_VN, sign=sign) for sign in (-1, 1))
    assert best_set(rivals(lower, at)).tolist() == [False, False, True, False, False, False]
    assert best_set(rivals(higher, at)).tolist() == [False, False, False, False, True, False]
    assert cross_fitted(lower, at, 0) == pytest.approx(-0.5, abs=0.05)
    assert cross_fitted(higher, at, 0) == pytest.approx(0.5, abs=0.05)
    turned = cross_fitted(Values(-values.values_VN), at, 0)
    assert cross_fitted(lower, at, 0) == pytest.approx(-turned, abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_whose_scores_are_no_numbers_spoils_no_other(bad):
    values = nll(300, 12)
    broken = Values(values.values_VN.copy())
    broken.values_VN[4, 7] = bad
    kept = [0, 2]
    for at, minus in ((AT, ALONE), (AT, np.zeros(3, int))):
        want, got = differences(values, at, minus), differences(broken, at, minus)
        assert got.low[kept] == pytest.approx(want.low[kept])
        assert np.isnan([got.mean[1], got.low[1], got.p_value[1]]).all()
    want, got = rivals(values, AT[:3]), rivals(broken, AT[:3])
    assert got.low[np.ix_(kept, kept)] == pytest.approx(want.low[np.ix_(kept, kept)])
    assert np.isnan(got.mean[1]).all()
    first, second = best_set(rivals(values, AT[kept]))
    assert best_set(got).tolist() == [first, False, second]
    assert cross_fitted(broken, AT, 0) == pytest.approx(cross_fitted(values, AT[kept], 0))
    each = np.eye(12)
    assert contrast(broken, each[[5]] - each[0]).low == contrast(values, each[[5]] - each[0]).low
    assert np.isnan(cross_fitted(broken, AT[[1]], 0))
    last = Values(broken.values_VN[[*range(4), *range(5, 12), 4]])  # where -1 points to
    at = np.array([[1, 2, 3], [5, 6, -1]])
    assert not np.isnan(cross_fitted(last, at, 0))
    assert not np.isnan(differences(last, at, np.zeros(3, int)).low).any()


# -- pooled metrics --------------------------------------------------------------------


def confusion(seed=0, vectors=7, n=120, classes=4):
    """Counts [V, N, C] of pixels that are right, and in the union, of each class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, (n, classes)) + 1
    right = rng.binomial(pixels, rng.uniform(0.5, 0.9, (vectors, 1, classes)))
    return right, pixels + rng.integers(0, 60, (vectors, n, classes))


def miou(right_VNC, union_VNC, part_N=None):
    part_N = slice(None) if part_N is None else part_N
    return 100 * (right_VNC[:, part_N].sum(1) / union_VNC[:, part_N].sum(1)).mean(-1)


def derivatives(right_VNC, union_VNC):
    """[V, N]: mIoU and what a little more weight of an image does to it."""
    n, total = right_VNC.shape[1], union_VNC.sum(1)
    iou = right_VNC.sum(1) / total
    slope = (right_VNC - iou[:, None] * union_VNC) / total[:, None]
    return miou(right_VNC, union_VNC)[:, None] + 100 * n * slope.mean(-1)


def scores_of(right_VNC, union_VNC):
    n = right_VNC.shape[1]
    others = [miou(right_VNC, union_VNC, np.arange(n) != i) for i in range(n)]
    return influence(miou(right_VNC, union_VNC), np.array(others).T)


def pooled_scores(right_VNC, union_VNC, sign=1):
    return Values(
        scores_of(right_VNC, union_VNC),
        sign,
        pooled=True,
        parts=lambda masks_TN: np.array([miou(right_VNC, union_VNC, mask) for mask in masks_TN]),
    )


def test_scores_of_a_pooled_metric_are_its_derivatives_and_wider_where_a_class_is_rare():
    right, union = confusion(n=500)
    values = scores_of(right, union)
    assert values.mean(1) == pytest.approx(miou(right, union), rel=1e-12)
    assert values == pytest.approx(derivatives(right, union), rel=0.01)
    right[:, 6:, 0] = union[:, 6:, 0] = 0  # six images have this class
    assert (scores_of(right, union).var(1) > 1.1 * derivatives(right, union).var(1)).all()


def test_a_pooled_difference_is_that_of_the_metric_over_all_units():
    counts = confusion()
    found = differences(pooled_scores(*counts), np.arange(1, 7)[:, None], np.array([0]))
    assert found.mean == pytest.approx(miou(*counts)[1:] - miou(*counts)[0], rel=1e-9)


def test_a_pooled_difference_has_the_spread_of_a_bootstrap():
    right, union = confusion(n=500)
    found = differences(pooled_scores(right, union), np.array([1]), np.array([0]))
    rng = np.random.default_rng(1)
    drawn = [rng.integers(500, size=500) for _ in range(600)]
    again = [np.diff(miou(right[:2], union[:2], part)) for part in drawn]
    assert found.se == pytest.approx(np.std(again), rel=0.12)  # 4 of its Monte Carlo errors


@pytest.mark.parametrize("sign", [1, -1])
def test_a_pooled_cross_fit_works_the_metric_of_each_half_out_anew(sign):
    right, union = confusion(seed=4)
    at_PS, measured = np.array([[1, 2], [3, 4], [5, 6]]), []
    for half in halves(120):
        for chooses in (half, ~half):
            first, second = (miou(right, union, part) for part in (chooses, ~chooses))
            for s in (0, 1):
                best = (sign * (first[at_PS[:, 1 - s]] - first[0])).argmax()
                measured.append(second[at_PS[best, s]] - second[0])
    found = cross_fitted(pooled_scores(right, union, sign), at_PS, 0)
    assert found == pytest.approx(np.mean(measured), rel=1e-9)
    values = scores_of(right, union)
    assert found != pytest.approx(cross_fitted(Values(values, sign), at_PS, 0), rel=1e-6)
    assert np.isnan(cross_fitted(Values(values, sign, pooled=True), at_PS, 0))


# -- from rows, and for a zoo ----------------------------------------------------------


def test_rows_hold_bits_of_binary_metrics_and_float32_of_others():
    rows = [{"bits": pack(np.array(right, bool))} for right in ([1, 0, 1], [1, 1, 1])]
    bits = Scores.of(rows, 3, Metric("top1", "top-1", "%", binary=True))
    assert isinstance(bits, Bits)
    assert (bits.scale * bits.totals / 3).tolist() == pytest.approx([200 / 3, 100])
    rows = [{"scores": np.array(x, np.float32).tobytes()} for x in ([1.5, 2.5], [0.0, 4.0])]
    values = Scores.of(rows, 2, NLL)
    assert isinstance(values, Values)
    assert (values.scale * values.totals / 2).tolist() == [2, 2]
    assert (values.sign, values.pooled) == (-1, False)
    pooled = Scores.of(rows, 2, Metric("cc", "CC", pooled=True), lambda masks_TN: 1.0 * masks_TN)
    assert cross_fitted(pooled, np.array([[1]]), 0) == 0  # each half holds one of the two


def test_a_learners_answers_are_of_the_metric_of_its_rows():
    """Losses, lower is better: two seeds of two partners, and of the control."""
    values_VN = nll(500, 7, size=0.3).values_VN
    values_VN[3:5] -= 0.3  # the second partner's
    who = {"model": "m", "model_id": "m", "value": 0.0, "n": 500}
    baseline, *rows = ({"scores": x.tobytes(), "delta": None} for x in values_VN)
    seeds = [dict(enumerate(rows[i : i + 2])) for i in (0, 2, 4)]
    partners = {}
    for name, found in zip("ab", seeds[:2], strict=True):
        mate = {"partners": [name], "role": "peer", "ensemble_before": None}
        partners[name,] = {seed: row | mate for seed, row in found.items()}
    learner = ModelSeries("d", "r", "bikd", NLL, "val", who | baseline, "last", partners, seeds[2])
    gains = gain_table(learner).to_pylist()
    for row, plus in zip(gains, ([1, 2], [3, 4]), strict=True):
        mean, of_units, of_seeds, _ = plainly(values_VN, plus, [5, 6])
        assert row["net_delta"] == pytest.approx(mean, rel=1e-9)
        mean, of_units, of_seeds = np.array([[mean], [of_units], [of_seeds]])
        found = Estimates(mean, of_units, of_seeds, np.array([2]), 500)
        assert (row["net_low"], row["net_high"], row["p_value"]) == pytest.approx(
            (found.low[0], found.high[0], found.p_value[0]), rel=1e-6
        )
        assert row["delta"] == pytest.approx(plainly(values_VN, plus, [0, 0])[0], rel=1e-9)
        assert row["control_delta"] == pytest.approx(plainly(values_VN, [5, 6], [0, 0])[0])
    assert [row["best"] for row in gains] == [False, True]
    assert gains[0]["crossfit_delta"] == pytest.approx(gains[1]["delta"], abs=0.05)
    assert p_values(learner).tolist() == [row["p_value"] for row in gains]
    (group,) = growth_rows(learner)
    assert group["net_delta"] == pytest.approx(np.mean([row["net_delta"] for row in gains]))
    taught = {
        row["model_id"]: row
        for row in teacher_rows([learner], {"d": {"m": "m", "a": "a", "b": "b"}})
    }
    assert taught["m"]["learns"] == pytest.approx(group["net_delta"], rel=1e-5)
    assert taught["b"]["teaches"] < taught["a"]["teaches"]


def test_effects_of_values_are_those_of_bits_in_their_own_unit():
    bits, floats = both_kinds(400)
    at = {0: [1, 2], 1: [3, 4], 2: [5, 6]}
    found = []
    for kind, binary in ((bits, True), (floats, False)):
        gains = PairGains(3, 400, binary=binary)
        for learner, of_teachers in at.items():
            teachers_T = np.array([t for t in range(3) if t != learner])
            plus_TS = np.array(of_teachers)[:, None]
            gains.add(learner, teachers_T, kind.unit_gains(plus_TS, np.zeros_like(plus_TS)))
        found.append(gains.effects())
    of_bits, of_floats = found
    for kind in ("learns", "teaches"):
        mine, other = getattr(of_bits, kind), getattr(of_floats, kind)
        assert mine.mean == pytest.approx(100 * other.mean, rel=1e-5, abs=1e-6)
        assert mine.var_seeds == pytest.approx(1e4 * other.var_seeds, rel=1e-4)
        assert mine.var_images * 400 / 399 == pytest.approx(1e4 * other.var_images, rel=1e-5)
    assert of_bits.teacher_share == pytest.approx(of_floats.teacher_share, rel=1e-4)
