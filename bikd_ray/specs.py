"""What a person asks for: the YAML spec as frozen models that refuse bad values at birth.

Everything but `zoo` and `data` has a default, and the defaults are the paper's
(Jain et al., TMLR 2025). Field names and choices are listed in the README.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bikd_ray.errors import choices
from bikd_ray.paths import expanded, located


class Frozen(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        """No control characters in any text: paths, names and messages are single lines."""
        if odd := next((c for text in _texts(value) for c in text if _is_control(c)), None):
            raise ValueError(f"holds the control character {odd!r}; remove it")
        return value


def _is_control(character: str) -> bool:
    """Also lone surrogates, and separators of lines and paragraphs."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _texts(value: Any) -> Iterator[str]:
    """The texts of a field; those in mappings are of other fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_LEAST, _MOST = -(2**63), 2**63 - 1
"""Of a whole number: the store's columns are int64."""


def _number(value: Any) -> Any:
    """A number as it is or as text; to Python and pydantic a boolean is one too, but not here."""
    if isinstance(value, bool):
        raise ValueError("must be a number, and a boolean is none")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        # Python converts no thousands of digits
        value = float(value) if set(value) & set(".eE") else int(value[:100])
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise ValueError("must be between -2**63 and 2**63 - 1")
    return value


def _plain(value: Any, where: str = "") -> Any:
    """Keyword arguments in the types that JSON has: a model's identity is made of them."""
    said = f"{where} must be" if where else "must be"
    if isinstance(value, dict):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise ValueError(f"{said} a mapping from text, and {str(odd[0])[:40]} is none")
        dot = f"{where}." if where else ""
        return {_plain(k): _plain(v, dot + k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str) and any(map(_is_control, value)):
        raise ValueError(f"{said} without control characters, got {value[:40]!r}")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{said} a finite number, got {value}")
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        raise ValueError(f"{said} between -2**63 and 2**63 - 1")
    if not (value is None or isinstance(value, str | float | int)):
        raise ValueError(
            f"{said} text, a number, a list or a mapping, got a {type(value).__name__}"
        )
    return value


def _named_values(value: Any) -> Any:
    """Names that are no text are told here, where they can be called by their name."""
    return _plain(value) if isinstance(value, dict) else value


Kwargs = Annotated[dict[str, Any], BeforeValidator(_named_values)]
Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
"""Every number of a spec is one of these two."""


@dataclass(frozen=True)
class Reading:
    """The context in which a spec is validated when a person's own text is read.

    base: what relative paths are taken from; None leaves them. Without this context paths are
    values that were read before, and stay as they are.
    """

    base: Path | None


def _in_base(path: str, info: ValidationInfo) -> str:
    return located(path, info.context.base) if isinstance(info.context, Reading) else path


def _in_base_each(paths: str, info: ValidationInfo) -> str:
    if not all(paths.split("::")):
        raise ValueError(f"{paths!r} has nothing before or after a '::'; remove the '::'")
    return "::".join(_in_base(path, info) for path in paths.split("::"))


def _only_expanded(uri: str, info: ValidationInfo) -> str:
    return expanded(uri) if isinstance(info.context, Reading) else uri


def _cache_in_base(cache: str, info: ValidationInfo) -> str:
    return cache if cache in ("auto", "none") else _in_base(cache, info)


LOCAL_DIR = "local-dir:"
"""What timm puts before the folder of a model in the Hugging Face layout."""


def _timm_in_base(name: str, info: ValidationInfo) -> str:
    if not name.startswith(LOCAL_DIR):
        return name
    return LOCAL_DIR + _in_base(name.removeprefix(LOCAL_DIR), info)


def _hub_in_base(hub: str, info: ValidationInfo) -> str:
    """OWNER/REPO stays as it is unless there is a folder of that name."""
    there = _in_base(hub, info)
    folder = there.rpartition(":")[0]
    is_path = hub.startswith(("/", "~", "$", "."))
    return there if is_path or Path(folder).is_dir() else hub


Located = Annotated[str, Field(min_length=1), AfterValidator(_in_base)]
"""A path or URI: `~` and `$VAR` are expanded, and it is relative to the spec's folder."""
LocatedEach = Annotated[str, Field(min_length=1), AfterValidator(_in_base_each)]
"""Several of them, joined by `::`."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Triple = tuple[Float, Float, Float]
Positive = Annotated[Float, Field(gt=0)]


class Input(Frozen):
    """How one model wants its images; what is left out comes from the model's own data config."""

    size: Int | None = Field(default=None, ge=1, description="side of the square input, pixels")
    mean: Triple | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    crop_pct: Float | None = Field(default=None, gt=0, le=1)
    interpolation: Interpolation | None = None


SOURCES = ("timm", "factory", "hub")
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
    factory: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    hub: Annotated[str, AfterValidator(_hub_in_base)] | None = Field(
        default=None,
        pattern=r"^[^:]+:\w+$",
        description="torch hub, OWNER/REPO[@REF]:ENTRY or FOLDER:ENTRY; runs the repository's code",
    )
    trust: bool = Field(default=False, description="hub: yes, run that repository's code")
    kwargs: Kwargs = {}
    checkpoint: Located | None = None
    key: str | None = Field(
        default=None, min_length=1, description="of the state in the checkpoint, as in a.b"
    )
    prefix: str | None = Field(
        default=None, min_length=1, description="of the model's tensors there; taken off"
    )
    rename: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = Field(
        default=(), description="regular expression: replacement, in turn over the tensors' names"
    )
    input: Input = Input()
    alias: str | None = Field(default=None, min_length=1)

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
                "give exactly one of timm: NAME, factory: package.module:function or "
                f"hub: OWNER/REPO:ENTRY, got {' and '.join(given) or 'none'}"
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


class FolderData(Frozen):
    """A directory with one sub-directory of images for each class, or with a file of labels."""

    source: Literal["folder"]
    path: Located
    labels: Located | None = Field(
        default=None,
        min_length=1,
        description="a file of labels for the images below path: a label a line in sorted order, "
        "or lines FILE LABEL; integers from 0 or class names of train",
    )


class ParquetData(Frozen):
    """Parquet files as HF datasets write them: images (struct with bytes, or binary), labels."""

    source: Literal["parquet"]
    path: LocatedEach = Field(description="a file, a directory or a glob; local, s3:// or gs://")
    image: str = Field(default="image", min_length=1, description="column of the images")
    label: str = Field(
        default="label", min_length=1, description="column of the labels, or folders label=K"
    )


class TimmData(Frozen):
    """What timm's readers open: `hfds/NAME` (Hugging Face datasets), `wds/` (webdataset shards)
    or, with neither, a tar of class folders.
    """

    source: Literal["timm"]
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

    source: Literal["digits"]
    split: Literal["train", "val"]


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
    train: DataSource
    val: DataSource
    num_classes: Int | None = Field(default=None, ge=2, description="default: from the labels")
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
    cache: Annotated[str, AfterValidator(_cache_in_base)] = Field(
        default="auto", min_length=1, description="auto | none | DIR: decoded uint8 views"
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        default="fail",
        description="an image that does not decode: stop and name it, or leave it out",
    )


class Pairings(Frozen):
    """Which sets of models train together."""

    mode: Literal["all", "anchors", "list"] = "all"
    size: Int = Field(default=2, ge=2, description="models in a pairing (modes all and anchors)")
    models: tuple[str, ...] = Field(
        default=(), description="anchors: every pairing holds one of these"
    )
    list: tuple[tuple[str, ...], ...] = Field(default=(), description="the pairings themselves")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict) and "anchors" in value:
            anchors = value["anchors"]
            inner = anchors if isinstance(anchors, dict) else {"models": anchors}
            rest = {k: v for k, v in value.items() if k != "anchors"}
            return {"mode": "anchors", **rest, **inner}
        if isinstance(value, dict) and "list" in value and "mode" not in value:
            return {"mode": "list", **value}
        return value

    @model_validator(mode="after")
    def _fits_mode(self) -> Self:
        for field, mode in (("models", "anchors"), ("list", "list")):
            given = getattr(self, field)
            if self.mode == mode and not given:
                raise ValueError(f"mode {mode} needs a non-empty {field}")
            if self.mode != mode and given:
                raise ValueError(f"{field} goes with mode: {mode}, not with mode: {self.mode}")
        for group in self.list:
            if len(group) < 2:
                raise ValueError(f"a pairing needs at least 2 models, got {list(group)}")
            if len(set(group)) < len(group):
                raise ValueError(f"a pairing names a model twice: {list(group)}")
        return self


