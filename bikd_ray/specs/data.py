"""What a spec says of its images."""

import re
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from bikd_ray.errors import choices
from bikd_ray.specs.values import Float, Frozen, Int, Located, LocatedEach, cache_in_base, in_base

NO_LABELS = "none"
"""What `labels` says of a source whose labels are not there, or not to be read."""

NoLabels = Literal["none"]


def _labels_in_base(labels: str, info: ValidationInfo) -> str:
    return labels if labels == NO_LABELS else in_base(labels, info)


class FolderData(Frozen):
    """A directory with one sub-directory of images for each class, or with a file of labels."""

    source: Literal["folder"] = Field(description="images in folders")
    path: Located = Field(description="the folder")
    labels: Annotated[str, Field(min_length=1), AfterValidator(_labels_in_base)] | None = Field(
        default=None,
        description="a file of labels for the images below path: a label a line in sorted order, "
        "or lines FILE LABEL; integers from 0 or class names of train; none: images alone, in any "
        "folders",
    )


_NO_LABELS = Field(default=None, description="none: images alone; labels are not read")


class ParquetData(Frozen):
    """Parquet files as HF datasets write them: images (struct with bytes, or binary), labels."""

    source: Literal["parquet"] = Field(description="images in a column")
    path: LocatedEach = Field(description="a file, a directory or a glob; local, s3:// or gs://")
    image: str = Field(default="image", min_length=1, description="column of the images")
    label: str = Field(
        default="label", min_length=1, description="column of the labels, or folders label=K"
    )
    labels: NoLabels | None = _NO_LABELS


class TimmData(Frozen):
    """What timm's readers open: `hfds/NAME` (Hugging Face datasets), `wds/` (webdataset shards)
    or, with neither, a tar of class folders.
    """

    source: Literal["timm"] = Field(description="what timm's readers open")
    name: str = Field(default="", description="hfds/NAME, wds/ or nothing (path is a .tar)")
    path: LocatedEach | None = Field(
        default=None, description="tar, or shards with {000..012} or a glob; hfds: its cache folder"
    )
    split: str = Field(default="train", min_length=1, description="of the data set, as it calls it")
    image: str = Field(default="image", min_length=1, description="hfds: column of the images")
    label: str = Field(default="label", min_length=1, description="hfds: column of the labels")
    labels: NoLabels | None = _NO_LABELS

    @model_validator(mode="after")
    def _known_reader(self) -> Self:
        kind, _, rest = self.name.partition("/")
        if self.name and kind not in ("hfds", "wds"):
            raise ValueError(
                f"timm's reader {self.name!r} is not supported; "
                f"{choices(kind, ('hfds/NAME', 'wds/'))}, or leave name out for a .tar in path"
            )
        if kind == "hfds" and not rest:
            raise ValueError(
                "name hfds/ needs the data set's name, such as hfds/ILSVRC/imagenet-1k"
            )
        if kind != "hfds" and not self.path:
            raise ValueError(f"name {self.name!r} needs path: the .tar file or the shards")
        return self


class DigitsData(Frozen):
    """scikit-learn's bundled UCI handwritten digits, halved by class into train and val."""

    source: Literal["digits"] = Field(description="the bundled digits")
    split: Literal["train", "val"] = Field(description="which half")
    labels: NoLabels | None = _NO_LABELS


_Side = Annotated[Int, Field(ge=1)]


class ClipsData(Frozen):
    """Videos with maps of where people looked, and fixations: folders of frames or video files."""

    source: Literal["clips"] = Field(description="videos with maps")
    path: Located = Field(description="the data set's root, or the folder of videos itself")
    layout: Literal[
        "general", "dhf1k", "hollywood2", "ucf_sports", "vinet_v2", "salicon", "mit1003", "stills"
    ] = Field(default="general", description="whose folders it has")
    split: Literal["train", "val"] | None = Field(
        default=None, description="of the root; none where path is the folder of videos"
    )
    videos: Located | None = Field(
        default=None, description="folder of each video's frames, where not beside the maps"
    )
    shots: Literal["glued", "separate"] = Field(
        default="glued", description="shots of one video: one after the other, or each by itself"
    )
    map_size: tuple[_Side, _Side] = Field(
        default=(256, 456), description="height and width of the maps that models learn from"
    )
    eval_stride: Int = Field(
        default=1, ge=1, description="where measured on: every so many frames of a video"
    )
    eval_blur: bool = Field(
        default=True, description="where measured on: blur predictions by 11 × 11 pixels, σ 2"
    )


