"""What a spec says of its models."""

import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from bikd_ray.specs.values import (
    Float,
    Frozen,
    Int,
    Kwargs,
    Located,
    Positive,
    Reading,
    in_base,
)

LOCAL_DIR = "local-dir:"
"""What timm puts before the folder of a model in the Hugging Face layout."""


def _timm_in_base(name: str, info: ValidationInfo) -> str:
    if not name.startswith(LOCAL_DIR):
        return name
    return LOCAL_DIR + in_base(name.removeprefix(LOCAL_DIR), info)


def _hub_in_base(hub: str, info: ValidationInfo) -> str:
    """OWNER/REPO stays as it is unless there is a folder of that name."""
    there = in_base(hub, info)
    folder = there.rpartition(":")[0]
    is_path = hub.startswith(("/", "~", "$", "."))
    return there if is_path or os.path.isdir(folder) else hub


def _folder_in_base(name: str, info: ValidationInfo) -> str:
    """A hub name stays as it is unless there is a folder of that name."""
    there = in_base(name, info)
    return there if name.startswith(("/", "~", "$", ".")) or os.path.isdir(there) else name


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Triple = tuple[Float, Float, Float]


class FrameWindow(Frozen):
    """The frames of a video that a model sees around the one whose map it gives."""

    frames: Int = Field(ge=1, description="how many")
    stride: Int = Field(
        default=1, ge=1, description="from each to the next, in frames of the video"
    )
    first: Int | None = Field(
        default=None, description="offset of the first; default: the last is the frame itself"
    )
    phase: Int = Field(default=0, description="moves all of them, in frames of the video")


class Input(Frozen):
    """How one model wants its images; what is left out comes from the model's own data config."""

    size: Int | None = Field(default=None, ge=1, description="side of the square input, pixels")
    width: Int | None = Field(
        default=None, ge=1, description="of frames that are not square, whose height is size"
    )
    window: FrameWindow | None = Field(
        default=None, description="frames that a model of videos sees; default: one, as an image"
    )
    mean: Triple | None = Field(default=None, description="of red, green, blue in 0–1")
    std: tuple[Positive, Positive, Positive] | None = Field(
        default=None, description="of red, green, blue in 0–1"
    )
    crop_pct: Float | None = Field(
        default=None, gt=0, le=1, description="share of the resized image's side that is kept"
    )
    interpolation: Interpolation | None = Field(default=None, description="how images are resized")
    multiple: Int | None = Field(
        default=None,
        ge=1,
        description="segmentation: padded sides are multiples of it (size, too); default: 32",
    )


SOURCES = ("timm", "factory", "hub", "transformers", "torchvision", "smp", "detectron2", "saliency")
"""The fields of a zoo entry of which exactly one says where the model comes from."""


def _pairs(value: Any) -> Any:
    """A mapping as pairs: their order counts, and the keys of a mapping have none in an id."""
    if not isinstance(value, dict):
        if isinstance(value, list | tuple):
            return value  # the pairs, as they are written out
        raise ValueError(f"must be a mapping, regular expression: replacement, got {value!r}")
    for pattern, replacement in value.items():
        if not isinstance(pattern, str) or not isinstance(replacement, str):
            raise ValueError(
                f"must map text to text, regular expression: replacement, got {pattern!r}: "
                f"{replacement!r}"
            )
    return tuple(value.items())


