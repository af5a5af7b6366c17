"""What `bikd check` says of masks, from a sample of each split: the traps of label files."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image

from bikd_ray.data.decode import BadImage
from bikd_ray.data.exclusions import listed
from bikd_ray.data.masks.decode import ColouredMask, MaskFormat
from bikd_ray.data.masks.masked import MaskedImages, MaskedSet, UnknownLabels, sizes
from bikd_ray.data.masks.rule import IGNORED
from bikd_ray.data.sampled import spread
from bikd_ray.errors import UserError

_UPRIGHT, _TURNED = 1, 5
"""EXIF's orientation: as stored; from the second on width and height change places."""

_KINDS = {
    BadImage: "do not decode",
    UnknownLabels: "have masks with values that are no class",
    ColouredMask: "have masks in colours",
    MaskFormat: "have masks that are no PNG",
}


@dataclass
class MaskFindings:
    """problems: what stops a sweep, or makes its scores meaningless. remarks: what a person should
    know. A line for each kind of thing.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Seen:
    looked_at: int = 0
    pixels: Counter[int] = field(default_factory=Counter)  # of each label
    empty: list[str] = field(default_factory=list)  # masks with every pixel ignored
    turned: list[str] = field(default_factory=list)  # images whose EXIF turns them
    wrong: dict[str, list[str]] = field(default_factory=dict)  # kind: messages
    stored: set[int] = field(default_factory=set)  # values, before the rule


def check_masks(split: str, images: MaskedSet) -> MaskFindings:
    """Decode a sample of pairs and say what is odd about them, each line with the split's name."""
    seen = _Seen()
    for index in spread(len(images)):
        seen.looked_at += 1
        _look(images, index, seen)
    found = MaskFindings()
    for kind, lines in seen.wrong.items():
        what = f"{len(lines)} of {seen.looked_at} pairs looked at {kind}: "
        found.problems.append(f"data.{split}: {what}{lines[0].removeprefix('data: ')}")
    if not seen.pixels:
        return found
    total, kept = seen.pixels.total(), [label for label in sorted(seen.pixels) if label != IGNORED]
    if not kept:
        found.problems.append(
            f"data.{split}: every pixel of the {seen.looked_at} masks looked at is ignored"
        )
        return found
    if len(kept) == 1:
        found.remarks.append(f"{split}: {_single(images, kept[0], seen)}")
    ignored = seen.pixels[IGNORED] / total
    of = f"the {seen.looked_at} masks looked at"
    found.remarks.append(f"{split}: {ignored:.1%} of the pixels of {of} are ignored")
    if missing := sorted(set(range(images.num_classes)) - set(kept)):
        named = listed(_called(images, label) for label in missing)
        found.remarks.append(
            f"{split}: {len(missing):,} of {images.num_classes:,} classes are in none of {of}: "
            f"{named}"
        )
    if seen.empty:
        found.remarks.append(
            f"{split}: {len(seen.empty)} of {of} ignore every pixel, such as {seen.empty[0]}; "
            "nothing is learnt from them"
        )
    if seen.turned:
        found.remarks.append(
            f"{split}: {len(seen.turned)} of {seen.looked_at} images looked at are to be shown "
            f"turned (EXIF), such as {seen.turned[0]}; pixels are used as they are stored, so "
            "masks must be drawn on those"
        )
    return found


def _look(images: MaskedSet, index: int, seen: _Seen) -> None:
    try:
        image = images.image(index)
        labels_HW = images.mask(index)
    except UserError as error:
        kind = next(
            (said for of, said in _KINDS.items() if isinstance(error, of)), "cannot be read"
        )
        what = error.what if isinstance(error, BadImage) else str(error)
        seen.wrong.setdefault(kind, []).append(what)
        return
    where = images.where(index).removeprefix("data: ")
    turn = _orientation(images, index)
    if labels_HW.shape != image.size[::-1]:
        seen.wrong.setdefault("differ in size", []).append(
            _differ(images, index, labels_HW.shape, image.size, turn)
        )
        return
    if turn != _UPRIGHT:
        seen.turned.append(where)
    labels, counts = np.unique(labels_HW, return_counts=True)
    seen.pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    if labels.tolist() == [IGNORED]:
        seen.empty.append(where)
    stored = np.unique(images.values(index)) if isinstance(images, MaskedImages) else labels
    seen.stored.update(stored.tolist())


def _differ(
    images: MaskedSet, index: int, shape: Sequence[int], size: tuple[int, int], turn: int
) -> str:
    named = images.masks.where(index) if isinstance(images, MaskedImages) else images.where(index)
    said = f"{named} {sizes(tuple(shape), size)}"
    if turn >= _TURNED and tuple(shape) == size:
        return (
            f"{said}: the mask was drawn on the image as EXIF turns it (orientation {turn}); turn "
            "the image's own pixels, or the mask back"
        )
    return f"{said}; make the mask anew at the image's size, by nearest neighbours if it must be"


def _orientation(images: MaskedSet, index: int) -> int:
    if not isinstance(images, MaskedImages):
        return _UPRIGHT
    try:
        with Image.open(io.BytesIO(images.images.encoded(index))) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT))
    except Exception:  # the pixels decoded: what is damaged is what is said about them
        return _UPRIGHT


def _single(images: MaskedSet, label: int, seen: _Seen) -> str:
    """What to say where nothing can be told apart."""
    said = (
        f"{_called(images, label)} is the only class in the {seen.looked_at} masks looked at; "
        "beside ignored pixels any model that says it scores 100%"
    )
    if seen.stored == {0, 255}:
        return f"{said}. The masks store 0 and 255: for two classes set label_map: {{0: 0, 255: 1}}"
    return f"{said}: give masks of two classes at least, such as the background as one"


def _called(images: MaskedSet, label: int) -> str:
    names = images.classes or ()
    return f"{label} ({names[label]})" if label < len(names) else f"class {label}"
