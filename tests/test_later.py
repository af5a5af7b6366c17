"""Results on sets that are only measured on: of a job at its end, and later from kept weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bikd_ray.analysis.bits import pack
from bikd_ray.data import open_split
from bikd_ray.data.loader import Loader
from bikd_ray.errors import UserError
from bikd_ray.plan import Plan, all_jobs
from bikd_ray.resolve import not_measured, resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.store.check import check
from bikd_ray.store.compact import GRACE, compact
from bikd_ray.store.read import Reader, is_merged, pc
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.evaluation import unmeasured
from bikd_ray.sweep.events import JobRequest
from bikd_ray.sweep.further import Kept, baselines_on, evaluate_kept
from bikd_ray.tasks import task_of
from bikd_ray.train import Fit, fit
from bikd_ray.train.further import measured_alone
from bikd_ray.train.member import Member
from bikd_ray.zoo import build
from tests import stores
from tests.conftest import write_images
from tests.jobs import result_of
from tests.placed import run_placed
from tests.plain_loop import networks_of

# -- files of results beside those of their job ----------------------------------------


def later(uri: str, job_id: str, name: str = "v2", gain: float = 0.2, attempt: str = "") -> None:
    """What an evaluation writes of a job."""
    store, writer = Store(uri), Writer(uri)
    rows = store.table("results", where=pc.field("job_id") == job_id).to_pylist()
    rows = [row for row in rows if row["eval_set"] == "val"]
    made = []
    for row in rows:
        right = stores.after(row["model"], gain, 7)
        of = {"eval_set": name, "bits": pack(right), "after": 100 * right.mean()}
        made.append({**row, **of, "delta": 100 * right.mean() - row["before"]})
    writer.write_later(job_id, attempt or rows[0]["attempt"], name, made)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Pairs a + b and controls, two seeds, and baselines on val and v2."""
    uri = str(tmp_path / "store")
    writer = Writer(uri)
    for model in "ab":
        stores.baseline(writer, model)
        row = Store(uri).table("baselines", where=pc.field("model_id") == f"id-{model}").to_pylist()
        empty = dict.fromkeys(stores.SCHEMAS["models"].names)
        known = {k: row[0][k] for k in ("model", "model_id", "weights_id", "data_id")}
        writer.commit_baseline([{**row[0], "eval_set": "v2"}], {**empty, **known})
    return uri


def jobs(uri: str) -> list[str]:
    writer = Writer(uri)
    ids = []
    for seed in (0, 1):
        both = {m: stores.after(m, 0.1, seed) for m in "ab"}
        ids.append(stores.job(writer, both, seed))
        ids += [stores.job(writer, {m: stores.after(m, 0.05, seed)}, seed) for m in "ab"]
    return ids


def answers(uri: str) -> list[Any]:
    store = Store(uri)
    return [store.partners("a", eval_set=name).to_pylist() for name in ("val", "v2")]


@pytest.mark.parametrize("merged", ["before", "after", "between", "never"])
def test_rows_that_come_later_count_with_their_job_merged_or_not(uri, merged):
    ids = jobs(uri)
    val, nothing = answers(uri)
    assert nothing == []
    if merged == "before":
        compact(uri)
    for number, job_id in enumerate(ids):
        later(uri, job_id)
        if merged == "between" and number == 2:
            compact(uri)
    if merged == "after":
        compact(uri)
        assert all(is_merged(path) for path in Reader(uri).listing("results"))
    found = answers(uri)
    assert found[0] == val
    (row,) = found[1]
    assert (row["seeds"], row["eval_set"]) == (2, "v2")
    gain = stores.after("a", 0.2, 7).mean() - stores.BEFORE["a"].mean()
    assert row["delta"] == pytest.approx(100 * gain)
    assert check(uri).num_rows == 0
    for job_id in ids[:3]:  # an evaluation that was interrupted before it saw its own rows
        later(uri, job_id)
    assert answers(uri) == found
    compact(uri)
    assert answers(uri) == found
    rows = Reader(uri).table("results")
    assert len(rows) == 2 * (2 * 2 + 4)
    assert Store(uri).done() == set(ids)


def test_what_is_measured_of_a_job_that_does_not_count_does_not_count(uri):
    (job_id, *_) = jobs(uri)
    first = Store(uri).table("jobs", where=pc.field("job_id") == job_id).to_pylist()[0]["attempt"]
    later(uri, job_id, attempt="0" * 12 + "-00000000")  # no such attempt
    assert answers(uri)[1] == []
    findings = check(uri).to_pylist()
    assert [(f["severity"], f["path"].rpartition("+")[2]) for f in findings] == [
        ("note", "v2.parquet")
    ]
    later(uri, job_id)
    assert len(answers(uri)[1]) == 1
    again = {m: stores.after(m, 0.3, 0) for m in "ab"}
    stores.job(Writer(uri), again, 0)  # another attempt: what was measured was of the other
    assert answers(uri)[1] == []
    compact(uri, now=lambda: int(first[:12], 16) / 1000 + 2 * GRACE)
    assert not [path for path in Reader(uri).listing("results") if first in path]
    later(uri, job_id)
    assert len(answers(uri)[1]) == 1


