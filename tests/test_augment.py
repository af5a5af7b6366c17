"""Augmented training images: timm's own, repeatable, and the same whoever trains beside."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from bikd_ray.data.augment import augmentation
from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import ParquetImages
from bikd_ray.data.views import Normalise
from bikd_ray.plan import ResolvedInput, View
from tests.images import noise, write_parquet

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BIG, SMALL = View(24, 0.9, "bicubic", "center"), View(12, 0.9, "bilinear", "center")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("augment") / "train.parquet"
    return ParquetImages(str(write_parquet(path, [i % 3 for i in range(8)])))


def pixels_of(images, views, order=range(8), *, epoch=1, seed=0, size=3, workers=0, name="timm"):
    """{view: {sample: pixels}} of one epoch."""
    loader = Loader(images, views, CPU, augment=name, seed=seed, workers=workers)
    seen = {view: {} for view in views}
    for batch in loader.batches(np.array(list(order)), size, epoch):
        for view in views:
            seen[view] |= dict(zip(batch.index.tolist(), batch.views[view], strict=True))
    return seen


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_then_normalise_is_timms_training_transform_bit_for_bit(interpolation):
    view, image = View(16, 0.9, interpolation, "center"), noise(3, 40, 30)
    ours = augmentation("timm", view)(image, 5)
    how = ResolvedInput(16, MEAN, STD, 0.9, interpolation)
    random.seed(5)
    torch.manual_seed(5)
    transform: Any = create_transform(
        (3, 16, 16), is_training=True, interpolation=interpolation, mean=MEAN, std=STD
    )
    theirs = transform(image)
    got = Normalise(how, CPU)(torch.from_numpy(ours)[None])[0]
    assert torch.allclose(got, theirs, atol=1e-6)


def test_reference_is_bilinear_whatever_the_model():
    image = noise(3, 40, 30)
    bicubic, bilinear = (View(16, 0.9, how, "center") for how in ("bicubic", "bilinear"))
    assert np.array_equal(
        augmentation("reference", bicubic)(image, 7), augmentation("timm", bilinear)(image, 7)
    )
    assert not np.array_equal(
        augmentation("timm", bicubic)(image, 7), augmentation("timm", bilinear)(image, 7)
    )


@pytest.mark.parametrize("name", ["timm", "reference"])
def test_a_models_pixels_do_not_depend_on_its_partners_its_place_or_the_batch(images, name):
    alone = pixels_of(images, [BIG], name=name)[BIG]
    beside = pixels_of(images, [SMALL, BIG], range(8)[::-1], size=5, name=name)
    assert same(alone, beside[BIG])
    assert same(pixels_of(images, [SMALL], name=name)[SMALL], beside[SMALL])


def test_a_loader_process_gives_the_same_pixels_in_every_pass(images):
    loader = Loader(images, [BIG], CPU, augment="timm", workers=1)
    for epoch in (1, 2, 1):
        passed = {}
        for batch in loader.batches(np.arange(8), 3, epoch):
            passed |= dict(zip(batch.index.tolist(), batch.views[BIG], strict=True))
        assert same(passed, pixels_of(images, [BIG], epoch=epoch)[BIG])


@pytest.mark.parametrize("change", [{"epoch": 2}, {"seed": 1}])
def test_another_epoch_or_seed_draws_anew(images, change):
    first, other = pixels_of(images, [BIG])[BIG], pixels_of(images, [BIG], **change)[BIG]
    assert not any(torch.equal(first[i], other[i]) for i in first)


def test_models_of_two_sizes_see_the_same_crop():
    """On a smooth image, the small view is the large one shrunk."""
    x, y = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 96))
    image = Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))
    for seed in range(20):
        large, small = (augmentation("timm", v)(image, seed).astype(float) for v in (BIG, SMALL))
        shrunk = large.reshape(3, 12, 2, 12, 2).mean((2, 4))
        assert np.abs(shrunk - small)[:, 1:-1, 1:-1].max() < 6
