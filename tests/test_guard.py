"""Limits that an exported model has to hold: what a mean gain hides, by the same names as shown."""

import numpy as np
import pytest

from bikd_pipelines.tables import print_hidden
from bikd_ray.analysis.bits import unpack
from bikd_ray.errors import UserError
from bikd_ray.export.guard import check, hidden_of, limits
from bikd_ray.export.summary import around, results_of
from bikd_ray.store import Store
from bikd_ray.store.hidden import NEGATIVE_FLIPS, WORST_CLASS, hidden
from tests.synthetic import World, made

NETS = ("ResNet", "ViT", "Mixer")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    world = World(NETS, {("ViT", "ResNet"): 12.0}, sets=("v2",), losses=True)
    return Store(made(tmp_path_factory.mktemp("guard"), world))


@pytest.fixture(scope="module")
def choice(store):
    row = store.partners("ViT").to_pylist()[0]
    return around(store, results_of(store, row)[0], ())


def bits(choice) -> tuple[np.ndarray, np.ndarray]:
    n = choice.result["n"]
    before, after = (unpack(row["bits"], n) for row in (choice.baseline, choice.result))
    return before, after


def test_each_name_is_what_it_says(choice):
    found = {m.name: x for m, x in hidden_of(choice).items() if x is not None}
    before, after = bits(choice)
    assert found[NEGATIVE_FLIPS] == pytest.approx(100 * (before & ~after).mean())
    label = np.arange(len(before)) % 10  # as the store was made
    each = [100 * (after[label == c].mean() - before[label == c].mean()) for c in range(10)]
    assert found[WORST_CLASS] == pytest.approx(min(each))
    assert found["nll"] == pytest.approx(-2 * (after.mean() - before.mean()), abs=1e-6)
    assert found["v2"] < 0 < found["v2.nll"]
    assert set(found) == {NEGATIVE_FLIPS, WORST_CLASS, "nll", "v2", "v2.nll"}


def test_a_guard_that_holds_says_nothing(choice):
    check(choice, limits("top1>=5 nll<=0 v2>=-20  worst_class >= -50 negative_flips<=10"))
    check(choice, limits(f"top1>={choice.result['delta']!r}"))  # a limit itself is allowed


def test_every_limit_that_fell_is_named_with_by_how_much(choice):
    (v2,) = (x for m, x in hidden_of(choice).items() if m.name == "v2" and x is not None)
    with pytest.raises(UserError) as refused:
        check(choice, limits("v2>=0 nll<=0 top1>=50"))
    said = str(refused.value)
    assert said.startswith("the guard refuses ViT with ResNet (seed 0): v2 −")
    assert f"v2 −{-v2:.2f} pp, which is {-v2:.2f} below its limit of 0" in said
    assert "top1 +" in said
    assert "its limit of 50" in said
    assert "nll" not in said


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("worst_clas>=0", r"called 'worst_clas'.*did you mean 'worst_class'"),
        ("v3>=0", r"called 'v3'.*v2"),
        ("v2=0", r"cannot read 'v2=0'; write NAME>=NUMBER"),
        ("v2>=0 ece<", "cannot read 'ece<'"),
        ("v2>=", "cannot read 'v2>='"),
        ("", "no limit is given"),
    ],
)
def test_what_is_no_guard_is_refused_in_one_line(choice, guard, said):
    with pytest.raises(UserError, match=said) as refused:
        check(choice, limits(guard))
    assert "\n" not in str(refused.value)


def test_partners_show_the_same_names_means_over_the_seeds(store, capsys):
    measures, rows = hidden(store, "ViT")
    assert [m.name for m in measures][:2] == [NEGATIVE_FLIPS, WORST_CLASS]
    assert [one.row["partner"] for one in rows] == store.partners("ViT")["partner"].to_pylist()
    first = rows[0]
    there = store.partners("ViT", eval_set="v2").to_pylist()
    (same,) = (r for r in there if r["partner"] == "ResNet")
    assert first.values["v2"] == pytest.approx(same["delta"])
    assert first.ends == {
        "v2": (pytest.approx(same["delta_low"]), pytest.approx(same["delta_high"]))
    }
    loss = store.partners("ViT", metric="nll").to_pylist()[0]
    assert first.values["nll"] == pytest.approx(loss["delta"], abs=1e-6)
    least = min(r["delta"] for r in store.classes("ViT").to_pylist() if r["partner"] == "ResNet")
    assert first.values[WORST_CLASS] == pytest.approx(least)
    lost = next(r for r in store.flips("ViT").to_pylist() if r["partner"] == "ResNet")["lost"]
    assert first.values[NEGATIVE_FLIPS] == pytest.approx(100 * lost / first.row["n"])
    print_hidden(measures, rows)
    out = capsys.readouterr().out
    assert "negative flips, %" in out
    assert "v2, pp" in out
    (v2,) = (m for m in measures if m.name == "v2")
    assert first.text(v2) in out
    assert first.text(v2).count("[") == 1
    assert f"{first.values['nll']:+.4f}".replace("-", "−") in out
