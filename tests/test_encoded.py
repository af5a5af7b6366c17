"""The local copy of encoded images: the same bytes, whole or not at all."""

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bikd_ray.data.decode import BadImage
from bikd_ray.data.encoded import encoded_copy
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.errors import BikdError, UserError
from tests.images import STRUCT, Watched, as_struct, noise, png, same_image, write_parquet

COUNT = 100  # more than the builder reads at once


@pytest.fixture
def images(tmp_path):
    labels = [i % 3 for i in range(COUNT)]
    write_parquet(tmp_path / "images.parquet", labels, row_group_size=7)
    return ParquetImages(str(tmp_path / "images.parquet"))


@pytest.fixture
def copies(tmp_path):
    return tmp_path / "copies"


def files(folder):
    return sorted(path.suffix for path in folder.iterdir() if path.suffix != ".lock")


def test_every_image_of_the_copy_equals_the_original_in_any_order(images, copies):
    copy = encoded_copy(images, copies)
    again = pickle.loads(pickle.dumps(copy))
    for index in reversed(range(COUNT)):
        assert again.encoded(index) == png(index), index
    assert same_image(copy.image(5), noise(5))
    assert copy.random_access
    assert copy.labels.tolist() == images.labels.tolist()
    assert (copy.source_id, copy.classes) == (images.source_id, images.classes)
    assert copy.path.stat().st_size == 8 * (COUNT + 1) + sum(len(png(i)) for i in range(COUNT))


def test_a_second_copy_reads_nothing_and_takes_no_more_disk(images, copies):
    encoded_copy(images, copies)
    watched = Watched(images)
    assert encoded_copy(watched, copies).encoded(3) == png(3)
    assert watched.read == []
    assert files(copies) == [".images"]


def test_processes_that_start_together_write_one_copy(images, copies):
    sets = [Watched(images, lambda: time.sleep(0.0005)) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda each: encoded_copy(each, copies), sets))
    assert sorted(index for each in sets for index in each.read) == list(range(COUNT))
    assert {copy.encoded(99) for copy in made} == {png(99)}


def test_the_copy_has_its_final_name_only_when_it_is_whole(images, copies):
    seen = []
    encoded_copy(Watched(images, lambda: seen.append(files(copies))), copies)
    assert seen == [[".tmp"]] * COUNT
    assert files(copies) == [".images"]


def test_row_groups_are_read_once_each_while_a_copy_is_made(images, copies, monkeypatch):
    groups = []
    read = pq.ParquetFile.read_row_groups

    def counted(self, row_groups, **how):
        groups.append(list(row_groups))
        return read(self, row_groups, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    encoded_copy(images, copies)
    assert sorted(groups) == [[group] for group in range(-(-COUNT // 7))]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: bytes(len(content)),
        lambda content: content + b"more",
    ],
    ids=["torn", "torn offsets", "empty", "zeros", "longer"],
)
def test_a_torn_or_foreign_copy_is_made_again(images, copies, damage):
    path = encoded_copy(images, copies).path
    whole = path.read_bytes()
    path.unlink()  # the copy above is still mapped
    path.write_bytes(damage(whole))
    assert encoded_copy(images, copies).encoded(7) == png(7)
    assert path.read_bytes() == whole


def test_images_without_content_are_bad_in_the_copy_too(tmp_path, copies):
    rows = as_struct([png(0), None, b"junk"])
    table = pa.table({"image": pa.array(rows, STRUCT), "label": [0, 1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    copy = encoded_copy(ParquetImages(str(tmp_path / "a.parquet")), copies)
    assert same_image(copy.image(0), noise(0))
    for index, reason in ((1, "no image bytes"), (2, "no known image format")):
        with pytest.raises(BadImage, match=rf"a\.parquet, row {index} .*{reason}"):
            copy.image(index)


def test_a_full_disk_says_what_to_do_and_leaves_nothing(images, copies, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BikdError, match=r"No space left on device; .*data\.cache") as raised:
        encoded_copy(images, copies)
    assert not isinstance(raised.value, UserError)
    assert files(copies) == []


def test_images_that_cannot_be_read_are_not_the_copys_fault(images, tmp_path, copies):
    (tmp_path / "images.parquet").unlink()
    with pytest.raises(UserError, match=r"images\.parquet is not a readable Parquet file"):
        encoded_copy(images, copies)
    assert files(copies) == []


def test_what_killed_builders_left_is_removed_after_an_hour(images, copies):
    copies.mkdir()
    old, young = copies / "old.tmp", copies / "young.tmp"
    for path, age in ((old, 3700), (young, 3500)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    encoded_copy(images, copies)
    assert files(copies) == [".images", ".tmp"]
    assert young.exists()
