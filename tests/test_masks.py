"""Images with masks from every layout: the same pixels and labels, however the files say them."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bikd_ray.data.masks import (
    LabelRule,
    ade20k,
    cityscapes,
    mask_trees,
    masked_parquet,
    voc,
)
from tests.images import STRUCT, noise
from tests.masks import (
    ELEVEN,
    SCENES,
    assert_scenes,
    encoded,
    from_one,
    jpeg,
    said,
    trees,
    write,
    write_ade20k,
    write_masked_parquet,
    write_trees,
)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_two_trees_of_one_shape_are_paired_by_their_paths(tmp_path, mode):
    root = write_trees(tmp_path, "images/a/{:02}.jpg", "masks/a/{:02}.png", mode=mode)
    assert_scenes(trees(root))


def test_suffixes_of_names_are_taken_off(tmp_path):
    write_trees(tmp_path, "images/{:02}_rgb.jpg", "masks/{:02}_mask.png")
    write_trees(tmp_path, "images/{:02}_depth.jpg", "masks/{:02}_colour.png")
    assert_scenes(trees(tmp_path, image_suffix="_rgb", mask_suffix="_mask"))


def test_masks_of_sixteen_bits_are_mapped(tmp_path):
    rule = LabelRule(11, label_map={**{1000 + k: k for k in range(11)}, 1255: 255})
    root = write_trees(tmp_path, values=lambda labels_HW: labels_HW.astype(np.uint16) + 1000)
    assert_scenes(trees(root, rule))


def test_labels_that_count_from_one_are_shifted_once(tmp_path):
    rule = LabelRule(11, reduce_zero_label=True)
    assert_scenes(trees(write_trees(tmp_path / "a", values=from_one), rule))
    text = said(trees, write_trees(tmp_path / "b"), rule)
    assert "seems to be shifted already: 6 masks hold 255 but nowhere 11" in text
    text = said(mask_trees, str(write_ade20k(tmp_path / "c", "annotations_detectron2") / "images"),
                str(tmp_path / "c" / "annotations_detectron2"), rule)  # fmt: skip
    assert "were shifted already" in text


def test_what_has_no_partner_is_left_out_and_said(tmp_path):
    write_trees(tmp_path)
    (tmp_path / "masks" / "02.png").unlink()
    (tmp_path / "images" / "04.jpg").unlink()
    (tmp_path / "images" / "05.jpg").unlink()
    images = trees(tmp_path)
    assert len(images) == 3
    assert images.where(2) == f"data: {tmp_path}/images/03.jpg"
    assert images.notes == (
        "left out 1 image without a mask, such as 02",
        "left out 2 masks without an image, such as 04",
    )


def test_folders_without_pairs_say_what_their_files_are_called(tmp_path):
    root = write_trees(tmp_path, "images/a/{:02}.jpg", "masks/{:02}_m.png")
    text = said(trees, root)
    assert "(an image is 'a/00'; a mask is '00_m')" in text
    assert "is not a folder" in said(mask_trees, str(root / "images"), str(root / "no"), ELEVEN)


def test_two_files_of_one_name_are_refused(tmp_path):
    root = write_trees(tmp_path)
    write(root / "images" / "03.png", encoded(SCENES.mask(3)))
    assert "holds 03.jpg and 03.png, two files of one name" in said(trees, root)


# Known layouts


def test_ade20k_counts_from_one_and_its_copy_of_detectron2_from_zero(tmp_path):
    root = write_ade20k(tmp_path / "ADEChallengeData2016")
    names = "".join(f"{k + 1}\t0.1\t9\t9\t1\tthing {k}, item {k}\n" for k in range(150))
    (root / "objectInfo150.txt").write_text(f"Idx\tRatio\tTrain\tVal\tStuff\tName\n{names}")
    images = ade20k(str(tmp_path), "train")
    assert_scenes(images)
    assert (images.num_classes, len(images.classes or ())) == (150, 150)
    assert images.classes
    assert images.classes[2] == "thing 2, item 2"
    write_ade20k(root, "annotations_detectron2", shifted=True)
    assert_scenes(ade20k(str(root), "training"))
    copy = write_ade20k(tmp_path / "copy", "annotations_detectron2", shifted=True)
    assert_scenes(ade20k(str(copy), "train"))
    assert ade20k(str(copy), "train").classes is None


def test_ade20k_shifted_in_place_is_refused(tmp_path):
    root = write_ade20k(tmp_path, shifted=True)
    assert "seems to be shifted already" in said(ade20k, str(root), "train")
    text = said(ade20k, str(root), "validation")
    assert "choose from training" in text


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_has_nineteen_classes_whichever_labels_lie_there(tmp_path, kind):
    ids = np.full(256, 3, np.uint8)
    ids[:11] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23)
    to_file = (lambda labels_HW: ids[labels_HW]) if kind == "labelIds" else None
    where = f"gtFine/train/ulm/ulm_{{:06}}_gtFine_{kind}.png"
    write_trees(
        tmp_path, "leftImg8bit/train/ulm/ulm_{:06}_leftImg8bit.png", where, to_file or np.copy
    )
    other = tmp_path / "gtFine" / "train" / "ulm" / "ulm_000000_gtFine_color.png"
    write(other, encoded(SCENES.mask(0), "RGB"))
    images = cityscapes(str(tmp_path), "train")
    assert_scenes(images)
    assert images.classes
    assert (images.num_classes, images.classes[10]) == (19, "sky")
    assert images.notes == ()


def test_every_cityscapes_id_becomes_its_train_id(tmp_path):
    every = np.arange(34, dtype=np.uint8)[None]
    write(tmp_path / "leftImg8bit/val/x/a_leftImg8bit.png", encoded(every))
    write(tmp_path / "gtFine/val/x/a_gtFine_labelIds.png", encoded(every))
    labels = cityscapes(str(tmp_path), "val").mask(0)[0].tolist()
    scored = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert [labels[k] for k in scored] == list(range(19))
    assert {labels[k] for k in range(34) if k not in scored} == {255}


def test_pascal_voc_takes_the_listed_and_reads_the_palettes_indices(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_trees(root, "JPEGImages/{:02}.jpg", "SegmentationClass/{:02}.png", mode="P")
    write(root / "JPEGImages" / "99.jpg", jpeg(noise(1)))
    lists = root / "ImageSets" / "Segmentation"
    write(lists / "train.txt", b"".join(b"%02d\n" % index for index in range(6)))
    write(lists / "val.txt", b"03\n01\n")
    assert_scenes(voc(str(tmp_path), "train"))
    val = voc(str(root), "val")
    assert (len(val), val.num_classes, val.notes) == (2, 21, ())
    assert (val.mask(0) == SCENES.mask(3)).all()
    assert val.classes
    assert val.classes[0] == "background"
    assert "choose from train, val" in said(voc, str(root), "test")
    write(lists / "val.txt", b"99\n03\n")
    assert "99 is listed, but has no mask in" in said(voc, str(root), "val")


# Parquet


@pytest.mark.parametrize(
    ("image", "mask"), [("image", "annotation"), ("img", "label"), ("image", "odd")]
)
def test_parquet_columns_of_images_and_masks_are_found(tmp_path, image, mask):
    path = write_masked_parquet(tmp_path / "a.parquet", image=image, mask=mask)
    images = masked_parquet(str(path), ELEVEN)
    assert_scenes(images)
    assert_scenes(masked_parquet(str(path), ELEVEN, image=image, mask=mask))
    assert images.masks.where(5) == f"data: {path}, row 5"
    assert_scenes(pickle.loads(pickle.dumps(images)))


def test_parquet_columns_that_could_be_several_are_asked_for(tmp_path):
    content = pa.array([{"bytes": b"x", "path": None}], STRUCT)
    for names, text in (
        (("image", "mask", "label"), "holds the masks? set beside path mask: one of label, mask"),
        (("image",), "has no column of mask files, only image"),
        (("left", "right"), "holds the images? set beside path image: one of left, right"),
    ):
        pq.write_table(pa.table(dict.fromkeys(names, content)), tmp_path / "a.parquet")
        assert text in said(masked_parquet, str(tmp_path / "a.parquet"), ELEVEN)
    text = said(masked_parquet, str(tmp_path / "a.parquet"), ELEVEN, image="left", mask="no")
    assert "has no column 'no', only left, right; set beside path mask: left or right" in text
