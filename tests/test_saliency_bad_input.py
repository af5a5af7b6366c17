"""Videos as people have them, through whole jobs and commands: what is said, counted, left out."""

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import yaml

from bikd_pipelines import cli
from bikd_ray.data.clips.clip_set import ClipSet
from bikd_ray.data.clips.moving_digits import MovingDigits
from bikd_ray.data.loader import Loader
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import CONTROL, Recipe, ZooEntry
from bikd_ray.store import Store, Writer
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.sweep.baselines import measure
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.events import JobRequest, JobResult
from bikd_ray.tasks import task_of
from bikd_ray.tasks.saliency_metrics import METRICS
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.step import Sources, train_step
from bikd_ray.zoo import resolve_model
from tests.clip_specs import ZOO
from tests.clips import bump, save, write_video, write_video_file
from tests.jobs import result_of

CPU = torch.device("cpu")
SALIENCY = task_of("saliency")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Three videos to learn from and three to be measured on: of 1, 5 and 6 frames."""
    for split in ("train", "val"):
        for seed, count in enumerate((1, 5, 6)):
            write_video(tmp_path / split / f"video{count}", count, seed=seed)
    return tmp_path


def spec_file(films: Path, **data: Any) -> Path:
    """A spec of two networks on these videos."""
    parts = {
        split: {"source": "clips", "path": str(films), "split": split} for split in ("train", "val")
    }
    spec = {
        "task": "saliency",
        "zoo": ZOO[:2],
        "data": {**parts, **data},
        "recipe": {"epochs": 1, "batch_size": 3, "lr": 1e-3},
        "seeds": [0],
        "store": str(films / "store"),
    }
    path = films / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def job_of(path: Path) -> JobResult:
    """What the job of both networks comes to, without a store."""
    spec = load_spec(path)
    job = next(job for job in all_jobs(spec, *resolve(spec)) if len(job.members) == 2)
    return result_of(JobRequest(job, "t", str(spec.store), similarity=False))


def swept(path: Path) -> tuple[Store, JobResult]:
    """A store with baselines and the job of both, and what the job said."""
    spec = load_spec(path)
    zoo, data = resolve(spec)
    store = str(spec.store)
    writer = Writer(store)
    writer.write_metrics(data.data_id, data.task, SALIENCY.metrics, "ce")
    for model in zoo.values():
        found = measure(model, data, ResourceRequest(1, 0), store, "val")
        row = {**dict.fromkeys(SCHEMAS["models"].names), **found.rows[0]}
        row |= {"source": model.entry.source, "resolved": model.to_json()}
        writer.commit_baseline(found.rows, row, found.statistics, "frames")
    end = job_of(path)
    if end.error is None:
        writer.commit_job(end.job, end.results, end.curves, statistics=end.statistics)
    return Store(store), end


Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(monkeypatch, capsys) -> Said:
    """Runs a command; returns its exit code and all that it says, on one line."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bikd", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        assert isinstance(end.value.code, int)
        assert "Traceback" not in told.err
        return end.value.code, " ".join((told.out + told.err).split())

    return run


# Short videos, frames and maps that are missing


def test_videos_shorter_than_a_window_are_learned_and_every_frame_has_its_own_row(films):
    store, end = swept(spec_file(films))
    assert end.error is None
    kept = store.table("result_frames").to_pylist()
    of_one = {(row["model_id"], row["selection"]) for row in kept}
    assert len(of_one) == 4
    for model_id, selection in of_one:
        mine = [r for r in kept if (r["model_id"], r["selection"]) == (model_id, selection)]
        where = [(row["video"], row["frame"]) for row in mine]
        assert where == [(0, 0), *((1, t) for t in range(5)), *((2, t) for t in range(6))]
        assert all(row[name] is not None for row in mine for name in METRICS)
    for row in store.table("results").to_pylist():
        if row["metric"] == "cc":
            assert row["n"] == 3
            mine = [
                r["cc"]
                for r in kept
                if (r["model_id"], r["selection"]) == (row["model_id"], row["selection"])
            ]
            assert np.mean(mine) == pytest.approx(row["after"], rel=1e-5)


def test_frames_and_maps_missing_in_the_middle_are_said_and_the_rest_is_measured(films, said):
    own = films / "val" / "video6"
    (own / "images" / "0003.png").unlink()
    (own / "maps" / "0005.png").unlink()
    (films / "val" / "video5" / "fixations" / "0002.png").unlink()
    path = spec_file(films)
    code, told = said("check", str(path))
    assert code == 0, told
    for line in (
        "train: 3 videos",
        "val: 10 frames",
        "1 frame missing in the middle, such as number 3 of",
        "1 map without a frame, unused",
        "1 frame without a map, context only, such as number 5 of",
        "1 map without fixations: NSS and AUC-J leave them out, such as number 2 of",
    ):
        assert line in told
    store, end = swept(path)
    assert end.error is None
    kept = store.table("frames").to_pylist()
    mine = [row for row in kept if row["model"] == "still"]
    # frames are counted by their places: 1, 2, 4, 5 and 6 of the video lie at 0 to 4
    assert [row["frame"] for row in mine if row["video"] == 2] == [0, 1, 2, 4]
    assert [row["frame"] for row in mine if row["nss"] is None] == [1]
    assert all(row["cc"] is not None for row in mine)


