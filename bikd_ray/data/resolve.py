"""Open the data of a spec and check that its parts agree."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from bikd_ray.data.content import content_hashes, content_id, spot_check
from bikd_ray.data.folder import FolderImages
from bikd_ray.data.further import DataClasses, opened_set, refuse_train, resolved_set
from bikd_ray.data.labels import Names
from bikd_ray.data.sampled import refuse_all_bad
from bikd_ray.data.sources import EncodedImages, ImageSet
from bikd_ray.errors import BikdError, UserError
from bikd_ray.identity import derived_seed, digest
from bikd_ray.plan import FurtherSet, ResolvedData, ResolvedSplit
from bikd_ray.specs import Data, DataSource, labelled
from bikd_ray.tasks import DEFAULT, task_of
from bikd_ray.tasks.base import Task

SPLITS = ("train", "val")


def resolve_data(data: Data, task: str = DEFAULT) -> ResolvedData:
    """Count, hash and check the images of a spec. Raises UserError where they disagree."""
    opener = task_of(task)
    opened = {split: opener.open(getattr(data, split)) for split in SPLITS}
    known = {s: images for s, images in opened.items() if labelled(getattr(data, s))}
    if len(known) < len(opened) and opener.rendering:
        raise UserError(
            f"data.train: labels: none is for tasks whose targets are labels, and {opener.name} "
            "renders its own"
        )
    space = opener.label_space(known, data)
    if data.on_bad_image == "skip":
        for split, images in opened.items():
            refuse_all_bad(split, images)
    hashes = {
        split: content_hashes(images) if isinstance(images, EncodedImages) else None
        for split, images in opened.items()
    }
    train, val = (
        _resolved(opener, images, space.classes, hashes[split]) for split, images in opened.items()
    )
    said = [f"{split}: {note}" for split, images in opened.items() for note in images.notes]
    if "train" not in known:
        said.append(
            f"train: {train.count:,} images without labels: a control by cross-entropy cannot be, "
            "so net Δ is against the untouched models (Δ 0 by definition)"
        )
    classes = DataClasses(space.num_classes, space.classes)
    further = {name: _further(name, data, opener, opened["train"], hashes["train"], classes)
               for name in data.eval}  # fmt: skip
    said += [note for _, notes in further.values() for note in notes]
    other = () if task == DEFAULT else (task,)
    return ResolvedData(
        data=data,
        data_id=digest("data", train.content_id, val.content_id, space.num_classes, *other),
        unit_set_id=digest("samples", val.content_id),
        train=train,
        val=val,
        num_classes=space.num_classes,
        classes=space.classes,
        notes=(*said, *space.notes, *_in_both(opened, hashes)),
        class_order=space.order,
        task=task,
        eval={name: part for name, (part, _) in further.items()},
    )


def _further(
    name: str,
    data: Data,
    task: Task,
    train: ImageSet,
    of_train: np.ndarray | None,
    classes: DataClasses,
) -> tuple[FurtherSet, list[str]]:
    """A set of `data.eval`, and what a person should know of it."""
    where, source = f"data.eval.{name}", data.eval[name]
    try:
        images = task.open(source)
        if data.on_bad_image == "skip":
            refuse_all_bad(f"eval.{name}", images)
    except UserError as error:
        said = str(error).removeprefix(f"{where}: ").removeprefix("data: ")
        raise UserError(f"{where}: {said}") from None
    said = [f"{name}: {note}" for note in images.notes]
    hashes = content_hashes(images) if isinstance(images, EncodedImages) else None
    both = refuse_train(where, images, hashes, train, of_train)
    part, notes = resolved_set(where, images, classes, source.classes, hashes, task)
    return part, [*said, *both, *notes]


def _resolved(
    task: Task, images: ImageSet, classes: Names | None, hashes: np.ndarray | None
) -> ResolvedSplit:
    own = images.labels
    task.relabel(images, classes)
    return ResolvedSplit(
        count=len(own),
        content_id=content_id(images, hashes),
        listing_id=images.source_id,
        spot_id=spot_check(images),
        renumbered=images.labels is not own or _by_number(images),
    )


def _in_both(opened: Mapping[str, ImageSet], hashes: Mapping[str, np.ndarray | None]) -> list[str]:
    """What to say of val images that are also trained on, byte for byte."""
    val, of_train, of_val = opened["val"], hashes["train"], hashes["val"]
    if of_train is None or of_val is None:
        same = opened["train"].source_id == val.source_id
        return ["train and val are the same images"] if same else []
    train_8, val_8 = (found.view(np.uint64)[:, 0] for found in (of_train, of_val))  # 64 bits tell
    both = np.flatnonzero(np.isin(val_8, train_8))
    if not len(both) or not isinstance(val, EncodedImages):
        return []
    return [
        f"{len(both):,} of {len(val.labels):,} val images are in train too, first "
        f"{val.where(int(both[0])).removeprefix('data: ')}: models are measured on what they learn"
    ]


def _by_number(images: ImageSet) -> bool:
    """Whether the class folders have another order than that of text, which version 1 took."""
    classes = list(images.classes or ()) if isinstance(images, FolderImages) else []
    return classes != sorted(classes)


def open_split(data: ResolvedData, split: str) -> ImageSet:
    """The images of `train`, `val` or a further set by its name, opened once for each process.

    Of a further set those with a label. Raises BikdError where they are not those that were
    planned with.
    """
    source: Any  # frozen, so hashable; no checker sees that
    if split in data.eval:
        source = data.data.eval[split]
        return _opened_further(source, data.eval[split], data.classes, split, data.task)
    source = getattr(data.data, split)
    return _opened(source, getattr(data, split), data.classes, split, data.task)


def _as_planned(source: DataSource, planned: ResolvedSplit, where: str, task: Task) -> ImageSet:
    images = task.open(source)
    if (images.source_id, spot_check(images)) != (planned.listing_id, planned.spot_id):
        raise BikdError(
            f"{where}: {getattr(source, 'path', source.source)} on this node is not what was "
            "planned with; it changed since, or this node has another copy"
        )
    return images


@lru_cache(maxsize=8)
def _opened_further(
    source: DataSource, planned: FurtherSet, classes: Names | None, name: str, task: str
) -> ImageSet:
    opener = task_of(task)
    images = _as_planned(source, planned.split, f"data.eval.{name}", opener)
    return opened_set(images, planned, classes, opener)


@lru_cache(maxsize=4)
def _opened(
    source: DataSource, planned: ResolvedSplit, classes: Names | None, split: str, task: str
) -> ImageSet:
    opener = task_of(task)
    images = _as_planned(source, planned, f"data.{split}", opener)
    opener.relabel(images, classes)
    images.source_id = planned.content_id  # what caches of it are called
    if isinstance(images, EncodedImages):
        images.stamps = images.stamps[:0]  # not to be sent to each loader process
    return images


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
