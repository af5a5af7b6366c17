"""Videos through a whole sweep on Ray: two networks of different windows, and three at once."""

import io

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from bikd_pipelines.planning import open_plan
from bikd_pipelines.resolution import resolution_line
from bikd_ray.export.exporter import ExportRequest, export_model
from bikd_ray.plan import ResolvedModel
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import ZooEntry
from bikd_ray.store import Store
from bikd_ray.zoo import build
from tests.clip_specs import ZOO, spec_of
from tests.faults import run

METRICS = ["cc", "nss", "sim", "kldiv", "auc_j"]


@pytest.fixture
def path(tmp_path):
    """A spec of a pair and of all three."""
    groups = [["still", "short"], ["still", "short", "long"]]
    spec = spec_of(pairings={"list": groups}).model_dump(exclude_none=True, mode="json")
    spec = {name: spec[name] for name in ("task", "data", "recipe", "seeds")}
    spec |= {"zoo": ZOO, "pairings": {"list": groups}, "store": str(tmp_path / "store")}
    spec["resources"] = {"cpus_per_job": 2}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path / "s.yaml"


def test_videos_are_swept_measured_planned_and_exported(cluster, path):
    report = run(path)
    assert (report.done, report.failed) == (5, 0)
    store = Store(report.store)
    assert store.table("baselines")["metric"].to_pylist() == METRICS * 3
    assert store.table("pairs").num_rows == 3 * len(METRICS)
    for row in store.table("results").to_pylist():
        above_V, below_V = np.frombuffer(row["sums"], "<f8").reshape(2, row["n"])
        assert above_V.sum() / below_V.sum() == pytest.approx(row["after"])
        assert np.frombuffer(row["scores"], "<f4").mean() == pytest.approx(row["after"], rel=1e-4)
    for metric in ("cc", "nss"):
        gains = store.gains(metric=metric).to_pylist()
        assert len(gains) == 5
        assert all(np.isfinite(row["crossfit_delta"]) for row in gains)

    frames = store.table("result_frames").to_pylist()
    assert len(frames) == (3 + 2 + 3) * 2 * 15  # members of the jobs, selections, frames
    results = store.table("results").to_pylist()
    one = next(r for r in results if len(r["partner_ids"]) == 1 and r["model"] == "short")
    setting = {name: one[name] for name in ("data_id", "recipe_id", "objective", "selection")}
    along = store.along(one["model_id"], one["partner_ids"], **setting)
    assert along["video"].to_pylist() == [video for video in range(5) for _ in range(3)]
    assert along["frame"].to_pylist() == [0, 8, 16] * 5
    for column in ("before", "after"):
        assert np.mean(along[column]) == pytest.approx(one[column], rel=1e-5)
    assert along["alone"].null_count == along["partner"].null_count == 0
    pictures = store.table("pictures").to_pylist()
    assert {row["metric"] for row in pictures} == {"cc"}
    assert {len(row["others"]) for row in pictures} == {0, 1, 2}
    for row in pictures:
        picture = Image.open(io.BytesIO(row["truth"]))
        assert (picture.format, picture.size) == ("WEBP", (192, 128))

    loaded = load_spec(path)
    plan, answers = open_plan(loaded, None)
    line = resolution_line(plan.jobs[0].data, answers)
    assert line.startswith("5 val videos resolve ±")
    assert " CC and ±" in line
    assert "NSS of one job's Δ" in line

    out = path.parent / "taken"
    request = ExportRequest("short", partner="still")
    export_model(store, request, out, allow_worse=True, made_by="a test")
    card = (out / "README.md").read_text()
    assert "size, offsets = (32, 48), range(-3, 1)" in card
    network = build(ZooEntry.model_validate(ZOO[1]))
    network.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    known = {row["model"]: row["resolved"] for row in store.table("models").to_pylist()}
    clip = torch.rand(1, *ResolvedModel.from_json(known["short"]).input.view.shape)
    assert network(clip).shape == (1, 8, 12)
