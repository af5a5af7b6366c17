"""Segmentation networks of several libraries, their weights random: loaded, read, written."""

import copy
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from bikd_ray.errors import BikdError, UserError
from bikd_ray.export.pretrained import check_pretrained, write_pretrained
from bikd_ray.tasks.mask_criterion import Criterion
from bikd_ray.zoo import weights_id
from bikd_ray.zoo.segmentation import (
    Segmenter,
    criterion_of,
    from_config,
    load_smp,
    load_torchvision,
    load_transformers,
    map_output,
)
from bikd_ray.zoo.segmentation.huggingface import blue_first, pixel_scale

NAMES = ("sky", "tree", "dog")
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
SEGFORMER = {
    "num_encoder_blocks": 4, "depths": [1] * 4, "sr_ratios": [8, 4, 2, 1],
    "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1] * 4, "decoder_hidden_size": 8,
    "id2label": dict(enumerate(NAMES)),
}  # fmt: skip
BACKBONE = {
    "model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 2, 4, 8],
    "window_size": 3, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
MASK2FORMER = {
    "backbone_config": BACKBONE, "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32,
    "num_queries": 6, "encoder_layers": 1, "decoder_layers": 3, "dim_feedforward": 16,
    "encoder_feedforward_dim": 16, "num_attention_heads": 4, "id2label": dict(enumerate(NAMES)),
}  # fmt: skip
KINDS = {"segformer": SEGFORMER, "mask2former": MASK2FORMER}


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def saved(folder, kind, **changes):
    """A folder as transformers writes it, with random weights."""
    torch.manual_seed(0)
    network = from_config({"model_type": kind, **KINDS[kind], **changes}, kind)
    network.config.output_auxiliary_logits = None  # type: ignore[union-attr]
    network.save_pretrained(folder)  # type: ignore[operator]
    return network


def boxed(**fields) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def test_every_form_of_answer_is_read():
    z = torch.zeros(2, 3, 4, 5)
    for answer in (z, {"logits": z}, {"out": z, "aux": z + 1}, boxed(logits=z), (z, z + 1)):
        assert map_output(answer, "net").pixel_logits_BChw is z
    classes, masks = torch.zeros(2, 6, 4), torch.zeros(2, 6, 8, 8)
    ours = {"class_queries_logits": classes, "masks_queries_logits": masks}
    theirs = {"pred_logits": classes, "pred_masks": masks}
    for answer in (ours, boxed(**ours, auxiliary_logits=None), theirs):
        found = map_output(answer, "net")
        assert (found.kind, found.classes, found.outputs) == ("mask", 3, 1)
    for answer in (
        {**ours, "auxiliary_logits": [ours] * 2},
        {**theirs, "aux_outputs": [theirs] * 2},
    ):
        found = map_output(answer, "net")
        assert found.outputs == 3
        assert found[1:2].queries[2].mask_logits_BQhw.shape == (1, 6, 8, 8)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 3), r"net answers \[2, 3\], no map \[B, C, h, w\]"),
        ({"boxes": 1}, "net returns a dict without a map; expected a tensor"),
        (None, "net returns a NoneType without a map"),
        ({"pred_logits": torch.zeros(2, 5, 4), "pred_masks": torch.zeros(2, 6, 8, 8)},
         r"class logits \[2, 5, 4\] and mask logits \[2, 6, 8, 8\]"),
    ],
)  # fmt: skip
def test_an_answer_without_a_map_is_told(answer, message):
    with pytest.raises(UserError, match=message):
        map_output(answer, "net")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_is_loaded_with_all_its_outputs(transformers, tmp_path, kind):
    written = saved(tmp_path, kind)
    about = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 7}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    found = load_transformers(str(tmp_path))
    assert (found.mean, found.std, found.classes) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), NAMES)
    assert found.notes == ()
    assert found.licence is None
    assert not found.network.training
    assert weights_id(found.network) == weights_id(written)
    output = map_output(found.network(IMAGES), kind)
    assert output.classes == 3
    assert output.outputs == (3 if kind == "mask2former" else 1)
    assert all(t.requires_grad for t in output.tensors())
    assert output.tensors()[-1].shape[-2:] == (16, 24)


