"""What a mask file stores, and what its values mean: indices are read, never colours."""

import struct
import zlib

import numpy as np
import pytest

from bikd_ray.data.decode import BadImage
from bikd_ray.data.masks import (
    LabelRule,
)
from bikd_ray.data.masks.decode import decode_mask
from tests.masks import (
    ELEVEN,
    SCENES,
    encoded,
    said,
    trees,
    write,
    write_trees,
)


def values_of(rule: LabelRule, *values: int) -> list[int]:
    return rule(np.array([values], np.uint16))[0].tolist()


def test_zero_label_reduction_shifts_in_a_wide_type_and_leaves_what_is_ignored():
    assert values_of(LabelRule(150, reduce_zero_label=True), 0, 1, 150, 255) == [255, 0, 149, 255]
    byte = LabelRule(150, reduce_zero_label=True)(np.array([[0, 1, 150, 255]], np.uint8))
    assert byte.tolist() == [[255, 0, 149, 255]]


def test_another_ignore_index_becomes_255_and_255_is_then_a_label_like_others():
    assert values_of(LabelRule(3, ignore_index=65535), 0, 2, 65535) == [0, 2, 255]
    with pytest.raises(ValueError, match=r"^label 255; the 3 classes are 0–2 and 7 is ignored"):
        values_of(LabelRule(3, ignore_index=7), 255)


def test_a_label_map_must_say_what_becomes_of_every_value():
    rule = LabelRule(2, label_map={7: 1, 8: 0, 300: 255})
    assert values_of(rule, 7, 8, 300, 255) == [1, 0, 255, 255]
    with pytest.raises(ValueError, match=r"^labels 0, 9, which label_map lacks; add it, or else"):
        values_of(rule, 7, 9, 0)
    assert values_of(LabelRule(2, label_map={7: 1, "else": 0}), 7, 9, 255) == [1, 0, 255]
    binary = LabelRule(2, label_map={0: 0, 255: 1})
    assert values_of(binary, 0, 255) == [0, 1]


@pytest.mark.parametrize("value", [11, 150, 254, 65535])
def test_a_value_that_is_no_class_is_refused(value):
    with pytest.raises(ValueError, match=rf"^label {value}; the 11 classes are 0–10"):
        values_of(ELEVEN, 0, value)


def test_labels_that_seem_to_count_from_one_say_how_to_shift_them():
    with pytest.raises(ValueError, match=r"set reduce_zero_label: true"):
        values_of(ELEVEN, 11)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"num_classes": 256}, "there can be 1 to 255"),
        ({"ignore_index": -1}, "a value that a mask can hold"),
        ({"label_map": {3: 11}}, "label_map sends 3 to 11; it must be one of the 11 classes 0–10"),
        ({"label_map": {-3: 1}}, "label_map has -3"),
        ({"label_map": {1: 0}, "reduce_zero_label": True}, "give one"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(how, text):
    assert text in said(LabelRule, **{"num_classes": 11, **how})


def test_the_identity_of_a_rule_is_what_it_does():
    same = LabelRule(2, label_map={0: 0, 1: 1})
    assert same.identity == LabelRule(2).identity
    others = [
        LabelRule(3),
        LabelRule(2, ignore_index=7),
        LabelRule(2, reduce_zero_label=True),
        LabelRule(2, label_map={0: 1, 1: 0}),
        LabelRule(2, label_map={0: 0, "else": 1}),
        LabelRule(2, label_map={0: 0, "else": 255}),
    ]
    identities = [str(rule.identity) for rule in (same, *others)]
    assert len(set(identities)) == len(identities)


# Mask files


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_values_are_read_and_never_colours(mode):
    values_HW = np.arange(200, dtype=np.uint8).reshape(10, 20)
    if mode == "I;16":
        values_HW = values_HW.astype(np.uint16) * 300
    content = encoded(values_HW, "P" if mode == "P" else None)
    assert (decode_mask(content, "mask") == values_HW).all()


def test_one_bit_masks_hold_zero_and_one():
    bits = np.eye(9, dtype=np.uint8)
    content = encoded(bits * 255, "1")
    assert decode_mask(content, "mask").tolist() == bits.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(bits):
    values_HW = np.arange(2**bits, dtype=np.uint8)[None].repeat(3, 0)
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes()
        for row in values_HW
    )
    header = struct.pack(">IIBBBBB", 2**bits, 3, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    assert decode_mask(content, "mask").tolist() == values_HW.tolist()


@pytest.mark.parametrize(
    ("mode", "kind", "text"),
    [
        ("RGB", "PNG", "m.png has the mode RGB: colours, not class indices"),
        ("RGBA", "PNG", "m.png has the mode RGBA: colours"),
        ("L", "JPEG", "m.png is a JPEG, whose compression changes labels; save masks as PNG"),
        ("RGB", "WEBP", "m.png is a WEBP"),
        ("L", "PPM", "m.png is a PPM, which may rescale labels; save masks as PNG"),
        ("L", "TIFF", "m.png is a TIFF"),
    ],
)
def test_colours_and_other_formats_are_refused(mode, kind, text):
    content = encoded(SCENES.mask(0), mode, kind)
    assert text in said(decode_mask, content, "m.png")


def test_a_torn_mask_is_a_bad_image_that_may_be_skipped(tmp_path):
    images = trees(write_trees(tmp_path))
    path = tmp_path / "masks" / "01.png"
    for content in (path.read_bytes()[:60], b"", b"junk"):
        path.write_bytes(content)
        with pytest.raises(BadImage, match=r"masks/01\.png is not a readable image"):
            images.pair(1)


def test_a_mask_of_another_size_is_a_bad_pair(tmp_path):
    images = trees(write_trees(tmp_path))
    write(tmp_path / "masks" / "01.png", encoded(SCENES.mask(1).T.copy()))
    with pytest.raises(BadImage, match=r"masks/01\.png has 24 × 48 pixels, and its image 48 × 24"):
        images.pair(1)


def test_a_label_out_of_range_names_the_file_the_value_and_the_classes(tmp_path):
    images = trees(write_trees(tmp_path), LabelRule(5))
    for call in (images.mask, images.pair):
        text = said(call, 0)
        assert f"{tmp_path}/masks/00.png has label" in text
        assert "the 5 classes are 0–4" in text