class MovingDigitsData(Frozen):
    """Small videos made of the bundled digits: two on noise, and who moves is looked at."""

    source: Literal["moving_digits"] = Field(description="the bundled videos")
    split: Literal["train", "val"] = Field(description="of which digits they are made")
    videos: Int | None = Field(
        default=None, ge=1, description="how many; default: 120 of train, 40 of val"
    )
    frames: Int = Field(default=40, ge=1, description="of each video")
    eval_stride: Int = Field(
        default=1, ge=1, description="where measured on: every so many frames of a video"
    )
    eval_blur: bool = Field(
        default=True, description="where measured on: blur predictions by 11 × 11 pixels, σ 2"
    )


def _label_map(value: Any) -> Any:
    """A mapping as pairs, so that it can be a key; `else` stands for all values not listed."""
    if isinstance(value, list | tuple):
        return tuple(value)  # the pairs, as they are written out
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, value of the masks: class, got {value!r}")
    pairs = [(str(key).strip(), label) for key, label in value.items()]
    if odd := [key for key, _ in pairs if not (key.isdecimal() or key == "else")]:
        raise ValueError(
            f"maps values of masks, whole numbers or else, and {odd[0][:40]!r} is none"
        )
    return tuple(pairs)


class _Masks(Frozen):
    """What the values of mask files mean."""

    num_classes: Int = Field(ge=1, le=255, description="how many classes pixels can have")
    ignore_index: Int = Field(
        default=255, ge=0, lt=2**16, description="the value of pixels without a label"
    )
    reduce_zero_label: bool = Field(
        default=False, description="0 means no label, and k is class k - 1"
    )
    label_map: Annotated[tuple[tuple[str, Int], ...], BeforeValidator(_label_map)] | None = Field(
        default=None,
        description="value of the masks: class, or 255 for no label; else: for all not listed",
    )


class MaskFoldersData(_Masks):
    """Images in one tree of folders and their masks (PNG of one channel) in another."""

    source: Literal["mask_folders"] = Field(description="images and masks in folders")
    images: Located = Field(description="the folder of the images")
    masks: Located = Field(description="the folder of the masks, under the images' names")
    image_suffix: str = Field(default="", description="what ends the images' names, such as _rgb")
    mask_suffix: str = Field(default="", description="what ends the masks' names, such as _mask")


class MaskParquetData(_Masks):
    """Parquet files with a column of encoded images and one of encoded masks."""

    source: Literal["mask_parquet"] = Field(description="images and masks in columns")
    path: LocatedEach = Field(description="a file, a directory or a glob; local, s3:// or gs://")
    image: str | None = Field(
        default=None, min_length=1, description="column of the images; default: the usual names"
    )
    mask: str | None = Field(
        default=None, min_length=1, description="column of the masks; default: the usual names"
    )


class SegmentationLayoutData(Frozen):
    """A data set for segmentation in its own layout: path and split say all."""

    source: Literal["ade20k", "cityscapes", "voc"] = Field(description="which data set")
    path: Located = Field(description="the folder that it was unpacked into")
    split: str = Field(min_length=1, description="train, val, or as the data set calls it")


class DigitScenesData(Frozen):
    """Scenes of the bundled handwritten digits with a label for each pixel."""

    source: Literal["digit_scenes"] = Field(description="made scenes of the bundled digits")
    split: Literal["train", "val"] = Field(description="of which half of the digits they are made")
    count: Int = Field(ge=1, le=10**6, description="how many scenes")
    size: Int = Field(default=32, ge=8, le=4096, description="side of a scene, pixels")
    digits: tuple[Int, Int] = Field(default=(2, 4), description="least and most in a scene")
    scales: tuple[Int, ...] = Field(
        default=(2,), min_length=1, description="factors of which each digit is enlarged by one"
    )
    seed: Int = Field(default=0, ge=0, description="of the draw")
    wide: bool = Field(default=False, description="every other scene twice as wide or as high")


DataSource = Annotated[
    FolderData
    | ParquetData
    | TimmData
    | DigitsData
    | MaskFoldersData
    | MaskParquetData
    | SegmentationLayoutData
    | DigitScenesData
    | ClipsData
    | MovingDigitsData,
    Field(discriminator="source"),
]


def labelled(source: DataSource) -> bool:
    """Whether a source says what is right of its samples."""
    return getattr(source, "labels", None) != NO_LABELS