def test_a_reading_that_files_went_from_leaves_out_what_is_merged_and_no_more(uri):
    (job_id, *_) = jobs(uri)
    compact(uri)
    later(uri, job_id)
    reader = Reader(uri)
    files = reader.listing("results")
    (own,) = [path for path in files if not is_merged(path)]
    assert own in reader._unmerged("results", files)
    content = Path(own).read_bytes()
    compact(uri)
    assert not Path(own).exists()
    Path(own).write_bytes(content)  # as if its deletion was yet to come
    reader = Reader(uri)
    assert own not in reader._unmerged("results", reader.listing("results"))
    assert len(answers(uri)[1]) == 1


# -- a job that measures ---------------------------------------------------------------


@pytest.fixture
def made(spec_file, images, tmp_path):
    """A spec with the set `more`, which two of the three models know; its jobs and data."""
    write_images(tmp_path / "more.parquet", 24, 5)
    parts = {s: {"source": "parquet", "path": str(images / f"{s}.parquet")}
             for s in ("train", "val")}  # fmt: skip
    more = {"source": "parquet", "path": str(tmp_path / "more.parquet")}
    data = {**parts, "cache": str(tmp_path / "views"), "eval": {"more": more}}
    spec = load_spec(spec_file(data=data, seeds=[0]))
    zoo, resolved = resolve(spec)
    every = all_jobs(spec, zoo, resolved)
    pair = next(job for job in every if len(job.members) == 2)
    return spec, pair, resolved


def by(rows):
    return {(r["model"], r["selection"], r["eval_set"], r["metric"]): r for r in rows}


def test_a_job_measures_its_learners_on_each_set_as_kept_weights_do_later(made, tmp_path):
    _, job, data = made
    store = str(tmp_path / "store")
    keep = ("last", "best_val")
    end = result_of(JobRequest(job, "tiny", store, keep=keep))
    assert (end.error, end.notes) == (None, ())
    found = by(end.results)
    on_more = {key: row for key, row in found.items() if key[2] == "more"}
    assert len(on_more) == 2 * 2 * 4
    for key, row in on_more.items():
        assert row["n"] == 24
        assert row["unit_set_id"] == data.eval["more"].unit_set_id
        assert row["delta"] == pytest.approx(row["after"] - row["before"])
        assert "ensemble_before" not in row
        assert row["weights"] == found[key[0], key[1], "val", key[3]]["weights"]
        assert (row["delta_low"] is None) == (key[1] == "best_val")
    kept = [Kept(k, s, found[m.name, s, "val", "top1"]["epoch"],
                 found[m.name, s, "val", "top1"]["weights"])
            for s in keep for k, m in enumerate(job.live)]  # fmt: skip
    rows, failed = evaluate_kept(job, kept, ["more"], ResourceRequest(1, 0), store)
    assert failed == {}
    assert by(rows["more"]) == on_more
    gone = [replace(kept[0], weights="weights/gone.safetensors")]
    rows, failed = evaluate_kept(job, gone, ["more"], ResourceRequest(1, 0), store)
    assert (rows, list(failed)) == ({}, ["more"])
    assert "weights/gone.safetensors cannot be read (FileNotFoundError)" in failed["more"]
    only = by(result_of(JobRequest(job, "tiny", str(tmp_path / "s2"))).results)  # keeps nothing
    assert {key for key in only if key[2] == "more"} == {k for k in on_more if k[1] == "last"}


def test_before_is_what_the_store_has(made, tmp_path):
    _, job, data = made
    store = str(tmp_path / "store")
    first = by(result_of(JobRequest(job, "tiny", store)).results)
    model = job.live[0]
    rows = [{"model": model.name, "model_id": model.model_id, "weights_id": model.weights_id,
             "data_id": data.data_id, "eval_set": "more", "metric": metric, "n": 24,
             "unit_set_id": data.eval["more"].unit_set_id, "seconds": 1.0, "published": None,
             "value": 7.5, "bits": pack(np.zeros(24, bool)) if metric[:3] == "top" else None,
             "scores": None if metric[:3] == "top" else np.full(24, 7.5, "<f4").tobytes()}
            for metric in ("top1", "top5", "nll", "ece")]  # fmt: skip
    row = {**dict.fromkeys(stores.SCHEMAS["models"].names), **{k: rows[0][k] for k in
           ("model", "model_id", "weights_id", "data_id")}}  # fmt: skip
    Writer(store).commit_baseline(rows, row)
    assert list(baselines_on(store, data, "more", [m.model_id for m in job.live])) == [
        model.model_id
    ]
    second = by(result_of(JobRequest(job, "tiny", store)).results)
    for key, row in second.items():
        if key[2] == "more" and key[0] == model.name:
            assert row["before"] == 7.5
        else:
            assert row == first[key]


