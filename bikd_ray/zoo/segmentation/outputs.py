"""Reads what a segmentation network answers, whatever form it answers in.

Axes: B images, Q queries, C classes, h and w cells.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bikd_ray.errors import UserError
from bikd_ray.tasks.map_output import MapOutput, QueryLogits

QUERIES = (
    ("class_queries_logits", "masks_queries_logits", "auxiliary_logits"),  # transformers
    ("pred_logits", "pred_masks", "aux_outputs"),  # detectron2's
)
"""Names of class logits, mask logits and the list of auxiliary outputs, which has the same two."""

MAPS = ("logits", "out")
"""Names of pixel logits: transformers', torchvision's."""


def map_output(output: object, name: str) -> MapOutput:
    """The logits in what a network returns: a tensor [B, C, h, w], a dict or an object with
    `logits` or `out`, a tuple that begins with such a tensor, or queries with class and mask
    logits. Raises UserError where there are none, or of another shape; name: the model's.
    """
    for classes, masks, auxiliary in QUERIES:
        if (final := _queries(output, classes, masks)) is not None:
            more = _get(output, auxiliary) or ()
            others = [_queries(one, classes, masks) for one in more]
            return _checked(MapOutput(queries=(final, *filter(None, others))), name)
    found = output[0] if isinstance(output, tuple | list) and output else output
    for key in MAPS:
        if isinstance(found, Tensor):
            break
        found = _get(output, key)
    if not isinstance(found, Tensor):
        raise UserError(
            f"zoo: {name} returns a {type(output).__name__} without a map; expected a tensor "
            "[B, C, h, w], logits or out in a dict or an object, or class_queries_logits and "
            "masks_queries_logits"
        )
    return _checked(MapOutput(found), name)


def _get(output: object, key: str) -> Any:
    if isinstance(output, Mapping):
        return output.get(key)
    return getattr(output, key, None)


def _queries(output: object, classes: str, masks: str) -> QueryLogits | None:
    class_logits, mask_logits = _get(output, classes), _get(output, masks)
    if isinstance(class_logits, Tensor) and isinstance(mask_logits, Tensor):
        return QueryLogits(class_logits, mask_logits)
    return None


def _checked(output: MapOutput, name: str) -> MapOutput:
    if output.pixel_logits_BChw is not None:
        if output.pixel_logits_BChw.ndim != 4:
            raise UserError(
                f"zoo: {name} answers {list(output.pixel_logits_BChw.shape)}, no map "
                "[B, C, h, w]; give a segmentation model"
            )
        return output
    for queries in output.queries:
        classes, masks = queries.class_logits_BQC1.shape, queries.mask_logits_BQhw.shape
        if len(classes) != 3 or len(masks) != 4 or classes[:2] != masks[:2]:
            raise UserError(
                f"zoo: {name} answers class logits {list(classes)} and mask logits {list(masks)}; "
                "expected [B, Q, C + 1] and [B, Q, h, w] of the same queries"
            )
    return output
