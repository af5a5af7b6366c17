"""Images from every source, exactly as timm would see them, decoded once and never by half."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from bikd_ray.cache_dir import claim
from bikd_ray.data.cache import cache_dir, decoded, fits
from bikd_ray.data.folder import FolderImages
from bikd_ray.data.loader import Loader
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.data.resolve import resolve_data, split_train
from bikd_ray.data.sources import ImageSet
from bikd_ray.data.views import Normalise, pixels
from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import ResolvedInput, View
from bikd_ray.specs import Data
from tests.images import noise, png, write_folder, write_parquet

torch.set_num_threads(1)

CPU = torch.device("cpu")
SMALL, TALL = View(8, 1.0, "bicubic", "center"), View(12, 0.875, "bilinear", "center")


def spec_data(train: dict, val: dict | None = None, **more) -> Data:
    return Data.model_validate({"train": train, "val": val or train, **more})


def folder(path: Path) -> dict:
    return {"source": "folder", "path": str(path)}


def parquet(path: Path) -> dict:
    return {"source": "parquet", "path": str(path)}


def kept(views: Path) -> list[Path]:
    """What lies in a folder of views but for the locks."""
    return sorted(path for path in views.iterdir() if path.suffix != ".lock")


class Counting(ImageSet):
    """An image set that counts how often an image is asked for, and may look on meanwhile."""

    def __init__(self, images, watch=None) -> None:
        self.images, self.asked, self.watch = images, [], watch
        self.labels, self.source_id = images.labels, images.source_id

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.images.classes

    @property
    def notes(self) -> tuple[str, ...]:
        return self.images.notes

    def image(self, index: int) -> Image.Image:
        self.asked.append(index)
        if self.watch:
            self.watch()
        return self.images.image(index)


# Identity


def test_data_id_of_a_folder_is_its_content_not_its_place(tmp_path):
    here = write_folder(tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "elsewhere" / "there")
    before = resolve_data(spec_data(folder(here)))
    copied = resolve_data(spec_data(folder(there)))
    assert replace(copied, data=before.data) == before
    (there / "dog" / "0.png").rename(there / "cat" / "9.png")
    relabelled = resolve_data(spec_data(folder(there)))
    (here / "dog" / "0.png").write_bytes(png(10, width=30))
    resized = resolve_data(spec_data(folder(here)))
    ids = {before.data_id, relabelled.data_id, resized.data_id}
    assert len(ids) == 3


def test_data_id_of_parquet_is_its_content_not_its_place(tmp_path):
    here = write_parquet(tmp_path / "a.parquet", [0, 1, 1])
    there = shutil.copy(here, tmp_path / "b.parquet")
    relabelled = write_parquet(tmp_path / "c.parquet", [0, 0, 1])
    other = write_parquet(tmp_path / "d.parquet", [0, 1, 1], range(7, 10))
    first, copy, *rest = (ParquetImages(str(p)).source_id for p in (here, there, relabelled, other))
    assert copy == first
    assert len({first, *rest}) == 3


def test_sample_set_id_is_of_the_val_images_alone(tmp_path):
    a = write_parquet(tmp_path / "a.parquet", [0, 1, 1])
    b = write_parquet(tmp_path / "b.parquet", [0, 1])
    both = resolve_data(spec_data(parquet(a), parquet(a)))
    other_train = resolve_data(spec_data(parquet(b), parquet(a)))
    other_val = resolve_data(spec_data(parquet(a), parquet(b)))
    assert other_train.unit_set_id == both.unit_set_id != other_val.unit_set_id
    assert len({both.data_id, other_train.data_id, other_val.data_id}) == 3
    assert (other_train.n_train, other_train.n_val) == (2, 3)


# Do the parts agree?


def test_classes_are_counted_from_names_labels_or_the_spec(tmp_path):
    bare = parquet(write_parquet(tmp_path / "bare.parquet", [0, 2]))
    named = parquet(write_parquet(tmp_path / "named.parquet", [0, 1], names=list("abcd")))
    assert resolve_data(spec_data(bare)).num_classes == 3
    assert resolve_data(spec_data(bare, named)).num_classes == 4
    assert resolve_data(spec_data(bare, num_classes=5)).num_classes == 5


def test_labels_outside_the_classes_name_split_sample_and_label(tmp_path):
    good = parquet(write_parquet(tmp_path / "good.parquet", [0, 1]))
    bad = parquet(write_parquet(tmp_path / "bad.parquet", [0, 1, 7, 9]))
    with pytest.raises(
        UserError,
        match=r"data\.val: sample 2 has label 7.*0–2 \(2 such samples; .*bad\.parquet, row 2\)",
    ):
        resolve_data(spec_data(good, bad, num_classes=3))
    minus = parquet(write_parquet(tmp_path / "minus.parquet", [0, -1]))
    with pytest.raises(UserError, match=r"data\.train: sample 1 has label -1"):
        resolve_data(spec_data(minus, good))


def test_train_and_val_with_other_class_lists_are_refused(tmp_path):
    def named(*names: str) -> dict:
        path = tmp_path / f"{'-'.join(names)}.parquet"
        return parquet(write_parquet(path, [0, 1], names=list(names)))

    with pytest.raises(UserError, match="val has 'emu', which train lacks"):
        resolve_data(spec_data(named("cat", "dog"), named("cat", "emu")))
    with pytest.raises(UserError, match=r"val has 'emu', .* \(3 classes in val, 2 in train\)"):
        resolve_data(spec_data(named("cat", "dog"), named("cat", "dog", "emu")))
    with pytest.raises(UserError, match="num_classes is 2, but the data names 3 classes"):
        resolve_data(spec_data(named("cat", "dog", "emu"), num_classes=2))


# Views


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "crop_pct"), [(32, 0.875), (24, 1.0), (31, 0.95), (40, 0.5)])
def test_pixels_then_normalise_is_timms_eval_transform_bit_for_bit(
    size, crop_pct, interpolation, crop_mode
):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    timms: Any = create_transform(
        (3, size, size),
        is_training=False,
        mean=mean,
        std=std,
        crop_pct=crop_pct,
        interpolation=interpolation,
        crop_mode=crop_mode,
    )
    how = ResolvedInput(size, mean, std, crop_pct, interpolation, crop_mode)
    view, normalise = pixels(how.view), Normalise(how, CPU)
    for seed, (width, height) in enumerate([(37, 53), (81, 45), (17, 19), (33, 33), (90, 7)]):
        image = noise(seed, width, height)
        array = view(image)
        assert array.dtype == np.uint8
        assert array.shape == (3, size, size)
        want = timms(image)
        assert isinstance(want, Tensor)
        assert torch.equal(normalise(torch.from_numpy(array)[None])[0], want), (width, height)


def test_normalise_uses_the_models_own_mean_and_std_and_leaves_the_pixels_alone():
    how = ResolvedInput(8, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 1.0, "bicubic")
    shared = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    got = Normalise(how, CPU)(shared)
    assert got.flatten().tolist() == pytest.approx([-1.0, (0.2 - 0.25) / 0.25, 1.0], abs=1e-6)
    assert shared.flatten().tolist() == [0, 51, 255]


# The decoded cache


@pytest.fixture
def images(tmp_path: Path) -> ParquetImages:
    path = write_parquet(tmp_path / "images.parquet", [i % 3 for i in range(11)], row_group_size=4)
    return ParquetImages(str(path))


def test_decoded_arrays_equal_decoding_on_the_way(images, tmp_path):
    arrays = decoded(images, [SMALL, TALL], tmp_path / "views").arrays
    for view in (SMALL, TALL):
        assert arrays[view].shape == (11, 3, view.size, view.size)
        for index in range(11):
            assert np.array_equal(arrays[view][index], pixels(view)(noise(index))), (view, index)


def test_each_image_is_decoded_once_for_all_views_and_never_again(images, tmp_path):
    counting = Counting(images)
    decoded(counting, [SMALL, TALL], tmp_path / "views")
    assert sorted(counting.asked) == list(range(11))
    second = Counting(images)
    decoded(second, [TALL, SMALL], tmp_path / "views")
    assert second.asked == []
    third = Counting(images)
    decoded(third, [SMALL, View(8, 0.5, "bicubic", "center")], tmp_path / "views")
    assert sorted(third.asked) == list(range(11))


def test_no_file_has_its_final_name_before_every_image_is_in_it(images, tmp_path):
    views = tmp_path / "views"
    seen: list[list[str]] = []
    counting = Counting(images, watch=lambda: seen.append([p.suffix for p in kept(views)]))
    decoded(counting, [SMALL, TALL], views)
    assert seen == [[".tmp", ".tmp"]] * 11
    assert [p.suffix for p in kept(views)] == [".npy", ".npy"]


def test_jobs_that_start_together_decode_once(images, tmp_path):
    sets = [Counting(images, watch=lambda: time.sleep(0.002)) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        views = list(pool.map(lambda each: decoded(each, [SMALL], tmp_path / "views"), sets))
    assert sorted(index for each in sets for index in each.asked) == list(range(11))
    assert all(np.array_equal(v.arrays[SMALL], views[0].arrays[SMALL]) for v in views)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else"),
        lambda path: np.save(path, np.zeros((10, 3, 8, 8), np.uint8)),
        lambda path: np.save(path, np.zeros((11, 3, 8, 8), np.float32)),
        lambda path: np.save(path, np.array([{"an": "object"}]), allow_pickle=True),
    ],
    ids=["torn", "torn header", "empty", "text", "other count", "other dtype", "pickled"],
)
def test_a_torn_or_foreign_file_is_decoded_again(images, tmp_path, damage):
    decoded(images, [SMALL], tmp_path / "views")
    (path,) = kept(tmp_path / "views")
    want = path.read_bytes()
    path.unlink()
    path.write_bytes(want)
    damage(path)
    assert path.read_bytes() != want
    decoded(images, [SMALL], tmp_path / "views")
    assert path.read_bytes() == want
    assert kept(tmp_path / "views") == [path]


def test_a_corrupt_image_is_named_and_leaves_no_file_behind(tmp_path):
    root = write_folder(tmp_path / "data")
    (root / "dog" / "1.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"dog/1\.png is not a readable image"):
        decoded(FolderImages(str(root)), [SMALL, TALL], tmp_path / "views")
    assert kept(tmp_path / "views") == []


def test_other_images_of_one_count_and_view_do_not_share_a_file(tmp_path):
    a = ParquetImages(str(write_parquet(tmp_path / "a.parquet", [0, 1])))
    b = ParquetImages(str(write_parquet(tmp_path / "b.parquet", [0, 1], range(5, 7))))
    decoded(a, [SMALL], tmp_path / "views")
    got = decoded(b, [SMALL], tmp_path / "views").arrays[SMALL]
    assert np.array_equal(got[0], pixels(SMALL)(noise(5)))


def test_the_cache_setting_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("auto") == tmp_path / "bikd_ray" / "views"
    assert cache_dir("none") is None
    assert cache_dir("/scratch/views") == Path("/scratch/views")
    free = shutil.disk_usage(tmp_path).free
    assert fits("auto", free // 4, 0.5)
    assert not fits("auto", free, 0.5)
    assert fits(str(tmp_path), 2 * free, 0.5)
    assert not fits("none", 1, 0.5)


def test_auto_keeps_nothing_where_the_users_cache_cannot_be_written(images, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert not fits("auto", 1, 1.0)
    assert Loader(images, [SMALL], CPU, cache="auto").kept is None


def test_a_cache_that_cannot_be_written_says_what_to_set(images, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(BikdError, match=r"No space left on device; .*data\.cache") as raised:
        decoded(images, [SMALL], tmp_path / "views")
    assert not isinstance(raised.value, UserError)
    assert kept(tmp_path / "views") == []


@pytest.mark.parametrize("call", ["posix_fallocate", "sched_getaffinity"])
def test_a_cache_needs_no_call_that_only_linux_has(images, tmp_path, monkeypatch, call):
    whole = decoded(images, [SMALL, TALL], tmp_path / "views").arrays
    monkeypatch.delattr(f"os.{call}")
    found = decoded(images, [SMALL, TALL], tmp_path / "elsewhere").arrays
    for view in (SMALL, TALL):
        assert np.array_equal(found[view], whole[view])


def test_a_claimed_file_holds_its_disk_and_its_header(tmp_path, monkeypatch):
    monkeypatch.delattr("os.posix_fallocate")
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (3, 2**20))
    size = path.stat().st_size
    assert path.stat().st_blocks * 512 < size
    with open(path, "r+b") as file:
        claim(file.fileno(), array.offset, size)
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 >= size
    assert np.load(path, mmap_mode="r").shape == (3, 2**20)


def test_a_cache_folder_that_is_a_file_says_what_to_set(images, tmp_path):
    (tmp_path / "views").write_text("not a folder")
    with pytest.raises(BikdError, match=r"views: File exists; .*data\.cache to another folder"):
        decoded(images, [SMALL], tmp_path / "views")


# Batches


def all_batches(loader: Loader, order: list[int], size: int):
    return list(loader.batches(np.array(order), size))


@pytest.mark.parametrize("workers", [0, 1])
def test_cached_and_uncached_batches_are_equal(images, tmp_path, workers):
    order = [7, 3, 0, 10, 5, 1, 9, 2, 8, 4, 6]
    views = [SMALL, TALL, SMALL]
    kept = Loader(images, views, CPU, cache=str(tmp_path / "views"))
    fresh = Loader(images, views, CPU, cache="none", workers=workers)
    assert kept.kept
    assert fresh.kept is None
    pairs = zip(all_batches(kept, order, 4), all_batches(fresh, order, 4), strict=True)
    seen = []
    for a, b in pairs:
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.target, b.target)
        assert a.target.tolist() == [i % 3 for i in a.index.tolist()]
        assert list(a.views) == list(b.views) == [SMALL, TALL]
        for view, tensor in a.views.items():
            assert torch.equal(tensor, b.views[view])
            first = pixels(view)(noise(int(a.index[0])))
            assert np.array_equal(tensor[0].numpy(), first)
        seen += a.index.tolist()
    assert seen == order


@pytest.mark.parametrize("cache", ["none", "kept"])
@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(11, 4, [4, 4, 3]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 4, [3]), (1, 4, [1]), (3, 1, [1, 2])],
)
def test_a_lone_last_sample_joins_the_batch_before(images, tmp_path, count, size, sizes, cache):
    cache = str(tmp_path / "views") if cache == "kept" else "none"
    loader = Loader(images, [SMALL], CPU, cache=cache)
    batches = all_batches(loader, list(range(count)), size)
    assert [len(b.index) for b in batches] == sizes
    assert torch.cat([b.index for b in batches]).tolist() == list(range(count))
    assert [len(b.views[SMALL]) for b in batches] == sizes


# The held-out share


LABELS = np.repeat([0, 1, 2], [40, 20, 10])


@pytest.mark.parametrize(
    ("select", "train", "kept", "held"),
    [
        (0.0, 1.0, [40, 20, 10], [0, 0, 0]),
        (0.1, 1.0, [36, 18, 9], [4, 2, 1]),
        (0.0, 0.5, [20, 10, 5], [0, 0, 0]),
        (0.5, 0.5, [10, 5, 2], [20, 10, 5]),
        (0.0, 0.01, [1, 1, 1], [0, 0, 0]),
    ],
)
def test_the_split_is_stratified_and_disjoint(select, train, kept, held):
    rows, selected = split_train(LABELS, select_fraction=select, train_fraction=train)
    assert np.bincount(LABELS[rows], minlength=3).tolist() == kept
    assert np.bincount(LABELS[selected], minlength=3).tolist() == held
    assert len(set(rows) | set(selected)) == len(rows) + len(selected)


def test_the_split_is_the_same_for_every_seed_and_keeps_what_it_held_out():
    first = split_train(LABELS, select_fraction=0.2, train_fraction=1.0)
    np.random.seed(123)
    torch.manual_seed(123)
    again = split_train(LABELS, select_fraction=0.2, train_fraction=1.0)
    less = split_train(LABELS, select_fraction=0.2, train_fraction=0.3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(less[1], first[1])
    assert set(less[0]) < set(first[0])
    in_file_order = [*range(8), *range(40, 44), *range(60, 62)]
    assert first[1].tolist() != in_file_order


def test_a_class_of_one_image_stays_in_train_whatever_is_held_out():
    rows, selected = split_train(np.array([0, 1]), select_fraction=0.9, train_fraction=1.0)
    assert rows.tolist() == [0, 1]
    assert selected.tolist() == []
