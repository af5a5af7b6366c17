"""A file with the labels of a folder's images, as ImageNet's and Tiny-ImageNet's val have it."""

import csv
import io
import json
import os
import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from bikd_ray.data.exclusions import is_image
from bikd_ray.data.label_values import numbered
from bikd_ray.data.labels import Names
from bikd_ray.errors import UserError

_FILE_COLUMNS = ("file", "filename", "file_name", "image", "imageid", "image_id", "name", "path",
                 "id")  # fmt: skip
_LABEL_COLUMNS = ("label", "class", "class_name", "classname", "synset", "wnid", "category",
                  "target", "predictionstring")  # fmt: skip
_KAGGLE = "predictionstring"  # a class and its boxes
_ILSVRC_NAME = re.compile(r"ILSVRC2012_val_0*([1-9]|10)\.\w+", re.IGNORECASE)
_ILSVRC_IDS = (490, 361, 171, 822, 297, 482, 13, 704, 599, 164)
"""Of the first ten val images in ILSVRC2012_validation_ground_truth.txt, whose numbers follow the
challenge's own list of classes, not the sorted synsets by which folders and models are numbered."""


def read_labels(path: str, names: list[str]) -> tuple[np.ndarray, Names | None, tuple[str, ...]]:
    """Labels int64 [N] of the images `names`, class names if the file has names, and notes.

    The file has a label a line, for the images in sorted order; or lines `FILE LABEL …`, parted by
    tabs, commas or spaces, with or without a header. A file is named by its path below the folder,
    by its last part, or without its extension. Labels are integers from 0 or names of classes.
    A .json file has a list in the sorted order of the files' own names, or maps FILE to what is
    right: a label, or a list of several or of none; then labels are [N, M], filled up with -1.
    Raises UserError where lines and images do not fit.
    """
    if path.endswith(".json"):
        return _of_json(path, names)
    rows, spaced = _rows(path)
    notes: tuple[str, ...] = ()
    find = _Finder(names)
    named = any(is_image(row[0]) or find(row[0]) is not None for row in rows)
    if all(len(row) == 1 for row in rows) or (spaced and not named and len(rows) == len(names)):
        if len(rows) != len(names):
            raise UserError(
                f"data: {path} has {len(rows):,} labels for {len(names):,} images; give a label "
                "for each image in sorted order, or lines FILE LABEL"
            )
        texts = [" ".join(row) for row in rows]
    else:
        texts, notes = _matched(path, rows, names, find)
    labels, classes = numbered(pa.chunked_array([texts], pa.string()), "label", path)
    if classes is None:
        _refuse_other_orders(path, labels, names)
    return labels, classes, notes


