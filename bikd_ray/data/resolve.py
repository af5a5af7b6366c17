"""Open the data of a spec and check that its parts agree."""

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from bikd_ray.data.sources import ImageSet, open_images
from bikd_ray.errors import BikdError, UserError
from bikd_ray.identity import derived_seed, digest
from bikd_ray.plan import ResolvedData
from bikd_ray.specs import Data, DataSource


def resolve_data(data: Data) -> ResolvedData:
    """Count, hash and check the images of a spec. Raises UserError where they disagree."""
    train, val = open_images(data.train), open_images(data.val)
    # lists without a name in common are two vocabularies (synsets, words): nothing to compare
    alike = set(train.classes or ()) & set(val.classes or ())
    if alike and train.classes and val.classes and train.classes != val.classes:
        raise UserError(_first_difference(train.classes, val.classes))
    classes = val.classes or train.classes
    highest = int(max(train.labels.max(), val.labels.max()))
    found = max(len(classes or ()), highest + 1)
    num_classes = data.num_classes or found
    for split, images in (("train", train), ("val", val)):
        bad = np.flatnonzero((images.labels < 0) | (images.labels >= num_classes))
        if len(bad):
            raise UserError(
                f"data.{split}: sample {bad[0]} has label {images.labels[bad[0]]}, outside the "
                f"{num_classes} classes 0–{num_classes - 1} ({len(bad)} such samples); "
                "correct the labels or data.num_classes"
            )
    if classes and len(classes) > num_classes:
        raise UserError(
            f"data.num_classes is {num_classes}, but the data names {len(classes)} classes; "
            "leave num_classes out or correct it"
        )
    return ResolvedData(
        data=data,
        data_id=digest("data", train.source_id, val.source_id, num_classes),
        source_ids=(train.source_id, val.source_id),
        num_classes=num_classes,
        classes=classes,
        n_train=len(train.labels),
        n_val=len(val.labels),
    )


def _first_difference(train: tuple[str, ...], val: tuple[str, ...]) -> str:
    for label, (a, b) in enumerate(zip(train, val, strict=False)):
        if a != b:
            return f"data: class {label} is {a!r} in train and {b!r} in val; the lists must agree"
    return f"data: train has {len(train)} classes and val {len(val)}; the lists must agree"


def open_split(data: ResolvedData, split: str) -> ImageSet:
    """The images of `train` or `val`, opened once for each process.

    Raises BikdError where they are not those that were planned with.
    """
    at = ("train", "val").index(split)
    source: Any = (data.data.train, data.data.val)[at]  # frozen, so hashable; no checker sees that
    return _opened(source, data.source_ids[at], split)


@lru_cache(maxsize=4)
def _opened(source: DataSource, source_id: str, split: str) -> ImageSet:
    images = open_images(source)
    if images.source_id != source_id:
        raise BikdError(
            f"data.{split}: {getattr(source, 'path', source.source)} on this node is not what was "
            "planned with; it changed since, or this node has another copy"
        )
    return images


class Subset:
    """The images `rows` of another set, under an identity of their own."""

    def __init__(self, images: ImageSet, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows
        self.labels, self.classes = images.labels[rows], images.classes
        self.source_id = digest("subset", images.source_id, rows.tolist())
        self.stamp = images.stamp

    def image(self, index: int) -> Image.Image:
        """Image `rows[index]` of the whole set."""
        return self.images.image(int(self.rows[index]))

    def where(self, index: int) -> str:
        """How messages name image `index`."""
        return named(self.images, int(self.rows[index]))


def named(images: ImageSet, index: int) -> str:
    """How messages name image `index` of any set."""
    where = getattr(images, "where", None)
    return where(index) if where else f"sample {index}"


def split_train(
    labels: np.ndarray, *, select_fraction: float, train_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, select) into the training images, both stratified by class.

    The draw depends on the labels and fractions alone, so that every job of a sweep, whatever
    its seed, holds out the same images.
    """
    shuffled = np.random.default_rng(derived_seed("split")).permutation(len(labels))
    train, select = [], []
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        held = min(round(len(rows) * select_fraction), len(rows) - 1)
        kept = max(1, round((len(rows) - held) * train_fraction))
        select.append(rows[:held])
        train.append(rows[held : held + kept])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(select))
