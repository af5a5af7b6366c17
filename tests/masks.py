"""Digit scenes with their masks, written as the data sets for segmentation lay them out."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bikd_ray.data.masks import IGNORED, LabelRule, MaskedImages, mask_trees
from bikd_ray.data.masks.scenes import DigitScenes
from bikd_ray.errors import UserError
from tests.images import STRUCT, as_struct

ELEVEN = LabelRule(11)
SCENES = DigitScenes("train", 6, size=24, digits=(1, 2), wide=True)


def from_one(labels_HW: np.ndarray) -> np.ndarray:
    """Labels as ADE20K stores them: 0 for ignored, class k as k + 1."""
    return np.where(labels_HW == IGNORED, 0, labels_HW.astype(int) + 1).astype(np.uint8)


def as_they_are(labels_HW: np.ndarray) -> np.ndarray:
    return labels_HW


def encoded(values_HW: np.ndarray, mode: str | None = None, kind: str = "PNG") -> bytes:
    """A mask file; mode P has a palette of its own, as Pascal VOC's have."""
    image = Image.fromarray(values_HW)
    if mode == "P":
        image = Image.frombytes("P", image.size, values_HW.astype(np.uint8).tobytes())
        image.putpalette([(37 * i + 11 * c) % 256 for i in range(256) for c in range(3)])
    elif mode:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def jpeg(image: Image.Image, orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation:
        exif[0x112] = orientation
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def write_trees(
    root: Path,
    images: str = "images/{:02}.jpg",
    masks: str = "masks/{:02}.png",
    values: Callable[[np.ndarray], np.ndarray] = as_they_are,
    mode: str | None = None,
) -> Path:
    """The scenes under names made of their numbers."""
    for index in range(len(SCENES)):
        image, labels_HW = SCENES.pair(index)
        write(root / images.format(index), jpeg(image))
        write(root / masks.format(index), encoded(values(labels_HW), mode))
    return root


def write_ade20k(root: Path, annotations: str = "annotations", shifted: bool = False) -> Path:
    names = [f"{folder}/training/ADE_train_{{:08}}" for folder in ("images", annotations)]
    return write_trees(
        root, f"{names[0]}.jpg", f"{names[1]}.png", as_they_are if shifted else from_one
    )


def write_masked_parquet(path: Path, *, image: str = "image", mask: str = "annotation") -> Path:
    """Two row groups, with a column of integers beside the files."""
    pairs = [SCENES.pair(index) for index in range(len(SCENES))]
    images = [jpeg(scene) for scene, _ in pairs]
    masks = [encoded(labels_HW) for _, labels_HW in pairs]
    table = pa.table(
        {
            image: pa.array(as_struct(images), STRUCT),
            mask: pa.array(as_struct(masks), STRUCT),
            "scene_category": pa.array(range(len(SCENES))),
        }
    )
    pq.write_table(table, path, row_group_size=4)
    return path


def trees(root: Path, rule: LabelRule = ELEVEN, **how) -> MaskedImages:
    return mask_trees(str(root / "images"), str(root / "masks"), rule, **how)


def assert_scenes(images: MaskedImages) -> None:
    """All scenes, in order, with their exact labels and pixels near to what JPEG left of them."""
    assert len(images) == len(SCENES)
    for index in range(len(SCENES)):
        image, labels_HW = images.pair(index)
        scene, truth_HW = SCENES.pair(index)
        assert labels_HW.dtype == np.uint8
        assert (labels_HW == truth_HW).all()
        assert (images.mask(index) == truth_HW).all()
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image, int) - np.asarray(scene, int)).mean() < 15
        assert images.image(index).tobytes() == image.tobytes()


def said(call, *args, **how) -> str:
    with pytest.raises(UserError) as raised:
        call(*args, **how)
    assert "\n" not in str(raised.value)
    return str(raised.value)
