"""Images with a label for each pixel: sources, views and checks.

A mask is decoded, its values are mapped to classes (`LabelRule`), and only then it is augmented.
"""

from bikd_ray.data.masks.augment import EvaluationView, JointAugmentation, MaskedView
from bikd_ray.data.masks.check import MaskFindings, check_masks
from bikd_ray.data.masks.layouts import ade20k, cityscapes, voc
from bikd_ray.data.masks.masked import MaskedImages, MaskedSet, content_id, spot_check
from bikd_ray.data.masks.parquet import masked_parquet
from bikd_ray.data.masks.rule import IGNORED, LabelRule
from bikd_ray.data.masks.scenes import DigitScenes
from bikd_ray.data.masks.sources import open_masks
from bikd_ray.data.masks.trees import mask_trees

__all__ = [
    "IGNORED",
    "DigitScenes",
    "EvaluationView",
    "JointAugmentation",
    "LabelRule",
    "MaskFindings",
    "MaskedImages",
    "MaskedSet",
    "MaskedView",
    "ade20k",
    "check_masks",
    "cityscapes",
    "content_id",
    "mask_trees",
    "masked_parquet",
    "open_masks",
    "spot_check",
    "voc",
]
