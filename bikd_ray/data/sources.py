"""Labelled image sets, and the one that a spec names.

An image set is labels [N] in memory and images on demand; it pickles, so that loader
processes can share it.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from bikd_ray.data.digits import DigitsImages
from bikd_ray.data.folder import FolderImages
from bikd_ray.data.hf import HFImages
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.data.tars import class_folders
from bikd_ray.data.webdataset import webdataset
from bikd_ray.identity import digest
from bikd_ray.specs import DataSource, DigitsData, FolderData, ParquetData, labelled


class ImageSet(Protocol):
    """N labelled images."""

    labels: np.ndarray
    """int64 [N]; all NO_LABEL where nobody has labelled them"""
    source_id: str
    """What caches know it by: names, sizes and labels; once it is checked, its content."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it was read, a line for each kind of thing."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order, where the source knows them."""
        ...

    def image(self, index: int) -> Image.Image:
        """Image `index` in RGB. Raises BadImage, which names it, if it does not decode, and
        UserError if it cannot be read.
        """
        ...


class EncodedFiles(Protocol):
    """Encoded files, such as images, whose content tells what they are."""

    location: str
    """Where it lies, for people and as a key of what is remembered of it."""
    stamps: np.ndarray
    """int64 [N, 5]: the file that holds each image (inode; 0 if unknown), its size, its times of
    modification and of change (ns), and the image's place in it. Equal rows: equal bytes."""
    nbytes: int
    """All of them together, within a few percent."""
    random_access: bool
    """Whether one image alone is cheap to read; else `encoded_copy` makes it so."""

    def encoded(self, index: int) -> bytes:
        """The content of file `index`. Raises BadImage or UserError."""
        ...

    def where(self, index: int) -> str:
        """How messages name file `index`."""
        ...


@runtime_checkable
class EncodedImages(ImageSet, EncodedFiles, Protocol):
    """An image set whose images lie somewhere as JPEG, PNG, …"""


def open_images(source: DataSource) -> ImageSet:
    """Open a data source of a spec. Raises UserError for a missing or empty one."""
    if isinstance(source, FolderData):
        return FolderImages(source.path, source.labels)
    if isinstance(source, ParquetData):
        label = source.label if labelled(source) else None
        return ParquetImages(source.path, source.image, label)
    if isinstance(source, DigitsData):
        return DigitsImages(source)
    if source.name.startswith("hfds/"):
        return HFImages(source)
    return webdataset(source) if source.name else class_folders(source)


class Subset:
    """The images `rows` of another set, under an identity of their own."""

    def __init__(self, images: ImageSet, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows
        self.labels, self.classes = images.labels[rows], images.classes
        self.source_id = digest("subset", images.source_id, rows.tolist())
        self.notes = images.notes

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
