"""Frozen batch normalisation: what training may not change, and what stays as it was."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from bikd_ray.zoo import weights_id
from bikd_ray.zoo.frozen_norm import freeze_batchnorm

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net(torch.randn(8, 3, 9, 9) + 3)  # statistics of other images
    return net


def test_frozen_batch_norm_keeps_its_statistics_scale_and_names():
    net = normed()
    before, identity = copy.deepcopy(net.state_dict()), weights_id(net)
    expected = net.eval()(IMAGES)
    assert freeze_batchnorm(net) == 1
    assert weights_id(net) == identity
    for trained in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        trained.train()
        assert trained.training
        assert_close(trained(IMAGES), expected)
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], 0.1)
        trained(IMAGES[:1]).square().sum().backward()
        optimizer.step()
        after = trained.state_dict()
        assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("1."))
        assert not torch.equal(after["0.weight"], before["0.weight"])


def test_frozen_batch_norm_trains_one_image_where_live_does_not():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    with pytest.raises(ValueError, match="more than 1 value"):
        net(IMAGES[:1])
    freeze_batchnorm(net)
    net(IMAGES[:1]).sum().backward()
