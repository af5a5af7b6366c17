"""Videos through a whole sweep on Ray: two networks of different windows, and three at once."""

import io
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from bikd_dashboards.blocks import ChoiceBox, Downloads, Gallery, Grid, Plot
from bikd_dashboards.pages import opened, pairs, why
from bikd_dashboards.report_parts import LIMITS
from bikd_dashboards.snapshot import SettingView, Snapshot
from bikd_pipelines.planning import open_plan
from bikd_pipelines.resolution import resolution_line
from bikd_ray.export.exporter import ExportRequest, export_model
from bikd_ray.formatting import signed
from bikd_ray.plan import ResolvedModel
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import ZooEntry
from bikd_ray.store import Store
from bikd_ray.zoo import build
from tests.clip_specs import ZOO, spec_of
from tests.faults import run

T = TypeVar("T")

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


def of_kind(blocks: Iterable[Any], kind: type[T]) -> list[T]:
    return [block for block in blocks if isinstance(block, kind)]


def assert_pages(store: Store) -> None:
    """Heatmaps of both metrics; an opened pair with its curve along a video, and its frames."""
    now = Snapshot(store)
    assert now.opening is not None
    view = SettingView(now, now.opening, LIMITS)
    show, _ = of_kind(pairs(view, {}), ChoiceBox)
    assert show.options[:2] == (("net_delta", "net Δ CC"), ("net_delta.nss", "net Δ NSS"))
    (drawn,) = of_kind(pairs(view, {"show": "net_delta.nss"}), Plot)
    rows = store.gains(metric="nss", selection="last").to_pylist()
    net = [row["net_delta"] for row in rows if len(row["partner_ids"]) == 1]
    assert drawn.says.startswith(
        f"Heatmap of net Δ NSS, 2 models: from {signed(min(net), 4)} to {signed(max(net), 4)}"
    )
    ids = {row["model"]: row["model_id"] for row in store.table("models").to_pylist()}
    blocks = opened(view, {"pair": f"{ids['still']}~{ids['short']}"})
    (grid,) = of_kind(blocks, Grid)
    assert sum("CC along video" in plot.title for plot in grid.plots) == 2
    galleries = of_kind(blocks, Gallery)
    assert len(galleries) == 2
    assert {len(row.pictures) for gallery in galleries for row in gallery.rows} == {5}
    assert not of_kind(blocks, Downloads)  # there are no classes
    (grid,) = of_kind(why(view, {}), Grid)
    keys = {plot.key for plot in grid.plots}
    assert "why-accuracy_gap" in keys
    assert "why-error_overlap" not in keys  # maps are not right or wrong


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
    of_cc = [r for r in results if r["metric"] == "cc" and len(r["partner_ids"]) == 1]
    one = next(r for r in of_cc if r["model"] == "short")
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

    assert_pages(store)

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
