import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import timm
import torch
from timm.models.mlp_mixer import MlpMixer, ResBlock
from torch import Tensor, nn

from bikd_ray.data import open_split
from bikd_ray.data.loader import Loader
from bikd_ray.errors import UserError
from bikd_ray.sweep.events import JobRequest
from bikd_ray.train import evaluate
from bikd_ray.train.member import Member
from bikd_ray.train.similarity import FeatureTap, cca, correlations
from bikd_ray.zoo.adapters import features_of, logits_of
from tests.conftest import net
from tests.jobs import result_of
from tests.nets import Net
from tests.plain_loop import CPU, NAMES, job_of, networks_of, noisy_zoo

VECTORS = json.loads((Path(__file__).parent / "data/method-vectors.json").read_text())["cca"]


def pair(n=200, d=7, e=5, shared=3, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Two models' features with `shared` directions in common, under noise."""
    gen = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, width, generator=gen, dtype=torch.float64) for width in (d, e))
    y[:, :shared] = 0.8 * x[:, :shared] + 0.6 * y[:, :shared]
    mix = torch.randn(e, e, generator=gen, dtype=torch.float64)
    return (x + 2).to(dtype), (y @ mix).to(dtype)


def by_eigenproblem(x: Tensor, y: Tensor, ridge: float) -> np.ndarray:
    """All canonical correlations, largest first, from the covariances (Hotelling 1936)."""
    d, e = x.shape[1], y.shape[1]
    cov = np.cov(np.hstack([x.double().numpy(), y.double().numpy()]).T)
    cross, own = cov.copy(), np.zeros_like(cov)
    cross[:d, :d] = cross[d:, d:] = 0
    for side in (slice(0, d), slice(d, d + e)):
        cov_side = cov[side, side]
        own[side, side] = cov_side + ridge * np.diag(cov_side).mean() * np.eye(len(cov_side))
    return scipy.linalg.eigh(cross, own, eigvals_only=True)[::-1][: min(d, e)]


def by_angles(x: Tensor, y: Tensor) -> np.ndarray:
    """All canonical correlations, largest first, as cosines between the centred column spaces."""
    spans = [z.double().numpy() - z.double().numpy().mean(0) for z in (x, y)]
    return np.sort(np.cos(scipy.linalg.subspace_angles(*spans)))[::-1]


def test_cca_is_that_of_the_published_vectors():
    x, y = (torch.tensor(VECTORS[side], dtype=torch.float64) for side in "XY")
    assert cca(x, y) == pytest.approx(np.mean(VECTORS["corr"]), abs=1e-12)
    assert cca(x, y, top=2) == pytest.approx(VECTORS["mean_top2"], abs=1e-12)
    assert cca(x, y, top=1) == pytest.approx(VECTORS["corr"][0], abs=1e-12)
    ridged = np.mean(VECTORS["corr_ridge_1e-3"])
    assert cca(x, y, ridge=1e-3) == pytest.approx(ridged, abs=1e-12)


@pytest.mark.parametrize("top", [1, 3, 100])
def test_cca_is_the_mean_cosine_of_the_smallest_angles_between_the_features(top):
    x, y = pair()
    assert cca(x, y, top=top) == pytest.approx(by_angles(x, y)[:top].mean(), abs=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1, 10.0])
def test_cca_solves_the_eigenproblem_of_the_covariances(ridge):
    x, y = pair()
    expected = by_eigenproblem(x, y, ridge)
    assert cca(x, y, top=2, ridge=ridge) == pytest.approx(expected[:2].mean(), abs=1e-12)
    assert cca(x, y, ridge=ridge) == pytest.approx(expected.mean(), abs=1e-12)


def invertible(width: int) -> Tensor:
    gen = torch.Generator().manual_seed(width)
    return torch.randn(width, width, generator=gen, dtype=torch.float64)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x @ invertible(7), y),
        lambda x, y: (x, y @ invertible(5)),
        lambda x, y: (x * torch.logspace(-3, 3, 7), y),
        lambda x, y: (x + 100, y - 7),
        lambda x, y: (x.flip(0), y.flip(0)),
        lambda x, y: (y, x),
    ],
    ids=["map of x", "map of y", "units", "shift", "order of the samples", "the other way round"],
)
def test_cca_does_not_depend_on_how_the_same_features_are_written(change):
    x, y = pair()
    assert cca(*change(x, y)) == pytest.approx(cca(x, y), abs=1e-10)


