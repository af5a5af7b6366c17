"""Further labelled sets, on which models are only measured, in the classes of the data.

Such a set may have fewer classes, others that stand for the data's, several right labels an image,
and images without any. Suffixes: N images, M right labels of an image at most (filled up with -1).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bikd_ray.data.content import content_id, spot_check
from bikd_ray.data.labels import Names, placed
from bikd_ray.data.sources import EncodedImages, ImageSet, Subset
from bikd_ray.errors import UserError, choices
from bikd_ray.identity import digest
from bikd_ray.plan import FurtherSet, ResolvedSplit
from bikd_ray.specs.data import ClassMap

if TYPE_CHECKING:
    from bikd_ray.tasks.base import Task


@dataclass(frozen=True)
class Placing:
    """Where a set's classes stand among the data's; see `FurtherSet`. notes: what to say of it."""

    places: tuple[int, ...] | None = None
    kept: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataClasses:
    """The data's classes: how many, and their names where these are known."""

    count: int
    names: Names | None = None


# -- classes ---------------------------------------------------------------------------


def placing(
    where: str, labels: np.ndarray, names: Names | None, data: DataClasses, given: ClassMap | None
) -> Placing:
    """Bring a set's classes into the data's, by what the spec says or else by their names.

    labels: int64 [N] or [N, M] as the set has them, -1 for none; names: of its classes in their
    order, where it knows them. Raises UserError, which says `where`, for a class without a place.
    """
    if not names and given is None:
        return _by_number(where, labels, data)
    highest = int(labels.max())
    count = len(names) if names else highest + 1
    used = np.unique(labels[labels >= 0]).tolist()
    called = names or tuple(map(str, range(count)))
    if given is None:
        assert names is not None
        found, notes = _by_name(where, names, data)
    else:
        found, notes = _as_given(where, called, named=names is not None, data=data, given=given)
    if missing := [called[k] for k in used if k not in found]:
        raise UserError(
            f"{where}.classes leaves out {len(missing):,} of the set's {count:,} classes, such as "
            f"{missing[0]!r}; give a class of the data for each of them"
        )
    places = tuple(found.get(k, -1) for k in range(max(count, max(found) + 1)))
    kept = tuple(sorted(set(found.values())))
    empty = len(kept) - len({places[k] for k in used})
    if empty:
        notes = (*notes, f"{where} has no image of {empty:,} of its {len(kept):,} classes")
    if len(kept) == data.count:
        same = places[:count] == tuple(range(count))
        return Placing(None if same else places, None, notes)
    few = f"{where} has {len(kept):,} of the data's {data.count:,} classes: models choose among"
    return Placing(places, kept, (*notes, f"{few} these, and their other outputs are left out"))


def _by_number(where: str, labels: np.ndarray, data: DataClasses) -> Placing:
    outside = np.argwhere(labels >= data.count)
    if len(outside):
        first = tuple(outside[0])
        raise UserError(
            f"{where}: sample {first[0]} has label {labels[first]}, outside the {data.count} "
            f"classes 0–{data.count - 1} of the data; say with classes: which is which"
        )
    empty = data.count - len(np.unique(labels[labels >= 0]))
    if not empty:
        return Placing()
    return Placing(
        notes=(
            f"{where} has no image of {empty:,} of the data's {data.count:,} classes, and nothing "
            "names its own: models may answer all of them; give classes: to leave some out",
        )
    )


def _by_name(where: str, names: Names, data: DataClasses) -> tuple[dict[int, int], tuple[str, ...]]:
    """Label -> class of the data, by the names of both."""
    found = placed(names, data.names or ())
    if len(found.places) == len(names):
        return found.places, ()
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    if not found.places and len(numbers) == len(names) and max(numbers) < data.count:
        note = f"{where}: its classes are called by numbers, taken for those of the data's classes"
        return dict(enumerate(numbers)), (note,)
    if not data.names:
        raise UserError(
            f"{where} names its classes ({names[0]!r}, …) and the data does not; say with classes: "
            "which class of the data each of them is, by its number"
        )
    label = next(k for k in range(len(names)) if k not in found.places)
    raise UserError(
        f"{where}: class {names[label]!r} of the set is no class of the data, or of two; "
        f"{choices(names[label], data.names)}; say with classes: which class of the data each is"
    )


