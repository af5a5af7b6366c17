"""Views of image and mask: moved together, repeatable, and no label is ever mixed with another."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bikd_ray.data.masks import DigitScenes, EvaluationView, JointAugmentation, MaskedView
from bikd_ray.data.masks.augment import GREY, scaled
from bikd_ray.errors import UserError
from tests.images import noise

SCENES = DigitScenes("train", 8, size=40, digits=(1, 4), scales=(1, 2, 3), wide=True)
SMALL = JointAugmentation(short_sides=(20, 33, 57, 80), long_side=120, crop=48)
PLAIN = {"colour": False, "flip": False}


def same(a: MaskedView, b: MaskedView) -> bool:
    pairs = ((a.pixels_3HW, b.pixels_3HW), (a.labels_HW, b.labels_HW))
    return a.size == b.size and all(np.array_equal(x, y) for x, y in pairs)


def striped(width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    """Columns of 8 pixels of 5 classes, each class of a colour of its own."""
    labels_HW = np.tile(np.arange(width) // 8 % 5, (height, 1)).astype(np.uint8)
    return Image.fromarray(np.stack([50 * labels_HW] * 3, -1)), labels_HW


def test_the_papers_recipe_is_the_default():
    recipe = JointAugmentation()
    assert recipe.short_sides == (
        256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024
    )  # fmt: skip
    assert (recipe.long_side, recipe.crop, recipe.colour, recipe.flip) == (2048, 512, True, True)
    view = recipe(*striped(200, 150), seed=1)
    assert view.pixels_3HW.shape == (3, 512, 512)
    assert view.labels_HW.shape == (512, 512)
    assert view.pixels_3HW.dtype == view.labels_HW.dtype == np.uint8


@pytest.mark.parametrize("index", range(8))
def test_labels_are_moved_and_never_blended(index):
    image, labels_HW = SCENES.pair(index)
    before = set(np.unique(labels_HW)) | {255}
    for seed in range(40):
        assert set(np.unique(SMALL(image, labels_HW, seed).labels_HW)) <= before


def test_image_and_mask_move_together():
    """Away from the edges of its stripes, a pixel keeps the colour of its label."""
    how = JointAugmentation(short_sides=(60, 90, 120), long_side=200, crop=48, colour=False)
    mirrored = 0
    for seed in range(40):
        view = how(*striped(80, 60), seed)
        grey, labels_HW = view.pixels_3HW[0].astype(int), view.labels_HW.astype(int)
        inner = np.ones(view.size, bool)
        height, width = view.size
        grey, labels_HW = grey[:height, :width], labels_HW[:height, :width]
        edges = np.abs(np.diff(labels_HW, axis=1, prepend=labels_HW[:, :1])) > 0
        for shift in (-2, -1, 0, 1):
            inner &= ~np.roll(edges, shift, axis=1)
        inner[:, :2] = inner[:, -2:] = False
        assert inner.any()
        assert (np.abs(grey - 50 * labels_HW)[inner] <= 2).all()
        steps = np.diff(labels_HW[0])
        mirrored += int(((steps == 1) | (steps == -4)).sum() < ((steps == -1) | (steps == 4)).sum())
    assert 8 < mirrored < 32


def test_a_view_is_decided_by_its_seed_alone():
    image, labels_HW = SCENES.pair(1)
    first = SMALL(image, labels_HW, 5)
    random.seed(9)
    torch.manual_seed(9)
    state = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    again = JointAugmentation(short_sides=(20, 33, 57, 80), long_side=120, crop=48)
    assert same(first, again(image.copy(), labels_HW.copy(), 5))
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert state == after
    assert not any(same(first, SMALL(image, labels_HW, seed)) for seed in range(6, 12))
    assert (labels_HW == SCENES.mask(1)).all()


@pytest.mark.parametrize(("size", "short"), [((40, 30), 20), ((30, 40), 20), ((40, 30), 64)])
def test_what_the_image_lacks_is_padded_at_the_right_and_below(size, short):
    how = JointAugmentation(short_sides=(short,), crop=48, **PLAIN)
    image, labels_HW = noise(0, *size), np.zeros(size[::-1], np.uint8)
    view = how(image, labels_HW, 0)
    factor = short / min(size)
    height, width = min(48, round(size[1] * factor)), min(48, round(size[0] * factor))
    assert view.size == (height, width)
    inside = np.zeros((48, 48), bool)
    inside[:height, :width] = True
    assert (view.labels_HW[inside] == 0).all()
    assert (view.labels_HW[~inside] == 255).all()
    assert (view.pixels_3HW[:, ~inside] == GREY).all()


def test_padding_keeps_its_grey_whatever_the_colours_become():
    for seed in range(20):
        view = SMALL(*striped(30, 24), seed)
        height, width = view.size
        assert (view.pixels_3HW[:, height:] == GREY).all()
        assert (view.pixels_3HW[:, :, width:] == GREY).all()


def test_every_short_side_and_every_corner_of_the_image_is_drawn():
    """Two axes that say where a pixel comes from."""
    x, y = np.meshgrid(np.linspace(0, 255, 60), np.linspace(0, 255, 60))
    image = Image.fromarray(np.stack([x, y, x], -1).astype(np.uint8))
    how = JointAugmentation(short_sides=(24, 60), long_side=99, crop=30, **PLAIN)
    views = [how(image, np.zeros((60, 60), np.uint8), seed) for seed in range(200)]
    large = [view for view in views if view.size == (30, 30)]
    assert 70 < len(large) < 130
    assert {view.size for view in views} == {(30, 30), (24, 24)}
    lefts = [int(view.pixels_3HW[0, 0, 0]) for view in large]
    tops = [int(view.pixels_3HW[1, 0, 0]) for view in large]
    for starts in (lefts, tops):
        assert min(starts) < 8
        assert max(starts) > 120
    assert abs(np.corrcoef(lefts, tops)[0, 1]) < 0.3


def colours(seeds: int = 400) -> np.ndarray:
    """What one pixel of a known colour becomes, [seeds, 3]."""
    image = Image.new("RGB", (4, 4), (180, 120, 60))
    how = JointAugmentation(short_sides=(4,), crop=4, flip=False)
    blank = np.zeros((4, 4), np.uint8)
    return np.stack([how(image, blank, seed).pixels_3HW[:, 0, 0] for seed in range(seeds)])


def test_colours_change_in_most_views_and_stay_within_their_limits():
    seen = colours().astype(int)
    unchanged = (np.abs(seen - [180, 120, 60]).max(1) <= 1).mean()
    assert 0.03 < unchanged < 0.11  # 1/16: none of the four is drawn
    assert seen.max() == 255
    assert seen[:, 0].min() >= int(0.5 * (180 - 32)) - 2
    order = seen.argsort(1)[:, ::-1]
    assert {tuple(row) for row in order.tolist()} <= {(0, 1, 2), (0, 2, 1), (1, 0, 2)}


def test_brightness_alone_is_a_shift_of_at_most_32():
    """On grey, hue and saturation change nothing; without contrast only brightness is left."""
    image = Image.new("RGB", (4, 4), (100, 100, 100))
    how = JointAugmentation(short_sides=(4,), crop=4, flip=False)
    seen = [how(image, np.zeros((4, 4), np.uint8), s).pixels_3HW[:, 0, 0] for s in range(300)]
    grey = np.array(seen)
    assert (grey == grey[:, :1]).all()
    assert grey.min() >= int(0.5 * 68)
    assert grey.max() <= int(1.5 * 132)
    assert 0.18 < (grey[:, 0] == 100).mean() < 0.32  # neither brightness nor contrast: 1/4


def test_colours_leave_labels_and_geometry_alone():
    image, labels_HW = SCENES.pair(2)
    how: dict[str, Any] = {"short_sides": (40, 80), "long_side": 200, "crop": 40, "flip": False}
    for seed in range(10):
        plain = JointAugmentation(colour=False, **how)(image, labels_HW, seed)
        tinted = JointAugmentation(**how)(image, labels_HW, seed)
        assert np.array_equal(plain.labels_HW, tinted.labels_HW)


@pytest.mark.parametrize("how", [{"short_sides": ()}, {"crop": 0}, {"short_sides": (0,)}])
def test_sizes_that_cannot_be_are_refused(how):
    with pytest.raises(UserError, match="sizes of at least 1"):
        JointAugmentation(**how)


# Evaluation


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((683, 512), (683, 512)),
        ((512, 683), (512, 683)),
        ((300, 400), (512, 683)),  # 400 · 512/300 = 682.67
        ((2048, 1024), (1024, 512)),
        ((4000, 500), (2048, 256)),  # the long side decides
        ((500, 4001), (256, 2048)),
        ((5000, 1), (2048, 1)),
    ],
)
def test_the_short_side_becomes_512_unless_the_long_one_exceeds_2048(size, resized):
    assert scaled(size, 512, 2048) == resized


def test_evaluation_resizes_by_pillow_and_pads_to_a_multiple():
    view = EvaluationView(short_side=20, long_side=60, multiple=16)
    image = noise(4, 45, 30)
    pixels_3HW, size = view(image)
    assert size == (20, 30)
    assert pixels_3HW.shape == (3, 32, 32)
    assert pixels_3HW.dtype == np.uint8
    expected = np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(pixels_3HW[:, :20, :30], expected)
    outside = np.ones((32, 32), bool)
    outside[:20, :30] = False
    assert (pixels_3HW[:, outside] == np.array([[124], [116], [104]])).all()


def test_a_view_of_the_right_size_is_the_image_itself():
    image = noise(4, 64, 32)
    pixels_3HW, size = EvaluationView(short_side=32)(image)
    assert size == (32, 64)
    assert np.array_equal(pixels_3HW, np.asarray(image).transpose(2, 0, 1))