def test_cca_does_depend_on_which_sample_is_which():
    x, y = pair()
    assert cca(x.flip(0), y) < cca(x, y) - 0.2


def test_features_that_are_maps_of_each_other_have_correlation_1():
    x, _ = pair()
    assert cca(x, x @ invertible(7)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "more",
    [
        lambda x: torch.zeros_like(x[:, :2]),
        lambda x: torch.full_like(x[:, :2], 0.1),
        lambda x: torch.full_like(x[:, :2], 12345.678),
        lambda x: x[:, :3],
        lambda x: x[:, :3] @ invertible(3).to(x),
        lambda x: 1 + x.sum(1, keepdim=True) / 3,
    ],
    ids=["dead", "constant", "large constant", "repeated", "dependent", "sum"],
)
def test_columns_that_add_no_direction_change_nothing(dtype, more):
    x, y = pair(dtype=dtype)
    wider_x, wider_y = torch.cat([x, more(x)], 1), torch.cat([more(y), y], 1)
    expected = cca(x, y)
    for a, b in [(wider_x, y), (x, wider_y), (wider_x, wider_y)]:
        assert cca(a, b) == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("width", [16, 64])
def test_the_direction_that_a_layer_norm_takes_away_is_not_compared(width):
    gen = torch.Generator().manual_seed(1)
    norm = nn.LayerNorm(width)
    nn.init.uniform_(norm.weight, 0.5, 2, generator=gen)
    nn.init.uniform_(norm.bias, 0.5, 2, generator=gen)
    with torch.no_grad():
        x, y = norm(torch.randn(2, 4 * width, width, generator=gen))
    expected = by_angles(x[:, 1:], y[:, 1:]).mean()  # any column follows from the others
    assert cca(x, y) == pytest.approx(expected, abs=1e-5)


def test_small_directions_are_directions():
    x, y = pair(dtype=torch.float32)
    expected = cca(x, y)
    x[:, 0] *= 1e-4
    assert cca(x, y) == pytest.approx(expected, abs=1e-5)


def test_too_few_samples_to_tell_give_nan():
    x, y = pair(n=100, d=60, e=39, shared=0)
    assert cca(x, y, top=1) < 1 - 1e-4
    more = torch.cat([y, x[:, :1].exp()], 1)  # 60 + 40 = N directions: one must be shared
    assert by_angles(x, more)[0] == pytest.approx(1, abs=1e-12)
    assert math.isnan(cca(x, more))
    assert 0 < cca(x, more, ridge=0.1) < 0.9


def test_more_columns_than_samples_give_nan_but_a_ridge_helps():
    x, y = pair(n=20, d=30, e=40)
    assert math.isnan(cca(x, y))
    narrow = by_eigenproblem(x, y, 0.5)  # of 30, at most 19 are not zero
    assert cca(x, y, ridge=0.5) == pytest.approx(narrow[:19].mean(), abs=1e-10)


@pytest.mark.parametrize("value", [0.0, 3.3, math.nan, math.inf])
def test_features_without_an_answer_give_nan(value):
    x, y = pair()
    assert math.isnan(cca(torch.full_like(x, value), y))
    assert math.isnan(cca(x, torch.full_like(y, value), ridge=0.1))


@pytest.mark.parametrize("n", [0, 1])
def test_no_samples_or_one_give_nan(n):
    x, y = pair()
    assert math.isnan(cca(x[:n], y[:n]))


def test_impossible_requests_are_refused():
    x, y = pair()
    with pytest.raises(ValueError, match="200 and 199 samples"):
        cca(x, y[1:])
    with pytest.raises(ValueError, match="top=0"):
        cca(x, y, top=0)
    with pytest.raises(ValueError, match="ridge=-1"):
        cca(x, y, ridge=-1)