def test_a_map_of_another_size_is_measured_at_its_own_and_said(films, said):
    save(films / "val" / "video5" / "maps" / "0001.png", bump(1)[::2, ::2])
    save(films / "val" / "video5" / "fixations" / "0001.png", bump(1)[::2, ::2] // 255)
    path = spec_file(films)
    code, told = said("check", str(path))
    assert code == 0, told
    assert "maps of another size than the frames: frame 1 of video5 (8×6 for 16×12)" in told
    _, end = swept(path)
    assert end.error is None


# What does not decode


def test_check_names_every_file_that_does_not_decode(films, said):
    (films / "val" / "video5" / "images" / "0001.png").write_bytes(b"no image")
    for number in range(1, 7):
        (films / "val" / "video6" / "fixations" / f"000{number}.png").unlink()
        mat = films / "val" / "video6" / "fixations" / f"000{number}.mat"
        scipy.io.savemat(mat, {"gaze_of": np.ones((2, 2)), "resolution": [12, 16]})
    code, told = said("check", str(spec_file(films)))
    assert code == 2
    assert "data.val: 1 of 12 frames looked at do not decode" in told
    assert "video5/images/0001.png is not a readable image" in told
    assert "0001.mat has the keys gaze_of, resolution; fixations are looked for under I," in told


def test_a_map_that_does_not_decode_is_named_by_the_job_that_needs_it(films):
    (films / "val" / "video5" / "maps" / "0002.png").write_bytes(b"no map")
    end = job_of(spec_file(films))
    first = (end.error or "").splitlines()[0]
    assert "video5/maps/0002.png is not a readable image" in first


def test_frames_that_do_not_decode_are_left_out_for_every_model_alike(films):
    """Of a window of 4, and of 1: what one of them cannot show, none is measured on."""
    (films / "val" / "video6" / "images" / "0003.png").write_bytes(b"no image")
    store, end = swept(spec_file(films, on_bad_image="skip"))
    assert end.error is None
    kept = store.table("result_frames").to_pylist()
    for model_id in {row["model_id"] for row in kept}:
        mine = [r for r in kept if r["model_id"] == model_id and r["selection"] == "last"]
        assert [r["frame"] for r in mine if r["video"] == 2] == [0, 1]
        assert len(mine) == 1 + 5 + 2


def test_a_video_file_that_ends_early_is_named_with_its_frame(films):
    pytest.importorskip("av")
    own = films / "val" / "video40"
    write_video(own, 40, frames=None)
    path = write_video_file(own / "clip.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    end = job_of(spec_file(films))
    first = (end.error or "").splitlines()[0]
    assert "clip.avi, frame " in first
    assert "is not a readable image" in first


def test_check_shows_the_frame_rate_of_files_and_names_one_that_is_no_video(films, said):
    pytest.importorskip("av")
    own = films / "val" / "video7"
    write_video(own, 6, frames=None)
    write_video_file(own / "clip.mkv", 6)
    code, told = said("check", str(spec_file(films)))
    assert code == 0, told
    assert "video files of 25 frames/s (1)" in told
    (own / "clip.mkv").write_bytes(b"no video")
    code, told = said("check", str(spec_file(films)))
    assert code == 2
    assert "video7/clip.mkv is not a readable video" in told


def test_without_pyav_check_says_what_to_install(films, said, monkeypatch):
    write_video(films / "val" / "video7", 6, frames=None)
    (films / "val" / "video7" / "clip.mkv").write_bytes(b"a video")
    monkeypatch.setitem(sys.modules, "av", None)
    code, told = said("check", str(spec_file(films)))
    assert code == 2
    assert "video7/clip.mkv needs PyAV; install bikd-ray[video], or extract its frames" in told


def test_other_bytes_of_one_map_are_another_data_set(films):
    path = films / "val" / "video5" / "maps" / "0002.png"
    before = resolve(load_spec(spec_file(films)))[1].data_id
    assert resolve(load_spec(spec_file(films)))[1].data_id == before
    save(path, bump(9))
    assert resolve(load_spec(spec_file(films)))[1].data_id != before


# Truths that define nothing


def test_without_fixations_there_is_no_nss_and_every_answer_goes_on(films, said):
    for split in ("train", "val"):
        for own in (films / split).iterdir():
            shutil.rmtree(own / "fixations")
    store, end = swept(spec_file(films))
    assert end.error is None
    for row in store.table("results").to_pylist():
        assert math.isnan(row["after"]) == (row["metric"] in ("nss", "auc_j")), row["metric"]
    assert len(store.gains(metric="cc")) == 2
    for command in ("summary", "pairs", "groups"):
        code, told = said(command, "--store", store.uri)
        assert code == 0, told
        assert "NSS" not in told
        code, told = said(command, "--store", store.uri, "--metric", "nss")
        assert code == 2
        assert told == (
            "bikd: unknown metric 'nss', or one of which no model has a value; choose from cc, "
            "kldiv, sim"
        )


def test_a_step_on_an_empty_and_a_bright_map_leaves_finite_weights_and_the_empty_one_none():
    """The moving digits with all that is odd: a map that is 0 everywhere is drawn too."""
    clips = ClipSet(MovingDigits("val", videos=3, odd=True), size=(20, 30), to_learn=True)
    model, network = resolve_model(ZooEntry.model_validate(ZOO[1]), SALIENCY)
    recipe = Recipe(epochs=1, batch_size=3, lr=1e-2)
    learner = Learner.of(Member(model, network, CPU), recipe, 1)
    sources = Sources([learner], CONTROL, seed=0, task=SALIENCY.joined([model]))
    loader = Loader(clips, [model.input.view], CPU, task=SALIENCY, whole=True)
    (batch,) = loader.batches(np.arange(3), 3)
    batch.target["truth"][1] = 0
    before = [p.detach().clone() for p in network.parameters()]
    train_step(sources, batch, 0)
    assert all(p.isfinite().all() for p in network.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert all(moved)
