"""What makes two sets of images with masks the same: the bytes of both, and the rule."""

import os

import pytest

from bikd_ray.data.content import content_hashes
from bikd_ray.data.masks import (
    LabelRule,
    content_id,
    masked_parquet,
    spot_check,
)
from tests.masks import (
    ELEVEN,
    SCENES,
    encoded,
    jpeg,
    trees,
    write,
    write_masked_parquet,
    write_trees,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_identity_covers_images_masks_and_what_their_values_mean(tmp_path):
    root = write_trees(tmp_path / "a")
    first = content_id(trees(root))
    assert content_id(trees(write_trees(tmp_path / "copy"))) == first
    assert content_id(trees(root, LabelRule(12))) != first
    os.utime(root / "masks" / "00.png", (1, 1))
    assert content_id(trees(root)) == first
    mask = root / "masks" / "00.png"
    before = mask.read_bytes()
    stamps = trees(root).stamps
    mask.write_bytes(encoded(SCENES.mask(0)[::-1].copy()))
    os.utime(mask, (1, 1))
    assert (trees(root).stamps[0] != stamps[0]).any()
    assert (trees(root).stamps[1:] == stamps[1:]).all()
    assert content_id(trees(root)) != first
    mask.write_bytes(before)
    write(root / "images" / "05.jpg", jpeg(SCENES.image(4)))
    assert content_id(trees(root)) != first


def test_content_moved_from_a_mask_to_its_image_is_other_content(tmp_path):
    """Both of a pair are hashed together: where one ends and the other begins must show."""
    for name, image, mask in (("a", b"12", b"3"), ("b", b"1", b"23")):
        write(tmp_path / name / "images" / "0.png", image)
        write(tmp_path / name / "masks" / "0.png", mask)
    a, b = (content_hashes(trees(tmp_path / name)) for name in "ab")
    assert (a != b).any()


def test_a_spot_check_sees_other_masks(tmp_path):
    root = write_trees(tmp_path)
    first = spot_check(trees(root))
    write(root / "masks" / "00.png", encoded(SCENES.mask(0)[::-1].copy()))
    assert spot_check(trees(root)) != first


def test_parquet_and_trees_of_the_same_bytes_are_the_same_data(tmp_path):
    root = write_trees(tmp_path / "a")
    images = masked_parquet(str(write_masked_parquet(tmp_path / "a.parquet")), ELEVEN)
    assert content_id(images) == content_id(trees(root))


def test_pairs_decode_from_a_copy_of_their_content(tmp_path):
    images = trees(write_trees(tmp_path))
    image, labels_HW = images.decoded(images.encoded(3), 3)
    assert (labels_HW == SCENES.mask(3)).all()
    assert image.tobytes() == images.image(3).tobytes()
