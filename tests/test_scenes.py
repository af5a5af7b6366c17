"""Scenes of digits: deterministic, exactly labelled, and of other digits in train and val."""

import pickle

import numpy as np
import pytest
from PIL import Image

from bikd_ray.data.masks import (
    DigitScenes,
    content_id,
)
from tests.masks import (
    SCENES,
    said,
)


def test_scenes_are_the_same_on_every_machine_and_from_every_copy():
    again = pickle.loads(pickle.dumps(DigitScenes("train", 6, size=24, digits=(1, 2), wide=True)))
    assert again.source_id == SCENES.source_id == content_id(again)
    for index in range(6):
        assert again.image(index).tobytes() == SCENES.image(index).tobytes()
    more = DigitScenes("train", 9, size=24, digits=(1, 2), wide=True)
    assert more.image(5).tobytes() == SCENES.image(5).tobytes()
    assert more.source_id != SCENES.source_id


def test_scenes_of_train_and_val_are_made_of_other_digits():
    train, val = DigitScenes("train", 4), DigitScenes("val", 4)
    assert not set(map(bytes, train.digit_images)) & set(map(bytes, val.digit_images))
    assert train.image(0).tobytes() != val.image(0).tobytes()


def test_scenes_hold_every_class_and_ignore_the_rims():
    scenes = DigitScenes("val", 60)
    labels = np.stack([scenes.mask(index) for index in range(60)])
    assert set(np.unique(labels)) == {*range(11), 255}
    assert 0.01 < (labels == 255).mean() < 0.1
    assert scenes.classes[0] == "background"


def test_scenes_without_a_ground_have_ten_classes_and_may_be_all_ignored():
    scenes = DigitScenes("val", 30, digits=(0, 1), ground=False)
    labels = [scenes.mask(index) for index in range(30)]
    assert set(np.unique(np.stack(labels))) <= {*range(10), 255}
    assert any((one == 255).all() for one in labels)
    assert scenes.num_classes == 10
    assert {mask.shape for mask in (SCENES.mask(i) for i in range(4))} == {
        (24, 24), (24, 48), (48, 24)
    }  # fmt: skip


@pytest.mark.parametrize(
    "how", [{"count": 0}, {"digits": (3, 2)}, {"size": 20, "scales": (3,)}, {"scales": ()}]
)
def test_scenes_that_cannot_be_are_refused(how):
    said(DigitScenes, "train", **{"count": 3, **how})


def test_a_scene_is_an_image_like_others():
    assert isinstance(SCENES.image(0), Image.Image)
    assert SCENES.where(3) == "digit scene 3 of train"
