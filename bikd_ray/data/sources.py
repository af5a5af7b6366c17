"""Labelled image sets: a folder of classes, HF-style Parquet, and scikit-learn's digits.

An image set is labels [N] in memory and images on demand; it pickles, so that loader
processes can share it.
"""

import io
import json
import os
import struct
from bisect import bisect_right
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from bikd_ray.errors import UserError
from bikd_ray.identity import digest
from bikd_ray.specs import DataSource, DigitsData, FolderData, ParquetData

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


class ImageSet(Protocol):
    """N labelled images."""

    labels: np.ndarray  # int64 [N]
    source_id: str  # content identity: names, sizes and labels, not the place

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in label order, where the source knows them."""
        ...

    def image(self, index: int) -> Image.Image:
        """Image `index` in RGB. Raises UserError that names the file or row if it is corrupt."""
        ...


def open_images(source: DataSource) -> ImageSet:
    """Open a data source of a spec. Raises UserError for a missing or empty one."""
    if isinstance(source, FolderData):
        return FolderImages(source.path)
    if isinstance(source, ParquetData):
        return ParquetImages(source.path)
    return DigitsImages(source)


def _decode(stream: io.BytesIO | str, where: str) -> Image.Image:
    try:
        with Image.open(stream) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        reason = "no known image format"
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = str(error)
    raise UserError(f"{where} is not a readable image ({reason}); replace or remove it")


class FolderImages:
    """`root/CLASS/**/image.jpg`; classes and files in sorted order."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(
                f"data: {root} is not a folder; give the folder that holds one sub-folder a class"
            )
        self.classes = tuple(
            sorted(d.name for d in self.root.iterdir() if d.is_dir() and d.name[0] != ".")
        )
        files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((self.root / name).rglob("*"))
            if path.suffix.lower() in EXTENSIONS
        ]
        if not files:
            raise UserError(
                f"data: no images under {root}; expected {root}/CLASS/IMAGE "
                f"with one of {', '.join(sorted(EXTENSIONS))}"
            )
        self.paths = [path for path, _ in files]
        self.labels = np.array([label for _, label in files], dtype=np.int64)
        listing = [(str(p.relative_to(self.root)), p.stat().st_size, label) for p, label in files]
        self.source_id = digest("folder", self.classes, listing)

    def image(self, index: int) -> Image.Image:
        return _decode(str(self.paths[index]), f"data: {self.paths[index]}")


