"""What a person asks for: the YAML spec as frozen models, validated on construction.

Everything but `zoo` and `data` has a default, and the defaults are the paper's
(Jain et al., TMLR 2025). docs/spec.md lists every field; it is made from these classes.
"""

from bikd_ray.specs.data import (
    NO_LABELS,
    ClipsData,
    Data,
    DataSource,
    DigitScenesData,
    DigitsData,
    FolderData,
    FurtherDigits,
    FurtherFolder,
    FurtherParquet,
    FurtherTimm,
    MaskFoldersData,
    MaskParquetData,
    MovingDigitsData,
    ParquetData,
    SegmentationLayoutData,
    TimmData,
    labelled,
)
from bikd_ray.specs.probe import Probe
from bikd_ray.specs.running import LOGGER_OPTIONS, GrownNode, Logger, Resources
from bikd_ray.specs.searching import Improve, Search
from bikd_ray.specs.spec import Selection, Spec
from bikd_ray.specs.training import (
    CONTROL,
    DIRECTED,
    OPTIONS,
    PRESETS,
    Objective,
    Pairings,
    Recipe,
)
from bikd_ray.specs.values import Frozen, Reading
from bikd_ray.specs.zoo import LOCAL_DIR, SOURCES, FrameWindow, Input, Interpolation, ZooEntry

__all__ = [
    "CONTROL",
    "DIRECTED",
    "LOCAL_DIR",
    "LOGGER_OPTIONS",
    "NO_LABELS",
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
    "FurtherDigits",
    "FurtherFolder",
    "FurtherParquet",
    "FurtherTimm",
    "GrownNode",
    "Improve",
    "Input",
    "Interpolation",
    "Logger",
    "MaskFoldersData",
    "MaskParquetData",
    "MovingDigitsData",
    "Objective",
    "Pairings",
    "ParquetData",
    "Probe",
    "Reading",
    "Recipe",
    "Resources",
    "Search",
    "SegmentationLayoutData",
    "Selection",
    "Spec",
    "TimmData",
    "ZooEntry",
    "labelled",
]
