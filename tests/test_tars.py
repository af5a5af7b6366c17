"""Tars of class folders and webdataset shards: labels, order and bytes as timm reads them."""

import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from bikd_ray.data.decode import BadImage
from bikd_ray.data.sources import open_images
from bikd_ray.data.tars import TarImages
from bikd_ray.errors import UserError
from bikd_ray.specs import TimmData
from tests.images import noise, png, same_image, tar_bytes, write_tar


def opened(path: Path | str, name: str = "", **more) -> TarImages:
    images = open_images(TimmData(source="timm", name=name, path=str(path), **more))
    assert isinstance(images, TarImages)
    return images


def shards(path: Path | str, **more) -> TarImages:
    return opened(path, "wds/", **more)


def contents(images: TarImages) -> list[bytes]:
    return [images.encoded(index) for index in range(len(images.labels))]


# Tars of class folders


LONG = "x" * 150  # a name of two headers


@pytest.mark.parametrize(
    "members",
    [
        {f"c{c}/{i}.png": png(10 * c + i) for c in (10, 9, 2) for i in (11, 2)},
        {"./top/Cat/1.JPEG": png(1), "./top/dog/1.png": png(2), "./notes.txt": b"hello"},
        {f"{LONG}/{i}.jpg": png(i) for i in range(3)},
        {"n2.tar": tar_bytes({"b.png": png(1)}), "n10.tar": tar_bytes({"a.png": png(2)})},
        {
            "n1.tar": tar_bytes({"0.png": png(1), "1.png": png(2)}),
            "n2.tar": tar_bytes({"sub/0.png": png(3), "0.png": png(4)}),
            "n0/0.png": png(5),
        },
    ],
    ids=["natural order", "deep", "long names", "inner tars", "inner tars and folders"],
)
def test_classes_labels_order_and_bytes_are_those_of_timms_reader(tmp_path, members):
    path = write_tar(tmp_path / "a.tar", members)
    images, timms = opened(path), ReaderImageInTar(str(path))
    assert images.classes is not None
    assert {name: i for i, name in enumerate(images.classes)} == timms.class_name_to_idx
    assert images.labels.tolist() == timms.targets.tolist()
    streams = [timms[index][0] for index in range(len(timms))]
    assert contents(images) == [stream.read() for stream in streams if stream]


def test_tars_pickle_without_their_open_files(tmp_path):
    images = opened(write_tar(tmp_path / "a.tar", {f"a/{i}.png": png(i) for i in range(3)}))
    images.image(0)
    again = pickle.loads(pickle.dumps(images))
    assert same_image(again.image(2), noise(2))
    assert again.random_access


def test_the_identity_of_a_tar_is_its_content_and_the_stamps_its_age(tmp_path):
    members = {"a/0.png": png(0), "b/0.png": png(1)}
    here, there = (write_tar(tmp_path / n / f"{n}.tar", members) for n in ("here", "there"))
    moved = write_tar(tmp_path / "moved.tar", {"a/0.png": png(0), "a/1.png": png(1)})
    assert opened(here).source_id == opened(there).source_id != opened(moved).source_id
    before = opened(here).stamps
    assert (opened(here).stamps == before).all()
    os.utime(here, (1, 1))
    assert (opened(here).stamps != before).any()


def test_a_bad_image_in_a_tar_is_named_by_tar_and_member(tmp_path):
    inner = tar_bytes({"sub/0.png": b"junk"})
    path = write_tar(tmp_path / "a.tar", {"a/0.png": png(0)[:-40], "b.tar": inner})
    images = opened(path)
    for index, member in enumerate(("a/0.png", "b/sub/0.png")):
        with pytest.raises(BadImage, match=rf"data: {path}, member {member} is not .*: skip$"):
            images.image(index)


def test_an_image_outside_all_class_folders_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/0.png": png(0), "./1.png": png(1)})
    with pytest.raises(UserError, match=r"a\.tar, member \./1\.png lies in no class folder"):
        opened(path)


