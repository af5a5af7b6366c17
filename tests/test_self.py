"""What a model's own old self gives it, beside the control: with an interval, and as a contrast."""

import numpy as np
import pytest

from bikd_ray.analysis.bits import pack
from bikd_ray.analysis.scores import Scores
from bikd_ray.analysis.significance import differences
from bikd_ray.store import Store, Writer
from bikd_ray.tasks.classification_metrics import TOP1
from tests.stores import BEFORE, N, after, baseline, job

SELF = "self(temperature=4.0)"


@pytest.fixture
def store(tmp_path) -> Store:
    writer = Writer(str(tmp_path))
    for m in "ab":
        baseline(writer, m)
    for seed in range(3):
        job(writer, {"a": after("a", 0.05, seed)}, seed)
        job(writer, {"a": after("a", 0.15, seed + 20)}, seed, objective="self")
        if seed:  # two of three seeds
            job(writer, {"a": after("a", 0.2, seed + 30)}, seed, objective=SELF)
        for objective in ("bikd", "kd(temperature=4.0)"):
            members = {"a": after("a", 0.3, seed + 7), "b": BEFORE["b"]}
            job(writer, members, seed, objective=objective)
    return Store(str(tmp_path))


def vectors(*right) -> Scores:
    rows = [{"bits": pack(one)} for one in (BEFORE["a"], *right)]
    return Scores.of(rows, N, TOP1)


def test_both_contrasts_are_paired_by_their_seeds(store):
    plain, hot = (store.partners("a", o).to_pylist()[0] for o in ("bikd", "kd"))
    own = [after("a", 0.15, seed + 20) for seed in range(3)]
    taught = [after("a", 0.3, seed + 7) for seed in range(3)]
    scores = vectors(*own, *taught)
    one, two = np.array([1, 2, 3]), np.array([4, 5, 6])
    for row, plus, minus, names in (
        (plain, one, one * 0, ("self_delta", "self_low", "self_high")),
        (plain, two, one, ("over_self", "over_self_low", "over_self_high")),
    ):
        expected = differences(scores, plus, minus)
        found = [row[name] for name in names]
        assert found == pytest.approx([expected.mean, expected.low, expected.high])
    assert plain["over_self"] == pytest.approx(plain["delta"] - plain["self_delta"])
    # of several selves the one with the settings of the objective stands beside it
    scores = vectors(*(after("a", 0.2, seed + 30) for seed in (1, 2)), *taught[1:])
    expected = differences(scores, np.array([3, 4]), np.array([1, 2]))
    assert hot["over_self"] == pytest.approx(expected.mean)
    assert hot["over_self_low"] == pytest.approx(expected.low)


def test_a_self_with_settings_is_a_control_and_no_objective(store):
    assert set(store.gains()["objective"].to_pylist()) == {"bikd", "kd(temperature=4.0)"}
    (row,) = store.controls(objective=SELF).to_pylist()
    assert (row["objective"], row["seeds"], row["partner"]) == (SELF, 2, "")
    assert [r["seeds"] for r in store.controls(objective="self").to_pylist()] == [3]
    assert {r["objective"] for r in store.controls().to_pylist()} == {"ce"}


def test_without_it_there_is_nothing_to_say(tmp_path):
    writer = Writer(str(tmp_path))
    for m in "ab":
        baseline(writer, m)
    job(writer, {m: after(m, 0.3, 0) for m in "ab"}, 0)
    (row,) = Store(str(tmp_path)).partners("a").to_pylist()
    names = ("self_delta", "self_low", "self_high", "over_self", "over_self_low")
    assert {row[name] for name in names} == {None}
    assert len(Store(str(tmp_path)).controls(objective="self")) == 0