OPTIONS: dict[str, tuple[str, ...]] = {
    "bikd": ("temperature", "ties", "detach_teacher", "mask", "ce_weight", "kl_weight"),
    "dml": ("temperature", "detach_teacher", "ce_weight", "kl_weight"),
    "kd": ("temperature", "kd_weight"),
    "kl_dp": ("temperature",),
    "kl_dp_supervised": ("temperature",),
    "self": ("temperature", "ce_weight", "kl_weight"),
    "ce": (),
}
"""What each objective can be told."""

DIRECTED = ("kd", "kl_dp", "kl_dp_supervised")
"""Objectives with one student and frozen teachers: a pairing is a job for each of its students."""

ALONE = ("ce", "self")
"""Objectives without partners: the controls."""


class Objective(Frozen):
    """Who teaches whom.

    `bikd`: the model most confident in the true class teaches the rest. `dml`: everybody teaches
    everybody. `kd`: frozen teachers teach one student on every sample. `kl_dp`: where they are
    more confident than the student was (`_supervised`: in the true class), else its old self does.
    `self`: one model taught by its own frozen start. `ce`: nobody teaches.
    """

    name: Literal["bikd", "dml", "kd", "kl_dp", "kl_dp_supervised", "self", "ce"] = "bikd"
    temperature: Float = Field(default=1.0, gt=0)
    ties: Literal["auto", "first", "last", "drop"] = "auto"
    detach_teacher: bool = True
    mask: bool = Field(default=True, description="false: every model teaches on every sample")
    ce_weight: Float = Field(default=1.0, ge=0)
    kl_weight: Float = Field(default=1.0, ge=0)
    kd_weight: Float = Field(default=0.5, ge=0, le=1, description="kd: share of the divergence")

    @model_validator(mode="after")
    def _knows_its_options(self) -> Self:
        allowed = OPTIONS[self.name]
        if wrong := [option for option in self._changed() if option not in allowed]:
            takes = f"takes {', '.join(allowed)}" if allowed else "has no teacher and no options"
            raise ValueError(f"{self.name} {takes}, not {', '.join(wrong)}")
        return self

    def _changed(self) -> dict[str, Any]:
        return self.model_dump(exclude_defaults=True, exclude={"name"})

    @property
    def label(self) -> str:
        """The name with what differs from the defaults; a key in the store and on screen."""
        inner = ", ".join(f"{k}={v}" for k, v in self._changed().items())
        return f"{self.name}({inner})" if inner else self.name

    @property
    def directed(self) -> bool:
        return self.name in DIRECTED

    @property
    def alone(self) -> bool:
        return self.name in ALONE


