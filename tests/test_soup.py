"""Soups: means of weights, which ingredients, and batch statistics of their own."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bikd_ray.errors import UserError
from bikd_ray.train.soup import (
    Tried,
    averaged,
    best_scale,
    greedy_soup,
    has_batch_statistics,
    moved,
    reestimate_batchnorm,
)

VECTORS = json.loads((Path(__file__).parent / "data" / "search-vectors.json").read_text())


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(4 * 36, 5), nn.BatchNorm1d(5, momentum=0.3),
    )  # fmt: skip


def test_the_mean_is_taken_in_float64_and_integers_are_the_first_ones():
    big = [
        {"w": torch.tensor([1.0, 1e8]), "seen": torch.tensor(3)},
        {"w": torch.tensor([2.0, 1.0]), "seen": torch.tensor(9)},
        {"w": torch.tensor([3.0, -1e8]), "seen": torch.tensor(9)},
    ]
    soup = averaged(big)
    assert soup["w"].tolist() == [2.0, pytest.approx(1 / 3, rel=1e-6)]
    assert soup["w"].dtype == torch.float32
    assert soup["seen"].item() == 3
    half = averaged([{"w": torch.tensor([1.0], dtype=torch.float16)}] * 2)
    assert half["w"].dtype == torch.float16
    assert big[0]["w"].tolist() == [1.0, 1e8]


def test_a_mean_of_one_is_itself_and_moves_by_a_scale():
    states = [network(seed).state_dict() for seed in (1, 2)]
    start = network(0).state_dict()
    assert all(torch.equal(averaged(states[:1])[k], v) for k, v in states[0].items())
    mean = averaged(states)
    same = moved(start, states, scale=0.5)
    further = moved(start, states, scale=1.0)
    for name, value in mean.items():
        if value.is_floating_point():
            assert torch.allclose(same[name], value, atol=1e-6)
            change = states[0][name] + states[1][name] - 2 * start[name]
            assert torch.allclose(further[name] - start[name], change, atol=1e-6)


def test_tied_tensors_stay_tied_where_all_tie_them():
    shared, other = torch.ones(3), torch.zeros(3)
    tied = {"a": shared, "b": shared}
    soup = averaged([tied, {"a": other, "b": other}])
    assert soup["a"] is soup["b"]
    loose = averaged([tied, {"a": other, "b": other.clone()}])
    assert loose["a"] is not loose["b"]
    assert loose["a"].tolist() == loose["b"].tolist() == [0.5] * 3
    empty = averaged([{"a": torch.zeros(0), "b": torch.zeros(0, 2)}])
    assert [t.shape for t in empty.values()] == [(0,), (0, 2)]


def test_other_networks_are_no_ingredients():
    one = {"w": torch.zeros(2)}
    with pytest.raises(UserError, match=r"ingredient 2 .* w differs; take variants of one model"):
        averaged([one, {"w": torch.zeros(3)}])
    with pytest.raises(UserError, match=r"ingredient 3 .* bias differs"):
        averaged([one, one, {**one, "bias": torch.zeros(1)}])
    with pytest.raises(UserError, match="one ingredient at least"):
        averaged([])


def test_greedy_ingredients():
    given = VECTORS["greedy_soup"]
    top1 = given["top1_on_deciding_half"]
    kept, trail = greedy_soup(
        [top1[str(k)] for k in range(3)], lambda some: top1["".join(map(str, some))]
    )
    assert "".join(map(str, kept)) == given["kept"]
    assert [["".join(map(str, t.ingredients)), t.score, t.kept] for t in trail] == given["trail"]
    worse = greedy_soup([2.0, 3.0, 1.0], lambda some: 3.0 if some == (1, 2) else 2.9)
    assert worse == ((1, 2), [Tried((0, 1), 2.9, False), Tried((1, 2), 3.0, True)])


def test_the_smallest_of_equal_scales():
    assert best_scale(4, lambda scale: {0.25: 80.0, 0.5: 81.0, 1.0: 81.0}[scale]) == (0.5, 81.0)
    assert best_scale(2, lambda scale: -scale) == (0.5, -0.5)


def test_batch_statistics_are_the_mean_over_the_images_given():
    net = network().train()
    conv, norm, last = net[0], net[1], net[6]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(last, nn.BatchNorm1d)
    torch.manual_seed(1)
    images = 3 * torch.randn(64, 3, 8, 8) + 1
    before = copy.deepcopy(net.state_dict())
    assert has_batch_statistics(net)
    assert reestimate_batchnorm(net, images.split(16)) == 64
    seen = conv(images).transpose(0, 1).flatten(1)
    assert torch.allclose(norm.get_buffer("running_mean"), seen.mean(1), atol=1e-5)
    batches = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in conv(images).split(16)])
    assert torch.allclose(norm.get_buffer("running_var"), batches.mean(0), atol=1e-4)
    assert all(torch.equal(net.state_dict()[k], before[k]) for k in before if "weight" in k)
    assert [m.training for m in net.modules()] == [True] * 8
    assert (norm.momentum, last.momentum) == (0.1, 0.3)
    assert all(p.grad is None for p in net.parameters())
    # dropout was off: the last layer's inputs have been those of evaluation
    again = copy.deepcopy(net)
    reestimate_batchnorm(again, images.split(16))
    assert torch.equal(again.get_buffer("6.running_mean"), last.get_buffer("running_mean"))


def test_networks_without_batch_statistics_read_nothing():
    def images():
        raise AssertionError("read")
        yield

    assert not has_batch_statistics(nn.Sequential(nn.LayerNorm(3)))
    assert reestimate_batchnorm(nn.Sequential(nn.LayerNorm(3)), images()) == 0


def test_batch_statistics_need_images():
    with pytest.raises(UserError, match="need train images"):
        reestimate_batchnorm(network(), [])
    with pytest.raises(UserError, match="two images or more"):
        reestimate_batchnorm(network(), [torch.zeros(1, 3, 8, 8)])
