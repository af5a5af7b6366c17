"""Labelled images from every source: the same order, labels and pixels that others read."""

import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.cache import decoded
from bikd_ray.data.decode import BadImage
from bikd_ray.data.digits import DigitsImages
from bikd_ray.data.exclusions import LeftOut
from bikd_ray.data.files import expand
from bikd_ray.data.folder import FolderImages
from bikd_ray.data.hf import HFImages
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.data.sources import EncodedImages, open_images
from bikd_ray.errors import UserError
from bikd_ray.plan import View
from bikd_ray.specs import Data, DigitsData, TimmData
from tests.images import STRUCT, as_struct, noise, png, same_image, write_folder, write_parquet

SMALL = View(8, 1.0, "bicubic", "center")


# Folders


def test_a_folder_gives_its_classes_and_images_in_sorted_order(tmp_path):
    images = FolderImages(str(write_folder(tmp_path / "data")))
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.labels.dtype == np.int64
    for index, seed in enumerate((0, 1, 2, 10, 11, 12)):
        assert same_image(images.image(index), noise(seed)), index


def test_grey_and_transparent_images_become_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (5, 5), 77).save(tmp_path / "a" / "0.png")
    Image.new("RGBA", (5, 5), (1, 2, 3, 128)).save(tmp_path / "a" / "1.png")
    images = FolderImages(str(tmp_path))
    assert images.image(0).getpixel((0, 0)) == (77, 77, 77)
    assert images.image(1).getpixel((0, 0)) == (1, 2, 3)


def test_a_corrupt_image_in_a_folder_is_named(tmp_path):
    images = FolderImages(str(write_folder(tmp_path)))
    (tmp_path / "dog" / "1.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"dog/1\.png is not a readable image .*; replace or") as e:
        images.image(4)
    assert "\n" not in str(e.value)


def test_an_image_that_claims_to_be_huge_is_refused_and_named(tmp_path, monkeypatch):
    images = FolderImages(str(write_folder(tmp_path)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"cat/0\.png is not a readable image"):
        images.image(0)


def test_a_folder_without_images_says_what_it_should_look_like(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=r"no images under .*/CLASS/IMAGE.*\.jpg"):
        FolderImages(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "how"), [("PNG", {}), ("JPEG", {"quality": 90}), ("JPEG", {"progressive": True})]
)
def test_an_image_cut_short_is_a_bad_image_with_the_way_out(tmp_path, kind, how):
    (tmp_path / "a").mkdir()
    stream = io.BytesIO()
    noise(0, 40, 40).save(stream, kind, **how)
    path = tmp_path / "a" / f"0.{kind.lower()}"
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) * 2 // 3])
    with pytest.raises(BadImage) as raised:
        FolderImages(str(tmp_path)).image(0)
    said = str(raised.value)
    assert said.startswith(f"data: {path} is not a readable image (")
    assert said.endswith("; replace or remove it, or set data.on_bad_image: skip")
    assert str(pickle.loads(pickle.dumps(raised.value))) == said


def test_an_image_that_cannot_be_read_is_no_bad_image_to_skip(tmp_path):
    images = FolderImages(str(write_folder(tmp_path)))
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*cat/0\.png: No such file") as raised:
        images.image(0)
    assert not isinstance(raised.value, BadImage)


