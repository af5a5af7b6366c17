import csv
import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg, _registry  # type: ignore[attr-defined]

from bikd_pipelines.planning import drift_lines
from bikd_ray.plan import Cost, ResolvedInput, ResolvedModel
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo import published as module
from bikd_ray.zoo import resolve_model
from bikd_ray.zoo.published import Published, held, published, published_for

ROWS = list(csv.DictReader((Path(module.__file__).parent / "published.csv").open(encoding="utf-8")))


@pytest.mark.parametrize(
    ("name", "error"),  # the source also prints 100 - top1, read from it a second time
    [
        ("senet154.gluon_in1k", 18.742),
        ("resnext101_32x8d.fb_swsl_ig1b_ft_in1k", 15.718),
        ("vit_base_patch16_224.augreg_in1k", 20.858),
        ("pit_b_224.in1k", 17.540),
        ("resmlp_36_224.fb_in1k", 20.228),
        ("resmlp_24_224.fb_distilled_in1k", 19.234),
        ("vit_small_patch16_224.augreg_in1k", 21.158),
        ("coat_lite_mini.in1k", 20.904),
        ("pit_xs_224.in1k", 21.788),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 24.548),
        ("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", 9.946),
        ("mobilenetv3_small_050.lamb_in1k", 42.076),
    ],
)
def test_figures_are_those_of_the_source(name, error):
    found = published(name)
    assert found
    assert found.top1 + error == pytest.approx(100, abs=1e-9)


def test_the_table_is_whole_and_in_the_order_of_its_source():
    assert len(ROWS) == 1445
    assert all(float(a["top1"]) >= float(b["top1"]) for a, b in pairwise(ROWS))
    assert len({(row["model"], row["img_size"]) for row in ROWS}) == len(ROWS)


def test_every_figure_is_a_share_of_50000_images():
    assert all(int(row["top1"].replace(".", "")) % 2 == 0 for row in ROWS)  # steps of 0.002


def test_every_name_with_a_tag_is_known_to_timm():
    known = set(timm.list_pretrained())
    without = {row["model"] for row in ROWS} - known
    assert without == {"tnt_s_patch16_224", "mobilenet_edgetpu_v2_m"}  # have no tag


def test_inputs_are_the_train_or_the_test_input_of_timm():
    changed_since = {"test_efficientnet.r160_in1k", "test_byobnet.r160_in1k", "test_vit.r160_in1k"}
    for row in ROWS:
        config = timm.get_pretrained_cfg(row["model"])
        assert config
        crops = {config.input_size[-1]: config.crop_pct}
        if config.test_input_size:
            crops[config.test_input_size[-1]] = config.test_crop_pct or config.crop_pct
        if row["model"] not in changed_since:
            assert float(row["crop_pct"]) == pytest.approx(crops[int(row["img_size"])], abs=6e-4)
        assert row["interpolation"] == config.interpolation


def test_a_name_without_a_tag_means_the_default_weights():
    assert published("pit_b_224") == published("pit_b_224.in1k") == Published(
        82.46, 224, 0.9, "bicubic"
    )  # fmt: skip
    assert published("hf-hub:timm/pit_b_224.in1k") == published("pit_b_224.in1k")
    assert published("mobilenet_edgetpu_v2_m") == published(
        "mobilenet_edgetpu_v2_m.ra4_e3600_r224_in1k"
    )


def test_a_model_has_a_figure_for_each_size_it_was_measured_at():
    assert published("resnet50.a1_in1k") == published("resnet50.a1_in1k", 224)
    assert published("resnet50.a1_in1k", 224) == Published(80.382, 224, 0.95, "bicubic")
    assert published("resnet50.a1_in1k", 288) == Published(81.24, 288, 1.0, "bicubic")
    assert published("resnet50.a1_in1k", 256) is None


@pytest.mark.parametrize(
    "name",
    [
        "no_such_model",
        "resnet50.no_such_tag",
        "local-dir:/weights",
        "hf-hub:someone/resnet50",
        "vit_base_patch16_224.mae",
    ],
)
def test_what_timm_did_not_measure_is_unknown(name):
    assert published(name) is None
    assert published_for(model(name), 50_000) is None


HALF = (0.5, 0.5, 0.5)


def model(
    name, size=224, crop_pct=0.9, interpolation="bicubic", classes=1000, holds: Any = ..., **entry
):
    holds = name if holds is ... else holds
    how = ResolvedInput(size, HALF, HALF, crop_pct, interpolation)
    cost = Cost(params=1, flops=1, activations=1, peak=1, features=1)
    entry = ZooEntry.model_validate({"timm": name, **entry})
    return ResolvedModel(entry, "w", "id", how, classes, cost, holds=holds)


