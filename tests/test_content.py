"""What makes two image sets the same: the bytes and labels of their images, and nothing else."""

import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ImageOps

from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.content import content_hashes, content_id
from bikd_ray.data.files import file_stamp
from bikd_ray.data.folder import FolderImages
from bikd_ray.data.hf import _sizes
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.data.sources import open_images
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.plan import ResolvedData
from bikd_ray.specs import Data, FolderData, ParquetData, TimmData
from bikd_ray.store.queries import Store
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import Writer
from tests.images import STRUCT, Watched, noise, png, write_folder, write_parquet, write_tar

OLD = time.time() - 3600


def bitmaps(root: Path, *, inverted: bool = False) -> Path:
    """A folder of two classes whose files are of one size, whatever their pixels."""
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            image = noise(3 * label + i)
            (ImageOps.invert(image) if inverted else image).save(root / name / f"{i}.bmp")
    return aged(root)


def aged(root: Path) -> Path:
    """A folder whose files were modified an hour ago."""
    for path in root.rglob("*.*"):
        os.utime(path, (OLD, OLD))
    return root


def resolved(root: Path) -> ResolvedData:
    source = {"source": "folder", "path": str(root)}
    return resolve_data(Data.model_validate({"train": source, "val": source}))


def test_other_pixels_under_the_same_names_sizes_and_times_are_other_data(tmp_path):
    plain = resolved(bitmaps(tmp_path / "a"))
    inverted = resolved(bitmaps(tmp_path / "b", inverted=True))
    assert plain.val.listing_id == inverted.val.listing_id
    assert plain.data_id != inverted.data_id
    assert plain.unit_set_id != inverted.unit_set_id


def test_images_edited_in_place_with_their_time_restored_are_other_data(tmp_path):
    root = bitmaps(tmp_path / "data")
    before = resolved(root)
    ImageOps.invert(noise(1)).save(root / "cat" / "1.bmp")
    aged(root)
    assert resolved(root).data_id != before.data_id


def test_moved_touched_and_renamed_copies_are_the_same_data(tmp_path):
    root = bitmaps(tmp_path / "data")
    before = resolved(root).data_id
    os.utime(root / "cat" / "0.bmp")
    assert resolved(root).data_id == before
    copy = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    (copy / "cat" / "2.bmp").rename(copy / "cat" / "2b.bmp")
    assert resolved(copy).data_id == before
    assert resolved(Path(shutil.move(root, tmp_path / "moved"))).data_id == before


def test_the_same_images_in_a_folder_a_tar_and_parquet_are_one_data_set(tmp_path):
    labels = [0, 0, 0, 1, 1, 1]
    seeds = (0, 1, 2, 10, 11, 12)
    folder = FolderData(source="folder", path=str(write_folder(tmp_path / "folder")))
    members = {f"{'cat' if s < 10 else 'dog'}/{s:02}.png": png(s) for s in seeds}
    tar = TimmData(source="timm", path=str(write_tar(tmp_path / "a.tar", members)))
    table = write_parquet(tmp_path / "a.parquet", labels, seeds)
    parquet = ParquetData(source="parquet", path=str(table))
    ids = {content_id(open_images(source)) for source in (folder, tar, parquet)}
    assert len(ids) == 1


def test_another_label_or_another_order_is_another_data_set(tmp_path):
    def of(labels: list[int], seeds: tuple[int, ...]) -> str:
        path = write_parquet(tmp_path / "a.parquet", labels, seeds)
        return content_id(open_images(ParquetData(source="parquet", path=str(path))))

    assert len({of([0, 1], (3, 4)), of([1, 0], (3, 4)), of([0, 1], (4, 3))}) == 3


# Read once


NO_WAIT = -(10**12)
"""Files count as left alone before they are: their time of change cannot be set."""


def test_only_what_has_changed_is_read_again(tmp_path):
    root = bitmaps(tmp_path / "data")

    def read() -> list[int]:
        watched = Watched(FolderImages(str(root)))
        hashes.append(content_hashes(watched, NO_WAIT))
        return sorted(watched.read)

    hashes: list[np.ndarray] = []
    assert read() == [0, 1, 2, 3, 4, 5]
    assert read() == []
    (root / "cat" / "1.bmp").write_bytes((root / "dog" / "0.bmp").read_bytes())
    assert read() == [1]
    (root / "cat" / "0.bmp").unlink()  # the others stand elsewhere now
    assert read() == []
    (root / "dog" / "9.bmp").write_bytes(b"new")
    assert read() == [5]
    first, again, edited, fewer, more = hashes
    assert (first == again).all()
    assert (edited[1] == first[3]).all()
    assert (np.delete(edited, 1, 0) == np.delete(first, 1, 0)).all()
    assert (fewer == edited[1:]).all()
    assert (more[:5] == fewer).all()


def test_a_file_that_has_just_been_written_is_read_again(tmp_path):
    root = bitmaps(tmp_path / "data")
    for _ in range(2):  # its clock may not tell the next write from this one
        watched = Watched(FolderImages(str(root)))
        content_hashes(watched)
        assert len(watched.read) == 6


def test_containers_are_read_once_too(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {f"{c}/{i}.png": png(i) for c in "ab" for i in range(3)})
    table = write_parquet(tmp_path / "a.parquet", [0, 1, 0], row_group_size=2)
    for source in (
        TimmData(source="timm", path=str(tar)),
        ParquetData(source="parquet", path=str(table)),
    ):
        first, again = Watched(open_images(source)), Watched(open_images(source))
        assert (content_hashes(first, NO_WAIT) == content_hashes(again, NO_WAIT)).all()
        assert sorted(first.read) == list(range(len(first.images.labels)))
        assert again.read == []


