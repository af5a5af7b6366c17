"""The tour's cells run, one after the other, on a small store as `bikd demo` leaves it.

They are executed as plain Python: a kernel would add a dependency and see the same code.
"""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from PIL import Image

from bikd_pipelines import demo
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Writer
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.sweep.baselines import measure
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest
from bikd_ray.tasks import task_of
from tests.jobs import result_of

DOCS = Path(__file__).parents[1] / "docs"
TOUR = DOCS / "tour.ipynb"

NOTEBOOK = runpy.run_path(str(DOCS / "notebook.py"))
cells, page = NOTEBOOK["cells"], NOTEBOOK["page"]


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """A folder with both demos' stores: two models of each, trained for an epoch, without Ray."""
    one = demo.FIRST_LESSONS.model_copy(update={"epochs": 1})
    two = {name: demo.ZOO[name] for name in ("ResNet", "ViT")}
    short = replace(demo.STORIES[demo.CHEAP], zoo=two, lessons=lambda name: one)
    monkeypatch.setitem(demo.STORIES, demo.CHEAP, short)
    path = demo.prepare_demo(str(tmp_path / "bikd-demo"))
    swept(path, objectives=[{"name": "kd", "temperature": demo.SOFT}])
    told = demo.STORIES[demo.SEGMENTATION]
    few = told.taught.model_copy(update={"count": 32})
    two = {name: told.zoo[name] for name in ("Dilated", "UNet")}
    short = replace(told, taught=few, zoo=two, lessons=lambda name: one)
    monkeypatch.setitem(demo.STORIES, demo.SEGMENTATION, short)
    path = demo.prepare_demo(str(tmp_path / "bikd-demo-segmentation"), demo.SEGMENTATION)
    scenes = yaml.safe_load(path.read_text())["data"]
    scenes["train"]["count"] = scenes["val"]["count"] = 32
    swept(path, data={**scenes, "cache": "none"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def swept(path: Path, **changes: Any) -> None:
    """The jobs of one epoch and one seed of a demo's spec."""
    content = yaml.safe_load(path.read_text()) | {"seeds": [0]} | changes
    content["recipe"]["epochs"] = 1
    path.write_text(yaml.safe_dump(content))
    spec = load_spec(path)
    zoo, data = resolve(spec)
    assert spec.store is not None
    task, writer = task_of(data.task), Writer(spec.store)
    for model in zoo.values():
        found = measure(model, data, ResourceRequest(1, 0), spec.store, "val")
        row = {**dict.fromkeys(SCHEMAS["models"].names), **found.rows[0]}
        row |= {"source": model.entry.source, "resolved": model.to_json()}
        writer.commit_baseline(found.rows, row, found.statistics, task.table or "")
    for job in all_jobs(spec, zoo, data):
        end = result_of(JobRequest(job, "demo", spec.store, ("last",), similarity=False))
        assert end.error is None, end.error
        writer.commit_job(end.job, end.results, end.curves, statistics=end.statistics)
    writer.write_metrics(data.data_id, data.task, task.metrics)


def test_every_cell_runs_and_the_model_that_it_takes_home_loads(there, capsys):
    names: dict = {}
    for kind, text in cells(TOUR):
        if kind == "code":
            exec(text, names)
    shown = capsys.readouterr().out
    assert shown.startswith("ResNet · ")
    assert "where there is [0, 1, 2, 3, 4, 5, 6, 7]" in shown
    assert (there / "matrix.html").stat().st_size > 1000
    assert shown.count("pp IoU") == 2
    assert Image.open(there / "changed.png").size == (4 * 192, 192)
    assert "heatmap" in {trace.type for trace in names["figure"].data}
    assert all(f'"{name}"' in names["figure"].to_json() for name in ("ResNet", "ViT"))
    model = timm.create_model("local-dir:better-vit", pretrained=True)
    assert sum(p.numel() for p in model.parameters()) > 100_000
    assert names["exported"].choice.result["model"] == "ViT"
    assert 0.5 < names["scores"]["cc"] < 1
    assert set(names["scores"]) == {"cc", "nss", "sim", "kldiv", "auc_j"}


def test_the_page_of_the_site_is_the_notebook():
    assert (DOCS / "tour.md").read_text() == page(TOUR)


def test_the_notebook_holds_no_output_that_could_grow_old():
    found = json.loads(TOUR.read_text())
    assert found["nbformat"] == 4
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
