"""Zero-label reduction is for labels that count from 1, once."""

import numpy as np

from bikd_ray.data.decode import BadImage
from bikd_ray.data.masks.masked import MaskedImages
from bikd_ray.errors import UserError

SHIFTED = "annotations_detectron2"
"""The folder in which detectron2's preparation of ADE20K leaves labels that count from 0."""
_LOOKED_AT = 64


def refuse_second_shift(images: MaskedImages) -> MaskedImages:
    """`images`, or UserError where their rule shifts labels that were shifted before.

    Labels from 1 to C hold C somewhere and need no value for ignored pixels, since that is 0;
    shifted ones hold that value, and C nowhere. A few masks are looked at.
    """
    rule = images.rule
    if not rule.reduce_zero_label:
        return images
    if SHIFTED in images.masks.location.split("/"):
        raise UserError(
            f"data: {images.masks.location} holds labels that were shifted already, and a second "
            "shift would lose class 0; leave reduce_zero_label out"
        )
    seen, few = set(), np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int))
    for index in few.tolist():
        try:
            seen.update(np.unique(images.values(index)).tolist())
        except BadImage:  # it is said where it is decoded
            continue
    if (
        rule.ignore_index in seen
        and 0 in seen
        and max(seen - {rule.ignore_index}) < (rule.num_classes)
    ):
        raise UserError(
            f"data: {images.masks.location} seems to be shifted already: {len(few)} masks hold "
            f"{rule.ignore_index} but nowhere {rule.num_classes}, and a second shift would lose "
            "class 0; leave reduce_zero_label out, or give the shift as a label_map"
        )
    return images