class ParquetImages:
    """Columns `image` (struct with bytes, or binary) and `label` (integer), in file order."""

    def __init__(self, uri: str) -> None:
        self.filesystem, self.paths = _expand(uri)
        labels, footers = [], []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        starts = [0]
        for number, path in enumerate(self.paths):
            file = self._file(number)
            names = file.schema_arrow.names
            for column in ("image", "label"):
                if column not in names:
                    raise UserError(
                        f"data: {path} has no column {column!r}, only {', '.join(names)}; "
                        "expected image (struct with bytes, or binary) and label (integer)"
                    )
            kind = file.schema_arrow.field("image").type
            if not _holds_bytes(kind):
                raise UserError(
                    f"data: image in {path} is {kind}; it must be binary, or a struct with bytes: "
                    "images must be embedded in the file"
                )
            column = self._column(number, "label")
            if column.null_count:
                raise UserError(f"data: {path} has {column.null_count} rows without a label")
            try:
                labels.append(column.to_numpy().astype(np.int64, casting="same_kind"))
            except TypeError:
                raise UserError(
                    f"data: label in {path} is {column.type}; it must be an integer"
                ) from None
            footers.append(_footer(file.metadata))
            for group in range(file.metadata.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
            self.classes = _class_names(file) if number == 0 else self.classes
        self._starts = np.array(starts)
        self.labels = np.concatenate(labels)
        if not len(self.labels):
            raise UserError(f"data: {uri} holds no rows; give files with at least one image")
        self.source_id = digest("parquet", footers, digest(self.labels.tolist()))
        self._rows = lru_cache(maxsize=4 + (os.cpu_count() or 1))(self._read_group)

    def _file(self, number: int) -> pq.ParquetFile:
        path = self.paths[number]
        try:
            return pq.ParquetFile(path, filesystem=self.filesystem)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"data: {path} is not a readable Parquet file ({reason})") from None

    def _column(self, number: int, name: str, group: int | None = None) -> pa.ChunkedArray:
        """A column of a file, or of one row group of it. Raises UserError if it is damaged."""
        file = self._file(number)
        try:
            groups = range(file.metadata.num_row_groups) if group is None else [group]
            return file.read_row_groups(groups, columns=[name]).column(name)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(" :")
            where = self.paths[number] + ("" if group is None else f", row group {group}")
            raise UserError(
                f"data: {name} in {where} cannot be read ({reason}); copy the file again"
            ) from None

    def _read_group(self, number: int) -> list[bytes | None]:
        file, group = self._groups[number]
        column = self._column(file, "image", group)
        return [v["bytes"] if isinstance(v, dict) else v for v in column.to_pylist()]

    def image(self, index: int) -> Image.Image:
        group = bisect_right(self._starts, index) - 1
        row = index - int(self._starts[group])
        path = self.paths[self._groups[group][0]]
        value = self._rows(group)[row]
        where = f"data: {path}, row {index - self._first_of_file(group)}"
        if value is None:
            raise UserError(f"{where} has no image bytes; images must be embedded in the file")
        return _decode(io.BytesIO(value), where)

    def _first_of_file(self, group: int) -> int:
        file = self._groups[group][0]
        first = next(i for i, (number, _) in enumerate(self._groups) if number == file)
        return int(self._starts[first])

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_rows"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._rows = lru_cache(maxsize=4 + (os.cpu_count() or 1))(self._read_group)


def _expand(uri: str) -> tuple[pafs.FileSystem, list[str]]:
    """The Parquet files behind a file, directory or glob, in sorted order."""
    try:
        if "://" in uri:
            filesystem, path = pafs.FileSystem.from_uri(uri)
        else:
            filesystem, path = pafs.LocalFileSystem(), str(Path(uri).absolute())
        folder = path
        if any(c in path for c in "*?["):
            fixed = path.split("*")[0].split("?")[0].split("[")[0]
            folder = fixed.rpartition("/")[0]
            listing = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
            files = [f.path for f in listing if f.is_file and fnmatch(f.path, path)]
        else:
            info = filesystem.get_file_info(path)
            if info.type == pafs.FileType.NotFound:
                raise FileNotFoundError(uri)
            if info.type == pafs.FileType.Directory:
                listing = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
                files = [f.path for f in listing if f.path.endswith(".parquet")]
            else:
                files = [path]
    except FileNotFoundError:
        raise UserError(
            f"data: {uri} does not exist; give a Parquet file, folder or glob"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"data: cannot open {uri}: {str(error).splitlines()[0]}") from None
    if not files:
        raise UserError(f"data: no Parquet file matches {uri}")
    return filesystem, sorted(files)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is binary, or a struct with binary `bytes`."""
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _footer(metadata: pq.FileMetaData) -> list[list[int]]:
    """Sizes of every column chunk: equal for equal content, readable without the content."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return [
        [g.num_rows, *(g.column(c).total_compressed_size for c in range(g.num_columns))]
        for g in groups
    ]


def _class_names(file: pq.ParquetFile) -> tuple[str, ...] | None:
    """Class names from the metadata that HF datasets leave in the schema, if they are there."""
    try:
        info = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        return tuple(info["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


class DigitsImages:
    """UCI handwritten digits: 1,797 images of 8 x 8 pixels with 17 grey levels.

    train and val are disjoint halves, stratified by class, the same on every machine.
    """

    def __init__(self, source: DigitsData) -> None:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        order = order[np.argsort(digits.target[order], kind="stable")]
        rows = np.sort(order[1::2] if source.split == "val" else order[0::2])
        self._pixels = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)
        self.labels = digits.target[rows].astype(np.int64)
        self.classes = tuple(str(c) for c in digits.target_names)
        self.source_id = digest("digits", source.split, rows.tolist())

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).convert("RGB")