def test_the_features_that_were_given_are_left_as_they_were():
    x, y = pair()
    before = x.clone(), y.clone()
    cca(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def of_timm(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **kwargs)


def of_mixers(**kwargs: Any) -> Callable[[], nn.Module]:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "num_blocks": 1, "num_classes": 5}
    return lambda: MlpMixer(**shape, **kwargs)


SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
PIT = {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 1, 1)}
COAT = {"embed_dims": (8, 8, 8, 8), "serial_depths": (1, 1, 1, 1)}
LEVIT = {"embed_dim": (16, 16, 16), "depth": (1, 1, 1)}
CROSS = {"img_scale": (1.0, 1.0), "embed_dim": (8, 16), "depth": ((1, 1, 0),), "num_heads": (2, 2)}
FAMILIES = {
    "vit": of_timm("test_vit", img_size=32),
    "resnet": of_timm("test_resnet"),
    "convnext": of_timm("test_convnext"),
    "efficientnet": of_timm("test_efficientnet"),
    "mixer": of_mixers(),
    "resmlp": of_mixers(block_layer=ResBlock, mlp_ratio=4),
    "swin": of_timm("swin_tiny_patch4_window7_224", img_size=32, **SWIN),
    "pit": of_timm("pit_ti_224", img_size=32, **PIT),
    "coat": of_timm("coat_lite_tiny", img_size=32, **COAT),
    "senet": of_timm("legacy_seresnet18", layers=(1, 1, 1, 1)),
    "convolution as head": of_timm("resnetv2_18", layers=(1, 1, 1, 1), channels=(8, 8, 8, 16)),
    "two heads on one input": of_timm("levit_128s", img_size=32, **LEVIT),
    "unknown to timm": lambda: net(norm=True),
}
TWO_INPUTS = {
    "deit distilled": of_timm(
        "deit_tiny_distilled_patch16_224", img_size=32, embed_dim=12, depth=1
    ),
    "pit distilled": of_timm("pit_ti_distilled_224", img_size=32, **PIT),
    "crossvit": of_timm("crossvit_tiny_240", img_size=48, **CROSS),
}


def ready(build: Callable[[], nn.Module]) -> tuple[nn.Module, list[Tensor]]:
    """A network in eval mode with random weights, and three batches of images."""
    torch.manual_seed(0)
    network = build().eval()
    for parameter in network.parameters():  # heads that start at zero would hide a wrong answer
        nn.init.normal_(parameter, std=0.2)
    size = getattr(network, "img_size", (8,) if isinstance(network, nn.Sequential) else (32,))[0]
    return network, [torch.randn(n, 3, size, size) for n in (4, 3, 1)]


