"""Maps and fixations as data sets keep them: grey images, masks, MATLAB files, lists of points."""

import csv
import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bikd_ray.data.clips.source import Truth
from bikd_ray.data.decode import decode
from bikd_ray.data.exclusions import is_image
from bikd_ray.errors import UserError

MAT_KEYS = ("I", "fixLoc", "eyeMap", "fixMap", "fixPts", "fixation", "fixations", "gaze")
"""Variables of a .mat that hold fixations: a mask, or SALICON's `gaze`, points a viewer."""

COLOURED = 16
"""Grey levels that a map's channels may differ by: JPEG's rounding does, a coloured one more."""

LOSSY = (".jpg", ".jpeg")
_LOSSY_LEVEL = 127
"""Above it a pixel of a lossy mask is fixated: around each point there is noise above 0."""


def read_truth(map_file: tuple[bytes, str], fixation_file: tuple[bytes, str] | None) -> Truth:
    """From (content, path) of a map and of its fixations, if it has some.

    Raises BadImage for images that do not decode, UserError for what holds no fixations.
    """
    grey = read_map(*map_file)
    if fixation_file is None:
        return Truth(grey, np.zeros(grey.shape, bool))
    content, path = fixation_file
    found = READERS[fixation_kind(path)](content, path)
    if found.dtype == bool:
        return _from_mask(grey, found)
    return _from_points(grey, found)


def read_map(content: bytes, path: str) -> np.ndarray:
    """float32 [H, W], 0–255, of a grey image. Raises UserError for a coloured one."""
    pixels = np.asarray(decode(content, f"data: {path}")).astype(np.int16)
    if (pixels.max(2) - pixels.min(2)).max() > COLOURED:
        raise UserError(
            f"data: {path} is a colour image; a map must be grey, brighter where more look"
        )
    return pixels.mean(2, dtype=np.float32)


def _from_mask(grey: np.ndarray, mask: np.ndarray) -> Truth:
    if mask.shape == grey.shape:
        return Truth(grey, mask)
    points = np.argwhere(mask)[:, ::-1] + 0.5
    scale = np.array(grey.shape[::-1]) / np.array(mask.shape[::-1])
    return Truth(grey, _from_points(grey, points * scale).fixated, rescaled=True)


def _from_points(grey: np.ndarray, points: np.ndarray) -> Truth:
    """points: float [F, 2], (x, y) from the upper left corner, in pixels of the map."""
    whole = np.floor(np.nan_to_num(points, nan=-1.0, posinf=-1.0, neginf=-1.0)).astype(np.int64)
    inside = ((whole >= 0) & (whole < grey.shape[::-1])).all(1)
    fixated = np.zeros(grey.shape, bool)
    fixated[whole[inside, 1], whole[inside, 0]] = True
    return Truth(grey, fixated, outside=int((~inside).sum()))


def fixation_kind(path: str) -> str | None:
    """How a file of fixations is read, by its name: image, mat, npz or csv; None for others."""
    extension = os.path.splitext(path)[1].lower()
    return "image" if is_image(path) else extension[1:] if extension[1:] in READERS else None


def _image(content: bytes, path: str) -> np.ndarray:
    lossy = os.path.splitext(path)[1].lower() in LOSSY
    pixels = np.asarray(decode(content, f"data: {path}")).max(2)
    return pixels > (_LOSSY_LEVEL if lossy else 0)


def _mat(content: bytes, path: str) -> np.ndarray:
    import scipy.io

    try:
        variables = scipy.io.loadmat(io.BytesIO(content))
    except NotImplementedError:
        raise UserError(f"data: {path} is MATLAB 7.3 (HDF5); save it with -v7") from None
    except Exception as error:  # whatever a damaged file makes its parser raise
        raise UserError(f"data: {path} is not a readable .mat file ({error})") from None
    found = [name for name in variables if not name.startswith("__")]
    key = next((name for name in MAT_KEYS if name in variables), None)
    if key is None:
        raise UserError(
            f"data: {path} has the keys {', '.join(found) or 'none'}; fixations are looked for "
            f"under {', '.join(MAT_KEYS)}"
        )
    value = variables[key]
    if value.dtype.names or value.dtype == object:
        return _gaze(value, path, key) - 1.0  # MATLAB counts pixels from 1
    if value.ndim != 2:
        raise UserError(f"data: {path}: {key} has shape {list(value.shape)}; a mask has 2 axes")
    return value != 0


def _gaze(value: np.ndarray, path: str, key: str) -> np.ndarray:
    """SALICON's struct of viewers, each with `fixations` [F, 2] of x, y."""
    if not value.dtype.names or "fixations" not in value.dtype.names:
        fields = ", ".join(value.dtype.names or ()) or "none"
        raise UserError(f"data: {path}: {key} has the fields {fields}; fixations is missing")
    of_viewers = [np.asarray(one, np.float64).reshape(-1, 2) for one in value["fixations"].ravel()]
    return np.concatenate([np.empty((0, 2)), *of_viewers])


def _npz(content: bytes, path: str) -> np.ndarray:
    try:
        arrays: Any = np.load(io.BytesIO(content), allow_pickle=False)
        if {"x", "y"} <= set(arrays.files):
            return np.column_stack([arrays["x"], arrays["y"]]).astype(np.float64).reshape(-1, 2)
        found = ", ".join(arrays.files) or "none"
    except Exception as error:  # whatever a damaged archive makes its parser raise
        raise UserError(f"data: {path} is not a readable .npz file ({error})") from None
    raise UserError(f"data: {path} has the arrays {found}; give x and y")


def _csv(content: bytes, path: str) -> np.ndarray:
    try:
        rows = [row for row in csv.reader(content.decode("utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"data: {path} is not CSV; give lines x,y") from None
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if {"x", "y"} <= set(names):
        columns, rows = (names.index("x"), names.index("y")), rows[1:]
    else:
        columns = (0, 1)
    try:
        points = [[float(row[column]) for column in columns] for row in rows]
    except (ValueError, IndexError):
        raise UserError(
            f"data: {path} begins with {','.join(rows[0])[:60]!r}; give lines x,y of pixels from "
            "the upper left corner, with or without a header"
        ) from None
    return np.array(points, np.float64).reshape(-1, 2)


READERS: dict[str | None, Callable[[bytes, str], np.ndarray]] = {
    "image": _image,
    "mat": _mat,
    "npz": _npz,
    "csv": _csv,
}
"""Each gives bool [H, W], a mask, or float [F, 2], points; where a folder has several kinds, the
first counts."""
