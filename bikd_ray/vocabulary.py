"""Words of a spec by which stored rows are told apart: to read a store takes no spec."""

ALONE = ("ce", "self")
"""Objectives without partners: the controls."""

CONTROL = "ce"
"""The label of the control jobs' objective: cross-entropy alone."""

UNTOUCHED = "untouched"
"""The control where train has no labels: the models before any training, without a job."""

CHOSEN_ON_VAL = "best_val"
"""The selection whose epoch was chosen on the reported images: no interval and no rank is fair."""


def is_alone(label: str | None) -> bool:
    """Whether an objective's label, which may have options, is of one without partners."""
    return label is not None and label.partition("(")[0] in ALONE
