"""Hugging Face data sets, as timm's `ReaderHfds` opens them."""

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from bikd_ray.data.decode import BadImage, decode
from bikd_ray.data.files import file_stamp, image_stamps
from bikd_ray.data.label_values import numbered
from bikd_ray.data.labels import NO_LABEL
from bikd_ray.data.names import array_digest
from bikd_ray.errors import UserError, choices
from bikd_ray.identity import digest
from bikd_ray.specs import TimmData, labelled


class HFImages:
    """`hfds/NAME`: one split of a data set from the hub or a local folder, in its own order.

    It lies in memory-mapped Arrow files under `path`, or in the library's own cache. Its identity
    is the labels and the size of each encoded image: equal on every node and for every version
    with this content, unlike the library's fingerprint. Raises UserError where it cannot be
    opened, or has no such columns.
    """

    random_access = True
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # several splits may lie in one

    def __init__(self, source: TimmData) -> None:
        self.name, self.split = source.name.partition("/")[2], source.split
        dataset = _load(self.name, self.split, source.path)
        columns = [source.image, *([source.label] if labelled(source) else [])]
        for column in columns:
            if column not in dataset.column_names:
                raise UserError(
                    f"data: {source.name} has no column {column!r}; "
                    f"{choices(column, dataset.column_names)}"
                )
        if not len(dataset):
            raise UserError(f"data: {source.name}, split {self.split} holds no rows")
        self.labels, self.classes = np.full(len(dataset), NO_LABEL), None
        if labelled(source):
            feature = dataset.features[source.label]
            feature = getattr(feature, "feature", feature)  # of lists, of what is in them
            names = tuple(feature.names) if hasattr(feature, "names") else None
            arrow = dataset.with_format("arrow")
            labels = arrow.select_columns(source.label)[:].column(0)
            self.labels, found = numbered(labels, source.label, source.name)
            self.classes = names or found
        self._images = _undecoded(dataset, source)
        sizes, outside = _sizes(self._images.with_format("arrow")[:].column(0))
        self.nbytes = int(sizes.sum())
        self.source_id = digest("hfds", array_digest(sizes), array_digest(self.labels))
        files = [file["filename"] for file in dataset.cache_files]
        self.location = f"{source.name} {source.split} {source.path or ''}".strip()
        # the library reads its files as one run of rows: one stamp stands for all of them
        stamps = np.array([file_stamp(os.stat(file)) for file in files], np.int64).reshape(-1, 4)
        both = [int(array_digest(stamps)[:15], 16), int(stamps[:, 1].sum())]
        both += stamps[:, 2:].max(axis=0, initial=0).tolist()
        self.stamps = image_stamps(np.array([both], np.int64), [len(sizes)])
        for row, stamp in outside.items():
            self.stamps[row, :4] = stamp

    def where(self, index: int) -> str:
        return f"data: hfds/{self.name}, split {self.split}, row {index}"

    def encoded(self, index: int) -> bytes:
        image = next(iter(self._images[index].values())) or {}
        if image.get("bytes"):
            return image["bytes"]
        if not image.get("path"):
            raise BadImage.at(self.where(index), "no image bytes")
        try:
            with open(image["path"], "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(
                f"{self.where(index)}: cannot read {image['path']}: {error.strerror}"
            ) from None

    def image(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.where(index))


def _load(name: str, split: str, cache: str | None) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise UserError(
            "data: hfds/… needs the Hugging Face datasets library; pip install 'bikd-ray[hf]'"
        ) from None
    try:
        if os.path.isfile(os.path.join(name, "dataset_dict.json")):  # by DatasetDict.save_to_disk
            splits: Any = datasets.load_from_disk(name)
            if split not in splits:
                raise UserError(
                    f"data: hfds/{name} has no split {split!r}; {choices(split, splits)}"
                )
            return splits[split]
        if os.path.isfile(os.path.join(name, "state.json")):  # by Dataset.save_to_disk
            saved: Any = datasets.load_from_disk(name)
            if saved.split and str(saved.split) != split:
                raise UserError(
                    f"data: hfds/{name} is the split {str(saved.split)!r}, not {split!r}; set "
                    "split to it"
                )
            return saved
        return datasets.load_dataset(name, split=split, cache_dir=cache)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"data: cannot open hfds/{name}, split {split}: {reason}") from None


def _undecoded(dataset: Any, source: TimmData) -> Any:
    """The images alone, as they are stored."""
    import datasets

    images = dataset.select_columns(source.image)
    try:
        return images.cast_column(source.image, datasets.Image(decode=False))
    except (TypeError, ValueError, pa.ArrowException):
        kind = dataset.features[source.image]
        raise UserError(
            f"data: column {source.image} of {source.name} holds no images but {kind}"
        ) from None


def _sizes(images: pa.ChunkedArray) -> tuple[np.ndarray, dict[int, tuple[int, ...]]]:
    """int64 [N]: bytes of each encoded image, of its file where only the path is stored; and the
    `file_stamp`s of those files by row.
    """
    outside = {}
    content = pc.call_function("struct_field", [images], pc.StructFieldOptions(["bytes"]))
    stored = pc.fill_null(pc.call_function("binary_length", [content]), 0)
    sizes = stored.to_numpy().astype(np.int64)
    for row in np.flatnonzero(sizes == 0):
        path = (images[row].as_py() or {}).get("path")
        if path and os.path.exists(path):
            outside[int(row)] = stamp = file_stamp(os.stat(path))
            sizes[row] = stamp[1]
    return sizes, outside
