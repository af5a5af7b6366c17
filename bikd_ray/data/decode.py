"""From the bytes of an image file to its pixels."""

import io
from functools import cache
from typing import Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from bikd_ray.errors import UserError

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "DIB": (".dib",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".bw", ".rgb", ".rgba"),
    "SUN": (".ras",),
    "DDS": (".dds",),
    "BLP": (".blp",),
    "FTEX": (".ftc", ".ftu"),
    "PSD": (".psd",),
    "ICO": (".ico",),
    "CUR": (".cur",),
    "ICNS": (".icns",),
    "DCX": (".dcx",),
    "PCX": (".pcx",),
    "PCD": (".pcd",),
    "PIXAR": (".pxr",),
    "GBR": (".gbr",),
    "MSP": (".msp",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "IM": (".im",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),  # last: it has no mark of its own
}
"""Pillow's image formats with their extensions.

Not among them: pages and drawings (pdf, eps, ps, wmf, emf), films (mpg, fli), measurements (fits,
grib, bufr, hdf) and what Pillow only writes.
"""

EXTENSIONS = tuple(extension for listed in FORMATS.values() for extension in listed)
"""How the name of an image ends; files of other names are left out of a set."""

SHOWN_EXTENSIONS = ".jpg, .png, .webp, .gif, .bmp, .tif, …"
"""For messages: the list in docs/formats.md is long."""


_FIX = "replace or remove it, or set data.on_bad_image: skip"


class BadImage(UserError):
    """One image of a set does not decode; the message names it."""

    @classmethod
    def at(cls, where: str, reason: str) -> Self:
        return cls.of(f"{where} is not a readable image ({reason})")

    @classmethod
    def of(cls, what: str) -> Self:
        return cls(f"{what}; {_FIX}")

    @property
    def what(self) -> str:
        """The message without the way out, for images that are skipped."""
        return str(self).removesuffix(f"; {_FIX}")


def decode(content: bytes, where: str) -> Image.Image:
    """The image in RGB: its first frame, as it is stored (EXIF's orientation is not applied).

    Grey of 16 bits is scaled to 8. Raises BadImage, which says `where`, if it is corrupt or cut
    short, or of a depth whose range is not known.
    """
    try:
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            if 0 in image.size:
                raise ValueError("no pixels")
            return _eight_bits(image).convert("RGB")
    except UnidentifiedImageError:
        reason = "no known image format"
    except Exception as error:  # decoders raise whatever their libraries do
        reason = next(iter(str(error).split("\n")), "").strip() or type(error).__name__
    raise BadImage.at(where, reason)


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats of FORMATS that this machine's Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel, where `convert` would cut off all above 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        tags = getattr(image, "tag_v2", {})  # TIFF: BitsPerSample, PhotometricInterpretation
        highest = 2 ** int(tags.get(258, (16,))[0]) - 1
        grey = np.asarray(image).astype(np.float64) * (255 / highest)
        grey = np.round(grey).clip(0, 255).astype(np.uint8)
        return Image.fromarray(255 - grey if tags.get(262) == 0 else grey)
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode}: its range of values is not known; save it as 8 bits")
    return image
