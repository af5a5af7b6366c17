"""Images with a label for each pixel."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from bikd_ray.data.content import CONTENT_VERSION, content_hashes, file_spot_check
from bikd_ray.data.decode import BadImage, decode
from bikd_ray.data.masks.decode import decode_mask
from bikd_ray.data.masks.rule import LabelRule
from bikd_ray.data.sources import EncodedFiles
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

_LENGTH = 8
"""Bytes before an image, in the content of a pair, that give its length."""


class MaskedSet(Protocol):
    """N images with masks, whose pixels have classes 0…num_classes − 1, or 255: ignored."""

    num_classes: int
    location: str
    source_id: str
    """What caches know it by, as of an `ImageSet`: names, sizes and what labels mean."""
    labels: np.ndarray
    """int64 [N], all 0: an image has no label beside those of its pixels."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order, where the source knows them."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it was read, a line for each kind of thing."""
        ...

    def __len__(self) -> int: ...

    def where(self, index: int) -> str:
        """How messages name image `index`."""
        ...

    def image(self, index: int) -> Image.Image:
        """Image `index` in RGB. Raises as that of an `ImageSet`."""
        ...

    def mask(self, index: int) -> np.ndarray:
        """uint8 [H, W]: the class of each pixel, 255 where it is ignored. Raises BadImage for a
        mask that does not decode, and UserError for values that are no classes.
        """
        ...

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Image and mask, of one size. Raises as both, and BadImage for two sizes."""
        ...


class UnknownLabels(UserError):
    """A mask with values that no rule makes a class."""


class MaskedImages:
    """N image files and the mask file of each, read by one rule.

    To caches and identities it is one run of encoded files, each an image and its mask together:
    hashes and copies of its content cover both.
    """

    def __init__(
        self,
        images: EncodedFiles,
        masks: EncodedFiles,
        rule: LabelRule,
        *,
        listing_id: str,
        classes: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """listing_id: identity of the pairs' names and sizes."""
        self.images, self.masks, self.rule = images, masks, rule
        self.num_classes = rule.num_classes
        self.classes = tuple(classes) if classes else None
        self.notes = tuple(notes)
        self.location = f"{images.location} with {masks.location}"
        self.stamps = _joined(images.stamps, masks.stamps)
        self.nbytes = images.nbytes + masks.nbytes + _LENGTH * len(self.stamps)
        self.random_access = images.random_access and masks.random_access
        self.source_id = digest("masks", listing_id, rule.identity)
        self.meaning = rule.identity
        self.labels = np.zeros(len(self.stamps), np.int64)
        self._count = len(self.stamps)  # stamps are taken away before loader processes start
        images.stamps = masks.stamps = self.stamps[:0]

    def __len__(self) -> int:
        return self._count

    def where(self, index: int) -> str:
        return self.images.where(index)

    def image(self, index: int) -> Image.Image:
        return decode(self.images.encoded(index), self.images.where(index))

    def mask(self, index: int) -> np.ndarray:
        return self._labels(self.masks.encoded(index), index)

    def values(self, index: int) -> np.ndarray:
        """What mask `index` stores, before the rule. Raises as `decode_mask`."""
        return decode_mask(self.masks.encoded(index), self.masks.where(index))

    def pair(self, index: int) -> tuple[Image.Image, np.ndarray]:
        return self.decoded(self.encoded(index), index)

    def encoded(self, index: int) -> bytes:
        """An image's length, the image file and the mask file: what identities are made of."""
        image = self.images.encoded(index)
        return len(image).to_bytes(_LENGTH, "little") + image + self.masks.encoded(index)

    def decoded(self, content: bytes, index: int) -> tuple[Image.Image, np.ndarray]:
        """The pair whose `encoded` content lies elsewhere, such as in a copy."""
        end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
        image = decode(content[_LENGTH:end], self.images.where(index))
        labels_HW = self._labels(content[end:], index)
        if labels_HW.shape != image.size[::-1]:
            raise BadImage.of(f"{self.masks.where(index)} {sizes(labels_HW.shape, image.size)}")
        return image, labels_HW

    def _labels(self, content: bytes, index: int) -> np.ndarray:
        where = self.masks.where(index)
        try:
            return self.rule(decode_mask(content, where))
        except ValueError as error:
            raise UnknownLabels(f"{where} has {error}") from None


def sizes(of_mask: tuple[int, ...], of_image: tuple[int, int]) -> str:
    """What to say of a mask [H, W] that has not its image's (width, height)."""
    return (
        f"has {of_mask[1]} × {of_mask[0]} pixels, and its image {of_image[0]} × {of_image[1]} as "
        "it is stored"
    )


def content_id(images: MaskedSet) -> str:
    """Identity of images, masks and what their values mean, in order; 16 hex digits.

    Of pairs that lie in files it covers every byte of both, whatever their names; others have an
    identity of their own. Raises UserError where a file cannot be read.
    """
    if not isinstance(images, MaskedImages):
        return images.source_id
    hashes = hashlib.sha256(content_hashes(images).tobytes()).hexdigest()
    return digest("masks", CONTENT_VERSION, hashes, images.rule.identity)


def spot_check(images: MaskedSet) -> str:
    """Identity of a few pairs, as of `content.spot_check`."""
    if not isinstance(images, MaskedImages):
        return images.source_id
    return file_spot_check(images, len(images))


def _joined(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """int64 [N, 5]: one stamp for each pair; it changes with any part of either.

    The first number is a hash of both stamps; the size is that of both, the times the later ones.
    """
    both = np.ascontiguousarray(np.concatenate([images, masks], axis=1))
    hashes = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in both)
    return np.column_stack(
        [
            np.frombuffer(hashes, np.int64),
            images[:, 1] + masks[:, 1],
            np.maximum(images[:, 2:4], masks[:, 2:4]),
            images[:, 4],
        ]
    )
