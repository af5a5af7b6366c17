"""A job's result does not depend on how its work is shared: float64, gloo, real processes."""

import numpy as np
import pytest

from bikd_ray.errors import UserError
from bikd_ray.spec_file import parse_spec
from bikd_ray.train import Fit, fit
from bikd_ray.train.parallel import Workers
from tests.placed import run_placed
from tests.plain_loop import (
    CPU,
    NAMES,
    assert_close,
    assert_rows_close,
    job_of,
    networks_of,
    noisy_zoo,
)

FIVE_STEPS = {"epochs": 1, "batch_size": 13, "lr": 1e-2}
TWO_IN_THE_LAST = {"epochs": 2, "batch_size": 20, "lr": 1e-2}  # of three workers one has none
ZOO, QUIET = noisy_zoo(), noisy_zoo(dropout=0.0)

MODELS = [
    (2, {"name": "bikd"}),
    (3, {"name": "bikd", "temperature": 2.0}),
    (3, {"name": "bikd", "detach_teacher": False}),
    (2, {"name": "dml"}),
    (3, {"name": "kd"}),
    (2, {"name": "kl_dp"}),
]
SAMPLES = [(2, FIVE_STEPS), (3, TWO_IN_THE_LAST)]


@pytest.fixture
def placed(spec_file, tmp_path):
    """Runs jobs on workers; every worker must tell the same rows. Returns (found, alone) pairs."""

    def run(cases, count):
        found = run_placed(cases, count, tmp_path)
        for of_ranks in found:
            assert all(one["rows"] == of_ranks[0]["rows"] for one in of_ranks)
            assert all(one["ensemble"] == of_ranks[0]["ensemble"] for one in of_ranks)
        return [(of_ranks, alone(job)) for (job, _), of_ranks in zip(cases, found, strict=True)]

    return run


def alone(job):
    rows = []
    for message in fit(job, networks_of(job), CPU):
        if isinstance(message, Fit):
            return rows, message
        rows.append(message)
    raise AssertionError("no end")


def assert_same(found, rows, end, owner):
    """found: of all ranks. owner: the rank that has a member's weights."""
    for k, chosen in enumerate(end.chosen["last"]):
        assert_close(found[owner(k)]["states"][k], chosen.state)
        assert np.array_equal(
            found[0]["statistics"][k]["predicted"], chosen.outcome.statistics["predicted"]
        )
    assert found[0]["ensemble"] == [
        e and e.values for e in (end.before.ensemble, end.ensemble_after)
    ]
    for mine, plain in zip(found[0]["rows"], rows, strict=True):
        for a, b in zip(mine, plain, strict=True):
            assert_rows_close(a, b)
    for mine, plain in zip(found[0]["likeness"], end.likeness, strict=True):
        assert (mine.before, mine.after) == pytest.approx((plain.before, plain.after), rel=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_one_model_on_each_worker_is_the_same_job(spec_file, placed, count):
    """With dropout and batch normalisation; also where the gradient reaches the teacher."""
    cases = [
        (
            job_of(spec_file, NAMES[:members], objective, recipe=FIVE_STEPS, zoo=noisy_zoo()),
            (count, 1),
        )
        for members, objective in MODELS
        if members == count
    ]
    for found, (rows, end) in placed(cases, count):
        assert_same(found, rows, end, lambda k: k % count)


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_every_batch_are_the_same_job(spec_file, placed, count):
    """Batch statistics and gradients are those of the whole batch, an uneven last one included."""
    cases = [
        (job_of(spec_file, NAMES[:2], {"name": name}, recipe=recipe, zoo=QUIET), (1, count))
        for members, recipe in SAMPLES
        if members == count
        for name in ("bikd", "kl_dp_supervised")
    ]
    for found, (rows, end) in placed(cases, count):
        assert_same(found, rows, end, lambda k: 0)
        assert_same(found, rows, end, lambda k: count - 1)


def test_shares_of_every_batch_on_workers_of_each_model_are_the_same_job(spec_file, placed):
    """Both at once, with frozen teachers, one's own old self and fewer rows than models."""
    how = {"recipe": TWO_IN_THE_LAST, "zoo": QUIET}
    cases = [
        (job_of(spec_file, NAMES[:2], {"name": "bikd", "detach_teacher": False}, **how), (2, 2)),
        (job_of(spec_file, NAMES[:2], {"name": "kl_dp_supervised"}, **how), (2, 2)),
        (job_of(spec_file, NAMES[:3], {"name": "bikd"}, **how), (2, 2)),
        (job_of(spec_file, NAMES[:1], {"name": "self"}, **how), (1, 4)),
    ]
    for (_, (rows_, shares)), (found, (rows, end)) in zip(cases, placed(cases, 4), strict=True):
        for share in range(shares):
            assert_same(found, rows, end, lambda k: k % rows_ * shares + share)  # noqa: B023


def test_workers_have_each_sample_once_and_each_model_once():
    part = np.arange(7)
    for models, count in [(1, 3), (3, 3), (2, 4), (2, 6)]:
        shares = count // models
        workers = [Workers(models, shares, rank) for rank in range(count)]
        had = [(k, n) for w in workers for k in range(5) if w.has(k) for n in w.shard(part)]
        assert sorted(had) == [(k, n) for k in range(5) for n in part]
        assert [w.rank for w in workers if w.has(0)] == list(range(shares))


def test_a_model_that_is_compiled_is_not_shared_sample_by_sample(spec_file):
    def spec(**resources):
        data = {s: {"source": "digits", "split": s} for s in ("train", "val")}
        return {"zoo": noisy_zoo(), "data": data, "resources": resources}

    several = {"placement": "one_model_per_worker", "workers_per_model": 2}
    for how in ({"placement": "data_parallel"}, several):
        with pytest.raises(UserError, match="compile goes with one worker for each model"):
            parse_spec(spec(compile=True, **how))
    with pytest.raises(UserError, match="workers_per_model: 2 goes with placement one_model_per_"):
        parse_spec(spec(workers_per_model=2))
    parse_spec(spec(**several))