def has_hooks(network: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("family", FAMILIES | TWO_INPUTS)
def test_a_tap_keeps_what_features_of_says_and_leaves_no_trace(family):
    network, batches = ready((FAMILIES | TWO_INPUTS)[family])
    with torch.inference_mode():
        alone = [logits_of(network(batch), "m") for batch in batches]
        expected_ND = torch.cat([features_of(network, batch, "m") for batch in batches])
        with FeatureTap(network) as tap:
            tapped = [logits_of(network(batch), "m") for batch in batches]
    assert all(torch.equal(a, b) for a, b in zip(alone, tapped, strict=True))
    assert not has_hooks(network)
    assert tap.features_ND is not None
    assert tap.features_ND.dtype == torch.float32
    assert expected_ND.std() > 0.01
    torch.testing.assert_close(tap.features_ND, expected_ND, atol=1e-6, rtol=1e-6)
    assert network(batches[0]) is not None
    assert len(tap.features_ND) == 8  # nothing is kept after the end


def images_through(network: nn.Module, batches: list[Tensor]) -> int:
    """How many images the first convolution sees while a tap is on."""
    seen = []
    stem = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    stem.register_forward_hook(lambda _, args, output: seen.append(len(args[0])))
    with torch.inference_mode(), FeatureTap(network):
        for batch in batches:
            network(batch)
    return sum(seen)


def test_a_tap_costs_one_pass_and_a_few_images():
    network, batches = ready(FAMILIES["resnet"])
    batches += [torch.randn(8, 3, 32, 32)] * 5
    assert images_through(network, batches) <= sum(map(len, batches)) + 4


def test_a_tap_costs_a_second_pass_where_features_are_a_mean_over_two_heads():
    network, batches = ready(TWO_INPUTS["deit distilled"])
    batches += [torch.randn(8, 3, 32, 32)] * 5
    assert images_through(network, batches) <= 2 * sum(map(len, batches)) + 4


class OutOfMemory(nn.Module):
    """Fails after the classifier on batches of three."""

    def forward(self, logits: Tensor) -> Tensor:
        if len(logits) == 3:
            raise RuntimeError("out of memory")
        return logits.view_as(logits)


def test_an_error_takes_the_tap_off_and_the_batch_with_it():
    network, batches = ready(lambda: nn.Sequential(net(), OutOfMemory()))
    tap = FeatureTap(network)
    with pytest.raises(RuntimeError, match="out of memory"), tap:
        list(map(network, batches))
    assert not has_hooks(network)
    assert tap.features_ND is not None
    assert torch.equal(tap.features_ND, features_of(network, batches[0], "m"))


class Reused(nn.Module):
    """Answers what no layer made, in memory that an earlier layer's output has left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 4096), nn.BatchNorm1d(4096)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1))
        left = hidden.data_ptr()
        logits = self.last(hidden.relu())
        del hidden
        answers = [logits * 2 for _ in range(50)]  # one of them lies where that was
        return next((x for x in answers if x.data_ptr() == left), answers[0])


def test_memory_that_is_used_again_is_no_layers_answer():
    network, image = Reused().eval(), torch.randn(1, 3, 8, 8)
    for _ in range(40):  # the allocator gives that memory again every other time
        with pytest.raises(UserError, match="no layer answers the logits"):
            features_of(network, image, "m")


def test_a_tap_on_a_network_without_a_classifier_holds_none():
    network, images = Net().eval(), torch.randn(4, 3, 8, 8)  # multiplies what its last layer says
    with FeatureTap(network) as tap:
        assert tap.features_ND is None
        assert torch.equal(network(images)["logits"], network(images)["logits"])
    assert tap.features_ND is None
    assert not has_hooks(network)


class Overwriting(nn.Module):
    """Reads one token of many, and uses its memory again."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x + 1
        logits = self.head(tokens[:, 0])
        tokens.zero_()
        return logits


def test_what_a_tap_keeps_is_its_own():
    network, x = Overwriting().eval(), torch.randn(4, 7, 3)
    with torch.inference_mode(), FeatureTap(network) as tap:
        network(x)
    assert tap.features_ND is not None
    assert torch.equal(tap.features_ND, x[:, 0] + 1)


def test_a_tap_keeps_no_gradients():
    network, batches = ready(net)
    with FeatureTap(network) as tap:
        network(batches[0])
    assert tap.features_ND is not None
    assert not tap.features_ND.requires_grad


def test_features_are_not_read_in_train_mode():
    network, batches = ready(net)
    with pytest.raises(AssertionError, match="eval mode"), FeatureTap(network.train()):
        network(batches[0])
    assert not has_hooks(network)


def test_a_job_says_how_many_correlations_are_in_its_means(spec_file, tmp_path):
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe={"epochs": 1}, zoo=noisy_zoo())
    end = result_of(JobRequest(job, "tiny", str(tmp_path)))
    (row,) = end.similarities
    networks = networks_of(job, lambda network: network)
    members = [Member(m, net, CPU) for m, net in zip(job.members, networks, strict=True)]
    loader = Loader(open_split(job.data, "val"), [m.input.view for m in job.members], CPU)
    ranks = [
        np.linalg.matrix_rank((x - x.mean(0)).double().numpy(), rtol=1e-6)
        for x in evaluate(members, loader, features=True).features
        if x is not None
    ]
    assert len(ranks) == 2
    assert row["top"] == min(ranks) < 100
    assert 0 < row["top_after"] < 100


def test_where_nothing_can_be_told_no_number_is_given():
    x, y = torch.rand(9, 8), torch.rand(9, 8)
    assert len(correlations(x, y)) == 0
    assert len(correlations(torch.rand(90, 3), torch.rand(90, 5))) == 3
    assert len(correlations(torch.rand(90, 30), torch.rand(90, 30), top=7)) == 7