def _names(value: Any) -> Any:
    """One mistake is one line, where a union would give one for each of its sides and items."""
    if isinstance(value, list | tuple):
        if len(value) < 2:
            raise ValueError("must list at least 2")
        if odd := [(i, name) for i, name in enumerate(value) if not isinstance(name, str)]:
            i, name = odd[0]
            raise ValueError(f"must list text, and [{i}] is {name!r}; put it in quotes")
        if twice := [name for name, times in Counter(value).items() if times > 1]:
            raise ValueError(f"lists {twice[0]!r} twice; every class needs a name of its own")
    elif not isinstance(value, str | None):
        raise ValueError("must be a list of names or a file of them")
    return value


ClassMap = tuple[tuple[str, str], ...] | tuple[str, ...] | str
"""A set's classes in the data's: pairs, a list in the order of the set's labels, or a file."""


def _class_map(value: Any, info: ValidationInfo) -> ClassMap | None:
    if value is None:
        return None
    if isinstance(value, str) and value:
        return in_base(value, info)
    if isinstance(value, dict):
        return tuple((_class(k), _class(v)) for k, v in value.items())
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
            return tuple((_class(k), _class(v)) for k, v in value)  # as it was read before
        return tuple(map(_class, value))
    raise ValueError("must be a mapping from the set's classes, a list, or a file of one")


def _class(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must hold names and numbers of classes, and {value!r} is neither")
    return str(value)


_ONE_CLASS = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
_CLASS_MAP = {
    "description": "each class of the set in the data's classes, by name, WordNet id or number: "
    "a mapping, a list in the order of the set's labels, or a .txt or .json file of one; "
    "default: by their names",
    "anyOf": [
        {"type": "object", "additionalProperties": _ONE_CLASS},
        {"type": "array", "items": _ONE_CLASS},
        {"type": "string"},
        {"type": "null"},
    ],
}


class _Further(Frozen):
    """What a set that is only measured on may say beside where it is."""

    classes: Annotated[Any, PlainValidator(_class_map), WithJsonSchema(_CLASS_MAP)] = None
    """A ClassMap or None."""


class FurtherFolder(FolderData, _Further):
    """A set from folders that models are only measured on."""


class FurtherParquet(ParquetData, _Further):
    """A set from Parquet that models are only measured on."""


class FurtherTimm(TimmData, _Further):
    """A set from timm's readers that models are only measured on."""


class FurtherDigits(DigitsData, _Further):
    """A set from the digits that models are only measured on."""


FurtherSource = Annotated[
    FurtherFolder | FurtherParquet | FurtherTimm | FurtherDigits, Field(discriminator="source")
]

_SET_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")


def _set_names(value: Any) -> Any:
    for name in value if isinstance(value, dict) else ():
        if not (isinstance(name, str) and _SET_NAME.fullmatch(name)):
            raise ValueError(
                f"a set cannot be called {str(name)[:80]!r}; give a name of letters, digits, "
                "- and _"
            )
        if name in ("train", "val"):
            raise ValueError(f"a further set cannot be called {name!r}; choose another name")
    return value


class Data(Frozen):
    """The images that models learn from, and those that they are measured on."""

    train: DataSource = Field(description="what models learn from")
    val: DataSource = Field(description="what they are measured on")
    num_classes: Int | None = Field(
        default=None, ge=2, description="how many classes there are; default: from the labels"
    )
    classes: Annotated[
        Annotated[tuple[str, ...], Field(min_length=2)] | Located | None, BeforeValidator(_names)
    ] = Field(
        default=None,
        description="class names in the order of the models' outputs, or a .txt or .json file of "
        "them; default: from the data",
    )
    select_fraction: Float = Field(
        default=0.0, ge=0, lt=1, description="share of train held out to choose the epoch"
    )
    cache: Annotated[str, AfterValidator(cache_in_base)] = Field(
        default="auto", min_length=1, description="auto | none | DIR: decoded uint8 views"
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        default="fail",
        description="an image that does not decode: stop and name it, or leave it out",
    )
    eval: Annotated[dict[str, FurtherSource], BeforeValidator(_set_names)] = Field(
        default={},
        description="further labelled sets by name, on which models are only measured; each a "
        "source as train and val, with classes where its own are called otherwise",
    )

    @model_validator(mode="after")
    def _has_the_labels_it_needs(self) -> Self:
        problems = []
        if not labelled(self.val):
            problems.append(
                "val needs labels: models are measured on it; labels: none is for train"
            )
        for name, source in self.eval.items():
            if not labelled(source):
                problems.append(f"eval.{name} needs labels: models are measured on it")
        if not labelled(self.train) and self.select_fraction:
            problems.append(
                "select_fraction needs labels to choose an epoch by, and train has none; leave "
                "it out"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
