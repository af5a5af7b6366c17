"""Files of TMFI-Net, ViNet-S and ViNet-A: the names in them, whole networks, and encoders alone."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from bikd_ray import zoo
from bikd_ray.errors import UserError
from bikd_ray.zoo.saliency import load_encoder, load_published, tmfi_net, vinet_a, vinet_s
from tests.models import entry, same_state
from tests.saliency_nets import SMALL, TINY, clip, each, of_no_memory, published_start, shaken

# The names in the published files

Names = Iterator[str]
WB = ("weight", "bias")
BN = (*WB, "running_mean", "running_var", "num_batches_tracked")


def under(prefix: str, *names: str) -> list[str]:
    return [f"{prefix}.{name}" for name in names]


def names_of_tmfi_net(depths=(2, 2, 18, 2)) -> Names:
    yield from under("backbone.patch_embed.proj", *WB)
    for i, depth in enumerate(depths):
        for block in (f"backbone.layers.{i}.blocks.{j}" for j in range(depth)):
            for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
                yield from under(f"{block}.{layer}", *WB)
            yield f"{block}.attn.relative_position_bias_table"
            yield f"{block}.attn.relative_position_index"
        if i < 3:
            yield f"backbone.layers.{i}.downsample.reduction.weight"
            yield from under(f"backbone.layers.{i}.downsample.norm", *WB)
    yield from under("backbone.norm", *WB)
    for i in (1, 2, 3, 4):
        yield from under(f"decoder.conv{i}", *WB)
        yield from under(f"decoder.gate{i}.gate", *WB)
        last = 8 if i == 1 else 9
        yield from (f"decoder.convtsp{i}.{j}.weight" for j in (0, 3, 6, last))
    yield from (f"decoder.convs{i}.weight" for i in (1, 2, 3))
    yield from under("decoder.convout.0", *WB)


def names_of_vinet_s() -> Names:
    def basic(prefix: str) -> Names:
        yield from (f"{prefix}.conv.weight", *under(f"{prefix}.bn", *BN))

    def separable(prefix: str) -> Names:
        for axis in ("s", "t"):
            yield from (f"{prefix}.conv_{axis}.weight", *under(f"{prefix}.bn_{axis}", *BN))

    yield from separable("backbone.base1.0")
    yield from basic("backbone.base1.2")
    yield from separable("backbone.base1.3")
    for base, blocks in ((2, 2), (3, 5), (4, 2)):
        for block in (f"backbone.base{base}.{j}" for j in range(blocks)):
            yield from basic(f"{block}.branch0.0")
            for branch in (1, 2):
                yield from basic(f"{block}.branch{branch}.0")
                yield from separable(f"{block}.branch{branch}.1")
            yield from basic(f"{block}.branch3.1")
    yield from (f"decoder.convtsp{i}.0.weight" for i in (1, 2, 3))
    yield from (f"decoder.convtsp4.{i}.weight" for i in (0, 3, 6, 8))
    yield "decoder.convtsp4.8.bias"


def names_of_vinet_a() -> Names:
    for path in ("fast", "slow"):
        yield f"backbone.{path}_conv1.weight"
        yield from under(f"backbone.{path}_bn1", *BN)
        for i, blocks in enumerate((3, 4, 6, 3), 1):
            for j in range(blocks):
                block = f"backbone.{path}_res{i}.{j}"
                for k in (1, 2, 3):
                    yield from (f"{block}.conv{k}.weight", *under(f"{block}.bn{k}", *BN))
                if j == 0:
                    yield f"{block}.downsample.0.weight"
                    yield from under(f"{block}.downsample_bn", *BN)
    yield from (f"backbone.Tconv{i}.weight" for i in (1, 2, 3, 4))
    yield from (
        f"neck.conv_{part}.0.weight" for part in ("slow", *(f"skip{i}" for i in range(1, 5)))
    )
    yield from (f"decoder.convtsp{i}.0.weight" for i in range(1, 6))
    yield from (f"decoder.convtsp6.{i}.weight" for i in (0, 3, 5, 7))
    yield "decoder.convtsp6.7.bias"


NAMES = {"tmfi_net": names_of_tmfi_net, "vinet_s": names_of_vinet_s, "vinet_a": names_of_vinet_a}


@each
def test_tensors_have_the_names_of_the_published_files(name):
    names = list(NAMES[name]())
    assert len(set(names)) == len(names)
    assert sorted(of_no_memory(name).state_dict()) == sorted(names)


# Files of whole networks


def marked(names: list[str], network: nn.Module) -> OrderedDict[str, Tensor]:
    """A file of this network by the names given; each tensor has a value of its own, kept once."""
    own = network.state_dict()
    return OrderedDict(
        (name, torch.full((), i).to(own[name].dtype).expand(own[name].shape))
        for i, name in enumerate(names, 1)
    )


@pytest.mark.parametrize(
    ("key", "prefix"),
    [("", ""), ("", "module."), ("state_dict", ""), ("model_state_dict", "module.")],
)
@each
def test_a_published_file_is_taken_by_its_own_names_and_given_back_bit_by_bit(
    name, key, prefix, tmp_path
):
    network = SMALL[name][0]()
    names = list(names_of_tmfi_net(TINY["depths"]) if name == "tmfi_net" else NAMES[name]())
    state = marked(names, network)
    written = {f"{prefix}{k}": v for k, v in state.items()}
    path = tmp_path / f"best_{name}.pth"
    torch.save({key: written, "loss": 0.5, "acc": 0.1} if key else written, path)
    said = load_published(network, name, str(path))
    assert said == ([] if not key + prefix else said)
    given_back = network.state_dict()
    assert given_back.keys() == state.keys()
    for k, v in state.items():
        assert given_back[k].dtype == v.dtype
        assert torch.equal(given_back[k], v), k


def test_a_checkpoint_with_its_optimizer_is_taken_and_the_maps_are_the_same(tmp_path):
    torch.manual_seed(5)
    network, x = tmfi_net(**TINY), clip(32, 32)
    adam = torch.optim.Adam(network.parameters())
    network(x).sum().backward()
    adam.step()
    parallel = {f"module.{k}": v for k, v in network.state_dict().items()}
    saved = {"model_state_dict": parallel, "optimizer_state_dict": adam.state_dict(), "loss": 1.0}
    torch.save(saved, tmp_path / "bikd.pth")
    other = tmfi_net(**TINY)
    said = load_published(other, "tmfi_net", str(tmp_path / "bikd.pth"))
    assert said == [f"took 'model_state_dict', prefix 'module.' of {tmp_path / 'bikd.pth'}"]
    assert same_state(other, network)
    assert torch.equal(other.eval()(x), network.eval()(x))


def refused(network: nn.Module, name: str, content: object, path: Path, load=load_published) -> str:
    before = {k: v.clone() for k, v in network.state_dict().items()}
    torch.save(content, path)
    with pytest.raises(UserError) as raised:
        load(network, name, str(path))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    return str(raised.value)


def test_files_with_other_tensors_are_refused_in_one_line(tmp_path):
    network, path = vinet_s(), tmp_path / "vinet.pt"
    state = network.state_dict()
    less = {k: v for k, v in state.items() if k != "decoder.convtsp4.8.bias"}
    message = refused(network, "vinet_s", less, path)
    assert "does not fit vinet_s (1 tensors missing, first decoder.convtsp4.8.bias)" in message
    message = refused(
        network,
        "vinet_s",
        {**state, "decoder.convtsp5.0.weight": state["decoder.convtsp3.0.weight"]},
        path,
    )
    assert "1 unexpected, first decoder.convtsp5.0.weight" in message
    message = refused(
        network, "vinet_s", {**state, "decoder.convtsp4.8.weight": torch.ones(1, 64, 1, 1, 1)}, path
    )
    assert "decoder.convtsp4.8.weight: file [1, 64, 1, 1, 1], model [1, 32, 1, 1, 1]" in message
    both = {**less, "decoder.convtsp4.8.offset": torch.ones(1)}
    message = refused(network, "vinet_s", both, path)
    assert "missing, first decoder.convtsp4.8.bias; 1 unexpected" in message
    message = refused(
        network, "vinet_s", marked(list(names_of_vinet_a()), of_no_memory("vinet_a")), path
    )
    assert "does not fit vinet_s" in message
    message = refused(network, "vinet_s", published_start(network.backbone.state_dict()), path)
    assert "missing" in message


def test_a_file_of_another_width_is_refused(tmp_path):
    state = tmfi_net(**TINY).state_dict()
    message = refused(tmfi_net(**{**TINY, "width": 32}), "tmfi_net", state, tmp_path / "tmfi.pth")
    assert (
        "of another shape, first decoder.conv1.weight: file [16, 6, 2, 1, 1], model [32" in message
    )


def test_a_zoo_entry_builds_them_with_their_files(tmp_path):
    network = vinet_s()
    torch.save(network.state_dict(), tmp_path / "vinet.pt")
    factory = "bikd_ray.zoo.saliency:vinet_s"
    kwargs = {"align_corners": False}
    built = zoo.build(entry(factory=factory, kwargs=kwargs, checkpoint=str(tmp_path / "vinet.pt")))
    assert same_state(built, network)
    other = vinet_s(align_corners=False)
    other.load_state_dict(network.state_dict())
    assert torch.equal(built(clip(32, 32)), other.eval()(clip(32, 32)))


# Files that an encoder starts from


def started(network: nn.Module, name: str, content: object, path: Path) -> str:
    """What is said of the start; the rest of the network stays as it was."""
    rest = {k: v.clone() for k, v in network.state_dict().items() if "backbone." not in k}
    torch.save(content, path)
    said = load_encoder(network, name, str(path))
    assert all(torch.equal(network.state_dict()[k], v) for k, v in rest.items())
    return "; ".join(said)


def test_tmfi_net_starts_from_video_swin_and_the_norm_of_patches_is_lost(tmp_path):
    network, start = tmfi_net(**TINY), shaken(tmfi_net(**TINY), 4).float().backbone
    content = {f"backbone.{k}": v for k, v in start.state_dict().items()}
    content |= {f"backbone.patch_embed.norm.{k}": torch.ones(6) for k in WB}
    content |= {"cls_head.fc_cls.weight": torch.ones(4, 48), "cls_head.fc_cls.bias": torch.ones(4)}
    path = tmp_path / "swin_small_patch244_window877_kinetics400_1k.pth"
    said = started(network, "tmfi_net", {"meta": {}, "state_dict": content}, path)
    assert said == (
        f"took 'state_dict', prefix 'backbone.' of {path}; left out cls_head.fc_cls.weight, "
        "cls_head.fc_cls.bias, backbone.patch_embed.norm.weight, … (4 tensors)"
    )
    assert same_state(network.backbone, start)


def test_tmfi_net_starts_from_torchvisions_file(tmp_path):
    torch.manual_seed(6)
    swin = SwinTransformer3d([2, 4, 4], 6, [1, 2, 2, 1], [1, 2, 3, 4], [8, 7, 7])
    network, x = tmfi_net(**TINY), clip(32, 32)
    said = started(network, "tmfi_net", swin.state_dict(), tmp_path / "swin3d.pth")
    assert said.endswith("left out head.weight, head.bias, patch_embed.norm.weight, … (4 tensors)")
    swin.patch_embed.norm = nn.Identity()
    want = swin.eval().norm(swin.features(swin.patch_embed(x)))
    assert torch.equal(network.eval().backbone(x)[-1], want.permute(0, 4, 1, 2, 3))


def test_vinet_s_starts_from_the_kinetics_file(tmp_path):
    network, start = vinet_s(), shaken(vinet_s(), 4).float().backbone
    content = published_start(start.state_dict()) | {
        "module.fc.0.weight": torch.ones(400, 1024, 1, 1, 1)
    }
    said = started(network, "vinet_s", content, tmp_path / "S3D_kinetics400.pt")
    assert said.endswith("left out module.fc.0.weight (1 tensor)")
    assert same_state(network.backbone, start)


def test_vinet_a_starts_from_a_detector_and_what_is_not_there_is_named(tmp_path):
    network = vinet_a()
    untouched = network.state_dict()["backbone.Tconv4.weight"].clone()
    names = [k.removeprefix("backbone.") for k in names_of_vinet_a() if "backbone." in k]
    content = marked([k for k in names if k != "Tconv4.weight"], network.backbone)
    detector = {f"module.backbone.net.{k}": v for k, v in content.items()}
    detector["module.head.fc.weight"] = torch.ones(3)
    said = started(network, "vinet_a", {"state_dict": detector}, tmp_path / "AVA_SLOWFAST.pth.tar")
    assert "took 'state_dict', prefix 'module.backbone.net.' of" in said
    assert "left out module.head.fc.weight (1 tensor)" in said
    assert "it lacks Tconv4.weight (1 tensor), kept as built" in said
    assert torch.equal(network.state_dict()["backbone.Tconv4.weight"], untouched)
    assert all(torch.equal(network.backbone.state_dict()[k], v) for k, v in content.items())


def test_a_start_of_other_shapes_or_of_another_network_is_refused(tmp_path):
    network, path = tmfi_net(**TINY), tmp_path / "start.pth"
    wider = tmfi_net(**{**TINY, "embed_dim": 12}).backbone.state_dict()
    message = refused(network, "tmfi_net", wider, path, load_encoder)
    assert "of another shape, first patch_embed.proj.weight: file [12, 3, 2, 4, 4], mo" in message
    half = {k: v for k, v in network.backbone.state_dict().items() if "layers.0" in k}
    assert "tensors missing" in refused(network, "tmfi_net", half, path, load_encoder)
    other = vinet_s().backbone.state_dict()
    assert "tensors missing" in refused(network, "tmfi_net", other, path, load_encoder)
