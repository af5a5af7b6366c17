"""Baselines on a real Ray: exact for every kind of model, once each, and pairs without training."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from timm.data.dataset import ImageDataset
from timm.data.loader import create_loader
from torchvision import transforms

from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store
from bikd_ray.store.read import Reader
from bikd_ray.sweep.pairs import tile
from tests.nets import CLASSES, Net

TINY: dict[str, Any] = {
    "layers": [1, 1, 1, 1],
    "channels": [8, 8, 16, 16],
    "stem_width": 8,
    "num_classes": CLASSES,
}
VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": CLASSES,
}
OWN = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": CLASSES,
    "model_args": {k: v for k, v in VIT.items() if k != "num_classes"},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "num_classes": CLASSES,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}


def sharp(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights whose answers differ from image to image."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=g) * (2 / p[0].numel()) ** 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder with four models of four kinds, images in class folders, and the spec."""
    root = tmp_path_factory.mktemp("zoo")
    rng = np.random.default_rng(0)
    for split, each in (("train", 1), ("val", 3)):
        for label in range(CLASSES):
            folder = root / split / f"class{label:02d}"
            folder.mkdir(parents=True)
            for i in range(each):
                size = (int(rng.integers(30, 60)), int(rng.integers(30, 60)), 3)
                noise = rng.integers(0, 256, size) * 0.5 + rng.integers(0, 128, 3)
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    (root / "own").mkdir()
    (root / "own" / "config.json").write_text(json.dumps(OWN))
    save_file(
        sharp(timm.create_model("vit_tiny_patch16_224", **VIT), 1).state_dict(),
        root / "own" / "model.safetensors",
    )
    torch.save(
        {"state_dict": sharp(timm.create_model("resnet18", **TINY), 2).state_dict()},
        root / "resnet.pth",
    )
    (root / "repo").mkdir()
    (root / "repo" / "hubconf.py").write_text(
        "from tests.nets import Net\ndef wide(): return Net(16)\n"
    )
    entries = [
        {"timm": "local-dir:own", "alias": "own"},
        {"timm": "resnet18", "kwargs": TINY, "checkpoint": "resnet.pth", "alias": "resnet",
         "input": {"size": 64}},
        {"factory": "tests.nets:Net", "alias": "factory",
         "input": {"size": 24, "crop_pct": 1.0, "interpolation": "bilinear"}},
        {"hub": "repo:wide", "trust": True, "alias": "hub", "input": {"size": 28}},
    ]  # fmt: skip
    spec = {
        "zoo": entries,
        "data": {
            "train": {"source": "folder", "path": "train"},
            "val": {"source": "folder", "path": "val"},
            "cache": "views",
        },
        "recipe": {"epochs": 1, "batch_size": 16, "lr": 1e-3},
        "seeds": [0],
        "resources": {"cpus_per_job": 2},
        "store": "store",
    }
    (root / "spec.yaml").write_text(yaml.safe_dump(spec))
    return root


@pytest.fixture(scope="module")
def measured(cluster, zoo):
    """The store after baselines of the four models."""
    from bikd_ray.sweep.engine import run_baseline_sweep

    return Store(run_baseline_sweep(load_spec(zoo / "spec.yaml")))


def logits_by_timms_own_loader(model, root: Path, how: dict) -> torch.Tensor:
    """float32 [N, C] of a plain evaluation with timm's data set, transform and loader."""
    loader = create_loader(
        ImageDataset(str(root)),
        input_size=how["input_size"],
        batch_size=7,
        is_training=False,
        use_prefetcher=False,
        interpolation=how["interpolation"],
        mean=how["mean"],
        std=how["std"],
        crop_pct=how["crop_pct"],
        num_workers=0,
    )
    with torch.inference_mode():
        return torch.cat([model(images) for images, _ in loader])