PIT = "pit_b_224.in1k"


def test_a_models_own_weights_on_the_whole_validation_set_are_compared():
    known = published_for(model(PIT), 50_000)
    assert known is not None
    assert known.top1 == 82.46


@pytest.mark.parametrize(
    ("size", "crop_pct", "interpolation"),
    [(256, 0.9, "bicubic"), (224, 0.875, "bicubic"), (224, 0.9, "bilinear")],
)
def test_another_input_is_not_compared(size, crop_pct, interpolation):
    assert published_for(model(PIT, size, crop_pct, interpolation), 50_000) is None


def test_other_images_another_head_or_own_weights_are_not_compared():
    assert published_for(model(PIT), 10_000) is None
    assert published_for(model(PIT, classes=10), 50_000) is None
    assert published_for(model(PIT, checkpoint="mine.pth", holds=None), 50_000) is None
    assert published_for(model(PIT, checkpoint="mine.pth", holds=PIT), 50_000) == published(PIT)


def test_a_crop_is_the_same_as_its_published_rounding():
    name = "darknetaa53.c2ns_in1k"
    config = timm.get_pretrained_cfg(name)
    assert config
    known = published_for(model(name, 256, config.crop_pct, "bilinear"), 50_000)
    assert known is not None
    assert known.top1 == 79.746


def test_only_a_drift_beyond_a_tenth_of_a_point_is_worth_a_word():
    rows = [
        ("far", "top1", 82.278, 82.46),
        ("near", "top1", 82.4, 82.46),
        ("unknown", "top1", 50.0, None),
    ]
    columns = dict(
        zip(("model", "metric", "value", "published"), zip(*rows, strict=True), strict=True)
    )
    (line,) = drift_lines(pa.table({k: list(v) for k, v in columns.items()}))
    assert "far: top1 82.278 %, published 82.460 % at the same input: -0.182 pp" in line


# What a checkpoint holds

TINY = "test_resnet"


def tiny_file(folder: Path, seed: int = 0) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    state = timm.create_model(TINY, pretrained=False).state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors", state


def entry_with(**fields) -> ResolvedModel:
    return resolve_model(ZooEntry.model_validate({"timm": TINY, **fields}))[0]


@pytest.fixture
def timms(monkeypatch: pytest.MonkeyPatch):
    """Lets timm know another set of weights of the tiny architecture."""

    def know(**where) -> None:
        cfg = PretrainedCfg(architecture=TINY, tag="mine", **where)
        monkeypatch.setitem(_registry._model_pretrained_cfgs, f"{TINY}.mine", cfg)
        monkeypatch.setitem(_registry._model_with_tags, TINY, [f"{TINY}.mine", f"{TINY}.r160_in1k"])

    return know


def test_a_file_is_timms_by_the_hash_in_the_name_of_timms(tmp_path, timms):
    file, state = tiny_file(tmp_path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    timms(url=f"https://example.org/tiny-{digest[:8]}.pth")
    assert entry_with(checkpoint=str(file)).holds == "test_resnet.mine"
    assert held(TINY, file, None, state) == "test_resnet.mine"
    other, _ = tiny_file(tmp_path / "other", seed=1)
    assert entry_with(checkpoint=str(other)).holds is None


def test_a_file_is_timms_by_the_tensors_of_a_kept_copy(tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    _, state = tiny_file(hub / "snapshots" / "abc")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.save({"model": state}, tmp_path / "saved_again.pth")
    assert entry_with(checkpoint=str(tmp_path / "saved_again.pth")).holds == f"{TINY}.r160_in1k"
    folder = tmp_path / "folder"
    tiny_file(folder)
    (folder / "config.json").write_text(json.dumps({"architecture": TINY, "num_classes": 1000}))
    mine = resolve_model(ZooEntry.model_validate({"timm": f"local-dir:{folder}"}))[0]
    assert mine.holds == f"{TINY}.r160_in1k"
    trained, _ = tiny_file(tmp_path / "trained", seed=1)
    assert entry_with(checkpoint=str(trained)).holds is None


@pytest.mark.parametrize(
    "address",
    ["https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"],
)
def test_a_file_is_timms_by_its_address(address):
    assert held(TINY, None, address, {}) == f"{TINY}.r160_in1k"
    assert held(TINY, None, address.replace("timm/", "somebody/"), {}) is None