def test_files_come_in_the_order_of_sorted_paths(tmp_path):
    for name in ("a/z.png", "a/b/c.png", "a/b-c.png", "a/b.PNG", "a/10.jpeg", "a/9.png", "a/é.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(0))
    images = FolderImages(str(tmp_path))
    slow = sorted(path for path in tmp_path.rglob("*.*"))
    assert [images.where(i) for i in range(7)] == [f"data: {path}" for path in slow]


def test_links_to_classes_folders_and_files_are_followed_but_not_in_circles(tmp_path):
    real = write_folder(tmp_path / "real")
    (tmp_path / "data" / "emu").mkdir(parents=True)
    (tmp_path / "data" / "cat").symlink_to(real / "cat")
    (tmp_path / "data" / "emu" / "0.png").symlink_to(real / "dog" / "0.png")
    (tmp_path / "data" / "emu" / "more").symlink_to(real / "dog" / "more")
    (real / "cat" / "more" / "up").symlink_to(real / "cat")
    images = FolderImages(str(tmp_path / "data"))
    assert images.classes == ("cat", "emu")
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    for index, seed in enumerate((0, 1, 2, 10, 12)):
        assert same_image(images.image(index), noise(seed)), index


def test_a_link_to_nothing_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "cat" / "5.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"cannot read .*cat/5\.png: No such file"):
        FolderImages(str(tmp_path))


def test_the_stamps_of_a_file_change_with_it_and_the_identity_does_not(tmp_path):
    def opened() -> list:
        return [FolderImages(str(root)), ParquetImages(str(file))]

    root = write_folder(tmp_path / "folder")
    file = write_parquet(tmp_path / "a.parquet", [0, 1])
    before, again = opened(), opened()
    os.utime(root / "dog" / "1.png", (1, 1))
    os.utime(file, (1, 1))
    for first, second, touched in zip(before, again, opened(), strict=True):
        assert (first.stamps == second.stamps).all()
        assert (first.stamps != touched.stamps).any()
        assert first.source_id == touched.source_id


def test_a_pickled_folder_is_little_more_than_its_names(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(300):
            (tmp_path / name / f"{i}.png").touch()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    source = {"source": "folder", "path": str(tmp_path)}
    data = Data.model_validate({"train": source, "val": source, "on_bad_image": "skip"})
    images = open_split(resolve_data(data), "val")
    content = pickle.dumps(images)
    assert len(content) < 600 * (len("cat/299.png") + 2 * 8) + 1500
    again = pickle.loads(content)
    assert isinstance(images, EncodedImages)
    assert [again.where(i) for i in range(600)] == [images.where(i) for i in range(600)]


# Parquet


@pytest.mark.parametrize("plain", [False, True], ids=["struct", "binary"])
def test_parquet_gives_every_row_over_files_and_row_groups(tmp_path, plain):
    how = {"plain": plain, "row_group_size": 2}
    write_parquet(tmp_path / "val-1.parquet", [2, 0], range(5, 7), **how)
    write_parquet(tmp_path / "val-0.parquet", [0, 1, 2, 1, 0], range(5), **how)
    write_parquet(tmp_path / "train.parquet", [1], range(20, 21), **how)
    images = ParquetImages(str(tmp_path / "val-*.parquet"))
    assert images.labels.tolist() == [0, 1, 2, 1, 0, 2, 0]
    assert images.labels.dtype == np.int64
    for index in (6, 0, 4, 2, 5, 1, 3):
        assert same_image(images.image(index), noise(index)), index


def test_a_folder_of_parquet_files_is_all_of_them(tmp_path):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "b.parquet", [1], range(1, 2))
    write_parquet(tmp_path / "data" / "a.parquet", [0], range(1))
    (tmp_path / "README.md").write_text("a dataset card")
    images = ParquetImages(str(tmp_path))
    assert images.labels.tolist() == [0, 1]
    assert same_image(images.image(1), noise(1))


def test_class_names_come_from_hf_metadata_and_are_none_without(tmp_path):
    named = write_parquet(tmp_path / "named.parquet", [0, 1], names=["cat", "dog"])
    assert ParquetImages(str(named)).classes == ("cat", "dog")
    assert ParquetImages(str(write_parquet(tmp_path / "bare.parquet", [0, 1]))).classes is None


def test_parquet_images_survive_pickling_as_loader_processes_need_it(tmp_path):
    images = ParquetImages(str(write_parquet(tmp_path / "a.parquet", [0, 1])))
    images.image(0)
    again = pickle.loads(pickle.dumps(images))
    assert same_image(again.image(1), noise(1))


def test_a_corrupt_image_in_parquet_is_named_by_file_and_row(tmp_path):
    content = [png(0), png(1), png(2), b"junk", png(4)[:-30], None]
    table = pa.table({"image": pa.array(as_struct(content), STRUCT), "label": [0] * 6})
    write_parquet(tmp_path / "a.parquet", [0, 0])
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
    images = ParquetImages(str(tmp_path / "*.parquet"))
    assert same_image(images.image(4), noise(2))
    for row, reason in ((3, "no known image format"), (4, "truncated"), (5, "no image bytes")):
        with pytest.raises(UserError, match=rf"b\.parquet, row {row} .*{reason}"):
            images.image(2 + row)


def test_damaged_pages_are_the_files_fault_not_the_disks(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0] * 4)
    for column, name in ((0, "image"), (2, "label")):  # image.bytes, image.path, label
        chunk = pq.read_metadata(path).row_group(0).column(column)
        content = bytearray(path.read_bytes())
        at = chunk.dictionary_page_offset or chunk.data_page_offset
        content[at : at + 8] = b"\xff" * 8
        broken = tmp_path / "broken" / f"{name}.parquet"
        broken.parent.mkdir(exist_ok=True)
        broken.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} in .*{name}\.parquet.* cannot be read"):
            decoded(ParquetImages(str(broken)), [SMALL], tmp_path / "views")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, "no column 'label', only image"),
        ({"img": [b"x"], "label": [0]}, "no column 'image', only img, label"),
        ({"image": [b"x"], "label": [0.5]}, "label in .* is double; it must be an integer"),
        ({"image": [b"x"], "label": [True]}, "label in .* is bool; it must be an integer"),
        ({"image": [b"x", b"x"], "label": [0, None]}, "has 1 rows without a label"),
        ({"image": ["cat.png"], "label": [0]}, "image in .* is string; it must be binary"),
        ({"image": [{"path": "cat.png"}], "label": [0]}, "images must be embedded in the file"),
    ],
)
def test_columns_that_do_not_fit_are_refused_when_opened(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        ParquetImages(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.parquet", "none.parquet does not exist"),
        ("none-*.parquet", "no Parquet file matches .*none-"),
        ("none/*.parquet", "does not exist"),
        ("text.parquet", "text.parquet is not a readable Parquet file"),
        ("empty.parquet", "empty.parquet holds no rows"),
    ],
)
def test_parquet_that_is_not_there_is_named(tmp_path, name, message):
    (tmp_path / "text.parquet").write_text("PAR1 but not really")
    write_parquet(tmp_path / "empty.parquet", [])
    with pytest.raises(UserError, match=message):
        ParquetImages(str(tmp_path / name))


