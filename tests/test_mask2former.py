"""Mask2Former's released files as networks of transformers: every tensor once, in its place.

The order within tensors is proven by running backbones and attentions of other libraries that
have detectron2's layout.
"""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from bikd_ray.errors import UserError
from bikd_ray.tasks.semantic_maps import log_map
from bikd_ray.zoo.checkpoints import read_checkpoint
from bikd_ray.zoo.segmentation import load_mask2former, map_output
from bikd_ray.zoo.segmentation.detectron2 import NOT_IN_FILES, config_of, converted
from bikd_ray.zoo.segmentation.mask2former_names import new_name, renamed, upgraded
from tests.detectron2_shapes import PARAMETERS, SWIN, TINY, published


def drawn(size) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.randn(shape, generator=generator) for k, shape in published(size).items()}
    return {k: v.abs() + 0.5 if k.endswith("running_var") else v / 3 for k, v in state.items()}


@pytest.mark.parametrize("size", PARAMETERS)
def test_each_released_size_is_whole(size):
    """Each tensor of transformers' network is filled once, with its shape; on the meta device."""
    transformers = pytest.importorskip("transformers")
    state = {k: torch.empty(shape, device="meta") for k, shape in published(size).items()}
    state = upgraded(state)
    tensors, unknown = renamed(state)
    config = config_of(state)
    with torch.device("meta"):
        network = transformers.Mask2FormerForUniversalSegmentation(
            transformers.AutoConfig.for_model(config.pop("model_type"), **config)
        )
    own = network.state_dict()
    assert unknown == []
    left = [name for name in own if name not in tensors]
    assert all(NOT_IN_FILES.fullmatch(name) for name in left)
    assert {k: v.shape for k, v in tensors.items()} == {k: own[k].shape for k in tensors}
    used = sum(v.numel() for v in state.values())
    assert sum(v.numel() for v in tensors.values()) == used
    assert used / 1e6 == pytest.approx(PARAMETERS[size], abs=0.2)


@pytest.mark.parametrize("size", ["tiny", "tiny resnet"])
def test_the_conversion_can_be_undone(size):
    pytest.importorskip("transformers")
    state = drawn(size)
    own = converted(state, "a.pkl").state_dict()
    seen = set()
    for name, tensor in upgraded(state).items():
        new = new_name(name)
        assert new is not None
        parts = [new.format(qkv=part) for part in ("qkv" if "{qkv}" in new else "-")]
        assert torch.equal(torch.cat([own[part] for part in parts]), tensor)
        assert not seen & set(parts)
        seen |= set(parts)
    assert all(NOT_IN_FILES.fullmatch(name) for name in set(own) - seen)


@pytest.mark.parametrize("size", ["tiny", "tiny resnet"])
@pytest.mark.parametrize("kind", ["pkl", "pth"])
def test_a_file_becomes_a_network_that_runs(tmp_path, size, kind):
    pytest.importorskip("transformers")
    state, path = drawn(size), tmp_path / f"model_final.{kind}"
    if kind == "pkl":
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "a"}))
    else:
        torch.save({"model": OrderedDict(state), "iteration": 7, "optimizer": {}}, path)
    found = load_mask2former(str(path), "M2F")
    assert found.licence == "cc-by-nc-4.0"
    with torch.no_grad():
        output = map_output(found.network(torch.randn(2, 3, 64, 96)), "M2F")
    assert output.classes == 5
    assert output.outputs == 3  # one before the first layer, and one after each
    assert output.queries[0].mask_logits_BQhw.shape == (2, 7, 16, 24)
    assert output.finite_B().all()
    assert_close(log_map(output, (16, 24)).exp().sum(1), torch.ones(2, 16, 24))
    assert converted(state, "a").state_dict().keys() == found.network.state_dict().keys()
    for name, tensor in converted(state, "a").state_dict().items():
        assert torch.equal(tensor, found.network.state_dict()[name])


