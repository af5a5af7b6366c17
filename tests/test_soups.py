"""Soups of a stored sweep: averaged, measured, stored as jobs, and taken home; no Ray."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from bikd_pipelines.search_views import soup_lines
from bikd_ray.errors import BikdError, UserError
from bikd_ray.export import ExportRequest, export_model
from bikd_ray.formatting import signed
from bikd_ray.identity import digest
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.soups import make_soup
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.store.kinds import kinds
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.sweep.baselines import measure
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest
from tests.jobs import result_of


@pytest.fixture
def swept(spec_file) -> Store:
    """Three tiny networks with batch norms, trained pairwise and alone with two seeds."""
    shape = {"input": {"size": 8, "crop_pct": 1.0}}
    zoo = [
        {"factory": "tests.conftest:net", "alias": a, "kwargs": {"width": w, "norm": True}, **shape}
        for a, w in (("small", 4), ("medium", 6), ("large", 8))
    ]
    spec = load_spec(spec_file(zoo=zoo, recipe={"epochs": 1, "batch_size": 16, "lr": 1e-3}))
    zoo, data = resolve(spec)
    assert spec.store
    writer = Writer(spec.store)
    for model in zoo.values():
        found = measure(model, data, ResourceRequest(1, 0), spec.store, "val")
        row = {**dict.fromkeys(SCHEMAS["models"].names), **found.rows[0]}
        row |= {"source": model.entry.source, "licence": "mit", "resolved": model.to_json()}
        writer.commit_baseline(found.rows, row, found.statistics)
    for job in all_jobs(spec, zoo, data):
        end = result_of(JobRequest(job, "tiny", spec.store, ("last",), similarity=False))
        assert end.error is None, end.error
        writer.commit_job(end.job, end.results, end.curves)
    return Store(spec.store)


def brewed(store, **options):
    """A soup of the first model that two variants make one of."""
    for name in ("large", "medium", "small"):
        with suppress(UserError):
            return name, make_soup(store, name, **options)
    raise AssertionError("no two variants make a soup")


def test_a_soup_is_the_mean_of_its_ingredients_and_every_answer_understands_it(swept, tmp_path):
    name, made = brewed(swept)
    rows = {
        row["job_id"]: row
        for row in swept.table("results").to_pylist()
        if (row["model"], row["selection"], row["metric"]) == (name, "last", "top1")
    }
    states = [load(swept.file(rows[job]["weights"])) for job in made.soup.jobs]
    soup = load(swept.file(rows[made.soup.job_id]["weights"]))
    for key in soup:
        if "running" not in key and soup[key].is_floating_point():
            mean = torch.stack([state[key].double() for state in states]).mean(0).float()
            assert torch.equal(soup[key], mean)
    assert any("running" in key for key in soup)
    assert made.soup.batch_images == 62
    # it is a job with an id of its own, whose control is the soup of controls
    expected = digest("soup", made.soup.jobs, made.soup.scale, made.soup.batch_images)
    assert made.soup.job_id == expected
    (row,) = swept.partners(name, "soup(bikd)").to_pylist()
    assert made.control
    control = rows[made.control.job_id]
    assert row["net_delta"] == pytest.approx(
        rows[made.soup.job_id]["after"] - control["after"], abs=1e-6
    )
    lines = "\n".join(soup_lines(made))
    assert f"job {made.soup.job_id}" in lines
    assert "images that chose nothing" in lines
    # and it goes home with its ingredients
    request = ExportRequest(name, job=made.soup.job_id)
    export_model(swept, request, tmp_path / "out", allow_worse=True, made_by="bikd export")
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(job in card for job in made.soup.jobs)
    assert "licence mit" in card
    assert "the mean of the weights of several runs" in card


def test_export_takes_the_best_of_all_kinds_by_the_half_that_chooses(swept, tmp_path):
    name, made = brewed(swept)
    rows = kinds(swept, name).to_pylist()
    by_kind = {row["kind"]: row for row in rows}
    assert by_kind.keys() == {"untouched", "control", "pair", "soup"}
    assert by_kind["soup"]["job_ids"] == [made.soup.job_id]
    assert by_kind["soup"]["seeds"] == 0
    best = rows[0]
    assert best["chosen"]
    assert best["decided_delta"] == max(row["decided_delta"] for row in rows)
    request = ExportRequest(name)
    out = tmp_path / "out"
    if best["kind"] == "untouched":
        with pytest.raises(UserError, match=f"{name} is best as it is"):
            export_model(swept, request, out, made_by="bikd export")
        return
    export_model(swept, request, out, allow_worse=True, made_by="bikd export")
    card = (out / "README.md").read_text()
    (line,) = (line for line in card.splitlines() if line.startswith(f"| **{best['kind']}"))
    assert signed(best["decided_delta"]) in line
    assert signed(best["delta"]) in line
    assert any(job in card for job in best["job_ids"])
    assert "which chose nothing" in card


def test_the_same_soup_is_the_same_job(swept):
    name, made = brewed(swept)
    again = make_soup(swept, name)
    assert again.soup == made.soup
    assert len(swept.partners(name, "soup(bikd)")) == 1


def test_more_of_the_changes_than_their_mean_may_be_taken(swept):
    _, made = brewed(swept, scales=True)
    (job,) = (j for j in swept.table("jobs").to_pylist() if j["job_id"] == made.soup.job_id)
    assert json.loads(job["recipe"])["soup"]["scale"] == made.soup.scale
    assert made.soup.scale in (1 / len(made.soup.jobs), 0.5, 1.0)


def test_what_cannot_be_a_soup_is_said(swept):
    with pytest.raises(UserError, match="best_val has chosen"):
        make_soup(swept, "large", selection="best_val")
    with pytest.raises(UserError, match="no finished job of 'dml'"):
        make_soup(swept, "large", "dml")


def test_an_ingredient_whose_weights_are_gone_is_named(swept):
    row = next(
        row
        for row in swept.table("results").to_pylist()
        if row["model"] == "large" and row["weights"] and row["partners"]
    )
    Path(swept.uri, row["weights"]).unlink()
    with pytest.raises(BikdError, match=row["job_id"]):
        make_soup(swept, "large")
