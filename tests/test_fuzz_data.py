"""Damaged images and containers: an image, or one line that says what is wrong."""

import io
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bikd_ray.data.decode import FORMATS, BadImage, decode
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.data.sources import open_images
from bikd_ray.errors import UserError
from bikd_ray.specs import TimmData
from tests.images import STRUCT, as_struct, noise, png, tar_bytes

IMAGES = 400
CONTAINERS = 60


def samples() -> dict[str, bytes]:
    """A small image of every format and depth that Pillow writes here."""
    Image.init()
    grey16 = Image.fromarray((300 * np.arange(210)).astype(np.uint16).reshape(14, 15))
    found = {}
    for name in FORMATS:
        for image in (noise(0, 15, 14), grey16, noise(1, 15, 14).convert("P")):
            stream = io.BytesIO()
            try:
                image.save(stream, name)
            except (OSError, ValueError, KeyError):
                continue  # Pillow does not write this format, or not in this mode
            found[f"{name} {image.mode}"] = stream.getvalue()
    return found


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with some bytes changed, cut off, doubled or moved."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + rng.randint(1, 40)] = b""
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        elif kind == 4:
            data[at:at] = data[at : at + 20]
        else:
            data[at : at + 8] = rng.randbytes(8)
    return bytes(data)


def check_line(error: Exception) -> None:
    assert str(error).startswith("data: "), repr(error)
    assert len(str(error)) < 2000
    assert len(str(error).splitlines()) == 1


def decode_mutated(count: int, seed: int) -> tuple[int, int]:
    """(decoded, refused) of so many mutated images. Any other outcome is an error."""
    rng, contents, good = random.Random(seed), list(samples().values()), 0
    for _ in range(count):
        try:
            image = decode(mutated(rng.choice(contents), rng), "data: x.png")
        except BadImage as error:
            check_line(error)
        else:
            assert image.mode == "RGB"
            assert 0 not in image.size
            good += 1
    return good, count - good


def parquet() -> bytes:
    table = pa.table({"image": pa.array(as_struct([png(i) for i in range(4)]), STRUCT),
                      "label": pa.array(["a", "b", "a", "b"]).dictionary_encode()})  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=2)
    return stream.getvalue()


def read_mutated(content: bytes, path: Path, reader: Callable, count: int, seed: int) -> int:
    """How many of so many mutations are refused; the rest reads as some set of images."""
    rng, refused = random.Random(seed), 0
    for _ in range(count):
        path.write_bytes(mutated(content, rng))
        try:
            images = reader(str(path))
            for index in range(len(images.labels)):
                images.image(index)
        except UserError as error:
            check_line(error)
            refused += 1
    return refused


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():  # Pillow's on damaged metadata
        warnings.simplefilter("ignore")
        yield


def test_a_mutated_image_is_an_image_or_a_bad_one_in_one_line():
    good, bad = decode_mutated(IMAGES, 0)
    assert good > IMAGES // 20
    assert bad > IMAGES // 20


CLASS_FOLDERS = {"a/0.png": png(0), "b/0.png": png(1), "b/c.tar": tar_bytes({"1.png": png(2)})}
SHARD = {"0.png": png(0), "0.cls": b"1", "1.jpg": png(1), "1.json": b'{"label": 2}'}


@pytest.mark.parametrize(
    ("content", "reader"),
    [
        (parquet(), ParquetImages),
        (tar_bytes(CLASS_FOLDERS), lambda p: open_images(TimmData(source="timm", path=p))),
        (tar_bytes(SHARD), lambda p: open_images(TimmData(source="timm", name="wds/", path=p))),
    ],
    ids=["parquet", "class folders", "webdataset"],
)
def test_a_mutated_container_is_a_set_or_one_line(content, reader, tmp_path):
    assert 0 < read_mutated(content, tmp_path / "x", reader, CONTAINERS, 0) <= CONTAINERS