def test_a_folders_card_says_the_licence_of_its_weights(transformers, tmp_path):
    saved(tmp_path, "segformer")
    card = tmp_path / "README.md"
    for front, licence in (
        ("license: mit", "mit"),
        ("license: other\nlicense_name: nvidia-nc", "nvidia-nc"),
        ("license: unknown", None),
        ("tags: [x]", None),
    ):
        card.write_text(f"---\n{front}\n---\n# A model\n")
        assert load_transformers(str(tmp_path)).licence == licence
    card.write_text("---\nlicense: [\n---\n")
    assert load_transformers(str(tmp_path)).licence is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_builds_the_same_network_without_any_file(transformers, tmp_path, kind):
    saved(tmp_path, kind)
    found = load_transformers(str(tmp_path))
    assert found.config is not None
    again = from_config(json.loads(json.dumps(found.config)), "again")
    again.load_state_dict(found.network.state_dict())
    ours, theirs = (map_output(net(IMAGES), "net") for net in (found.network, again))
    for a, b in zip(ours.tensors(), theirs.tensors(), strict=True):
        assert torch.equal(a, b)


def test_an_architecture_is_built_without_its_weights(transformers, tmp_path):
    written = saved(tmp_path, "segformer")
    (tmp_path / "model.safetensors").unlink()
    found = load_transformers(str(tmp_path), weights=False)
    assert found.network.state_dict().keys() == written.state_dict().keys()
    assert weights_id(found.network) != weights_id(written)
    with pytest.raises(UserError, match="transformers cannot load it"):
        load_transformers(str(tmp_path))


def test_a_mask_models_own_loss_is_that_of_its_config(transformers, tmp_path):
    saved(tmp_path, "mask2former", class_weight=1.0, train_num_points=99)
    found = load_transformers(str(tmp_path))
    assert found.config is not None
    assert criterion_of(found.config) == Criterion(class_weight=1.0, points=99)


def test_a_new_head_is_told_and_asked_for(transformers, tmp_path):
    saved(tmp_path, "segformer")
    with pytest.raises(UserError, match="ignore_mismatched_sizes: true") as raised:
        load_transformers(str(tmp_path), {"num_labels": 5})
    assert "\n" not in str(raised.value)
    found = load_transformers(str(tmp_path), {"num_labels": 5, "ignore_mismatched_sizes": True})
    assert map_output(found.network(IMAGES), "net").classes == 5
    assert "were just initialised: they know nothing yet" in found.notes[0]
    assert found.classes is None


def test_models_of_another_task_or_loss_are_told(transformers, tmp_path):
    for kind, message in (
        ("maskformer", "is a maskformer, whose own loss is not Mask2Former's"),
        ("bert", "is a bert, no semantic segmentation model; choose one of mask2former, beit"),
    ):
        transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path / kind)
        with pytest.raises(UserError, match=message):
            load_transformers(str(tmp_path / kind))
    with pytest.raises(UserError, match=r"finds no config\.json") as raised:
        load_transformers(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_what_the_library_says_by_itself_is_not_shown(transformers, tmp_path, capfd):
    saved(tmp_path, "segformer")
    capfd.readouterr()
    load_transformers(str(tmp_path), {"num_labels": 5, "ignore_mismatched_sizes": True})
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install "bikd-ray\[segmentation\]"'):
        load_transformers("nvidia/segformer-b0-finetuned-ade-512-512")


def test_without_segmentation_models_pytorch_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match="pip install segmentation-models-pytorch"):
        load_smp("unet")


@pytest.mark.parametrize(
    ("about", "mean", "std"),
    [
        ({}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, (0.5,) * 3, (0.5,) * 3),
        ({"do_normalize": False, "image_mean": [0.5] * 3}, (0.0,) * 3, (1.0,) * 3),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
         (0.5,) * 3, (0.2,) * 3),
        ({"rescale_factor": 0.00392156862745098, "image_mean": [0.4] * 3, "image_std": [0.2] * 3},
         (0.4,) * 3, (0.2,) * 3),
    ],
)  # fmt: skip
def test_mean_and_std_are_for_pixels_in_0_to_1(about, mean, std):
    assert_close(pixel_scale(about), (mean, std))