def test_a_memory_that_is_damaged_or_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    root = bitmaps(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = content_hashes(FolderImages(str(root)), NO_WAIT)
    (memory,) = (tmp_path / "cache").rglob("*.npy")
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))  # of another version
    for damaged in (b"", b"junk", memory.read_bytes()[:-100], stream.getvalue()):
        memory.write_bytes(damaged)
        assert (content_hashes(FolderImages(str(root)), NO_WAIT) == whole).all()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert (content_hashes(FolderImages(str(root)), NO_WAIT) == whole).all()


def test_row_groups_are_read_about_once_whatever_the_threads(tmp_path):
    table = pa.table(
        {"image": [b"%d" % i for i in range(2000)], "label": [i % 2 for i in range(2000)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=50)
    images = ParquetImages(str(tmp_path / "a.parquet"))
    content_hashes(images)
    assert images._group.cache_info().misses < 120  # of 40 row groups


def test_images_beside_an_arrow_file_are_known_by_their_own_times(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        noise(i).save(file)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [str(file) for file in files], "label": [0, 1, 0, 1]}
    images = datasets.Dataset.from_dict(rows, features).select_columns("image")
    sizes, stamps = _sizes(images.with_format("arrow")[:].column(0))
    assert sizes.tolist() == [file.stat().st_size for file in files]
    assert stamps == {i: file_stamp(os.stat(file)) for i, file in enumerate(files)}


def test_a_pipe_among_the_images_is_left_out_and_not_waited_for(tmp_path):
    root = bitmaps(tmp_path / "data")
    os.mkfifo(root / "cat" / "z.bmp")
    images = FolderImages(str(root))
    assert len(images.labels) == 6
    assert images.notes == ("left out 1 special file, such as cat/z.bmp",)


# On a node


def test_a_node_whose_copy_has_other_pixels_is_refused(tmp_path):
    root = bitmaps(tmp_path / "data")
    data = resolved(root)
    shutil.rmtree(root)
    bitmaps(root, inverted=True)
    with pytest.raises(BikdError, match="is not what was planned with"):
        open_split(data, "val")
    shutil.rmtree(root)
    bitmaps(root)
    assert open_split(data, "val").source_id == data.val.content_id


# Stores of version 1


@pytest.fixture
def first_store(tmp_path: Path) -> Callable[[ResolvedData], Store]:
    """Makes a store that holds one baseline under an id of version 1."""

    def make(data: ResolvedData) -> Store:
        first_id = digest("data", data.train.listing_id, data.val.listing_id, data.num_classes)
        row = {"model": "a", "model_id": "1" * 16, "weights_id": "2" * 16, "data_id": first_id}
        own = ["sample", "label", "predicted", "label_prob", "top_classes", "top_probs"]
        predictions = SCHEMAS["predictions"].empty_table().select(own)
        writer = Writer(str(tmp_path / "store"))
        measured = {"eval_set": "val", "metric": "top1", "n": 6, "value": 50.0}
        writer.commit_baseline([{**row, **measured}], row, predictions)
        return Store(str(tmp_path / "store"))

    return make


def test_rows_of_version_1_are_recognised_once_and_then_by_content(tmp_path, first_store):
    plain = resolved(bitmaps(tmp_path / "a"))
    other = resolved(bitmaps(tmp_path / "b", inverted=True))
    store = first_store(plain)
    (row,) = store.baselines().to_pylist()
    known, note = store.as_stored(plain)
    assert note is None
    assert known.data_id == row["data_id"] != plain.data_id
    assert store.as_stored(plain)[0] == known
    elsewhere = resolved(Path(shutil.copytree(tmp_path / "a", tmp_path / "c")))
    assert store.as_stored(elsewhere)[0].data_id == known.data_id
    same, note = store.as_stored(other)
    assert same == other
    assert "other images with these names and sizes" in str(note)


def test_rows_of_version_1_in_another_class_order_stay_apart_and_are_named(tmp_path, first_store):
    for name in ("2", "10"):
        (tmp_path / "data" / name).mkdir(parents=True)
        noise(int(name)).save(tmp_path / "data" / name / "0.png")
    data = resolved(tmp_path / "data")
    assert data.classes == ("2", "10")
    same, note = first_store(data).as_stored(data)
    assert same == data
    assert "with the classes in another order" in str(note)


def test_rows_of_version_1_are_recognised_in_a_store_that_can_only_be_read(tmp_path, first_store):
    data = resolved(bitmaps(tmp_path / "data"))
    store = first_store(data)
    (tmp_path / "store" / "ids").symlink_to(tmp_path / "nowhere" / "below")
    known, note = store.as_stored(data)
    assert known.data_id == store.baselines()["data_id"][0].as_py()
    assert "could not be noted" in str(note)


def test_two_columns_of_one_file_are_two_contents(tmp_path):
    """What is remembered of one of them is nothing that is known of the other."""
    path = write_parquet(tmp_path / "a.parquet", [0, 1])
    table = pq.read_table(path)
    other = pa.array([{"bytes": png(seed), "path": None} for seed in (7, 8)], STRUCT)
    pq.write_table(table.append_column("other", other), path)
    os.utime(path, (OLD, OLD))
    first, second = (ParquetImages(str(path), column) for column in ("image", "other"))
    assert (content_hashes(first, 0) != content_hashes(second, 0)).any(1).all()
