"""What a search trains next: the rules one by one, and what its decisions may not depend on."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.analysis.ranking import ranked
from bikd_ray.analysis.scores import Bits
from bikd_ray.analysis.twoway import fitted
from bikd_ray.search.choose import (
    Belief,
    active,
    believe,
    closing_jobs,
    closing_work,
    decide,
    next_jobs,
    promise,
    score,
)
from bikd_ray.search.replay import lost_to_map, regret, searched, winners
from bikd_ray.search.start import circle_steps, missing_start
from bikd_ray.search.state import Question, Rules, Seen, image_variance, pooled_variance, state_of
from tests.searches import SETTING, drawn_results, empty, ids, question, rows_of

VECTORS = json.loads((Path(__file__).parent / "data" / "search-vectors.json").read_text())


def given_draws(eps, seeds_NN):
    """The state and belief of the vectors: four models, with so many seeds done of each pair."""
    given = VECTORS["next_jobs"]
    cost = np.array(given["pair_cost"])
    names = ids(4)
    work = {(names[i], names[j]): cost[i, j] for i, j in combinations(range(4), 2)}
    asked = question(4, range(given["max_seeds"]), Rules(regret=eps, share=9.0), work=work)
    seen = [
        Seen(names[i], names[j], s, 0.1)
        for i, j in np.argwhere(np.array(seeds_NN) > 0)
        for s in range(seeds_NN[i][j])
    ]
    state = state_of(asked, seen, {}, 1000)
    u = np.where(np.eye(4, dtype=bool), -np.inf, np.array(given["draws"]))
    winner = np.where(state.trained_NN, u.mean(0), -np.inf).argmax(1)
    belief = Belief(fitted(state.cells, 4), u, ranked(u), winner, np.zeros(4))
    return state, belief


def pairs_of(asks):
    return [[int(name[1:]) for name in ask.members] for ask in asks]


def test_scores_and_batch_from_given_draws():
    given = VECTORS["next_jobs"]
    state, belief = given_draws(given["eps"], given["seeds_done"])
    assert list(active(state, belief.ranking)) == given["active"]
    chance, leads = promise(state, belief.ranking)
    scores = score(chance, leads, state.begun_NNS.sum(2))
    np.fill_diagonal(scores, 0)
    assert scores == pytest.approx(np.array(given["score"]), abs=1e-10)
    assert pairs_of(next_jobs(state, belief, given["slots"])) == given["chosen"]


def test_settled_models_ask_for_nothing():
    given = VECTORS["stops"]
    state, belief = given_draws(given["eps"], np.ones((4, 4), int) - np.eye(4, dtype=int))
    assert list(active(state, belief.ranking)) == given["active"]
    asks = next_jobs(state, belief, 2)
    assert pairs_of(asks) == given["chosen"]
    assert {ask.seed for ask in asks} == {1}
    settled, belief = given_draws(1.0, np.ones((4, 4), int))
    assert next_jobs(settled, belief, 2) == []


def test_an_untrained_leader_goes_before_everything():
    seeds = np.ones((4, 4), int) - np.eye(4, dtype=int)
    seeds[0, 2] = seeds[2, 0] = 0
    state, belief = given_draws(0.02, seeds)
    assert pairs_of(next_jobs(state, belief, 1)) == [[0, 2]]
    chance, leads = promise(state, belief.ranking)
    assert score(chance, leads, seeds)[0, 2] > 10
    assert score(chance, leads, seeds + 1).max() < 1  # nor does one that is under way


@pytest.mark.parametrize("models", [8, 9, 30])
def test_the_start_gives_every_target_its_partners_and_is_one_design(models):
    state = empty(question(models))
    pairs = missing_start(state)
    degree = np.bincount(np.array(pairs).ravel(), minlength=models)
    assert len(set(map(frozenset, pairs))) == len(pairs)
    assert (degree >= 4).all()
    assert degree.max() <= 5
    reached = np.linalg.matrix_power(
        np.eye(models) + sum(np.eye(models)[[i, j]].T @ np.eye(models)[[j, i]] for i, j in pairs),
        models,
    )
    assert (reached > 0).all()
    # cut off in the middle, it goes on as it would have
    some = pairs[:5] + pairs[9:11]
    gains = np.full_like(state.gain_NNS, np.nan)
    for i, j in some:
        gains[[i, j], [j, i], 0] = 0.5
    rest = missing_start(replace(state, gain_NNS=gains))
    assert {*map(frozenset, rest)} | {*map(frozenset, some)} == {*map(frozenset, pairs)}


def test_the_start_of_one_target():
    state = empty(question(30, targets=["m07"]))
    pairs = missing_start(state)
    assert len(pairs) == 4
    assert all(7 in pair for pair in pairs)


def test_circles_of_any_size():
    assert circle_steps(9) == [1, 3, 2, 4]
    assert circle_steps(30)[:2] == [1, 5]
    assert sorted(circle_steps(30)) == list(range(1, 16))


def whole_search(asked, results, room=4):
    return list(searched(empty(asked), results, room))


def test_a_search_is_a_part_of_the_map_and_ends_by_its_own_rule():
    asked = question(10, controls=True, rules=Rules(confirm=1))
    results = drawn_results(10)
    states, decisions = zip(*whole_search(asked, results), strict=True)
    keys = [ask.key for decision in decisions for ask in decision.asks]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(asked.jobs)
    assert decisions[-1].over
    assert not any(decision.over for decision in decisions[:-1])
    assert decisions[-1].share <= 0.26  # a winner's control may go beyond
    assert {ask.reason for d in decisions for ask in d.asks} >= {"start", "control"}
    # winners have a control of every one of their seeds
    last = states[-1]
    won = winners(last, decisions[-1])
    for i, j in enumerate(won):
        assert (last.done_NNS[i, i] == last.done_NNS[i, j]).all()
    truth = results.mean(2)
    lost = regret(truth, won, last.partner_NN).mean()
    random = np.mean(np.where(last.partner_NN, truth, -np.inf).max(1) - truth.mean(1))
    assert lost < random / 2


def test_seeds_of_a_pair_come_in_the_order_of_the_spec():
    asked = question(8, seeds=(5, 3, 9), rules=Rules(share=0.9, regret=0.0))
    decisions = [d for _, d in whole_search(asked, drawn_results())]
    seeds = {}
    for decision in decisions:
        for ask in decision.asks:
            seeds.setdefault(ask.members, []).append(ask.seed)
    assert any(len(of_pair) > 1 for of_pair in seeds.values())
    assert all(of_pair == [5, 3, 9][: len(of_pair)] for of_pair in seeds.values())


def middle():
    asked = question(9, controls=True, rules=Rules(regret=0.01))
    steps = whole_search(asked, drawn_results(9))
    searching = [s for s, d in steps if {ask.reason for ask in d.asks} & {"leader", "second"}]
    return asked, searching[-2]


def test_decisions_depend_on_no_order_of_rows():
    asked, state = middle()
    rows = rows_of(state)
    rng = np.random.default_rng(5)
    variances = dict.fromkeys(asked.targets, 0.003)
    expected = decide(state, 4)
    assert expected.asks
    for _ in range(3):
        jobs = list(asked.jobs.items())
        shuffled = replace(asked, jobs=dict(jobs[k] for k in rng.permutation(len(jobs))))
        again = state_of(shuffled, [rows[k] for k in rng.permutation(len(rows))], variances, 25_000)
        assert decide(again, 4) == expected


def test_decisions_depend_on_no_order_in_which_a_batch_ends():
    asked, _ = middle()
    results = drawn_results(9)
    *_, (state, decision) = [(s, d) for s, d in whole_search(asked, results) if len(d.asks) > 2]
    at = {model: i for i, model in enumerate(state.models)}

    def finish(gains, ask):
        i, j = at[ask.members[0]], at[ask.members[-1]]
        s = state.seeds.index(ask.seed)
        gains[[i, j], [j, i], s] = results[[i, j], [j, i], s]

    ends = []
    for order in (decision.asks, decision.asks[::-1]):
        gains = state.gain_NNS.copy()
        for ask in order:
            finish(gains, ask)
        ends.append(decide(replace(state, gain_NNS=gains), 3))
    assert ends[0] == ends[1]


def test_jobs_under_way_are_not_asked_again_and_end_nothing():
    asked, state = middle()
    first = decide(state, 4)
    rows, variances = rows_of(state), dict.fromkeys(asked.targets, 0.003)
    busy = [ask.key for ask in first.asks]
    second = decide(state_of(asked, rows, variances, 25_000, busy=busy), 4)
    assert not {ask.key for ask in second.asks} & set(busy)
    # with nothing left to ask for, it waits for them
    pairs = {key: work for key, work in asked.jobs.items() if len(key[0]) == 2}
    done = replace(asked, jobs=pairs, rules=Rules(regret=9.0, confirm=1, share=0.01))
    waiting = decide(state_of(done, rows, variances, 25_000, busy=busy), 4)
    assert waiting.asks == ()
    assert not waiting.over
    assert decide(state_of(done, rows, variances, 25_000), 4).over


def test_jobs_that_failed_are_passed_over():
    asked, state = middle()
    first = decide(state, 1)
    failed = [first.asks[0].key]
    rows, variances = rows_of(state), dict.fromkeys(asked.targets, 0.003)
    second = decide(state_of(asked, rows, variances, 25_000, failed=failed), 4)
    assert failed[0] not in {ask.key for ask in second.asks}
    everything = {k: w for k, w in asked.jobs.items() if len(k[0]) == 2 and "m00" in k[0]}
    alone = state_of(asked, [], variances, 25_000, failed=everything)
    assert not any(0 in pair for pair in missing_start(alone))


def test_the_share_counts_everything_and_leaves_room_for_the_end():
    asked = question(15, controls=True, rules=Rules(regret=0.0, share=0.2))
    states, decisions = zip(*whole_search(asked, drawn_results(15), 5), strict=True)
    assert decisions[-1].share <= 0.2
    assert decisions[-1].share > 0.17
    last = states[-1]
    won = winners(last, decisions[-1])
    seeds = [last.done_NNS[i, j].sum() for i, j in enumerate(won)]
    controls = [last.done_NNS[i, i].sum() for i in range(15)]
    assert np.mean(np.array(seeds) >= 2) > 0.8  # a second seed of winners, from 15 models on
    assert min(controls) >= 1
    assert closing_work(last, won) <= 0.05 * last.map_work
    assert closing_jobs(replace(last, rules=Rules(share=0.0)), won, 9) == []


def test_of_one_model_a_batch_has_a_few_jobs_only():
    asked = question(20, rules=Rules(regret=0.0, share=0.9))
    results = drawn_results(20)
    results[:, 3] += 1.0  # everybody's best teacher
    for _, decision in searched(empty(asked), results, 10):
        if decision.asks and decision.asks[0].reason != "start":
            counts = np.bincount(np.array(pairs_of(decision.asks)).ravel())
            assert counts.max() <= 4  # 2 * ceil(2 * 10 / 20) + 2
            return


def test_a_target_asks_only_for_its_own_pairs_and_others_results_help():
    asked = question(10, targets=["m04"], rules=Rules(regret=0.0, share=0.6))
    pairs = {p: w for p, w in asked.jobs.items() if "m04" in p[0]}
    asked = replace(asked, jobs=pairs)
    gains = drawn_results(10)
    others = [
        Seen(a, b, 0, float(gains[i, j, 0]))
        for i, a in enumerate(ids(10))
        for j, b in enumerate(ids(10))
        if a != b and "m04" not in (a, b)
    ]
    state = state_of(asked, others, {}, 25_000)
    decision = decide(state, 20)
    assert decision.asks
    assert all("m04" in ask.members for ask in decision.asks)
    assert [s.model for s in decision.standings] == ["m04"]
    assert len(state.cells) == 72


def test_a_feature_that_tells_no_partners_apart_changes_nothing_but_the_draws():
    asked, state = middle()
    rng = np.random.default_rng(2)
    of_learner = dict(zip(ids(9), rng.standard_normal(9), strict=True))
    features = {(a, b): [of_learner[a]] for a in ids(9) for b in ids(9) if a != b}
    variances = dict.fromkeys(asked.targets, 0.003)
    useless = state_of(replace(asked, features=features), rows_of(state), variances, 25_000)
    assert len(useless.used_features_FNN) == 1
    without, with_it = believe(state), believe(useless)
    assert with_it.fit.effect_NN == pytest.approx(without.fit.effect_NN, abs=1e-12)
    draws = np.array(
        [believe(replace(state, setting=(str(k),))).ranking.first_NN for k in range(8)]
    )
    apart = np.abs(with_it.ranking.first_NN - draws.mean(0))
    assert apart.max() < 5 * draws.std(0).max()


def test_the_variance_of_seeds_is_pooled():
    gains = np.array([[[np.nan] * 3, [0.1, 0.2, 0.3]], [[0.5, np.nan, 0.7], [np.nan] * 3]])
    variance, df = pooled_variance(gains, 0.03**2, 4)
    assert variance == pytest.approx((0.02 + 0.02 + 4 * 0.03**2) / 7)
    assert df == 7


def test_the_variance_of_images_is_of_differences_between_partners():
    n = 4000
    rng = np.random.default_rng(0)
    before = rng.random(n) < 0.8
    changed = rng.random((3, n)) < 0.02
    vectors = Bits(np.packbits(np.vstack([before, before ^ changed]), axis=1), n)
    found = image_variance(vectors, np.array([[1], [2], [3]]))
    # two that differ on 4% of half of the images, less what both changed
    assert found == pytest.approx(1e4 * 0.04 * 0.98 / 2000 / 2, rel=0.25)
    assert np.isnan(image_variance(vectors, np.array([[1]])))
    assert np.isnan(image_variance(vectors, np.array([[1, -1], [-1, 2]])))


def test_a_store_of_other_seeds_counts_and_is_not_asked_for():
    asked = question(8, seeds=(0, 1))
    results = drawn_results(8)
    state = state_of(asked, [Seen("m00", "m01", 7, 0.5), Seen("m01", "m00", 7, 0.4)], {}, 25_000)
    assert state.seeds == (0, 1, 7)
    assert state.trained_NN.sum() == 2
    assert state.spent == 0
    for _, decision in searched(state, results, 8):
        assert 7 not in {ask.seed for ask in decision.asks}
        assert ("m00", "m01") not in {a.members for a in decision.asks if a.reason == "start"}


def test_a_question_without_an_open_job_is_over_at_once():
    asked = Question(SETTING, ids(5), (0,), {})
    everything = [Seen(a, b, 0, 0.5) for a in ids(5) for b in ids(5) if a != b]
    for seen in ([], everything):
        decision = decide(state_of(asked, seen, {}, 100), 4)
        assert decision.over
        assert decision.asks == ()


@pytest.mark.parametrize("targets", [1, 2, 3, 8])
def test_a_short_start_of_few_targets_still_begins(targets):
    asked = question(9, targets=ids(9)[:targets], rules=Rules(start=1, share=0.5))
    steps = whole_search(asked, drawn_results(9), 20)
    assert len(steps[0][0].cells) == 0
    assert len(steps[1][0].cells) >= 8
    assert all(standing.winner for standing in steps[-1][1].standings)


def test_against_the_map_that_chose_on_the_same_half():
    results, other = drawn_results(8), drawn_results(8, seed=1)
    partner = ~np.eye(8, dtype=bool)
    results[[range(8)], [range(8)]] = np.nan
    by_map = np.where(partner, results.mean(2), -np.inf).argmax(1)
    assert not lost_to_map(results, other, by_map, partner).any()
    worse = by_map.copy()
    worse[3] = min({0, 1, 2} - {by_map[3]})
    worse[5] = -1
    lost = lost_to_map(results, other, worse, partner)
    assert len(lost) == 7
    means = other.mean(2)
    assert lost[3] == pytest.approx(means[3, by_map[3]] - means[3, worse[3]])
