"""A published network taken home: its file has the published names, its licence, and its maps."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bikd_ray.export import ExportRequest, export_model
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.sweep.baselines import measure
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest
from bikd_ray.tasks import task_of
from bikd_ray.zoo.saliency import vinet_s
from tests.clip_specs import ZOO, spec_of
from tests.jobs import result_of
from tests.saliency_nets import clip


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> Path:
    """ViNet-S, from a file such as its authors', taught for an epoch by a tiny network and taken
    home.
    """
    root = tmp_path_factory.mktemp("videos")
    torch.manual_seed(0)
    torch.save(vinet_s().state_dict(), root / "vinet_rootgrouped_32_DHF1K.pt")
    published = {
        "saliency": "vinet_s",
        "checkpoint": "vinet_rootgrouped_32_DHF1K.pt",
        "alias": "ViNet-S",
        "input": {"size": 32, "width": 64},
    }
    given = spec_of().model_dump(exclude_none=True, mode="json")
    spec = {name: given[name] for name in ("task", "data", "recipe", "seeds")}
    spec["data"]["train"]["videos"] = spec["data"]["val"]["videos"] = 2
    spec["data"]["val"]["eval_stride"] = 20
    spec |= {"zoo": [published, ZOO[0]], "store": "store"}
    (root / "spec.yaml").write_text(yaml.safe_dump(spec))
    loaded = load_spec(root / "spec.yaml")
    zoo, data = resolve(loaded)
    writer = Writer(str(root / "store"))
    writer.write_metrics(data.data_id, data.task, task_of(data.task).metrics, "ce")
    for model in zoo.values():
        found = measure(model, data, ResourceRequest(1, 0), str(root / "store"), "val")
        row = {**dict.fromkeys(SCHEMAS["models"].names), **found.rows[0]}
        row |= {"source": model.entry.source, "licence": model.licence}
        row["resolved"] = model.to_json()
        writer.commit_baseline(found.rows, row, found.statistics, "frames")
    job = next(job for job in all_jobs(loaded, zoo, data) if len(job.members) == 2)
    end = result_of(JobRequest(job, "tiny", str(root / "store"), ("last",), similarity=False))
    assert end.error is None, end.error
    writer.commit_job(end.job, end.results, end.curves)
    request = ExportRequest("ViNet-S", partner="still")
    export_model(
        Store(str(root / "store")), request, root / "out", allow_worse=True, made_by="a test"
    )
    return root


def test_it_loads_strictly_into_a_fresh_build_and_gives_the_same_maps(taken):
    (row,) = (
        row
        for row in Store(str(taken / "store")).table("results").to_pylist()
        if row["model"] == "ViNet-S" and row["metric"] == "cc" and row["weights"]
    )
    trained, fresh = vinet_s(), vinet_s()
    trained.load_state_dict(load_file(taken / "store" / row["weights"]), strict=True)
    fresh.load_state_dict(load_file(taken / "out" / "model.safetensors"), strict=True)
    x = clip(32, 64, batch=2)
    maps = fresh.eval()(x)
    assert torch.equal(maps, trained.eval()(x))
    before = vinet_s()
    before.load_state_dict(torch.load(taken / "vinet_rootgrouped_32_DHF1K.pt"))
    assert not torch.equal(maps, before.eval()(x))


def test_its_file_has_the_published_names(taken):
    published = torch.load(taken / "vinet_rootgrouped_32_DHF1K.pt")
    assert load_file(taken / "out" / "model.safetensors").keys() == published.keys()


def test_its_card_repeats_licence_window_and_colours_and_its_code_runs(taken, monkeypatch):
    card = (taken / "out" / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card
    assert (
        "**Not for commercial use.** The weights of ViNet-S are licensed cc-by-nc-sa-4.0." in card
    )
    assert "on 2 videos: " in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(taken / "out")
    told: dict = {}
    exec(code[1], told)
    assert told["size"] == (32, 64)
    assert tuple(told["offsets"]) == tuple(range(-31, 1))
    assert tuple(told["normalise"].mean) == (0.485, 0.456, 0.406)
    assert told["model"](clip(32, 64)).shape == (1, 32, 64)
    assert "offsets = (32, 64), range(-31, 1)" in card
    assert "count which videos were drawn" in card
    assert "## Classes" not in card
    assert "- video-saliency" in card
    assert "pipeline_tag" not in card