def _of_json(path: str, names: list[str]) -> tuple[np.ndarray, Names | None, tuple[str, ...]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"data: cannot read labels {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, list | dict):
        raise UserError(f"data: labels {path} is no JSON of a list, or of a mapping from files")
    notes: tuple[str, ...] = ()
    values: list[Any] = [None] * len(names)
    if isinstance(content, dict):
        find, unknown = _Finder(names), []
        for name, value in content.items():
            index = find(name)
            if index is None:
                unknown.append(name)
            else:
                values[index] = value
        notes = _unknown(path, unknown, len(content))
        missing = [name for name, value in zip(names, values, strict=True) if value is None]
        if missing:
            raise UserError(
                f"data: {path} has no labels for {len(missing):,} of {len(names):,} images, such "
                f"as {missing[0]}; give an empty list where nothing is right"
            )
    elif len(content) != len(names):
        raise UserError(
            f"data: {path} has {len(content):,} labels for {len(names):,} images; give one for "
            "each image, or a mapping from files"
        )
    else:  # class folders would sort ImageNet's val otherwise than such lists count it
        order = sorted(range(len(names)), key=lambda i: (os.path.basename(names[i]), names[i]))
        for index, value in zip(order, content, strict=True):
            values[index] = value
    try:
        column = pa.chunked_array([pa.array(values)])
    except pa.ArrowException:
        raise UserError(f"data: labels {path} mixes lists, numbers and text") from None
    return *numbered(column, "label", path), notes


def _unknown(path: str, unknown: list[str], total: int) -> tuple[str, ...]:
    return tuple(
        f"{len(unknown):,} of {total:,} lines of {os.path.basename(path)} name files that are "
        f"not there, such as {example}"
        for example in unknown[:1]
    )


def _rows(path: str) -> tuple[list[list[str]], bool]:
    """The lines of the file in fields, without empty ones, and whether spaces part them."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UserError(f"data: cannot read labels {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"data: labels {path} is not UTF-8 text; give a text or CSV file") from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError(f"data: labels {path} is empty; give a label for each image")
    spaced = False
    try:
        if all("\t" in line for line in lines):
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        elif all("," in line for line in lines):
            rows = csv.reader(io.StringIO("\n".join(lines)), skipinitialspace=True)
        else:
            rows, spaced = (line.rsplit(maxsplit=1) for line in lines), True
        return [[field.strip() for field in row] for row in rows], spaced
    except csv.Error as error:
        raise UserError(f"data: labels {path} is not CSV ({error})") from None


def _matched(
    path: str, rows: list[list[str]], names: list[str], find: "_Finder"
) -> tuple[list[str], tuple[str, ...]]:
    """The label of each image from rows that name it."""
    file, label, kaggle = 0, 1, False
    if find(rows[0][0]) is None or rows[0][0].lower() in _FILE_COLUMNS:
        lowered = [field.lower() for field in rows[0]]
        file, label = _columns(path, lowered)
        kaggle, rows = lowered[label] == _KAGGLE, rows[1:]
    texts: list[str | None] = [None] * len(names)
    unknown: list[str] = []
    for row in rows:
        if len(row) <= max(file, label) or not row[label]:
            raise UserError(f"data: {path} has the line {' '.join(row)[:80]!r} without a label")
        text = row[label].split()[0] if kaggle else row[label]
        index = find(row[file])
        if index is None:
            unknown.append(row[file])
        elif texts[index] not in (None, text):
            raise UserError(
                f"data: {path} gives {names[index]} two labels, {texts[index]!r} and {text!r}"
            )
        else:
            texts[index] = text
    missing = [name for name, text in zip(names, texts, strict=True) if text is None]
    if missing:
        other = f"; it names {unknown[0]!r}, which is not there" if unknown else ""
        raise UserError(
            f"data: {path} has no label for {len(missing):,} of {len(names):,} images, such as "
            f"{missing[0]}{other}"
        )
    return [text for text in texts if text is not None], _unknown(path, unknown, len(rows))


class _Finder:
    """From a file's name in the labels to the number of the image; None of one that is not there.

    A shorter form counts where it names one image alone.
    """

    def __init__(self, names: list[str]) -> None:
        self._by_form: dict[str, int] = {}
        last = [os.path.basename(name) for name in names]
        for forms in ([os.path.splitext(name)[0] for name in last], last, names):
            counts = Counter(forms)
            self._by_form |= {form: i for i, form in enumerate(forms) if counts[form] == 1}

    def __call__(self, name: str) -> int | None:
        name = name.replace("\\", "/").removeprefix("./")
        for form in (name, name.rpartition("/")[2]):
            if form in self._by_form:
                return self._by_form[form]
        return None


def _columns(path: str, header: list[str]) -> tuple[int, int]:
    """The places of the file's name and of the label in a header."""
    files = [i for i, name in enumerate(header) if name in _FILE_COLUMNS]
    labels = [i for i, name in enumerate(header) if name in _LABEL_COLUMNS]
    if len(header) == 2 and not (files and labels):
        known = files[0] if files else 1 - labels[0] if labels else 0
        return known, 1 - known
    if not files or not labels:
        raise UserError(
            f"data: {path} begins with {', '.join(header)[:80]!r}, which names no image of the "
            f"folder and no columns; call them file ({', '.join(_FILE_COLUMNS[1:4])}, …) and label "
            f"({', '.join(_LABEL_COLUMNS[1:5])}, …)"
        )
    return files[0], labels[0]


def _refuse_other_orders(path: str, labels: np.ndarray, names: list[str]) -> None:
    """Integers that are another numbering than positions in the sorted classes."""
    fix = "give synset names, or positions from 0 in the sorted synsets"
    first = [label for name, label in zip(names[:10], labels[:10], strict=False)
             if _ILSVRC_NAME.fullmatch(os.path.basename(name))]  # fmt: skip
    if len(first) == 10 and any(
        first == [known - shift for known in _ILSVRC_IDS] for shift in (0, 1)
    ):
        raise UserError(
            f"data: {path} numbers classes as ILSVRC2012_validation_ground_truth.txt does, by the "
            f"challenge's ids and not in the order of the synsets; {fix}"
        )
    present = np.unique(labels)
    if len(present) > 1 and present[0] == 1 and present[-1] == len(present):
        raise UserError(
            f"data: {path} has labels 1–{present[-1]} and no 0: it counts from 1, and perhaps in "
            f"another order than the classes'; {fix}"
        )
