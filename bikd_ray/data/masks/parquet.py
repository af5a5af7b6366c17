"""HF-style Parquet: images and masks as columns."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.data.exclusions import LeftOut
from bikd_ray.data.masks.masked import MaskedImages
from bikd_ray.data.masks.rule import LabelRule
from bikd_ray.data.masks.shifted import refuse_second_shift
from bikd_ray.data.parquet_column import (
    Groups,
    ParquetColumn,
    ParquetFiles,
    groups_of,
    holds_bytes,
)
from bikd_ray.errors import UserError
from bikd_ray.identity import digest

IMAGE_COLUMNS = ("image", "img", "pixel_values")
MASK_COLUMNS = ("annotation", "label", "mask", "segmentation", "semantic_segmentation")
"""What columns are called where nobody says: the first that is there and holds files."""


def masked_parquet(
    uri: str,
    rule: LabelRule,
    *,
    image: str | None = None,
    mask: str | None = None,
    classes: Sequence[str] | None = None,
) -> MaskedImages:
    """Two columns of encoded files (structs with bytes, or binary), in file order.

    image, mask: their names; where they are None, the usual ones, or the only two columns that
    hold files. Raises UserError for files that are missing, damaged or of other columns.
    """
    left = LeftOut()
    files = ParquetFiles.at(uri, left)
    first = files.open(files.paths[0]).schema_arrow
    image = image or _column(first, files.paths[0], "image", IMAGE_COLUMNS, {mask})
    mask = mask or _column(first, files.paths[0], "mask", MASK_COLUMNS, {image})
    if image == mask:
        raise UserError(f"data: images and masks of {uri} cannot both be in column {image}")

    def both(path: str, file: pq.ParquetFile) -> tuple[Groups, Groups]:
        for field, name in (("image", image), ("mask", mask)):
            if name not in file.schema_arrow.names:
                fits = _that_fit(file.schema_arrow)
                raise UserError(
                    f"data: {path} has no column {name!r}, only "
                    f"{', '.join(file.schema_arrow.names)}; set beside path {field}: "
                    f"{' or '.join(fits) or 'none fits'}"
                )
        return groups_of(path, file, image), groups_of(path, file, mask)

    found = files.each(both)
    if not sum(sum(of_images.rows) for of_images, _ in found):
        raise UserError(f"data: {uri} holds no rows; give files with at least one image")
    images = ParquetColumn(files, image, [of_images for of_images, _ in found])
    masks = ParquetColumn(files, mask, [of_masks for _, of_masks in found])
    footers = [of_images.sizes for of_images, _ in found]
    listing_id = digest("parquet", footers, image, mask)
    return refuse_second_shift(
        MaskedImages(images, masks, rule, listing_id=listing_id, classes=classes, notes=left.notes)
    )


def _column(
    schema: pa.Schema, path: str, field: str, usual: Sequence[str], taken: set[str | None]
) -> str:
    """The column of images or of masks. Raises UserError, with what to set, where none is it."""
    fits = [name for name in _that_fit(schema) if name not in taken]
    found = [name for name in usual if name in fits]
    if not found and len(fits) == 1 and field == "mask":
        found = fits
    if len(found) == 1 or (found and field == "image"):
        return found[0]
    if not fits:
        raise UserError(
            f"data: {path} has no column of {field} files, only {', '.join(schema.names)}; images "
            "and masks must be embedded as bytes"
        )
    raise UserError(
        f"data: which column of {path} holds the {field}s? set beside path {field}: one of "
        f"{', '.join(found or fits)}"
    )


def _that_fit(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if holds_bytes(schema.field(name).type)]