def test_a_converted_resnet_answers_as_torchvisions_in_detectron2s_layout():
    """Its stride is in the 3 x 3 convolution, and its batch norm is frozen."""
    pytest.importorskip("transformers")
    state = drawn("R50, tiny head")
    network = converted(state, "a")
    theirs = torchvision.models.resnet50(weights=None).eval()
    for name, tensor in theirs.state_dict().items():
        old = name.replace("bn1", "conv1.norm").replace("bn2", "conv2.norm")
        old = old.replace("bn3", "conv3.norm").replace("downsample.0", "shortcut")
        old = old.replace("downsample.1", "shortcut.norm")
        old = f"stem.{old}" if old.startswith("conv1") else old
        for layer in range(1, 5):
            old = old.replace(f"layer{layer}.", f"res{layer + 1}.")
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            tensor.copy_(state[f"backbone.{old}"])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = network.get_submodule("model.pixel_level_module.encoder")(images).feature_maps
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for layer, found in enumerate(ours, 1):
            x = theirs.get_submodule(f"layer{layer}")(x)
            assert_close(found, x, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


def test_a_converted_swin_answers_as_timms_in_detectron2s_layout():
    """Both are in the layout of Swin's authors; timm's halving stands before a stage."""
    pytest.importorskip("transformers")
    state, how = drawn("tiny"), SWIN["tiny"]
    network = converted(state, "a")
    theirs = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, img_size=96,
        embed_dim=how["dim"], depths=how["depths"], num_heads=how["heads"],
        window_size=how["window"],
    ).eval()  # fmt: skip
    for name, tensor in theirs.state_dict().items():
        stage, _, rest = name.removeprefix("layers.").partition(".")
        old = f"layers.{int(stage) - 1}.{rest}" if rest.startswith("downsample") else name
        if f"backbone.{old}" in state and "relative_position_index" not in name:
            tensor.copy_(state[f"backbone.{old}"])
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        ours = network.get_submodule("model.pixel_level_module.encoder")(images).feature_maps
        x = theirs.get_submodule("patch_embed")(images)
        for i, found in enumerate(ours):
            x = theirs.get_submodule(f"layers.{i}")(x)
            size = x.shape[-1:]
            normed = nn.functional.layer_norm(
                x, size, state[f"backbone.norm{i}.weight"], state[f"backbone.norm{i}.bias"]
            )
            assert_close(found, normed.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_a_converted_self_attention_answers_as_torchs():
    """detectron2 has torch's own attention, its query, key and value in one tensor."""
    pytest.importorskip("transformers")
    state = drawn("tiny")
    layer = converted(state, "a").get_submodule("model.transformer_module.decoder.layers.1")
    theirs = nn.MultiheadAttention(TINY["hidden"], TINY["heads"]).eval()
    prefix = "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn."
    theirs.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    x, place = torch.randn(7, 2, TINY["hidden"]), torch.randn(7, 2, TINY["hidden"])
    with torch.no_grad():
        found = layer.get_submodule("self_attn")(hidden_states=x, position_embeddings=place)[0]
        assert_close(found, theirs(x + place, x + place, x)[0])


def test_old_names_are_the_same_network():
    state = drawn("tiny")
    old = {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace(
            "query_feat", "static_query"
        ): tensor
        for name, tensor in state.items()
    }
    assert upgraded(old).keys() == upgraded(state).keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("sem_seg_head.predictor.decoder_norm.bias"), "1 tensors missing, first"),
        (lambda s: s.update({"backbone.more": torch.ones(1)}), "1 tensors unknown, first backbone"),
        (lambda s: s.update({"backbone.norm1.bias": torch.ones(1)}), "1 tensors misshapen, first"),
        (lambda s: s.pop("sem_seg_head.predictor.query_feat.weight"), "no whole Mask2Former"),
    ],
)
def test_a_file_that_is_not_whole_is_told_in_a_line(change, message):
    pytest.importorskip("transformers")
    state = drawn("tiny")
    change(state)
    with pytest.raises(UserError, match=message) as raised:
        converted(state, "a.pkl")
    assert "\n" not in str(raised.value)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_would_run_code_does_not(tmp_path, protocol, capsys):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.ones(2), "x": Evil()}}, protocol))
    with pytest.raises(UserError, match=r"a\.pkl holds .*print, more than tensors"):
        load_mask2former(str(path), "M2F")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("protocol", "module"), [(2, b"numpy.core"), *((p, b"numpy._core") for p in (2, 4, 5))]
)
def test_arrays_of_old_and_new_numpy_are_read(tmp_path, protocol, module):
    values = {"sem_seg_head.predictor.a": np.arange(6, dtype=">f4").reshape(2, 3), "n": np.int64(3)}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": values}, protocol).replace(b"numpy._core", module))
    found = read_checkpoint(str(path), "M2F")
    assert isinstance(found, dict)
    assert found["model"]["sem_seg_head.predictor.a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_another_models_file_is_told(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"fc.weight": np.ones(2)}}))
    with pytest.raises(UserError, match="holds no Mask2Former of detectron2"):
        load_mask2former(str(path), "M2F")