def _as_given(
    where: str, called: Names, *, named: bool, data: DataClasses, given: ClassMap
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Label -> class of the data, by the spec's list or mapping."""
    where = f"{where}.classes"
    known = _of_file(where, given) if isinstance(given, str) else given
    if known and isinstance(known[0], str):
        if len(known) != len(called) if named else len(known) < len(called):
            raise UserError(
                f"{where} lists {len(known):,} classes, and the set has {len(called):,}; give one "
                "for each class of the set, in their order"
            )
        keys, values = list(range(len(known))), [str(value) for value in known]
    else:
        pairs = [pair for pair in known if not isinstance(pair, str)]
        own = _looked_up([key for key, _ in pairs], called if named else None, len(called))
        unknown = [k for (k, _), at in zip(pairs, own, strict=True) if at is None]
        if unknown and named:
            raise UserError(
                f"{where}: {unknown[0]!r} is no class of the set; {choices(unknown[0], called)}"
            )
        kept = [(at, v) for (_, v), at in zip(pairs, own, strict=True) if at is not None]
        keys, values = [at for at, _ in kept], [value for _, value in kept]
    found = _looked_up(values, data.names, data.count)
    for value, at in zip(values, found, strict=True):
        if at is None:
            names = data.names or [f"0–{data.count - 1}"]
            raise UserError(f"{where}: {value!r} is no class of the data; {choices(value, names)}")
    return {key: at for key, at in zip(keys, found, strict=True) if at is not None}, ()


def _looked_up(wanted: Sequence[str], names: Names | None, count: int) -> list[int | None]:
    """The place of each name, WordNet id or number among `count` classes; None: it is unknown."""
    at = {name: place for place, name in enumerate(names or ())}
    rest = tuple(dict.fromkeys(name for name in wanted if name not in at))
    if names and rest:
        at |= {rest[k]: place for k, place in placed(rest, names).places.items()}
        for name in rest:  # of a vocabulary that the others do not have
            if name not in at and (one := placed((name,), names).places):
                at[name] = one[0]
    for name in rest:
        if name not in at and name.isascii() and name.isdecimal() and int(name) < count:
            at[name] = int(name)
    return [at.get(name) for name in wanted]


def _of_file(where: str, path: str) -> tuple[tuple[str, str], ...] | tuple[str, ...]:
    """The list or mapping of a file: a class a line, or JSON. Raises UserError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
        if not path.endswith(".json"):
            found = tuple(line.strip() for line in text.splitlines() if line.strip())
        elif isinstance(content := json.loads(text), dict):
            found = tuple((key, _one(value)) for key, value in content.items())
        else:
            found = tuple(map(_one, content))
    except OSError as error:
        raise UserError(f"{where}: cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, RecursionError):
        found = ()
    if not found:
        raise UserError(
            f"{where}: {path} is no list or mapping of classes; give a text file with a class of "
            "the data a line, or JSON: a list, or a mapping from the set's classes"
        )
    return found


def _one(value: object) -> str:
    first = value[0] if isinstance(value, list) else value  # [WordNet id, word]
    if isinstance(first, bool) or not isinstance(first, str | int):
        raise TypeError(value)
    return str(first)


# -- images ----------------------------------------------------------------------------


def moved(labels: np.ndarray, places: Sequence[int] | None) -> np.ndarray:
    """Labels in the data's classes; -1 stays no label."""
    if places is None:
        return labels
    table = np.array([*places, -1], np.int64)  # the last is found by -1
    return table[labels]


def labelled_rows(labels: np.ndarray) -> np.ndarray:
    """The images that have a label."""
    has_N = labels >= 0 if labels.ndim == 1 else (labels >= 0).any(1)
    return np.flatnonzero(has_N)


def resolved_set(
    where: str,
    images: ImageSet,
    data: DataClasses,
    given: ClassMap | None,
    hashes: np.ndarray | None,
    task: "Task",
) -> tuple[FurtherSet, tuple[str, ...]]:
    """A set as nodes must find it, and what to say of it; its labels become the data's.

    hashes: of its images, where they are files. Where labels are not what the task measures by,
    they are taken as those of val are. Raises UserError where they do not fit.
    """
    raw, listing, maps = images.labels, images.source_id, task.labels_are_targets
    if not maps and (given is not None or raw.ndim > 1):
        what = "classes:" if given is not None else "lists of labels"
        raise UserError(f"{where}: this task measures by no labels, so it takes no {what}")
    if maps and (bad := np.argwhere(raw < -1)).size:
        raise UserError(f"{where}: sample {bad[0][0]} has label {raw[tuple(bad[0])]}")
    if maps and not len(labelled_rows(raw)):
        raise UserError(f"{where}: none of its {len(raw):,} images has a label")
    found = placing(where, raw, images.classes, data, given) if maps else Placing()
    rows = _brought(images, found.places, data.names, task)
    notes = list(found.notes)
    if len(rows) < len(raw):
        left = len(raw) - len(rows)
        notes.append(f"{where}: {left:,} of {len(raw):,} images have no label and are left out")
    held = np.unique(images.labels[images.labels >= 0]) if maps else ()
    if len(held) == 1 and len(rows) > 1:
        raise UserError(f"{where}: all its {len(rows):,} images are of class {held[0]}")
    content = content_id(images, hashes)
    split = ResolvedSplit(len(raw), content, listing, spot_check(images))
    among = [] if found.kept is None else [list(found.kept)]
    units = digest("samples", content, *among)
    return FurtherSet(split, units, len(rows), found.places, found.kept), tuple(notes)


def refuse_train(
    where: str,
    images: ImageSet,
    hashes: np.ndarray | None,
    train: ImageSet,
    of_train: np.ndarray | None,
) -> tuple[str, ...]:
    """What to say of images that are also trained on. Raises UserError where all of them are."""
    if hashes is None or of_train is None:
        same = int(images.source_id == train.source_id) * len(images.labels)
    else:
        mine, theirs = (found.view(np.uint64)[:, 0] for found in (hashes, of_train))
        same = int(np.isin(mine, theirs).sum())
    if same == len(images.labels):
        raise UserError(
            f"{where} is the same images as data.train: models would be measured on what they "
            "learn; give images of another split"
        )
    if not same:
        return ()
    return (f"{where}: {same:,} of its {len(images.labels):,} images are in train too",)


def _brought(
    images: ImageSet, places: Sequence[int] | None, names: Names | None, task: "Task"
) -> np.ndarray:
    """Give a set the data's labels; the rows that are measured."""
    if not task.labels_are_targets:
        task.relabel(images, names)
        return np.arange(len(images.labels))
    images.labels = moved(images.labels, places)
    return labelled_rows(images.labels)


def opened_set(images: ImageSet, part: FurtherSet, names: Names | None, task: "Task") -> ImageSet:
    """A set's images with a label, in the data's classes."""
    rows = _brought(images, part.places, names, task)
    images.source_id = part.split.content_id
    if isinstance(images, EncodedImages):
        images.stamps = images.stamps[:0]  # not to be sent to each loader process
    return images if len(rows) == len(images.labels) else Subset(images, rows)