@pytest.mark.parametrize("kept", [700, 1024, 2000, 2560, -1024, -1025])
def test_a_tar_cut_short_anywhere_is_refused_when_opened(tmp_path, kept):
    full = tar_bytes({f"a/{i}.png": png(i, width=20, height=20) for i in range(3)})
    end = 3 * (512 + 512 * -(-len(png(0, width=20, height=20)) // 512))
    path = tmp_path / "a.tar"
    path.write_bytes(full[: kept if kept > 0 else end + kept + 1024])
    with pytest.raises(UserError, match=r"a\.tar is damaged or cut short") as raised:
        opened(path)
    assert "\n" not in str(raised.value)


def test_a_damaged_header_is_refused_and_the_member_before_it_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/0.png": png(0), "a/1.png": png(1)})
    content = bytearray(path.read_bytes())
    content[content.index(b"a/1.png")] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cut short after member a/0\.png"):
        opened(path)


def test_an_inner_tar_cut_short_does_not_run_into_the_outer_one(tmp_path):
    inner = tar_bytes({"0.png": png(0)})
    end = 512 + 512 * -(-len(png(0)) // 512)
    members = {"a.tar": inner[:end], "b/0.png": png(1)}
    with pytest.raises(UserError, match=r"all\.tar, member a\.tar is damaged or cut short"):
        opened(write_tar(tmp_path / "all.tar", members))


def test_a_tar_that_shrank_after_it_was_opened_is_no_bad_image_to_skip(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/0.png": png(0), "a/1.png": png(1)})
    images = opened(path)
    with open(path, "r+b") as file:
        file.truncate(600)
    with pytest.raises(UserError, match=r"member a/0\.png is cut short") as raised:
        images.image(0)
    assert not isinstance(raised.value, BadImage)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.tar", None, r"gone\.tar does not exist; give a tar file, folder or glob"),
        ("*.tar", None, r"no tar file matches .*\*\.tar"),
        ("text.tar", b"hello" * 300, r"text\.tar is damaged or cut short, or compressed"),
        ("none.tar", tar_bytes({}), r"no images in .*none\.tar; expected members CLASS/IMAGE"),
        ("zip.tar", b"\x1f\x8b" + bytes(2000), r"give an uncompressed tar file"),
    ],
)
def test_tars_that_are_not_there_or_no_tars_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / name)


# Webdataset shards


def write_shards(folder: Path) -> Path:
    """Three shards `x-{08..10}.tar` of two samples each; image `noise(i)` has label `i % 3`."""
    for shard in range(3):
        members = {}
        for i in (2 * shard, 2 * shard + 1):
            members[f"s/{i:04}.cls"] = f"{i % 3}\n".encode()
            members[f"s/{i:04}.PNG"] = png(i)
            members[f"s/{i:04}.json"] = json.dumps({"kind": f"{5 - i}", "label": "7"}).encode()
        write_tar(folder / f"x-{shard + 8:02}.tar", members)
    return folder


@pytest.mark.parametrize("where", ["x-{08..10}.tar", "x-*.tar", "", "x-08.tar::ROOT/x-{09,10}.tar"])
def test_samples_of_shards_come_in_the_order_of_a_plain_reader(tmp_path, where):
    root = write_shards(tmp_path / "data")
    images = shards(f"{root}/{where.replace('ROOT', str(root))}")
    plain = {}
    for path in sorted(root.iterdir()):
        with tarfile.open(path) as tar:
            for info in tar.getmembers():
                stream = tar.extractfile(info)
                assert stream is not None
                plain[info.name] = stream.read()
    assert contents(images) == [v for k, v in plain.items() if k.endswith("PNG")]
    assert images.labels.tolist() == [int(v) for k, v in plain.items() if k.endswith("cls")]
    assert images.classes is None


def test_a_split_may_name_shards_in_the_folder_as_timm_has_it(tmp_path):
    root = write_shards(tmp_path / "data")
    assert shards(root, split="x-{09..10}.tar|4").labels.tolist() == [2, 0, 1, 2]
    assert shards(root, split="x-10.tar::x-08.tar").labels.tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize("name", ["_info.json", "info.json"])
def test_a_split_of_the_info_file_is_its_shards_with_its_label(tmp_path, name):
    root = write_shards(tmp_path / "data")
    splits = {
        "train": {"filenames": ["x-08.tar", "x-09.tar"]},
        "val": {"filenames": ["x-10.tar"], "alt_label": "kind"},
    }
    (root / name).write_text(json.dumps({"splits": splits}))
    assert shards(root).labels.tolist() == [0, 1, 2, 0]
    assert shards(root, split="val").labels.tolist() == [1, 0]
    with pytest.raises(UserError, match=r"no split 'vel'; .* \(did you mean 'val'\?\)"):
        shards(root, split="vel")


def test_labels_come_from_cls_else_json_or_from_the_field_that_the_source_names(tmp_path):
    members = {
        "0.png": png(0),
        "0.cls": b"4",
        "0.json": b'{"label": 5, "kind": 6}',
        "1.jpg": png(1),
        "1.json": b'{"label": 7, "kind": -1}',
    }
    path = write_tar(tmp_path / "a.tar", members)
    assert shards(path).labels.tolist() == [4, 7]
    negative_is_left_out = shards(path, label="kind")
    assert negative_is_left_out.labels.tolist() == [6]


def test_of_several_images_in_a_sample_timms_first_choice_is_taken(tmp_path):
    members = {
        "a.b/0.seg.png": png(1),
        "a.b/0.webp": png(2),
        "a.b/0.png": png(3),
        "a.b/0.cls": b"0",
    }
    assert contents(shards(write_tar(tmp_path / "a.tar", members))) == [png(3)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"k.png": b"x"}, r"a\.tar, sample k has no label; expected \.cls, or \.json"),
        ({"k.png": b"x", "k.cls": b"cat"}, r"sample k: k\.cls holds 'cat'; a label is an integer"),
        ({"k.png": b"x", "k.cls": b"\xff"}, r"k\.cls holds '.'; a label is an integer"),
        ({"k.png": b"x", "k.json": b"{"}, r"k\.json has no field 'label'"),
        ({"k.png": b"x", "k.json": b'{"lab": 1}'}, r"k\.json has no field 'label'"),
        ({"k.png": b"x", "k.json": b'{"label": [1]}'}, r"k\.json holds \[1\]; a label is an int"),
        ({"k.exr": b"x", "k.cls": b"1"}, r"sample k has a label but no image \(jpg, png"),
        ({"README.md": b"x", "LICENSE": b"x"}, r"no samples in .*a\.tar; expected members KEY"),
        ({"k.png": b"x", "k.PNG": b"x", "k.cls": b"1"}, r"sample k has two members k\.PNG"),
    ],
)
def test_samples_that_do_not_fit_are_named_by_shard_and_key(tmp_path, members, message):
    with pytest.raises(UserError, match=message) as raised:
        shards(write_tar(tmp_path / "a.tar", members))
    assert "\n" not in str(raised.value)
    assert "a.tar" in str(raised.value)


def test_a_shard_cut_short_names_the_shard(tmp_path):
    root = write_shards(tmp_path / "data")
    with open(root / "x-09.tar", "r+b") as file:
        file.truncate(1536)
    with pytest.raises(UserError, match=r"x-09\.tar is damaged or cut short after member s/0002"):
        shards(root / "x-{08..10}.tar")
