"""What a spec says of its images."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from bikd_ray.errors import choices
from bikd_ray.specs.values import Float, Frozen, Int, Located, LocatedEach, cache_in_base


class FolderData(Frozen):
    """A directory with one sub-directory of images for each class, or with a file of labels."""

    source: Literal["folder"] = Field(description="images in folders")
    path: Located = Field(description="the folder")
    labels: Located | None = Field(
        default=None,
        min_length=1,
        description="a file of labels for the images below path: a label a line in sorted order, "
        "or lines FILE LABEL; integers from 0 or class names of train",
    )


class ParquetData(Frozen):
    """Parquet files as HF datasets write them: images (struct with bytes, or binary), labels."""

    source: Literal["parquet"] = Field(description="images in a column")
    path: LocatedEach = Field(description="a file, a directory or a glob; local, s3:// or gs://")
    image: str = Field(default="image", min_length=1, description="column of the images")
    label: str = Field(
        default="label", min_length=1, description="column of the labels, or folders label=K"
    )


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


DataSource = Annotated[
    FolderData | ParquetData | TimmData | DigitsData, Field(discriminator="source")
]


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
