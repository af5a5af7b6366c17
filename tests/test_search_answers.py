"""What a search may claim: pooled seeds, levels for looks, and half B that decides nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.analysis.bits import stack
from bikd_ray.analysis.halves import deciding_half
from bikd_ray.analysis.scores import Bits, Values
from bikd_ray.analysis.significance import differences, rivals
from bikd_ray.errors import UserError
from bikd_ray.search.answers import (
    believed,
    best_set_after,
    credible_set,
    interval,
    measured,
    with_pooled_seeds,
)
from bikd_ray.search.checks import problems, worth_a_search
from bikd_ray.search.choose import believe, decide
from bikd_ray.search.replay import Forecast, forecast, searched
from bikd_ray.search.state import (
    Rules,
    Seen,
    gains_on_half,
    image_variance,
    pooled_variance,
    state_of,
)
from tests.searches import drawn_results, empty, ids, question

VECTORS = json.loads((Path(__file__).parent / "data" / "search-vectors.json").read_text())
AT_PS = 1 + np.arange(8).reshape(4, 2)


def given_bits():
    given = VECTORS["elimination"]
    return Bits(stack([bytes.fromhex(one) for one in given["bits_hex"]]), given["images"])


def test_rivals_and_the_set_at_any_time():
    given = VECTORS["elimination"]
    found = rivals(given_bits(), AT_PS)
    off = ~np.eye(4, dtype=bool)
    for name in ("mean", "var_images", "var_seeds"):
        assert getattr(found, name)[off] == pytest.approx(np.array(given[name])[off], abs=1e-10)
    assert list(best_set_after(found, 1)) == given["best_set_now"]
    assert list(best_set_after(found, given["looks"])) == given["best_set_any_time"]


def test_intervals_with_own_and_with_pooled_seeds():
    given = VECTORS["adjusted_interval"]
    bits = given_bits()
    delta = differences(bits, AT_PS, np.array(0))
    assert delta.mean == pytest.approx(given["delta"], abs=1e-10)
    gains = gains_on_half(bits, AT_PS, 0, deciding=None)
    variance, df = pooled_variance(gains, 0.0, 0)
    assert (variance, df) == (
        pytest.approx(given["seed_variance_pooled"], abs=1e-10),
        given["df_pooled"],
    )
    pooled = with_pooled_seeds(delta, (variance, df))
    adjusted = given["alpha_each_side"]
    for ends, alpha, of in (
        ("", 0.025, delta),
        ("_adjusted", adjusted, delta),
        ("_pooled", 0.025, pooled),
        ("_pooled_adjusted", adjusted, pooled),
    ):
        low, high = interval(of, alpha)
        assert low == pytest.approx(given["low" + ends], abs=1e-10)
        assert high == pytest.approx(given["high" + ends], abs=1e-10)


class Zoo:
    """Bits of a few models before training, and after every job of a map."""

    def __init__(self, models=8, n=1600, seeds=2):
        self.rng = np.random.default_rng(4)
        self.models, self.n, self.seeds = models, n, seeds
        self.right = {}
        for i in range(models):
            before = self.rng.random(n) < 0.7
            self.right[i] = [before]
            for _ in range(models * seeds):
                better = self.rng.random(n) < self.rng.uniform(0.0, 0.1)
                worse = self.rng.random(n) < 0.02
                self.right[i].append((before | better) & ~worse)
        self.at = 1 + np.arange(models * seeds).reshape(models, seeds)

    def bits(self, i):
        return Bits(np.packbits(np.array(self.right[i]), axis=1), self.n)

    def other_half_permuted(self):
        reporting = np.flatnonzero(~deciding_half(self.n))
        for i in range(self.models):
            for right in self.right[i]:
                right[reporting] = right[self.rng.permutation(reporting)]

    def state(self, done):
        names, seen, variances = ids(self.models), [], {}
        for i in range(self.models):
            gains = gains_on_half(self.bits(i), self.at, 0)
            mine = [j for j in range(self.models) if {i, j} in done]
            seen += [
                Seen(names[i], names[j], s, gains[j, s]) for j in mine for s in range(self.seeds)
            ]
            variances[names[i]] = image_variance(self.bits(i), self.at[mine])
        asked = question(self.models, range(self.seeds + 1), Rules(regret=0.0, share=0.9))
        return state_of(asked, seen, variances, self.n // 2)


def test_the_reporting_half_changes_no_decision():
    zoo = Zoo()
    done = [{i, (i + k) % 8} for i in range(8) for k in (1, 3)]
    first = decide(zoo.state(done), 5)
    before = zoo.bits(0).bits_VB
    zoo.other_half_permuted()
    assert not np.array_equal(zoo.bits(0).bits_VB, before)
    assert first.asks
    assert decide(zoo.state(done), 5) == first


def test_answers_are_of_the_reporting_half():
    zoo = Zoo(models=4)
    reporting = ~deciding_half(zoo.n)
    control = zoo.at[3]
    at = zoo.at[:3].copy()
    at[2, 1] = -1
    found = measured(zoo.bits(0), at, 0, control, (0.04, 6))
    gains = [
        [100 * (zoo.right[0][k][reporting].mean() - zoo.right[0][0][reporting].mean()) for k in row]
        for row in at[:2]
    ]
    assert found.images == zoo.n // 2
    assert found.delta.mean[:2] == pytest.approx(np.mean(gains, 1))
    alone = 100 * (zoo.right[0][at[2, 0]] * 1.0 - zoo.right[0][control[0]])[reporting].mean()
    assert found.net.mean[2] == pytest.approx(alone)
    assert list(found.delta.var_seeds) == pytest.approx([0.02, 0.02, 0.04])
    assert list(found.net.var_seeds) == pytest.approx([0.04, 0.04, 0.08])
    assert list(found.delta.seeds) == [7, 7, 7]
    assert found.best_P.any()
    everything = measured(zoo.bits(0), at, 0, control, (0.04, 6), looks=3)
    assert everything.images == zoo.n
    assert everything.alpha == pytest.approx(0.025 / 9)
    # without seeds there is nothing to say, and no control leaves no net
    none = measured(zoo.bits(0), at, 0, np.array([-1, -1]), (0.04, 6))
    assert np.isnan(none.net.mean).all()


def test_scores_where_lower_is_better_are_gains_when_they_fall():
    rng = np.random.default_rng(0)
    losses = rng.random((3, 200)).astype(np.float32)
    at = np.array([[1], [2], [-1]])
    gains = gains_on_half(Values(losses, sign=-1), at, 0)
    half = deciding_half(200)
    assert gains[:2, 0] == pytest.approx(
        losses[0, half].mean() - losses[1:, half].mean(1), abs=1e-6
    )
    assert np.isnan(gains[2, 0])
    found = measured(Values(losses, sign=-1), at, 0, np.array([-1]), (0.0001, 4))
    assert found.delta.mean[0] == pytest.approx((losses[1] - losses[0])[~half].mean(), abs=1e-6)
    assert list(found.best_P) == [True, True, False]


def test_what_the_model_says_of_all_partners():
    asked = question(10)
    results = drawn_results(10)
    *_, (state, decision) = searched(empty(asked), results, 4)
    belief = believe(state)
    for i, standing in enumerate(decision.standings):
        said = believed(state, belief, standing.model)
        assert len(said.partners) == 9
        assert said.winner == standing.winner
        assert said.chance_best_P.sum() == pytest.approx(1)
        assert (np.diff(said.expected_delta_P) <= 0).all()
        assert said.trained_P.sum() == state.trained_NN[i].sum()
        assert said.chance_untrained == standing.chance_untrained
        assert not np.isnan(said.expected_delta_P).any()
    assert decision.settled == 10
    assert str(decision).startswith("search: 10 of 10 models settled, expected regret 0.0")


def test_the_fewest_partners_that_hold_the_best():
    assert list(credible_set(np.array([0.05, 0.6, 0.35, 0.0]))) == [False, True, True, False]
    assert list(credible_set(np.array([0.5, 0.5]))) == [True, True]


def test_a_forecast_of_an_empty_store_and_of_a_finished_search():
    clock = iter(range(1000))
    told = forecast(empty(question(10)), seconds=3, clock=lambda: next(clock))
    assert told.map_jobs == 135
    assert 20 <= told.jobs[0] <= told.jobs[1] <= 34
    assert 0 <= told.regret[0] <= told.regret[1] < 0.1
    assert told.share[1] <= 0.26
    words = str(Forecast((45, 51), (0.25, 0.2504), (0.006, 0.024), 1156, 20))
    assert words == (
        "best_partner: about 45–51 of the map's 1,156 jobs, 25% of its work; expected regret "
        "0.01–0.02"
    )
    *_, (last, decision) = searched(empty(question(10)), drawn_results(10))
    again = forecast(last, seconds=0)
    done = int(np.triu(last.done_NNS.transpose(2, 0, 1)).sum())
    assert again.jobs == (done, done)
    assert again.share[0] == pytest.approx(decision.share)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((3, "all", "last", [("bikd", True)]), ["pairings.size is 3"]),
        ((2, "list", "last", [("bikd", True)]), ["pairings lists them"]),
        ((2, "all", "best_val", [("bikd", True)]), ["selection best_val"]),
        ((2, "anchors", "last", [("kd", False)]), ["but kd teaches one of them"]),
        ((2, "anchors", "best_select", [("bikd", True)]), []),
    ],
)
def test_goals_that_other_fields_exclude(given, told):
    found = problems("best_partner", *given)
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))
    assert problems("map", *given) == []


def test_a_search_that_a_map_would_not_cost_more_than_is_refused():
    with pytest.raises(UserError, match="among 7 models: a map of one seed costs the same"):
        worth_a_search(7, 14, 63, 0.25)
    with pytest.raises(UserError, match=r"share 0.1 is used up .* \(15% of the map\)"):
        worth_a_search(10, 20, 135, 0.1)
    worth_a_search(10, 20, 135, 0.25)
