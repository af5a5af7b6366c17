"""What a person asks for: the YAML spec as frozen models, validated on construction.

Everything but `zoo` and `data` has a default, and the defaults are the paper's
(Jain et al., TMLR 2025). docs/spec.md lists every field; it is made from these classes.
"""

from bikd_ray.specs.data import (
    ClipsData,
    Data,
    DataSource,
    DigitScenesData,
    DigitsData,
    FolderData,
    MaskFoldersData,
    MaskParquetData,
    MovingDigitsData,
    ParquetData,
    SegmentationLayoutData,
    TimmData,
)
from bikd_ray.specs.running import LOGGER_OPTIONS, GrownNode, Logger, Resources
from bikd_ray.specs.spec import CHOSEN_ON_VAL, Selection, Spec
from bikd_ray.specs.training import (
    ALONE,
    CONTROL,
    DIRECTED,
    OPTIONS,
    PRESETS,
    Objective,
    Pairings,
    Recipe,
    is_alone,
)
from bikd_ray.specs.values import Frozen, Reading
from bikd_ray.specs.zoo import LOCAL_DIR, SOURCES, FrameWindow, Input, Interpolation, ZooEntry

__all__ = [
    "ALONE",
    "CHOSEN_ON_VAL",
    "CONTROL",
    "DIRECTED",
    "LOCAL_DIR",
    "LOGGER_OPTIONS",
    "OPTIONS",
    "PRESETS",
    "SOURCES",
    "ClipsData",
    "Data",
    "DataSource",
    "DigitScenesData",
    "DigitsData",
    "FolderData",
    "FrameWindow",
    "Frozen",
    "GrownNode",
    "Input",
    "Interpolation",
    "Logger",
    "MaskFoldersData",
    "MaskParquetData",
    "MovingDigitsData",
    "Objective",
    "Pairings",
    "ParquetData",
    "Reading",
    "Recipe",
    "Resources",
    "SegmentationLayoutData",
    "Selection",
    "Spec",
    "TimmData",
    "ZooEntry",
    "is_alone",
]
