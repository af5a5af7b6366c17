"""Class names and their order: everything that is known of it, compared by the same rules.

Which class label 3 is may be said by folder names, by a data set's own list of names, by WordNet
ids, by the model, or by nobody. Sources whose labels come from names (folders, tars, columns of
text) share `class_order`; what several parts say is compared by `placed`.
"""

import contextlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bikd_ray.errors import UserError

if TYPE_CHECKING:  # seconds to load, and few commands ask for these names
    from timm.data.imagenet_info import ImageNetInfo

Names = tuple[str, ...]

FIX = "name the classes in the order of the models' outputs with data.classes"
NO_LABEL = -1
"""Of an image that nobody has labelled."""

_SYNSET = re.compile(r"n[0-9]{8}")

_NAMED = 3
"""Classes that a message names."""


def class_order(names: Iterable[str]) -> Names:
    """Distinct class names in label order: runs of digits count as numbers, upper case as lower.

    It is timm's order for folders and tars. torchvision's is that of text, in which 10 comes before
    2; where both differ, `order_note` says so.

    >>> class_order(["10", "2", "b", "A"])
    ('2', '10', 'A', 'b')
    """
    return tuple(sorted(set(names), key=lambda name: (_natural(name), name)))


def _natural(name: str) -> list[int | str]:
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def class_list(given: Sequence[str] | str) -> Names:
    """The names that `data.classes` gives: the list itself, or that of a file.

    A text file has a name a line; JSON a list, or what maps each label to a name or to [WordNet id,
    word] (as `imagenet_class_index.json` does). Raises UserError.
    """
    if not isinstance(given, str):
        return tuple(given)
    try:
        text = Path(given).read_text(encoding="utf-8-sig")
        if not given.endswith(".json"):
            names = [line.strip() for line in text.splitlines() if line.strip()]
        elif isinstance(content := json.loads(text), dict):
            first = [content[str(label)] for label in range(len(content))]
            names = [name if isinstance(name, str) else name[0] for name in first]
        else:
            names = content
    except OSError as error:
        raise UserError(f"data.classes: cannot read {given}: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        names = []
    if (
        not isinstance(names, list)
        or len(names) < 2
        or not all(isinstance(name, str) for name in names)
    ):
        raise UserError(
            f"data.classes: {given} is no list of at least 2 class names; give a text file with a "
            "name a line, or JSON: a list, or a mapping of each label from 0 to its name"
        )
    return tuple(names)


def is_ordered(names: Sequence[str]) -> bool:
    """Whether a list may have come from sorting its names, by number or as text."""
    return list(names) in (list(class_order(names)), sorted(set(names)))


def order_note(names: Names) -> str | None:
    """What to say of a natural order that is not that of text; None where they agree."""
    text = sorted(names)
    if list(names) != list(class_order(names)) or list(names) == text:
        return None
    at = next(i for i, (a, b) in enumerate(zip(names, text, strict=True)) if a != b)
    return (
        f"classes are in natural order, as timm sorts them: class {at} is {names[at]!r} (sorted as "
        f"text, as torchvision does, it would be {text[at]!r}); data.classes gives another order"
    )


@lru_cache(maxsize=16)
def vocabularies(names: Names) -> tuple[Names, ...]:
    """The names as they are, and in each other form in which somebody may write them.

    Without case and separators; and where all are WordNet ids (n01440764), in ImageNet's words,
    whole ("tench, Tinca tinca") and the first of them ("tench").
    """
    forms = [names, tuple(_plain(name) for name in names)]
    words: list[str] = []
    if names and all(map(_SYNSET.fullmatch, names)):
        info = _imagenet()
        with contextlib.suppress(KeyError):
            words = [info.label_name_to_description(name) for name in names]
    if words:
        forms += [tuple(words), tuple(_plain(word) for word in words)]
        forms.append(tuple(_plain(word.partition(",")[0]) for word in words))
    elif any("," in name for name in names):
        forms.append(tuple(_plain(name.partition(",")[0]) for name in names))
    return tuple(dict.fromkeys(forms))


def _plain(name: str) -> str:
    name = unicodedata.normalize("NFC", name)  # macOS writes é as two characters
    name = re.sub(r"[\s_.-]+", " ", name).strip().casefold()
    return name.lstrip("0") or "0" if _is_number(name) else name


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


@lru_cache(maxsize=1)
def _imagenet() -> "ImageNetInfo":
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo()  # the words of any subset are the same


@dataclass(frozen=True)
class Placed:
    """Where the names of one list stand in another.

    places: label -> its label in the reference, of names that both hold once. strangers: names that
    the reference lacks. exact: both are of one vocabulary (synsets, say), none was translated.
    """

    places: dict[int, int]
    strangers: Names
    exact: bool

    @property
    def moved(self) -> int | None:
        """The first label whose name stands elsewhere in the reference."""
        return next((label for label, place in self.places.items() if label != place), None)


def placed(names: Names, reference: Names) -> Placed:
    """Look every name up in a reference list, in the vocabulary in which they share most."""
    best = Placed({}, names, exact=True)
    for i, mine in enumerate(vocabularies(names)):
        for j, theirs in enumerate(vocabularies(reference)):
            often = Counter(mine) | Counter(theirs)  # ImageNet has two cranes
            at = {name: place for place, name in enumerate(theirs) if often[name] == 1}
            found = {label: at[name] for label, name in enumerate(mine) if name in at}
            if len(found) > len(best.places):
                known = set(theirs)
                strangers = tuple(names[k] for k, name in enumerate(mine) if name not in known)
                best = Placed(found, strangers, exact=max(i, j) < 2)
    return best


@dataclass(frozen=True)
class LabelSpace:
    """What label k stands for in all of the data. classes: names in label order, where known.

    order: where the order was taken from, and what of it cannot be known. notes: what may be a
    mistake.
    """

    num_classes: int
    classes: Names | None
    order: Names = ()
    notes: Names = ()

    def called(self, label: int) -> str:
        """The name of a class in brackets, where it is known."""
        names = self.classes or ()
        return f" ({names[label]!r})" if label < len(names) else ""


class Labelled(Protocol):
    """Labels [N] and, where the source knows them, the names of the classes."""

    labels: np.ndarray

    @property
    def classes(self) -> Names | None: ...


def label_space(
    splits: Mapping[str, Labelled], *, num_classes: int | None = None, given: Names | None = None
) -> LabelSpace:
    """The one list of classes of a data set, from all that its splits and the spec say.

    splits: by name, the one whose list counts first. num_classes and given: of the spec. Raises
    UserError where they contradict each other, or where nothing ties one to the other.
    """
    for name, split in splits.items():
        if split.labels.ndim > 1:
            raise UserError(
                f"data.{name} has lists of labels; each of its images has one. Several right "
                "labels can be those of a set under data.eval"
            )
    listed = {name: split.classes for name, split in splits.items() if split.classes}
    highest = max(int(split.labels.max()) for split in splits.values())
    reference = given or _whole_list(listed, num_classes, highest)
    source = next(iter(listed), "")
    whose = "data.classes" if given else "the whole list" if reference else source
    order, notes = [], []
    if given:
        order.append("class order taken from data.classes")
    elif reference:
        order.append(
            f"class order: {source}'s {len(listed[source]):,} classes are numbered as in all "
            f"{len(reference):,}"
        )
    elif listed:
        reference = listed[source]
        order.append(f"class order taken from the names in {source}")
    else:
        order.append("class order taken from the labels: nothing names them")
    if listed and (unnamed := next((name for name in splits if name not in listed), None)):
        order.append(f"{unnamed} has labels without names: taken to be in the same order")
    for name, classes in listed.items():
        if reference and classes != reference:
            notes += _compared(name, classes, whose, reference, named=bool(given))
    if reference and not given and (note := order_note(reference)):
        order.append(note)
    aligned = {name: relabelled(split, reference) for name, split in splits.items()}
    if reference and not num_classes:
        for name in splits.keys() - listed.keys():
            if (most := int(aligned[name].max())) >= len(reference):
                raise UserError(
                    f"data: {name} has labels up to {most:,}, but {whose} names only "
                    f"{_classes(len(reference))} ({_some(reference)}): nothing says which label is "
                    f"which of these; {FIX}"
                )
    space = LabelSpace(_count(aligned, reference, num_classes, given), reference, tuple(order))
    if reference:
        notes += [
            f"{name}'s integer labels are taken for class names: label {int(split.labels[0])} is "
            f"{reference[place]!r}, class {place} of {len(reference):,}"
            for name, split in splits.items()
            if name not in listed and aligned[name] is not split.labels
            for place in aligned[name][:1].tolist()
        ]
    for name, labels in aligned.items():
        _check_labels(name, splits[name], labels, space)
    return replace(space, notes=tuple(dict.fromkeys((*notes, *_empty(aligned, space)))))


def relabelled(split: Labelled, classes: Names | None) -> np.ndarray:
    """int64 [N]: the labels of a split in the order of `classes`, by the names of its own.

    Where it has none, labels that are themselves the names of classes are taken for those.
    Unchanged where neither holds, or where names cannot be told apart from their place.
    """
    if not classes or split.classes == classes:
        return split.labels
    if not split.classes:
        return _by_number(split.labels, classes)
    places = placed(split.classes, classes).places
    if all(label == place for label, place in places.items()):
        return split.labels
    table = np.arange(max(len(split.classes), int(split.labels.max()) + 1))
    table[list(places)] = list(places.values())
    return np.where(split.labels < 0, split.labels, table[split.labels])  # -1 stays no label


def _by_number(labels: np.ndarray, classes: Names) -> np.ndarray:
    """Integer labels as the names that they are, where classes are called by other numbers than
    their places: with folders 1, 2 and 5, label 5 is the third class.
    """
    if not all(map(_is_number, classes)):
        return labels
    held, at = np.unique(labels, return_inverse=True)
    names = {_plain(name): place for place, name in enumerate(classes)}
    places = [names.get(str(label)) for label in held.tolist()]
    if len(names) < len(classes) or None in places or places == held.tolist():
        return labels
    return np.array(places, np.int64)[at]


def _whole_list(listed: dict[str, Names], num_classes: int | None, highest: int) -> Names | None:
    """The list that a smaller one is a part of: ImageNet's, or the numbers below num_classes.

    highest: of all labels.
    """
    for names in listed.values():
        count = num_classes or highest + 1
        if len(names) >= count:
            return None
        synsets = tuple(_imagenet().label_names())
        if count == len(synsets):
            found = placed(names, synsets)  # by their words too
            if found.places and not found.strangers:
                return synsets
        numbers = {int(name): name for name in names if name.isdecimal()}
        if num_classes and len(numbers) == len(names) and max(numbers) < num_classes:
            return tuple(numbers.get(k, str(k)) for k in range(num_classes))
    return None


def _compared(name: str, classes: Names, whose: str, reference: Names, *, named: bool) -> list[str]:
    """What to say of a list that differs from the reference. Raises UserError where it cannot be
    brought into its order.
    """
    found = placed(classes, reference)
    if not found.places:
        return [_strange(name, classes, whose, reference)]
    same_size = len(classes) == len(reference)
    if same_size and found.moved is not None and not (named or is_ordered(classes)):
        at = found.moved
        raise UserError(
            f"data: class {at} is {reference[at]!r} in {whose} and {classes[at]!r} in {name}; the "
            f"orders must agree, or {FIX}"
        )
    in_place = same_size and found.moved is None
    if found.strangers and (found.exact or not in_place):
        raise UserError(
            f"data: {name} has {_some(found.strangers)}, which {whose} lacks "
            f"({len(classes)} classes in {name}, {len(reference)} in {whose}); the lists must "
            f"agree, or {FIX}"
        )
    if in_place:
        return []
    if twice := tuple(name for k, name in enumerate(classes) if k not in found.places):
        raise UserError(
            f"data: {name} has {_some(twice)}, and {whose} two classes of that name; give {name} "
            "labels as integers, or WordNet ids"
        )
    return [f"{name}'s {len(classes):,} classes are numbered as in {whose} ({len(reference):,})"]


def _strange(name: str, classes: Names, whose: str, reference: Names) -> str:
    """What to say of two lists without a name in common. Raises UserError unless they may be two
    vocabularies.
    """
    numbers = [all(x.isdecimal() for x in names) for names in (classes, reference)]
    sorted_both = is_ordered(classes) and is_ordered(reference) and not any(numbers)
    if len(classes) != len(reference) or sorted_both:
        raise UserError(
            f"data: {name} has {_classes(len(classes))} ({_some(classes)}) and {whose} "
            f"{_classes(len(reference))} ({_some(reference)}) with no name in common; give both "
            f"the same names, {'a file of labels (labels: FILE), ' * (len(classes) == 1)}or {FIX}"
        )
    return (
        f"{name} and {whose} share no class name ({classes[0]!r}, {reference[0]!r}): class K of "
        "one is taken for class K of the other"
    )


def _some(names: Names) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _classes(count: int) -> str:
    return f"{count:,} class" + "es" * (count != 1)


def _count(
    labels: Mapping[str, np.ndarray],
    reference: Names | None,
    num_classes: int | None,
    given: Names | None,
) -> int:
    if given and num_classes not in (None, len(given)):
        raise UserError(
            f"data.num_classes is {num_classes}, but data.classes names {len(given)}; leave "
            "num_classes out or correct it"
        )
    if reference and num_classes and len(reference) > num_classes:
        raise UserError(
            f"data.num_classes is {num_classes}, but the data names {len(reference)} classes; "
            "leave num_classes out or correct it"
        )
    highest = max(int(found.max()) for found in labels.values())
    return num_classes or max(len(reference or ()), highest + 1)


def _check_labels(name: str, split: Labelled, labels: np.ndarray, space: LabelSpace) -> None:
    """Refuse labels out of range, and a split that holds one class alone. Raises UserError."""
    bad = np.flatnonzero((labels < 0) | (labels >= space.num_classes))
    if len(bad):
        first, label = int(bad[0]), int(labels[bad[0]])
        where = getattr(split, "where", None)  # of images that lie in files
        named = f"; the first is {where(first).removeprefix('data: ')}" if where else ""
        fix = "correct the labels or data.num_classes"
        if label == -1:
            fix = "-1 stands for no label, as in test sets: give files of another split"
        raise UserError(
            f"data.{name}: sample {first} has label {label}, outside the {space.num_classes} "
            f"classes 0–{space.num_classes - 1} ({len(bad)} such samples{named}); {fix}"
        )
    if len(labels) > 1 and (labels == labels[0]).all():
        label = int(labels[0])
        raise UserError(
            f"data.{name}: all {len(labels):,} images have label {label}{space.called(label)}; a "
            "classifier cannot be measured on one class: give images of several, or a file of "
            "labels (labels: FILE)"
        )


def _empty(labels: dict[str, np.ndarray], space: LabelSpace) -> list[str]:
    """Notes on classes that have no image."""
    held = {name: np.unique(found) for name, found in labels.items()}
    notes = []
    if all(len(found) and found[0] == 1 for found in held.values()) and not space.classes:
        notes.append("no image has label 0: labels must count from 0; these may count from 1")
    for name, found in held.items():
        missing = np.setdiff1d(np.arange(space.num_classes), found)
        if len(missing):
            first = int(missing[0])
            notes.append(
                f"{name} has no image of {len(missing):,} of {space.num_classes:,} classes, first "
                f"class {first}{space.called(first)}"
            )
    return notes