def test_a_set_that_cannot_be_measured_costs_the_job_nothing_else(made, tmp_path):
    _, job, _ = made
    (tmp_path / "more.parquet").unlink()
    end = result_of(JobRequest(job, "tiny", str(tmp_path / "store")))
    assert end.error is None
    assert {row["eval_set"] for row in end.results} == {"val"}
    (note,) = end.notes
    assert note.startswith("not measured on more (data: ")
    assert note.endswith("bikd evaluate measures it from kept weights")


def test_what_lacks_a_set_is_found_and_another_set_under_its_name_is_refused(made, tmp_path):
    spec, job, data = made
    uri = str(tmp_path / "store")
    bare = replace(job, data=replace(data, eval={}))
    end = result_of(JobRequest(bare, "tiny", uri, keep=("last",)))
    Writer(uri).commit_job(end.job, end.results, end.curves)
    store = Store(uri)
    (found,) = unmeasured([job], store)
    assert [(one.k, one.selection) for one in found.kept] == [(0, "last"), (1, "last")]
    assert found.sets == ("more",)
    assert not_measured(Plan(done=(job,)), store) == [
        "1 of 1 done jobs are not measured on more; bikd evaluate measures those with kept weights"
    ]
    rows, _ = evaluate_kept(job, found.kept, found.sets, ResourceRequest(1, 0), uri)
    Writer(uri).write_later(job.job_id, found.attempt, "more", rows["more"])
    assert unmeasured([job], store) == []
    assert not_measured(Plan(done=(job,)), store) == []
    other = {"model_id": "m", "data_id": data.data_id, "eval_set": "more", "unit_set_id": "x",
             "metric": "top1"}  # fmt: skip
    row = {**dict.fromkeys(stores.SCHEMAS["baselines"].names), **other}
    empty = dict.fromkeys(stores.SCHEMAS["models"].names)
    Writer(uri).commit_baseline([row], {**empty, "model_id": "m", "data_id": data.data_id})
    with pytest.raises(UserError, match=r"^data.eval.more: the store .* has other images, labels"):
        resolve(spec, store)


def test_rows_of_a_part_of_the_classes_are_those_of_a_plain_computation(made, tmp_path):
    """Of the four classes the set has two: the other outputs are left out."""
    _, job, data = made
    part = replace(data.eval["more"], kept=(1, 3))
    few = replace(data, eval={"more": part})
    images = open_split(few, "more")
    images.labels[:] = np.where(images.labels < 2, 1, 3)
    model = job.members[0]
    member = Member(model, build(model.entry), torch.device("cpu"))
    found = measured_alone(member, few, "more", task_of())
    loader = Loader(images, [model.input.view], torch.device("cpu"), cache="none")
    (batch,) = loader.batches(np.arange(24), 24)
    with torch.no_grad():
        logits = member.network.eval()(member.normalise(batch.views[model.input.view])).tolist()
    right = [(1 if row[1] >= row[3] else 3) == y for row, y in
             zip(logits, images.labels, strict=True)]  # fmt: skip
    assert found.scores["top1"].tolist() == right
    assert found.values["top5"] == 100


@pytest.mark.parametrize("grid", [(2, 1), (1, 2)], ids=["models", "samples"])
def test_several_workers_measure_what_one_does_or_all_of_them_nothing(made, tmp_path, grid):
    _, job, data = made
    sources = {"more": data.data.eval["more"], "gone": data.data.eval["more"]}
    gone = replace(data.eval["more"], split=replace(data.train, spot_id="other"))
    sets = {"more": data.eval["more"], "gone": gone}
    spec = data.data.model_copy(update={"eval": sources})
    job = replace(job, data=replace(data, data=spec, eval=sets))
    *_, end = fit(job, networks_of(job), torch.device("cpu"))
    assert isinstance(end, Fit)
    ((one, other),) = run_placed([(job, grid)], 2, tmp_path)
    assert one["further"] == other["further"]
    assert list(one["further"]) == ["more"]
    assert one["failed"].keys() == other["failed"].keys() == end.further.failed.keys() == {"gone"}
    assert "is not what was planned with" in one["failed"]["gone"]
    for selection, outcomes in end.further.outcomes["more"].items():
        for mine, outcome in zip(one["further"]["more"][selection], outcomes, strict=True):
            assert mine == pytest.approx(outcome.values, rel=1e-5)
