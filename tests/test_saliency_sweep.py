"""Videos through a whole sweep on Ray: two networks of different windows, and three at once."""

import numpy as np
import pytest
import torch
import yaml
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

    loaded = load_spec(path)
    plan, answers = open_plan(loaded, None)
    line = resolution_line(plan.jobs[0].data, answers)
    assert line.startswith("5 units of val resolve ±")
    assert " CC and ±" in line
    assert "NSS of one job's Δ" in line

    out = path.parent / "taken"
    request = ExportRequest("short", partner="still")
    export_model(store, request, out, allow_worse=True, made_by="a test")
    card = (out / "README.md").read_text()
    assert "size, offsets = (32, 48), (-3, -2, -1, 0)" in card
    network = build(ZooEntry.model_validate(ZOO[1]))
    network.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    known = {row["model"]: row["resolved"] for row in store.table("models").to_pylist()}
    clip = torch.rand(1, *ResolvedModel.from_json(known["short"]).input.view.shape)
    assert network(clip).shape == (1, 8, 12)