CONTROL = Objective(name="ce")
"""The cross-entropy-only objective of the control jobs."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper_vit": {"augment": "timm", "schedule": "cosine"},
    "reference": {"augment": "reference"},
}
"""Recipes by name: the paper's, its own for ViTs, and what its reference code does."""


class Recipe(Frozen):
    """How every job of the sweep trains; part of each job's identity.

    A bare name or `preset` takes one of PRESETS; fields beside it win.
    """

    epochs: Int = Field(default=20, ge=1)
    batch_size: Int = Field(default=128, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Float = Field(default=1e-6, gt=0)
    lrs: dict[str, Positive] = Field(default={}, description="model: its own learning rate")
    momentum: Float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    weight_decay: Float = Field(default=1e-5, ge=0)
    schedule: Literal["none", "cosine", "poly"] = "none"
    warmup_epochs: Float = Field(default=0.0, ge=0, description="linear, from 0")
    clip_norm: Float | None = Field(default=None, gt=0, description="of each model's gradient")
    ema: Float | None = Field(
        default=None, gt=0, lt=1, description="decay of averaged weights, which are then measured"
    )
    augment: Literal["none", "timm", "reference"] = Field(
        default="none",
        description="none: each model's evaluation view; timm: random crop, flip and colour jitter "
        "at each model's own interpolation; reference: the same, always bilinear",
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    train_fraction: Float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        given = {"preset": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or "preset" not in given:
            return value
        name = given["preset"]
        if not isinstance(name, str) or name not in PRESETS:
            raise ValueError(f"unknown recipe {name!r}; {choices(name, PRESETS)}")
        return PRESETS[name] | {k: v for k, v in given.items() if k != "preset"}

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be less than epochs {self.epochs}"
            )
        return self


class GrownNode(Frozen):
    """A kind of node that the cluster's autoscaler may start."""

    cpus: Positive
    gpus: Float = Field(default=0, ge=0)
    memory: Positive | None = Field(default=None, description="GiB; default: enough")
    count: Int = Field(
        default=1, ge=1, le=100_000, description="at most so many, those that run included"
    )


class Resources(Frozen):
    """What one job occupies, and what of; never part of its identity."""

    gpus_per_job: Float | Literal["auto"] = Field(
        default="auto", description="auto: what its memory asks for of a GPU, if there are GPUs"
    )
    cpus_per_job: Float | Literal["auto"] = Field(
        default="auto", description="auto: 4 with a GPU, else 1"
    )
    slots: Literal["auto", "warm", "fresh"] = Field(
        default="auto",
        description="warm: one worker does job after job; fresh: a new one for each; auto: warm "
        "for jobs of minutes",
    )
    placement: Literal["together", "one_model_per_worker", "data_parallel"] = Field(
        default="together",
        description="together: one worker has all models; one_model_per_worker: they exchange "
        "logits; data_parallel: each has all models and a share of every batch",
    )
    micro_batch: Annotated[Int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="images that a worker computes at a time; auto: its whole batch, and halved "
        "when memory runs out",
    )
    activation_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory"
    )
    compile: bool = Field(default=False, description="torch.compile each model for training")
    save_every: Float = Field(
        default=600,
        ge=0,
        description="seconds between saved states, from which a job that is cut off goes on",
    )
    keep_weights: Literal["none", "best", "all"] = Field(
        default="best",
        description="best: the weights of the selected epoch; all: of every selection",
    )
    autoscaler: Annotated[tuple[GrownNode, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="what nodes a cluster may grow by, one kind or several; Ray does not tell",
    )

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.compile and self.placement == "data_parallel":
            raise ValueError(
                "compile goes with placement together or one_model_per_worker, not data_parallel"
            )
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        gpus = self.gpus_per_job
        if gpus != "auto" and gpus > 1 and gpus % 1 and self.placement != "one_model_per_worker":
            raise ValueError(f"gpus_per_job must be whole where it is more than 1, got {gpus:g}")
        return self

    @field_validator("gpus_per_job", "cpus_per_job", "micro_batch", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any, info: ValidationInfo) -> Any:
        """One mistake is one line, where a union would give one for each of its sides."""
        if value == "auto":
            return value
        number = value if isinstance(value, bool) else _number(value)
        whole = info.field_name == "micro_batch"
        kinds = int if whole else int | float
        least = 1 if whole else 0
        if isinstance(number, bool) or not isinstance(number, kinds) or not least <= number < inf:
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"must be {kind} >= {least} or auto")
        return number


LOGGER_OPTIONS: dict[str, tuple[str, ...]] = {
    "tensorboard": ("dir",),
    "mlflow": ("tracking_uri", "experiment"),
    "wandb": ("project", "mode", "dir"),
}
"""What each logger can be told."""


class Logger(Frozen):
    """Where jobs show as runs while they train, beside the store; never part of an identity."""

    name: Literal["tensorboard", "mlflow", "wandb"]
    dir: Located = Field(default="runs", description="tensorboard, wandb: folder of the runs")
    tracking_uri: Annotated[str, AfterValidator(_only_expanded)] | None = Field(
        default=None, description="mlflow: default $MLFLOW_TRACKING_URI, or MLflow's own"
    )
    experiment: str | None = Field(default=None, description="mlflow: default the sweep's name")
    project: str | None = Field(default=None, description="wandb: default bikd")
    mode: Literal["online", "offline"] | None = Field(
        default=None, description="wandb: default $WANDB_MODE, or online"
    )

    @model_validator(mode="after")
    def _knows_its_options(self) -> Self:
        allowed = LOGGER_OPTIONS[self.name]
        given = sorted(self.model_fields_set - {"name"})
        if wrong := [option for option in given if option not in allowed]:
            raise ValueError(f"{self.name} takes {', '.join(allowed)}, not {', '.join(wrong)}")
        return self


Selection = Literal["last", "best_val", "best_select"]

CHOSEN_ON_VAL = "best_val"
"""The selection whose epoch was chosen on the reported images: no interval and no rank is fair."""


class Spec(Frozen):
    """A sweep: which models, on which images, how trained, and where the results go.

    Frozen; a bad value raises pydantic's ValidationError, which `load_spec` turns into UserError
    with one line for each mistake. A field at the top whose name begins with `x-` is left out when
    a spec is read: it can hold what YAML's anchors name.
    """

    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    name: str = Field(default="sweep", min_length=1)
    zoo: tuple[ZooEntry, ...] = Field(min_length=1)
    data: Data
    pairings: Pairings = Pairings()
    objectives: Annotated[
        tuple[Annotated[Objective, BeforeValidator(_named)], ...], BeforeValidator(_listed)
    ] = Field(default=(Objective(),), min_length=1)
    controls: bool = True
    recipe: Recipe = Recipe()
    selection: Selection = "last"
    similarity: Literal["cca", "none"] = Field(
        default="cca", description="compare members' features before and after, or not"
    )
    seeds: tuple[Int, ...] = Field(default=(0, 1, 2), min_length=1)
    resources: Resources = Resources()
    loggers: Annotated[
        tuple[Annotated[Logger, BeforeValidator(_named)], ...], BeforeValidator(_listed)
    ] = ()
    store: Located | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names, problems = [entry.name for entry in self.zoo], []
        looks = [unicodedata.normalize("NFC", " ".join(name.split())) for name in names]
        for i, look in enumerate(looks):
            if not look:
                problems.append(f"zoo[{i}].alias is blank; give it letters")
            elif look in looks[:i]:
                problems.append(
                    f"zoo[{looks.index(look)}] and zoo[{i}] are both called {look!r}; "
                    "give one of them another alias"
                )
        for wanted in chain(self.pairings.models, *self.pairings.list):
            if wanted not in names:
                problems.append(f"pairings: {wanted!r} is not in the zoo; {choices(wanted, names)}")
        for wanted in self.recipe.lrs:
            if wanted not in names:
                problems.append(
                    f"recipe.lrs: {wanted!r} is not in the zoo; {choices(wanted, names)}"
                )
        if self.pairings.mode != "list" and self.pairings.size > len(names):
            problems.append(
                f"pairings.size is {self.pairings.size}, but the zoo has {len(names)} "
                f"model{'s' * (len(names) > 1)}; add models or lower the size"
            )
        for field, values in (
            ("seeds", self.seeds),
            ("objectives", [o.label for o in self.objectives]),
            ("loggers", [logger.name for logger in self.loggers]),
        ):
            if len(set(values)) < len(values):
                problems.append(f"{field} lists a value twice: {list(values)}; leave one out")
        if self.selection == "best_select" and not self.data.select_fraction:
            problems.append("selection best_select needs data.select_fraction > 0 (say 0.1), got 0")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def entry(self, name: str) -> ZooEntry:
        """The model of the zoo that is called so. Raises StopIteration where none is."""
        return next(entry for entry in self.zoo if entry.name == name)
