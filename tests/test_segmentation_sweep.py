"""Segmentation through a whole sweep: a model of transformers and one of queries, their answers,
pages, and a checkpoint that transformers alone loads.
"""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from bikd_dashboards.blocks import Gallery, Grid
from bikd_dashboards.pair_page import pair_blocks
from bikd_dashboards.report import write_report
from bikd_dashboards.report_parts import LIMITS
from bikd_dashboards.snapshot import SettingView, Snapshot
from bikd_pipelines.check import check
from bikd_ray.data import open_split, resolve_data
from bikd_ray.export import ExportRequest, export_model
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store
from bikd_ray.store.compact import compact
from tests.faults import run
from tests.scene_nets import INPUT, entry

transformers = pytest.importorskip("transformers")

SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [3, 3],
    "strides": [2, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 16,
    "num_labels": 11,
}
CLASSES = ["background", *map(str, range(10))]


def segformer(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**SEGFORMER)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: label for label, name in enumerate(CLASSES)}
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Weights\n")
    return folder


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory) -> tuple[Path, Store]:
    folder = tmp_path_factory.mktemp("segmentation")
    scenes = {"source": "digit_scenes", "size": 24, "digits": [1, 2]}
    own = {"transformers": str(segformer(folder / "net")), "alias": "segformer", "input": INPUT}
    spec = {
        "name": "scenes",
        "task": "segmentation",
        "zoo": [own, entry("Masks", "masks")],
        "data": {
            "train": {**scenes, "split": "train", "count": 48},
            "val": {**scenes, "split": "val", "count": 24},
            "cache": str(folder / "views"),
        },
        "recipe": {"preset": "ade20k_mask2former", "lr": 1e-3, "epochs": 1, "batch_size": 16,
                   "backbone_lr": 1.0},
        "seeds": [0],
        "resources": {"cpus_per_job": 2},
        "store": str(folder / "store"),
    }  # fmt: skip
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    found = check(path)
    assert found.problems == []
    report = run(path)
    assert (report.done, report.failed, report.left) == (3, 0, 0)
    return path, Store(report.store)


def test_answers_have_every_metric_with_intervals_from_stored_rows(swept):
    _, store = swept
    ((primary, *others),) = store.metrics.values()
    assert (primary.title, primary.unit, primary.pooled) == ("mIoU", "%", True)
    assert [m.name for m in others] == ["fwiou", "macc", "pacc", "image_iou"]
    for metric in [primary, *others]:
        (row,) = store.partners("segformer", metric=metric.name).to_pylist()
        assert row["partner"] == "masks"
        assert row["after"] == pytest.approx(row["before"] + row["delta"])
        assert row["delta_low"] <= row["delta"] <= row["delta_high"]
    (row,) = store.partners("segformer").to_pylist()
    assert row["crossfit_delta"] is not None
    (pair,) = store.pairs().to_pylist()
    assert pair["ensemble"] > 0


def test_counts_of_each_image_give_the_metrics_of_all_of_them_and_of_each_class(swept):
    _, store = swept
    rows = store.table("result_counts").to_pylist()
    assert {row["selection"] for row in rows} == {"last", "best_val"}
    results = [r for r in store.table("results").to_pylist() if r["metric"] == "miou"]
    assert len(rows) == 24 * len(results)
    for result in results:
        sums = np.zeros((3, 11))
        for row in rows:
            if all(row[key] == result[key] for key in ("job_id", "model_id", "selection")):
                at = [row[name] for name in ("labelled", "right", "predicted")]
                sums[:, row["classes"]] += at  # each class once an image
        labelled, right, predicted = sums
        iou = right / np.maximum(labelled + predicted - right, 1)
        assert 100 * iou[labelled > 0].mean() == pytest.approx(result["after"])
    classes = store.classes("segformer").to_pylist()
    assert [row["name"] for row in classes] == [CLASSES[row["label"]] for row in classes]
    (gain,) = store.partners("segformer").to_pylist()
    assert np.mean([row["after"] for row in classes]) == pytest.approx(gain["after"])
    assert np.mean([row["before"] for row in classes]) == pytest.approx(gain["before"])


def test_pairs_say_what_share_of_the_wrong_pixels_both_get_wrong(swept):
    _, store = swept
    (pair,) = store.pairs_before().to_pylist()
    pixels = [pair[name] for name in ("n11", "n10", "n01", "n00")]
    truth = sum(sum(row["labelled"]) for row in store.table("counts").to_pylist()) / 2
    assert sum(pixels) == truth
    assert pair["error_overlap"] == pixels[3] / sum(pixels[1:])


def test_the_page_shows_the_metric_the_classes_and_the_pictures(swept, tmp_path):
    _, store = swept
    write_report(store, tmp_path / "report.html")
    assert "mIoU" in (tmp_path / "report.html").read_text()
    now = Snapshot(store)
    view = SettingView(now, now.settings[0], LIMITS)
    blocks = pair_blocks(view, *view.names)
    galleries = {block.title: block for block in blocks if isinstance(block, Gallery)}
    assert {*galleries} <= {f"{name}: where it changed most" for name in view.names.values()}
    assert len(galleries["segformer: where it changed most"].rows[0].pictures) == 5
    plots = [plot for block in blocks if isinstance(block, Grid) for plot in block.plots]
    (classes,) = (plot for plot in plots if plot.title == "segformer: class by class")
    assert "background" in str(classes.figure)


def test_merging_the_stores_files_changes_no_answer(swept, tmp_path):
    _, store = swept
    merged = tmp_path / "merged"
    copytree(store.uri, merged)
    compact(str(merged))
    again = Store(str(merged))
    assert len(list((merged / "result_counts").glob("*.parquet"))) == 1
    for name in ("segformer", "masks"):
        assert again.classes(name) == store.classes(name)
        assert again.partners(name) == store.partners(name)
    rows = [sorted(s.table("result_counts").to_pylist(), key=str) for s in (store, again)]
    assert rows[0] == rows[1]
    assert rows[0]


def test_an_exported_model_reproduces_its_stored_metric_by_transformers_alone(swept, tmp_path):
    path, store = swept
    request = ExportRequest("segformer")
    done = export_model(store, request, tmp_path / "out", allow_worse=True, made_by="a test")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card
    assert "license: cc-by-nc-4.0" in card
    assert "commercial" in card
    assert "AutoModelForSemanticSegmentation" in card
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert [model.config.id2label[label] for label in range(11)] == CLASSES
    images = open_split(resolve_data(load_spec(path).data, "segmentation"), "val")
    confusion = np.zeros((11, 11))
    for index in range(24):
        image, labels = images.pair(index)  # type: ignore[attr-defined]
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            logits = model.eval()((pixels - 0.5) / 0.5).logits
        answer = F.interpolate(logits, labels.shape, mode="bilinear").argmax(1)[0].numpy()
        known = labels != 255
        np.add.at(confusion, (answer[known], labels[known]), 1)
    truth, right = confusion.sum(0), np.diag(confusion)
    iou = right / np.maximum(truth + confusion.sum(1) - right, 1)
    assert 100 * iou[truth > 0].mean() == pytest.approx(done.choice.result["after"], abs=0.01)
