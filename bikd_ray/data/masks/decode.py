"""From the bytes of a mask file to the values that it stores, untouched by any colour."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from bikd_ray.data.decode import BadImage, readable_formats
from bikd_ray.errors import UserError

_LOSSY = ("JPEG", "WEBP", "JPEG2000", "AVIF")
_DEPTH, _COLOURS = 24, 25
"""Where a PNG says how many bits a channel has, and whether they are grey (0) or an index (3)."""


class ColouredMask(UserError):
    """A mask whose pixels are colours."""


class MaskFormat(UserError):
    """A mask in a format whose values are not sure to be what was written."""


def decode_mask(content: bytes, where: str) -> np.ndarray:
    """The values of a mask: integers [H, W], for a palette its indices.

    It is a PNG of one channel of 1, 2, 4, 8 or 16 bits. Raises BadImage if it is corrupt or cut
    short, and ColouredMask or MaskFormat, which no skipping helps.
    """
    try:
        with Image.open(io.BytesIO(content), formats=readable_formats()) as mask:
            kind, mode = mask.format or "", mask.mode
            if kind == "PNG" and mode in ("1", "L", "P", "I", "I;16"):
                return _values(np.asarray(mask), content)
    except UnidentifiedImageError:
        raise BadImage.at(where, "no known image format") from None
    except Exception as error:  # decoders raise whatever their libraries do
        reason = next(iter(str(error).split("\n")), "").strip() or type(error).__name__
        raise BadImage.at(where, reason) from None
    if kind in _LOSSY:
        raise MaskFormat(
            f"{where} is a {kind}, whose compression changes labels; save masks as PNG"
        )
    if kind != "PNG":
        raise MaskFormat(f"{where} is a {kind}, which may rescale labels; save masks as PNG")
    raise ColouredMask(
        f"{where} has the mode {mode}: colours, not class indices; save masks as PNG of one "
        "channel whose values are the classes"
    )


def _values(values_HW: np.ndarray, content: bytes) -> np.ndarray:
    if values_HW.dtype == bool:
        return values_HW.astype(np.uint8)
    bits = content[_DEPTH]
    if content[_COLOURS] == 0 and bits in (2, 4):  # grey, which Pillow stretches to 0–255
        return values_HW // (255 // (2**bits - 1))
    return values_HW