def logits_by_torchvision(model, root: Path, size: int, resize: int, how) -> torch.Tensor:
    """The same with torchvision's transforms, for models that timm does not know."""
    see: Any = transforms.Compose([
        transforms.Resize(resize, how),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    paths = sorted(root.glob("*/*.png"))
    with torch.inference_mode():
        return torch.cat([model(see(Image.open(p).convert("RGB"))[None])["logits"] for p in paths])


@pytest.fixture(scope="module")
def plain(zoo):
    """{alias: logits [N, C]} from scripts that know nothing of this package."""
    val = zoo / "val"
    own = timm.create_model(f"local-dir:{zoo / 'own'}", pretrained=True).eval()
    resnet = timm.create_model("resnet18", **TINY).eval()
    resnet.load_state_dict(torch.load(zoo / "resnet.pth")["state_dict"])
    at64 = {**resolve_model_data_config(resnet), "input_size": (3, 64, 64)}
    nets = {}
    for name, width in (("factory", 8), ("hub", 16)):
        torch.manual_seed(0)
        nets[name] = Net(width).eval()
    modes = transforms.InterpolationMode
    return {
        "own": logits_by_timms_own_loader(own, val, resolve_model_data_config(own)),
        "resnet": logits_by_timms_own_loader(resnet, val, at64),
        "factory": logits_by_torchvision(nets["factory"], val, 24, 24, modes.BILINEAR),
        "hub": logits_by_torchvision(nets["hub"], val, 28, 32, modes.BILINEAR),
    }


def test_baselines_of_four_kinds_of_models_equal_plain_scripts_to_the_image(measured, plain):
    baselines = {r["model"]: r for r in measured.baselines().to_pylist()}
    assert baselines.keys() == plain.keys()
    predictions = measured.table("predictions").to_pylist()
    labels = np.repeat(np.arange(CLASSES), 3)
    for name, logits in plain.items():
        rows = sorted((r for r in predictions if r["model"] == name), key=lambda r: r["sample"])
        assert [r["label"] for r in rows] == labels.tolist()
        assert [r["predicted"] for r in rows] == logits.argmax(1).tolist()
        probs = logits.softmax(1)
        of_label = probs[torch.arange(len(labels)), torch.from_numpy(labels)]
        assert np.allclose([r["label_prob"] for r in rows], of_label, atol=1e-5)
        top1 = 100 * float((logits.argmax(1).numpy() == labels).mean())
        assert baselines[name]["value"] == pytest.approx(top1, abs=1e-9)
        assert len(rows[0]["top_classes"]) == 32


def test_some_ensembles_are_left_open_by_what_is_stored(measured):
    """So that the next test tests the images that are asked for again too."""
    models = measured.baselines().select(["model_id", "data_id"]).to_pylist()
    ids, data_id = [m["model_id"] for m in models], models[0]["data_id"]
    found = tile(list(combinations(ids, 2)), measured.uri, data_id, CLASSES)
    assert sum(len(undecided.samples_U) for *_, undecided in found) > 0


def test_pairs_are_known_before_any_training_with_no_ensemble_left_uncertain(measured, plain):
    pairs = measured.pairs().to_pylist()
    assert len(pairs) == 6
    labels = np.repeat(np.arange(CLASSES), 3)
    for row in pairs:
        a, b = plain[row["model_a"]], plain[row["model_b"]]
        right_a, right_b = (z.argmax(1).numpy() == labels for z in (a, b))
        ensemble = (a.softmax(1) + b.softmax(1)).argmax(1).numpy()
        assert row["n"] == len(labels)
        assert row["n11"] == (right_a & right_b).sum()
        assert row["n10"] == (right_a & ~right_b).sum()
        assert row["n01"] == (~right_a & right_b).sum()
        assert row["ensemble"] == pytest.approx(100 * (ensemble == labels).mean())
        assert row["disagreement"] == pytest.approx((a.argmax(1) != b.argmax(1)).float().mean())
        assert row["objective"] is None


def test_a_fifth_model_costs_one_baseline_and_its_own_pairs(measured, zoo):
    from bikd_ray.sweep.engine import run_baseline_sweep

    before = {p: Path(p).stat().st_mtime_ns for t in ("baselines", "predictions", "pairs")
              for p in Reader(measured.uri).fs.listing(t, ".parquet")}  # fmt: skip
    spec = yaml.safe_load((zoo / "spec.yaml").read_text())
    spec["zoo"].append({**spec["zoo"][2], "alias": "fifth", "kwargs": {"width": 12}})
    (zoo / "five.yaml").write_text(yaml.safe_dump(spec))
    store = Store(run_baseline_sweep(load_spec(zoo / "five.yaml")))
    after = {
        t: Reader(store.uri).fs.listing(t, ".parquet")
        for t in ("baselines", "predictions", "pairs")
    }
    assert {t: len([p for p in files if p not in before]) for t, files in after.items()} == {
        "baselines": 1,
        "predictions": 1,
        "pairs": 1,
    }
    assert all(Path(p).stat().st_mtime_ns == when for p, when in before.items())
    assert store.pairs().num_rows == 10


def test_a_factory_and_a_timm_model_of_other_sizes_train_together(measured, zoo):
    from bikd_ray.sweep.engine import run_sweep

    spec = yaml.safe_load((zoo / "spec.yaml").read_text())
    spec["pairings"] = {"list": [["factory", "resnet"]]}
    spec["recipe"]["augment"] = "timm"
    (zoo / "two.yaml").write_text(yaml.safe_dump(spec))
    report = run_sweep(load_spec(zoo / "two.yaml"))
    assert report.done == 3
    assert report.complete
    store = Store(report.store)
    assert {r["model"] for r in store.table("results").to_pylist()} == {"factory", "resnet"}
