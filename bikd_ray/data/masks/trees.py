"""Images in one tree of folders and their masks in another, under the same names."""

import os
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from bikd_ray.data.exclusions import LeftOut
from bikd_ray.data.masks.masked import MaskedImages
from bikd_ray.data.masks.rule import LabelRule
from bikd_ray.data.masks.shifted import refuse_second_shift
from bikd_ray.data.names import Names, array_digest
from bikd_ray.data.tree import Listing, TreeFiles, list_images
from bikd_ray.errors import UserError
from bikd_ray.identity import digest


def mask_trees(
    images: str,
    masks: str,
    rule: LabelRule,
    *,
    image_suffix: str = "",
    mask_suffix: str = "",
    classes: Sequence[str] | None = None,
) -> MaskedImages:
    """`images/a/b.jpg` with `masks/a/b.png`, and so on; images in sorted order, links followed.

    image_suffix, mask_suffix: what follows the common part of a name, such as `_mask`; files
    without it are none of the set. What has no partner is left out, and said in `notes`. Raises
    UserError where there are no pairs, or two files of one name, or labels shifted already.
    """
    return refuse_second_shift(
        pairs(
            _tree(images),
            _tree(masks),
            rule,
            suffixes=(image_suffix, mask_suffix),
            classes=classes,
            partial=True,
        )
    )


def pairs(
    images: tuple[str, Listing],
    masks: tuple[str, Listing],
    rule: LabelRule,
    *,
    suffixes: tuple[str, str] = ("", ""),
    classes: Sequence[str] | None = None,
    only: Collection[str] | None = None,
    partial: bool = False,
) -> MaskedImages:
    """The pairs of two listed trees (root, what `list_images` found).

    only: the names, without folder's root and extension, of those that are wanted. partial: say
    what was left out of the listings, which in a known layout has reasons of its own.
    """
    roots = [images[0], masks[0]]
    rows = [
        _by_name(root, listing.names, suffix)
        for (root, listing), suffix in zip((images, masks), suffixes, strict=True)
    ]
    left = LeftOut()
    if partial:
        left.merge((images[1].left, masks[1].left))
    wanted = rows[0] if only is None else dict.fromkeys(only)
    names = [name for name in wanted if name in rows[0] and name in rows[1]]
    if not names:
        raise UserError(
            f"data: no image of {roots[0]} has a mask of the same name in {roots[1]} "
            f"({_example(rows[0], 'image')}; {_example(rows[1], 'mask')}); give the two folders "
            "below which the names agree, but for the extension"
        )
    notes = list(left.notes)
    if only is None:
        notes += _alone(rows[0], rows[1], "image", "mask")
        notes += _alone(rows[1], rows[0], "mask", "image")
    elif missing := [name for name in wanted if name not in names]:
        what = "image" if missing[0] not in rows[0] else "mask"
        raise UserError(
            f"data: {missing[0]} is listed, but has no {what} in "
            f"{roots[what == 'mask']} ({len(missing):,} of {len(wanted):,} lack one)"
        )
    of_images, of_masks = (
        _chosen(root, listing, [by_name[name] for name in names])
        for (root, listing), by_name in zip((images, masks), rows, strict=True)
    )
    sizes = np.concatenate([of_images.stamps[:, 1], of_masks.stamps[:, 1]])
    listing_id = digest("pairs", Names(names).digest(), array_digest(sizes))
    return MaskedImages(
        of_images, of_masks, rule, listing_id=listing_id, classes=classes, notes=notes
    )


def _chosen(root: str, listing: Listing, rows: list[int]) -> TreeFiles:
    return TreeFiles(root, [listing.names[row] for row in rows], listing.stamps[rows])


def listed_tree(root: str, what: str) -> tuple[str, Listing]:
    """A folder and the images below it. Raises UserError, which says `what` is expected there."""
    if not os.path.isdir(root):
        raise UserError(f"data: {root} is not a folder; {what}")
    try:
        return root, list_images(root)
    except OSError as error:
        raise UserError(f"data: cannot read {error.filename}: {error.strerror}") from None


def _tree(root: str) -> tuple[str, Listing]:
    return listed_tree(root, "give the folder of images and that of their masks")


def _by_name(root: str, files: Iterable[str], suffix: str) -> dict[str, int]:
    """Row of each file by its path without extension and suffix."""
    rows: dict[str, int] = {}
    paths: list[str] = []
    for row, path in enumerate(files):
        paths.append(path)
        stem = os.path.splitext(path)[0]
        if not stem.endswith(suffix):
            continue
        name = stem.removesuffix(suffix)
        if name in rows:
            raise UserError(
                f"data: {root} holds {paths[rows[name]]} and {path}, two files of one name; "
                "remove one"
            )
        rows[name] = row
    return rows


def _alone(these: dict[str, int], others: dict[str, int], what: str, partner: str) -> list[str]:
    alone = [name for name in these if name not in others]
    if not alone:
        return []
    one = len(alone) == 1
    return [
        f"left out {len(alone):,} {what}{'' if one else 's'} without {_a(partner)}, such as "
        f"{alone[0]}"
    ]


def _a(what: str) -> str:
    return f"a{'n' * (what == 'image')} {what}"


def _example(rows: dict[str, int], what: str) -> str:
    return f"{_a(what)} is {next(iter(rows))!r}" if rows else f"no {what}"
