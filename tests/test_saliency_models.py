"""TMFI-Net, ViNet-S and ViNet-A: their sizes, their layers, and what they are given."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import s3d
from torchvision.models.video.swin_transformer import SwinTransformer3d
from torchvision.ops import StochasticDepth

from bikd_ray.errors import UserError
from bikd_ray.zoo.saliency import (
    SALIENCY_MODELS,
    Window,
    load_encoder,
    saliency_model,
    tmfi_net,
    vinet_a,
    vinet_s,
)
from tests import saliency_plain as plain
from tests.saliency_nets import SMALL, TINY, clip, each, of_no_memory, shaken


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The published sizes


@pytest.mark.parametrize(
    ("name", "parameters", "parts", "entries"),
    [
        ("tmfi_net", 54_128_539, {"backbone": 49_508_886, "decoder": 4_619_653}, 386),
        ("vinet_s", 9_500_737, {"backbone": 7_910_048, "decoder": 1_590_689}, 470),
        (
            "vinet_a",
            38_693_241,
            {"backbone": 33_557_288, "neck": 3_175_552, "decoder": 1_960_401},
            655,
        ),
    ],
)
def test_parameters_and_tensors_are_as_many_as_in_the_published_networks(
    name, parameters, parts, entries
):
    network = of_no_memory(name)
    assert size_of(network) == parameters
    assert {part: size_of(module) for part, module in network.named_children()} == parts
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize(("name", "gflop"), [("tmfi_net", 715), ("vinet_s", 139), ("vinet_a", 414)])
def test_a_clip_costs_what_is_published_and_gives_one_map(name, gflop):
    size = SALIENCY_MODELS[name].size
    with FlopCounterMode(display=False) as counted:
        maps = of_no_memory(name)(torch.empty(1, 3, 32, *size, device="meta"))
    assert maps.shape == (1, *size)
    assert round(counted.get_total_flops() / 1e9) == gflop


def shapes_into(name: str, parts: list[str]) -> dict[str, list[tuple[int, ...]]]:
    """The shapes [C, T, H, W] that modules of the published network are given, by their names."""
    network, seen = of_no_memory(name), {}

    def noted(part: str) -> Callable[..., None]:
        return lambda _, given: seen.update({part: [tuple(x.shape[1:]) for x in given]})

    hooks = [network.get_submodule(p).register_forward_pre_hook(noted(p)) for p in parts]
    network(torch.empty(1, 3, 32, *SALIENCY_MODELS[name].size, device="meta"))
    for hook in hooks:
        hook.remove()
    return seen


def test_tmfi_net_decodes_the_four_stages_before_merging():
    assert shapes_into("tmfi_net", ["decoder"])["decoder"] == [
        (96, 16, 56, 96),
        (192, 16, 28, 48),
        (384, 16, 14, 24),
        (768, 16, 7, 12),
    ]


def test_vinet_s_decodes_four_levels_joined_along_time():
    seen = shapes_into("vinet_s", ["decoder", *(f"decoder.convtsp{i}" for i in (2, 3, 4))])
    assert seen == {
        "decoder": [(1024, 4, 7, 12), (832, 8, 14, 24), (480, 16, 28, 48), (192, 16, 56, 96)],
        "decoder.convtsp2": [(832, 4 + 8, 14, 24)],
        "decoder.convtsp3": [(480, 4 + 16, 28, 48)],
        "decoder.convtsp4": [(192, 4 + 16, 56, 96)],
    }


def test_vinet_a_pools_its_fast_path_to_8_16_29_and_joins_over_channels():
    seen = shapes_into("vinet_a", ["decoder", *(f"decoder.convtsp{i}" for i in range(2, 7))])
    assert seen == {
        "decoder": [
            (1536, 8, 16, 29),
            (40, 8, 64, 114),
            (160, 8, 64, 114),
            (320, 8, 32, 57),
            (640, 8, 16, 29),
        ],
        "decoder.convtsp2": [(640 + 640, 8, 16, 29)],
        "decoder.convtsp3": [(320 + 320, 8, 32, 57)],
        "decoder.convtsp4": [(160 + 160, 8, 64, 114)],
        "decoder.convtsp5": [(40 + 40, 8, 64, 114)],
        "decoder.convtsp6": [(64, 4, 128, 228)],
    }


# What the layers compute


def test_tmfi_nets_encoder_is_torchvisions_without_the_norm_of_patches():
    network = shaken(tmfi_net(**TINY))
    swin = SwinTransformer3d(
        [2, 4, 4], 6, [1, 2, 2, 1], [1, 2, 3, 4], [8, 7, 7], norm_layer=nn.LayerNorm
    ).double()
    swin.patch_embed.norm = nn.Identity()
    ours = network.backbone.state_dict()
    to_torchvision = {
        key: key.replace(f"layers.{i}.blocks.", f"features.{2 * i}.")
        .replace(f"layers.{i}.downsample.", f"features.{2 * i + 1}.")
        .replace("mlp.fc1", "mlp.0")
        .replace("mlp.fc2", "mlp.3")
        for i in range(4)
        for key in ours
        if f"layers.{i}." in key or "layers" not in key
    }
    found = swin.load_state_dict({new: ours[key] for key, new in to_torchvision.items()}, False)
    assert found.missing_keys == ["head.weight", "head.bias"]
    assert found.unexpected_keys == []
    x = swin.eval().patch_embed(clip(64, 96, dtype=torch.float64))
    wanted = []
    for i, layer in enumerate(swin.features):
        x = layer(x)
        wanted += [x] if i % 2 == 0 else []
    wanted[-1] = swin.norm(wanted[-1])
    features = network.backbone(clip(64, 96, dtype=torch.float64))
    for feature, want in zip(features, wanted, strict=True):
        torch.testing.assert_close(feature, want.permute(0, 4, 1, 2, 3), rtol=0, atol=0)


def test_tmfi_nets_maps_are_those_of_the_formulas():
    network = shaken(tmfi_net(**TINY))
    x = clip(32, 64, batch=2, dtype=torch.float64)
    want = plain.tmfi_decoder(network.state_dict(), *network.backbone(x))
    assert want.std((1, 2)).min() > 1e-4
    torch.testing.assert_close(network(x), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners", [True, False])
def test_vinet_ss_maps_are_those_of_torchvisions_s3d_and_the_formulas(align_corners, tmp_path):
    encoder = shaken(s3d(num_classes=7), 3)
    network = shaken(vinet_s(align_corners=align_corners))
    torch.save(encoder.state_dict(), tmp_path / "s3d.pth")
    load_encoder(network, "vinet_s", str(tmp_path / "s3d.pth"))
    x = clip(32, 64, batch=2, dtype=torch.float64)
    levels, y = {}, x
    for i, layer in enumerate(encoder.features):
        levels[i] = y = layer(y)
    taps = [levels[i] for i in (15, 12, 6, 3)]
    want = plain.vinet_s_decoder(network.state_dict(), *taps, align_corners=align_corners)
    assert want.std((1, 2)).min() > 1e-4
    torch.testing.assert_close(network(x), want, rtol=0, atol=1e-12)


def test_vinet_s_upsamples_with_aligned_corners_unless_told_otherwise():
    network, other = vinet_s().eval(), vinet_s(align_corners=False).eval()
    other.load_state_dict(network.state_dict())
    same = vinet_s(align_corners=True).eval()
    same.load_state_dict(network.state_dict())
    x = clip(32, 64)
    assert torch.equal(network(x), same(x))
    assert not torch.allclose(network(x), other(x), rtol=0, atol=1e-6)


def test_vinet_as_maps_are_those_of_the_formulas():
    network = shaken(vinet_a())
    x = clip(40, 24, batch=2, dtype=torch.float64)  # 3 x 2 become 5 x 3, as 16 x 29 become 32 x 57
    want = plain.vinet_a(network.state_dict(), x)
    assert want.std((1, 2)).min() > 1e-4
    torch.testing.assert_close(network(x), want, rtol=0, atol=1e-12)


# Training and evaluation


@each
def test_maps_lie_between_0_and_1_and_every_parameter_learns(name):
    build, (height, width) = SMALL[name]
    torch.manual_seed(2)
    network = build()
    network.eval() if name == "tmfi_net" else network.train()  # where no block is dropped
    maps = network(clip(height, width, batch=2))
    assert maps.shape == (2, height, width)
    assert maps.dtype == torch.float32
    assert maps.min() > 0
    assert maps.max() < 1
    maps.square().sum().backward()
    still = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(
    ("name", "size"), [("tmfi_net", (32, 32)), ("vinet_s", (32, 32)), ("vinet_a", (8, 8))]
)
def test_the_smallest_clips_give_finite_maps(name, size):
    maps = SMALL[name][0]().eval()(clip(*size))
    assert maps.shape == (1, *size)
    assert maps.isfinite().all()


@pytest.mark.slow
@each
def test_a_clip_of_the_published_size_gives_a_map(name):
    about = SALIENCY_MODELS[name]
    with torch.no_grad():
        maps = about.build().eval()(clip(*about.size))
    assert maps.shape == (1, *about.size)
    assert 0 < maps.min() < maps.max() < 1


@each
def test_clips_of_a_batch_do_not_see_each_other_in_eval_mode(name):
    build, size = SMALL[name]
    network, x = shaken(build()), clip(*size, batch=2, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1:], network(x[1:]))


@pytest.mark.parametrize(
    ("name", "count", "eps", "momentum"), [("vinet_s", 77, 1e-3, 1e-3), ("vinet_a", 106, 1e-5, 0.1)]
)
def test_batch_norms_are_those_of_the_encoders(name, count, eps, momentum):
    norms = [m for m in of_no_memory(name).modules() if isinstance(m, nn.BatchNorm3d)]
    assert len(norms) == count
    assert {(m.eps, m.momentum) for m in norms} == {(eps, momentum)}


@pytest.mark.parametrize("name", ["vinet_s", "vinet_a"])
def test_training_moves_the_running_statistics_and_evaluation_does_not(name):
    build, size = SMALL[name]
    network = build().eval()
    before = {k: v.clone() for k, v in network.named_buffers()}
    network(clip(*size))
    assert all(torch.equal(before[k], v) for k, v in network.named_buffers())
    network.train()(clip(*size))
    assert not any(torch.equal(before[k], v) for k, v in network.named_buffers())


def test_tmfi_net_drops_blocks_in_training_the_deeper_the_more():
    modules = list(of_no_memory("tmfi_net").modules())
    drops = [m.p for m in modules if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.2 * i / 23 for i in range(24)])
    assert {m.eps for m in modules if isinstance(m, nn.LayerNorm)} == {1e-5}
    torch.manual_seed(0)
    network, x = tmfi_net(**TINY), clip(32, 32)
    assert torch.equal(network.eval()(x), network(x))
    in_training = [network.train()(x) for _ in range(20)]
    assert any(not torch.equal(a, b) for a, b in itertools.pairwise(in_training))


# What they are given


@pytest.mark.parametrize(
    ("name", "offsets"),
    [("tmfi_net", range(-31, 1)), ("vinet_s", range(-31, 1)), ("vinet_a", range(-31, 32, 2))],
)
def test_windows_are_those_of_the_published_networks(name, offsets):
    assert SALIENCY_MODELS[name].window.offsets == tuple(offsets)


def test_vinet_as_window_can_be_bi_kds():
    window = SALIENCY_MODELS["vinet_a"].window
    assert Window(stride=2, phase=-1).offsets == tuple(range(-32, 31, 2))
    assert Window(stride=2, phase=-1).offsets.index(0) == 16
    assert 0 not in window.offsets
    assert Window(first=-16).offsets == tuple(range(-16, 16))  # on Hollywood-2
    union = set(SALIENCY_MODELS["tmfi_net"].window.offsets) | set(range(-32, 31, 2))
    assert len(union) == 48


@each
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"takes clips of \[B, 3, 32, H, W\] and was given \[3, 32, "),
        (lambda x: x.transpose(1, 2), r"\[B, 3, 32, H, W\] and was given \[1, 32, 3, "),
        (lambda x: x[:, :, :16], r"\[B, 3, 32, H, W\] and was given \[1, 3, 16, "),
        (lambda x: x[..., :-1], r"H and W that are multiples of \d+ and was given"),
        (lambda x: x[:, :, :, :-4], r"H and W that are multiples of \d+ and was given"),
        (lambda x: x[..., :0], r"H and W that are multiples of \d+ and was given"),
        (lambda x: x.byte(), r"floating-point numbers, not uint8, and was given"),
    ],
)
def test_other_clips_are_refused_in_one_line(name, change, message):
    with pytest.raises(UserError, match=message) as raised:
        of_no_memory(name)(change(torch.empty(1, 3, 32, 64, 64, device="meta")))
    assert str(raised.value).startswith(f"zoo: {name} takes clips of ")
    assert "\n" not in str(raised.value)


@each
def test_the_catalogue_says_what_sizes_are_legal(name):
    about = SALIENCY_MODELS[name]
    assert [side % about.multiple for side in about.size] == [0, 0]
    side = 2 * about.multiple
    assert of_no_memory(name)(torch.empty(1, 3, 32, side, side, device="meta")).shape[1] == side
    with pytest.raises(UserError, match=f"multiples of {about.multiple} "):
        of_no_memory(name)(torch.empty(1, 3, 32, side, side + about.multiple // 2, device="meta"))


def test_an_unknown_network_is_refused_with_the_names_there_are():
    with pytest.raises(UserError, match="'vinet_e'; choose from tmfi_net, vinet_a, vinet_s"):
        saliency_model("vinet_e")
