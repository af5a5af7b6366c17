"""From the bytes of an image file to its pixels."""

import io
import struct
from typing import Self

from PIL import Image, UnidentifiedImageError

from bikd_ray.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class BadImage(UserError):
    """One image of a set does not decode; the message names it."""

    @classmethod
    def at(cls, where: str, reason: str) -> Self:
        return cls(
            f"{where} is not a readable image ({reason}); "
            "replace or remove it, or set data.on_bad_image: skip"
        )


def decode(content: bytes, where: str) -> Image.Image:
    """The image in RGB. Raises BadImage, which says `where`, if it is corrupt or cut short."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        reason = "no known image format"
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error)
    raise BadImage.at(where, reason)