class ZooEntry(Frozen):
    """One model: a timm name, a dotted factory or a torch hub entry, with optional weights."""

    timm: Annotated[str, AfterValidator(_timm_in_base)] | None = Field(
        default=None, min_length=1, description="a timm name, hf-hub:USER/MODEL or local-dir:FOLDER"
    )
    factory: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:[\w.]+$",
        description="MODULE:FUNCTION, any callable that returns an nn.Module",
    )
    hub: Annotated[str, AfterValidator(_hub_in_base)] | None = Field(
        default=None,
        pattern=r"^[^:]+:\w+$",
        description="torch hub, OWNER/REPO[@REF]:ENTRY or FOLDER:ENTRY; runs the repository's code",
    )
    saliency: Literal["tmfi_net", "vinet_s", "vinet_a"] | None = Field(
        default=None, description="a network of where people look in videos"
    )
    start: Located | None = Field(
        default=None, description="saliency: a file of an action classifier, for its encoder alone"
    )
    transformers: Annotated[str, AfterValidator(_folder_in_base)] | None = Field(
        default=None,
        min_length=1,
        description="segmentation: a model of transformers, its hub name or folder",
    )
    torchvision: str | None = Field(
        default=None,
        min_length=1,
        description="segmentation: a model of torchvision; kwargs may have weights",
    )
    smp: str | None = Field(
        default=None,
        min_length=1,
        description="segmentation: an architecture of segmentation-models-pytorch",
    )
    detectron2: Located | None = Field(
        default=None, description="segmentation: Mask2Former's released file, .pkl or .pth"
    )
    trust: bool = Field(default=False, description="hub: yes, run that repository's code")
    kwargs: Kwargs = Field(default={}, description="arguments of what builds the network")
    checkpoint: Located | None = Field(
        default=None, description="a file with the weights; local, https://, s3:// or gs://"
    )
    key: str | None = Field(
        default=None, min_length=1, description="of the state in the checkpoint, as in a.b"
    )
    prefix: str | None = Field(
        default=None, min_length=1, description="of the model's tensors there; taken off"
    )
    rename: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = Field(
        default=(), description="regular expression: replacement, in turn over the tensors' names"
    )
    input: Input = Field(
        default=Input(), description="how the model wants its images; default: as its makers do"
    )
    alias: str | None = Field(
        default=None, min_length=1, description="what it is called; default: its source's name"
    )

    @model_validator(mode="before")
    @classmethod
    def _called_as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """What pairings call it, whatever becomes of its path."""
        if isinstance(value, dict) and "alias" not in value and isinstance(info.context, Reading):
            written = [value[kind] for kind in SOURCES if value.get(kind)]
            if len(written) == 1 and isinstance(written[0], str):
                return {**value, "alias": written[0]}
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [kind for kind in SOURCES if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of timm: NAME, factory: package.module:function, "
                "hub: OWNER/REPO:ENTRY, for segmentation "
                f"{', '.join(SOURCES[3:-1])}, or for videos saliency: NAME, "
                f"got {' and '.join(given) or 'none'}"
            )
        if self.hub and not self.trust:
            raise ValueError(
                f"hub {self.hub!r} runs the code of that repository on every node; read it, then "
                "add trust: true"
            )
        if self.trust and not self.hub:
            raise ValueError(f"trust goes with hub:, not with {given[0]}:; remove it")
        return self

    @model_validator(mode="after")
    def _goes_with_checkpoint(self) -> Self:
        if self.start and not self.saliency:
            raise ValueError("start goes with saliency: NAME; remove it, or give a checkpoint")
        if self.start and self.checkpoint:
            raise ValueError("start and checkpoint exclude each other: a checkpoint has all of it")
        for field in ("key", "prefix", "rename"):
            if getattr(self, field) and not self.checkpoint:
                raise ValueError(f"{field} goes with checkpoint: FILE; add it or remove {field}")
        for pattern, replacement in self.rename:
            try:
                re.compile(pattern)
                re.sub(f"{pattern}|", replacement, "")  # matches, so the replacement is read too
            except (re.error, IndexError) as error:
                raise ValueError(
                    f"rename: {pattern!r}: {replacement!r} is not a regular expression and its "
                    f"replacement ({error})"
                ) from None
        return self

    @property
    def source(self) -> str:
        """Where the architecture comes from, as KIND:NAME."""
        return next(f"{k}:{getattr(self, k)}" for k in SOURCES if getattr(self, k) is not None)

    @property
    def name(self) -> str:
        """What people call it: the alias, else the timm name, the factory or the hub entry."""
        return self.alias or self.source.partition(":")[2]
