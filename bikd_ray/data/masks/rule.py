"""From the values of a mask file to class indices: decode, then this, and only then augment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from bikd_ray.errors import UserError

IGNORED = 255
"""The label of pixels that count nowhere: unlabelled ones, and the padding of a view."""

MOST_CLASSES = 255
_VALUES = 2**16
"""Of the deepest masks that are read, PNG of 16 bits."""
_NO_LABEL = -1

OTHERS = "else"
"""The key of a label map that stands for all values it does not list."""


@dataclass(frozen=True)
class LabelRule:
    """What each value of a mask file means.

    num_classes: C. ignore_index: the value of pixels without a label. reduce_zero_label: 0 means
    no label and k class k − 1. label_map: {value: class, or 255 for no label}; every value that
    occurs must be in it, or `else`, but for ignore_index. Raises UserError where these do not go
    together.
    """

    num_classes: int
    ignore_index: int = IGNORED
    reduce_zero_label: bool = False
    label_map: Mapping[int | Literal["else"], int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise UserError(
                f"data: {self.num_classes} classes of pixels; there can be 1 to {MOST_CLASSES}, "
                f"since {IGNORED} is the label of ignored pixels"
            )
        if not 0 <= self.ignore_index < _VALUES:
            raise UserError(
                f"data: ignore_index is {self.ignore_index}; it must be a value that a mask can "
                f"hold, 0–{_VALUES - 1}"
            )
        if self.label_map is None:
            return
        if self.reduce_zero_label:
            raise UserError(
                "data: reduce_zero_label and label_map are two ways to say one thing; give one"
            )
        for value, label in self.label_map.items():
            if label != IGNORED and not 0 <= label < self.num_classes:
                raise UserError(
                    f"data: label_map sends {value} to {label}; it must be one of the "
                    f"{self.num_classes} classes 0–{self.num_classes - 1}, or {IGNORED} (ignored)"
                )
            if value != OTHERS and not 0 <= value < _VALUES:
                raise UserError(f"data: label_map has {value}, which no mask holds")

    def __call__(self, values_HW: np.ndarray) -> np.ndarray:
        """Labels uint8 [H, W], 255 where ignored, of a mask's values (integers from 0, [H, W]).

        Raises ValueError, whose text is the values that mean nothing and the fix.
        """
        if values_HW.size and int(values_HW.max()) >= _VALUES:
            raise ValueError(f"label {values_HW.max()}; masks must have at most 16 bits")
        labels_HW = self._table[values_HW]
        if (labels_HW == _NO_LABEL).any():
            raise ValueError(self._outside(np.unique(values_HW[labels_HW == _NO_LABEL])))
        return labels_HW.astype(np.uint8)

    @cached_property
    def _table(self) -> np.ndarray:
        """int16 [65536]: wider than the labels, so that no shift wraps around."""
        table = np.full(_VALUES, _NO_LABEL, np.int16)
        if self.label_map is None:
            first = int(self.reduce_zero_label)
            table[first : first + self.num_classes] = np.arange(self.num_classes)
            table[:first] = IGNORED
            table[self.ignore_index] = IGNORED
            return table
        table[:] = self.label_map.get(OTHERS, _NO_LABEL)
        table[self.ignore_index] = IGNORED
        for value, label in self.label_map.items():
            if value != OTHERS:
                table[value] = label
        return table

    def _outside(self, values: np.ndarray) -> str:
        shown = ", ".join(map(str, values[:5].tolist())) + (", …" if len(values) > 5 else "")
        said = f"label{'s' * (len(values) > 1)} {shown}"
        if self.label_map is not None:
            return f"{said}, which label_map lacks; add it, or {OTHERS}: {IGNORED} for all others"
        first = int(self.reduce_zero_label)
        zero = ", 0 is none" if first else ""
        if values.tolist() == [self.num_classes] and not first:
            return (
                f"{said}; the {self.num_classes} classes are 0–{self.num_classes - 1}: if they "
                "count from 1 and 0 means no label, set reduce_zero_label: true; else correct "
                "num_classes"
            )
        return (
            f"{said}; the {self.num_classes} classes are {first}–{first + self.num_classes - 1}"
            f"{zero} and {self.ignore_index} is ignored: correct num_classes, ignore_index or the "
            "mask, or give a label_map"
        )

    @property
    def identity(self) -> list[Any]:
        """What decides the labels, in a stable form."""
        used = np.flatnonzero(self._table != _NO_LABEL)
        runs = np.column_stack([used, self._table[used]])
        if len(used) == _VALUES:  # `else`: what differs from it says all
            rest = self.label_map[OTHERS] if self.label_map else IGNORED
            return [self.num_classes, rest, runs[runs[:, 1] != rest].tolist()]
        return [self.num_classes, runs.tolist()]