def test_files_joined_or_in_braces_keep_the_order_given(tmp_path):
    for number in (8, 9, 10):
        write_parquet(tmp_path / f"{number:02}.parquet", [number])
    for where, labels in (
        ("{08..10}.parquet", [8, 9, 10]),
        ("{10,08}.parquet", [10, 8]),
        ("{09,1*}.parquet", [9, 10]),
        (f"10.parquet::{tmp_path}/{{08..09}}.parquet", [10, 8, 9]),
        (f"09.parquet::file://{tmp_path}/{{08,10}}.parquet", [9, 8, 10]),
    ):
        assert ParquetImages(f"{tmp_path}/{where}").labels.tolist() == labels, where
    with pytest.raises(UserError, match=r"/11\.parquet does not exist"):
        ParquetImages(f"{tmp_path}/{{10..11}}.parquet")
    with pytest.raises(UserError, match="joins two file systems"):
        expand(f"{tmp_path}/08.parquet::mock://bucket/", ".parquet", "Parquet", LeftOut())


# Hugging Face data sets


@pytest.fixture
def hfds(tmp_path, monkeypatch):
    """Opens a local folder of Parquet files through the datasets library, without a network."""
    import datasets
    import huggingface_hub

    for library in (datasets.config, huggingface_hub.constants):  # type: ignore[attr-defined]
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()

    def opened(folder: Path | str, **more) -> HFImages:
        cache = str(tmp_path / "cache")
        return HFImages(TimmData(source="timm", name=f"hfds/{folder}", path=cache, **more))

    return opened