def test_networks_that_take_blue_first_get_it(transformers, tmp_path):
    assert blue_first({"image_processor_type": "MobileViTImageProcessor"})
    assert not blue_first({"image_processor_type": "SegformerImageProcessor"})
    saved(tmp_path, "segformer")
    plain = load_transformers(str(tmp_path)).network
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"do_flip_channel_order": True}))
    found = load_transformers(str(tmp_path))
    assert "blue, green, red" in found.notes[0]
    assert_close(found.network(IMAGES).logits, plain(IMAGES.flip(1)).logits)
    assert_close(copy.deepcopy(found.network)(IMAGES).logits, plain(IMAGES.flip(1)).logits)


def test_torchvisions_models_are_loaded():
    found = load_torchvision("lraspp_mobilenet_v3_large", None, {"num_classes": 4})
    assert map_output(found.network(IMAGES), "net").pixel_logits_BChw.shape == (2, 4, 64, 96)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"no segmentation model 'fcn'; choose from .*fcn_resnet50"):
        load_torchvision("fcn")
    with pytest.raises(UserError, match=r"no weights 'ADE'; choose from .*DEFAULT"):
        load_torchvision("fcn_resnet50", "ADE")
    with pytest.raises(UserError, match=r"kwargs \{'num_classes': 'x'\} raised TypeError"):
        load_torchvision("fcn_resnet50", None, {"num_classes": "x"})


def test_torchvisions_weights_bring_their_classes_and_pixels(monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: nn.Identity())
    found = load_torchvision("fcn_resnet50")
    assert found.classes is not None
    assert (len(found.classes), found.classes[0]) == (21, "__background__")
    assert found.mean == (0.485, 0.456, 0.406)


def test_models_of_segmentation_models_pytorch_are_loaded():
    pytest.importorskip("segmentation_models_pytorch")
    found = load_smp("unet", {"encoder_name": "resnet18", "classes": 4})
    assert map_output(found.network(IMAGES), "net").pixel_logits_BChw.shape == (2, 4, 64, 96)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"no architecture 'yunet'; choose from .*unet"):
        load_smp("yunet")
    with pytest.raises(UserError, match="with kwargs"):
        load_smp("unet", {"encoder_name": "none"})


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_is_loaded_by_transformers_alone(transformers, tmp_path, kind):
    saved(tmp_path / "base", kind)
    found = replace(load_transformers(str(tmp_path / "base")), licence="cc-by-nc-4.0")
    trained = {
        k: v + 0.1 if v.is_floating_point() else v for k, v in found.network.state_dict().items()
    }
    write_pretrained(tmp_path / "out", found, trained)
    auto = (
        transformers.AutoModelForUniversalSegmentation
        if kind == "mask2former"
        else transformers.AutoModelForSemanticSegmentation
    )
    again = auto.from_pretrained(tmp_path / "out").eval()
    assert again.config.id2label == dict(enumerate(NAMES))
    ours, theirs = (map_output(net(IMAGES), "net") for net in (found.network, again))
    for a, b in zip(ours.tensors(), theirs.tensors(), strict=True):
        assert_close(a, b)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "no commercial use" in card
    taken_up = load_transformers(str(tmp_path / "out"))
    assert (taken_up.mean, taken_up.licence) == (found.mean, "cc-by-nc-4.0")


def test_a_folder_that_answers_otherwise_is_refused(transformers, tmp_path):
    network = saved(tmp_path, "segformer")
    with torch.no_grad():
        list(network.parameters())[-1].add_(0.1)
    with pytest.raises(BikdError, match="away from what was trained"):
        check_pretrained(tmp_path, network, "SegFormer")


def test_the_datas_classes_name_a_model_without_names(transformers, tmp_path):
    torch.manual_seed(0)
    network = from_config({"model_type": "segformer", **SEGFORMER, "id2label": None}, "net")
    model = Segmenter(network, config={"model_type": "segformer"})
    write_pretrained(tmp_path, model, network.state_dict(), ("one", "two"))
    assert load_transformers(str(tmp_path)).classes == ("one", "two")
