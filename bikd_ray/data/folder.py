"""A folder with one sub-folder of images for each class, or with a file of labels."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bikd_ray.data.decode import SHOWN_EXTENSIONS
from bikd_ray.data.exclusions import LeftOut, is_hidden, is_image, listed
from bikd_ray.data.label_file import read_labels
from bikd_ray.data.labels import NO_LABEL, class_order
from bikd_ray.data.names import Names, array_digest
from bikd_ray.data.tree import Listing, TreeFiles, list_images
from bikd_ray.errors import UserError
from bikd_ray.identity import digest
from bikd_ray.specs import NO_LABELS

_LISTERS = 16


class FolderImages(TreeFiles):
    """`root/CLASS/**/image.jpg`; classes and files in sorted order, links followed.

    With `labels`, a file of `label_file` or NO_LABELS for none, the images are all those below
    root. Raises UserError for a folder that is missing, unreadable or without images.
    """

    def __init__(self, root: str, labels: str | None = None) -> None:
        if not os.path.isdir(root):
            raise UserError(
                f"data: {root} is not a folder; give the folder that holds one sub-folder a class"
            )
        left = LeftOut()
        try:
            found = [""] if labels else _class_folders(root, left)
            # on a network disk nearly all the time is waiting for the sizes
            with ThreadPoolExecutor(_LISTERS) as pool:
                listings = list(pool.map(lambda name: list_images(root, name, labels), found))
        except OSError as error:
            raise UserError(f"data: cannot read {error.filename}: {error.strerror}") from None
        left.merge(listing.left for listing in listings)
        names = [name for listing in listings for name in listing.names]
        if not names:
            hint = "; where a file has the labels, set labels: FILE" if _LOOSE in left.first else ""
            where = f"{root}/{'' if labels else 'CLASS/'}IMAGE"
            raise UserError(
                f"data: no images under {root}; expected {where} "
                f"with one of {SHOWN_EXTENSIONS}{hint}"
            )
        super().__init__(root, names, np.concatenate([listing.stamps for listing in listings]))
        if labels == NO_LABELS:
            self.labels, self.classes, notes = np.full(len(names), NO_LABEL), None, ()
        elif labels:
            self.labels, self.classes, notes = read_labels(labels, names)
        else:
            counts = [len(listing.names) for listing in listings]
            self.labels, self.classes = np.repeat(np.arange(len(found)), counts), tuple(found)
            notes = _odd_classes(found, counts, left)
        self.notes = left.notes + notes
        self.source_id = _listing_id(found, listings, None if not labels else self.labels)


_LOOSE = "image{s} in no class folder"


def _class_folders(root: str, left: LeftOut) -> tuple[str, ...]:
    """The sub-folders of `root` in label order; the rest that lies there is counted in `left`."""
    found = []
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if is_hidden(entry.name):
                left.hidden(entry.name)
            elif entry.is_dir():
                found.append(entry.name)
            elif is_image(entry.name):
                left.add(_LOOSE, entry.name)
            else:
                left.other(entry.name)
    return class_order(found)


def _odd_classes(found: Sequence[str], counts: list[int], left: LeftOut) -> tuple[str, ...]:
    """What a person should know of the class folders."""
    notes = []
    if empty := [name for name, count in zip(found, counts, strict=True) if not count]:
        notes.append(f"no image in class folder{'s' * (len(empty) > 1)} {listed(empty)}")
    if len(found) == 1:
        file = next((first for kind, first in left.first.items() if kind != _LOOSE), "a file")
        notes.append(
            f"all images are of one class, the folder {found[0]!r}; if {file} has their labels, "
            "set labels: to it"
        )
    return tuple(notes)


def _listing_id(
    found: Sequence[str], listings: Sequence[Listing], labels: np.ndarray | None
) -> str:
    """Identity of names, sizes and labels, with the classes in the order of text: as stores of
    version 1 have it, whatever the order of labels is now. labels: where a file gives them.
    """
    at = sorted(range(len(found)), key=lambda k: found[k])
    ordered = [listings[k] for k in at]
    if labels is None:
        labels = np.repeat(np.arange(len(found)), [len(listing.names) for listing in ordered])
    return digest(
        "folder",
        [found[k] for k in at],
        Names(name for listing in ordered for name in listing.names).digest(),
        array_digest(np.concatenate([listing.stamps[:, 1] for listing in ordered])),
        array_digest(labels),
    )
