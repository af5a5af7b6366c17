"""Masks that would stop a sweep or make its scores meaningless are seen before it begins."""

from pathlib import Path

import numpy as np
import pytest

from bikd_ray.data.masks import DigitScenes, LabelRule, check_masks, mask_trees
from bikd_ray.data.masks.check import MaskFindings
from tests.masks import SCENES, encoded, from_one, jpeg, write, write_trees


def findings(root: Path, **how) -> MaskFindings:
    rule = LabelRule(**{"num_classes": 11, **how})
    found = check_masks("train", mask_trees(str(root / "images"), str(root / "masks"), rule))
    assert not any("\n" in line for line in (*found.problems, *found.remarks))
    return found


def test_good_masks_are_no_problem_and_their_ignored_share_is_said(tmp_path):
    found = findings(write_trees(tmp_path))
    labels = np.concatenate([SCENES.mask(index).ravel() for index in range(len(SCENES))])
    share = (labels == 255).mean()
    assert found.problems == []
    assert found.remarks[0] == (
        f"train: {share:.1%} of the pixels of the 6 masks looked at are ignored"
    )


def test_classes_in_no_mask_are_counted_and_named():
    found = check_masks("val", DigitScenes("val", 1, size=24, digits=(1, 1)))
    assert found.problems == []
    assert found.remarks[1].startswith(
        "val: 9 of 11 classes are in none of the 1 masks looked at: 1 (0), "
    )
    assert check_masks("val", DigitScenes("val", 64)).remarks[1:] == []


def test_values_that_are_no_class_name_file_value_and_classes(tmp_path):
    found = findings(write_trees(tmp_path), num_classes=3)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("data.train: ")
    assert "pairs looked at have masks with values that are no class: " in found.problems[0]
    assert f"{tmp_path}/masks/0" in found.problems[0]
    assert "the 3 classes are 0–2" in found.problems[0]


@pytest.mark.parametrize(
    ("mode", "kind", "text"),
    [
        (
            "RGB",
            "PNG",
            "1 of 6 pairs looked at have masks in colours: {}/masks/02.png has the mode",
        ),
        (
            "L",
            "JPEG",
            "1 of 6 pairs looked at have masks that are no PNG: {}/masks/02.png is a JPEG",
        ),
    ],
)
def test_masks_in_colours_and_in_jpeg_are_named(tmp_path, mode, kind, text):
    write_trees(tmp_path)
    write(tmp_path / "masks" / "02.png", encoded(SCENES.mask(2), mode, kind))
    assert text.format(tmp_path) in findings(tmp_path).problems[0]


def test_each_kind_of_fault_is_a_line_of_its_own(tmp_path):
    write_trees(tmp_path)
    write(tmp_path / "masks" / "00.png", encoded(SCENES.mask(0), "RGB"))
    write(tmp_path / "masks" / "01.png", b"junk")
    write(tmp_path / "masks" / "02.png", encoded(np.full((24, 24), 77, np.uint8)))
    write(tmp_path / "masks" / "03.png", encoded(np.zeros((9, 9), np.uint8)))
    problems = findings(tmp_path).problems
    assert len(problems) == 4
    for text in ("in colours", "do not decode", "that are no class", "differ in size"):
        assert sum(text in line for line in problems) == 1


def test_a_mask_of_another_size_says_both_sizes(tmp_path):
    write_trees(tmp_path)
    write(tmp_path / "masks" / "00.png", encoded(np.zeros((12, 10), np.uint8)))
    (problem,) = findings(tmp_path).problems
    assert "1 of 6 pairs looked at differ in size: " in problem
    assert "masks/00.png has 10 × 12 pixels, and its image 24 × 24 as it is stored" in problem
    assert "EXIF" not in problem


def test_a_mask_drawn_on_the_turned_image_is_told_from_one_of_any_size(tmp_path):
    write_trees(tmp_path)
    write(tmp_path / "images" / "01.jpg", jpeg(SCENES.image(1), orientation=6))
    write(tmp_path / "masks" / "01.png", encoded(np.rot90(SCENES.mask(1), 3).copy()))
    (problem,) = findings(tmp_path).problems
    assert "the mask was drawn on the image as EXIF turns it (orientation 6)" in problem


def test_images_that_exif_turns_beside_masks_of_their_stored_pixels_are_said(tmp_path):
    write_trees(tmp_path)
    for index, orientation in ((1, 6), (2, 3)):
        content = jpeg(SCENES.image(index), orientation=orientation)
        write(tmp_path / "images" / f"{index:02}.jpg", content)
    found = findings(tmp_path)
    assert found.problems == []
    assert found.remarks[-1].startswith(
        f"train: 2 of 6 images looked at are to be shown turned (EXIF), such as {tmp_path}/images/"
    )


def test_masks_that_ignore_every_pixel_are_said(tmp_path):
    write_trees(tmp_path)
    write(tmp_path / "masks" / "04.png", encoded(np.full((24, 24), 255, np.uint8)))
    found = findings(tmp_path)
    assert found.problems == []
    assert "train: 1 of the 6 masks looked at ignore every pixel, such as" in found.remarks[-1]


def test_a_set_in_which_all_is_ignored_is_a_problem(tmp_path):
    root = write_trees(tmp_path, values=lambda labels_HW: np.full_like(labels_HW, 255))
    assert findings(root).problems == [
        "data.train: every pixel of the 6 masks looked at is ignored"
    ]


def test_one_class_beside_ignored_pixels_is_said(tmp_path):
    found = findings(write_trees(tmp_path), label_map={0: 255, "else": 4})
    assert found.problems == []
    assert "train: class 4 is the only class in the 6 masks looked at" in found.remarks[0]
    assert "scores 100%" in found.remarks[0]


def test_binary_masks_of_zero_and_255_say_how_both_become_classes(tmp_path):
    def binary(labels_HW: np.ndarray) -> np.ndarray:
        return np.where((labels_HW > 0) & (labels_HW < 255), 255, 0).astype(np.uint8)

    root = write_trees(tmp_path, values=binary)
    said = "for two classes set label_map: {0: 0, 255: 1}"
    assert said in findings(root, num_classes=2).remarks[0]
    mapped = findings(root, num_classes=2, label_map={0: 0, 255: 1})
    assert len(mapped.remarks) == 1


def test_labels_from_one_that_were_not_shifted_say_so(tmp_path):
    root = write_trees(tmp_path, values=from_one)
    (root / "masks" / "00.png").write_bytes(encoded(np.full((24, 24), 11, np.uint8)))
    (problem,) = findings(root).problems
    assert "set reduce_zero_label: true" in problem
    assert findings(root, reduce_zero_label=True).problems == []


def test_an_image_that_does_not_decode_is_named(tmp_path):
    write(write_trees(tmp_path) / "images" / "00.jpg", b"\xff\xd8\xff")
    (problem,) = findings(tmp_path).problems
    assert "1 of 6 pairs looked at do not decode: " in problem
    assert "images/00.jpg is not a readable image" in problem