def test_hf_datasets_give_labels_classes_and_images_as_timm_reads_them(tmp_path, hfds):
    from timm.data.readers.reader_hfds import ReaderHfds

    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-0.parquet", [2, 0], names=list("abc"))
    write_parquet(tmp_path / "data" / "train-1.parquet", [1], range(2, 3), names=list("abc"))
    write_parquet(tmp_path / "data" / "test-0.parquet", [1], range(3, 4), names=list("abc"))
    images = hfds(tmp_path / "data")
    assert images.labels.tolist() == [2, 0, 1]
    assert images.labels.dtype == np.int64
    assert images.classes == ("a", "b", "c")
    assert hfds(tmp_path / "data", split="test").labels.tolist() == [1]
    timms = ReaderHfds(str(tmp_path / "data"), root=str(tmp_path / "cache"), split="train")
    again = pickle.loads(pickle.dumps(images))
    for index in range(3):
        stream, label = timms[index]
        assert again.encoded(index) == stream.read() == png(index)
        assert label == images.labels[index]
    assert images.nbytes == sum(len(png(seed)) for seed in range(3))


def test_the_identity_of_a_hf_dataset_is_its_content(tmp_path, hfds):
    for name, labels in (("here", [0, 1]), ("there", [0, 1]), ("relabelled", [1, 1])):
        (tmp_path / name).mkdir()
        write_parquet(tmp_path / name / "train.parquet", labels, names=["a", "b"])
    here, there, relabelled = (
        hfds(tmp_path / name).source_id for name in ("here", "there", "relabelled")
    )
    assert here == there != relabelled


def test_hf_images_stored_as_paths_are_read_from_their_files(tmp_path, hfds):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "train" / name / "0.png").write_bytes(png(label))
    images = hfds(tmp_path / "data")
    assert images.classes == ("cat", "dog")
    assert images.nbytes == len(png(0)) + len(png(1))
    assert [same_image(images.image(i), noise(i)) for i in range(2)] == [True, True]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"split": "nowhere"}, r"cannot open hfds/.*, split nowhere: .*nowhere"),
        ({"image": "img"}, r"has no column 'img'; choose from image, label"),
        ({"label": "image"}, r"image in hfds/.* is .*; it must be an integer"),
        ({"image": "label"}, r"column label of .* holds no images but"),
    ],
)
def test_hf_splits_and_columns_that_do_not_fit_are_named(tmp_path, hfds, more, message):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train.parquet", [0, 1], names=["a", "b"])
    with pytest.raises(UserError, match=message) as raised:
        hfds(tmp_path / "data", **more)
    assert "\n" not in str(raised.value)


def test_a_hf_dataset_that_is_not_there_is_named(hfds):
    with pytest.raises(UserError, match="cannot open hfds/no/where, split train: ") as raised:
        hfds("no/where")
    assert "\n" not in str(raised.value)


def test_without_the_datasets_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'bikd-ray\[hf\]'"):
        open_images(TimmData(source="timm", name="hfds/mnist"))


# Digits


def test_digits_halves_are_disjoint_stratified_and_stable():
    from sklearn.datasets import load_digits

    halves = [DigitsImages(DigitsData(source="digits", split=s)) for s in ("train", "val")]
    everything: Any = load_digits()
    assert sum(len(h.labels) for h in halves) == len(everything.target) == 1797
    total = np.bincount(everything.target)
    for half in halves:
        assert (np.abs(np.bincount(half.labels) - total / 2) <= 0.5).all()
        assert half.classes == tuple("0123456789")
    again = DigitsImages(DigitsData(source="digits", split="val"))
    assert again.source_id == halves[1].source_id != halves[0].source_id
    assert np.array_equal(again.labels, halves[1].labels)


def test_digits_are_the_real_images_each_in_one_half():
    from sklearn.datasets import load_digits

    found = []
    for split in ("train", "val"):
        half = DigitsImages(DigitsData(source="digits", split=split))
        for index, label in enumerate(half.labels):
            image = half.image(index)
            assert image.mode == "RGB"
            assert image.size == (8, 8)
            grey = np.asarray(image)[..., 0]
            found.append((int(label), np.round(grey * (16 / 255)).astype(int).tobytes()))
    digits: Any = load_digits()
    real = zip(digits.target.tolist(), digits.images.astype(int), strict=True)
    assert sorted(found) == sorted((label, image.tobytes()) for label, image in real)
