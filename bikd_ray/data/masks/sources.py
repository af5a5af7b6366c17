"""The images with masks that a data source of a spec names."""

from typing import Any

from bikd_ray.data.masks.layouts import ade20k, cityscapes, voc
from bikd_ray.data.masks.masked import MaskedImages
from bikd_ray.data.masks.parquet import masked_parquet
from bikd_ray.data.masks.rule import OTHERS, LabelRule
from bikd_ray.data.masks.scenes import DigitScenes
from bikd_ray.data.masks.trees import mask_trees
from bikd_ray.errors import UserError
from bikd_ray.specs import (
    DataSource,
    DigitScenesData,
    MaskFoldersData,
    MaskParquetData,
    SegmentationLayoutData,
)

LAYOUTS = {"ade20k": ade20k, "cityscapes": cityscapes, "voc": voc}


def open_masks(source: DataSource) -> MaskedImages | DigitScenes:
    """Open it. Raises UserError where it is missing, holds no pairs, or is of another task."""
    if isinstance(source, MaskFoldersData):
        suffixes = {"image_suffix": source.image_suffix, "mask_suffix": source.mask_suffix}
        return mask_trees(source.images, source.masks, _rule(source), **suffixes)
    if isinstance(source, MaskParquetData):
        return masked_parquet(source.path, _rule(source), image=source.image, mask=source.mask)
    if isinstance(source, SegmentationLayoutData):
        return LAYOUTS[source.source](source.path, source.split)
    if isinstance(source, DigitScenesData):
        how = source.model_dump(exclude={"source", "split", "count"})
        return DigitScenes(source.split, source.count, **how)
    raise UserError(
        f"data: source {source.source} has no masks; for segmentation give mask_folders, "
        f"mask_parquet, {', '.join(LAYOUTS)} or digit_scenes"
    )


def _rule(source: MaskFoldersData | MaskParquetData) -> LabelRule:
    pairs = source.label_map
    mapping: Any = pairs and {k if k == OTHERS else int(k): label for k, label in pairs}
    return LabelRule(source.num_classes, source.ignore_index, source.reduce_zero_label, mapping)
