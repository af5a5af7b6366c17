"""Digits without labels, in a real sweep, and a probe of odd and even ones beside them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bikd_ray.data.digits import DigitsImages
from bikd_ray.specs import DigitsData
from bikd_ray.store import Store
from tests.faults import run

BARE = {"name": "bikd", "confidence": "max", "ce_weight": 0}


def ten(width: int) -> torch.nn.Sequential:
    """A zoo factory: one hidden layer on 8 x 8 digits."""
    torch.manual_seed(width)
    layers = torch.nn.Linear(3 * 64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
    return torch.nn.Sequential(torch.nn.Flatten(), *layers)


def write_parity(root: Path) -> dict:
    """The digits as a data set of two classes: every sixth of each half."""
    found = {}
    for split in ("train", "val"):
        images = DigitsImages(DigitsData(source="digits", split=split))
        for i in np.arange(0, len(images.labels), 6).tolist():
            folder = root / split / ("odd" if images.labels[i] % 2 else "even")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images._pixels[i]).save(folder / f"{i:04d}.png")
        found[split] = {"source": "folder", "path": str(root / split)}
    return found


def test_a_sweep_without_labels_says_what_the_backbones_lost(cluster, spec_file, tmp_path):
    shape = {"input": {"size": 8, "crop_pct": 1.0}}
    zoo = [
        {"factory": "tests.test_probe_sweep:ten", "alias": a, "kwargs": {"width": w}, **shape}
        for a, w in (("narrow", 6), ("wide", 12))
    ]
    data = {
        "train": {"source": "digits", "split": "train", "labels": "none"},
        "val": {"source": "digits", "split": "val"},
    }
    given = {"zoo": zoo, "data": data, "objectives": [BARE], "seeds": [0]}
    path = spec_file(
        **given, probe={"parity": write_parity(tmp_path)}, resources={"cpus_per_job": 2}
    )
    done = run(path)
    assert (done.done, done.failed) == (1, 0)
    store = Store(done.store)
    assert store.eval_sets() == ["val", "parity"]
    (probed,) = store.partners("wide", metric="knn", eval_set="parity").to_pylist()
    (val,) = store.partners("wide").to_pylist()
    untouched = {r["model"]: r["value"] for r in store.baselines("knn", "parity").to_pylist()}
    assert probed["before"] == untouched["wide"] > 60
    for row in (probed, val):
        assert (row["control"], row["control_delta"]) == ("untouched", 0)
        assert (row["net_delta"], row["net_low"]) == (row["delta"], row["delta_low"])
    assert [m.name for m in store.metrics[val["data_id"]]] == ["top1", "top5", "nll", "ece", "knn"]
    assert {row["loss"] for row in store.table("curves").to_pylist()} == {None}
    again = run(path)
    assert (again.done, again.skipped) == (0, 1)
