"""An image that does not decode: named, or left out everywhere alike."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bikd_ray.data.decode import BadImage
from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import ParquetImages
from bikd_ray.plan import View, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.sweep.events import JobRequest
from tests.images import png
from tests.jobs import result_of

CPU = torch.device("cpu")
VIEW = View(8, 1.0, "bicubic", "center")
BAD = (2, 7)


def write(path, count=12):
    content = [b"no image" if i in BAD else png(i) for i in range(count)]
    labels = [i % 4 for i in range(count)]
    pq.write_table(pa.table({"image": content, "label": labels}), path, row_group_size=5)
    return str(path)


@pytest.fixture
def damaged(tmp_path):
    return ParquetImages(write(tmp_path / "images.parquet"))


def batches(images, cache, *, skip, **how):
    loader = Loader(images, [VIEW], CPU, cache=cache, skip=skip, **how)
    return list(loader.batches(np.arange(12), 4, 1))


@pytest.mark.parametrize("cached", [True, False])
def test_fail_names_the_file_and_the_row_and_how_to_go_on(damaged, tmp_path, cached):
    cache = str(tmp_path / "views") if cached else "none"
    with pytest.raises(BadImage, match=r"images\.parquet, row 2 is not a readable image") as error:
        batches(damaged, cache, skip=False)
    assert "on_bad_image: skip" in str(error.value)
    assert "\n" not in str(error.value)
    if cached:
        assert "(and 1 more)" in str(error.value)
        assert not list((tmp_path / "views").glob("*.npy"))


def test_a_loader_process_names_it_as_well(damaged):
    with pytest.raises(BadImage, match=r"row 2 is not a readable image") as error:
        batches(damaged, "none", skip=False, workers=1)
    assert "Traceback" not in str(error.value)


def test_skip_leaves_out_the_same_images_cached_decoded_or_augmented(damaged, tmp_path):
    kept = batches(damaged, str(tmp_path / "views"), skip=True)
    fresh = batches(damaged, "none", skip=True)
    random = batches(damaged, str(tmp_path / "copy"), skip=True, augment="timm")
    for some in (kept, fresh, random):
        assert [b.index.tolist() for b in some] == [[0, 1, 3], [4, 5, 6], [8, 9, 10, 11]]
        assert all(b.target.tolist() == [i % 4 for i in b.index.tolist()] for b in some)
        assert all(len(b.views[VIEW]) == len(b.index) for b in some)
    assert all(torch.equal(a.views[VIEW], b.views[VIEW]) for a, b in zip(kept, fresh, strict=True))


def test_a_cache_that_skipped_still_fails_where_skipping_is_not_asked_for(damaged, tmp_path):
    batches(damaged, str(tmp_path / "views"), skip=True)
    with pytest.raises(BadImage, match=r"row 2 .*\(and 1 more\)"):
        batches(damaged, str(tmp_path / "views"), skip=False)


def test_a_batch_of_bad_images_alone_is_no_batch(damaged):
    loader = Loader(damaged, [VIEW], CPU, cache="none", skip=True)
    assert list(loader.batches(np.array(BAD), 2)) == []


@pytest.mark.parametrize("augment", ["none", "timm"])
def test_a_job_trains_and_counts_without_them(spec_file, tmp_path, augment):
    paths = {split: write(tmp_path / f"{split}.parquet") for split in ("train", "val")}
    parts = {split: {"source": "parquet", "path": path} for split, path in paths.items()}
    data = {**parts, "cache": str(tmp_path / "views"), "num_classes": 4}
    recipe = {"epochs": 1, "batch_size": 4, "lr": 1e-2, "augment": augment}
    spec = load_spec(spec_file(data={**data, "on_bad_image": "skip"}, recipe=recipe))
    job = next(j for j in all_jobs(spec, *resolve(spec)) if len(j.members) == 2)
    end = result_of(JobRequest(job, "t", str(tmp_path / "store")))
    assert end.error is None
    assert {row["n"] for row in end.results} == {10}
    strict = load_spec(spec_file(data=data, recipe=recipe))
    job = dataclasses.replace(job, data=resolve(strict)[1])
    end = result_of(JobRequest(job, "t", str(tmp_path / "store")))
    assert "row 2 is not a readable image" in (end.error or "").splitlines()[0]
