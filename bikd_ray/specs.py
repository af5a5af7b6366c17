"""What a person asks for: the YAML spec as frozen models that refuse bad values at birth.

Everything but `zoo` and `data` has a default, and the defaults are the paper's
(Jain et al., TMLR 2025). Field names and choices are listed in the README.
"""

import re
from itertools import chain
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bikd_ray.errors import UserError, choices


class Frozen(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class Input(Frozen):
    """How one model wants its images; what is left out comes from the model's own data config."""

    size: int | None = Field(default=None, ge=1, description="side of the square input, pixels")
    mean: Triple | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    interpolation: Interpolation | None = None


class ZooEntry(Frozen):
    """One model: a timm name or a dotted factory, with optional keyword arguments and weights."""

    timm: str | None = Field(default=None, min_length=1)
    factory: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    kwargs: dict[str, Any] = {}
    checkpoint: str | None = None
    input: Input = Input()
    alias: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.timm is None) == (self.factory is None):
            raise ValueError("give exactly one of timm: NAME or factory: package.module:function")
        return self

    @property
    def source(self) -> str:
        return f"timm:{self.timm}" if self.timm else f"factory:{self.factory}"

    @property
    def name(self) -> str:
        """What people call it: the alias, else the timm name or the factory."""
        return self.alias or self.timm or self.factory or ""


class FolderData(Frozen):
    """A directory with one sub-directory of images for each class."""

    source: Literal["folder"]
    path: str


class ParquetData(Frozen):
    """Parquet files as HF datasets write them: `image` (struct with bytes, or binary), `label`."""

    source: Literal["parquet"]
    path: str = Field(description="a file, a directory or a glob; local, s3:// or gs://")


class DigitsData(Frozen):
    """scikit-learn's bundled UCI handwritten digits, halved by class into train and val."""

    source: Literal["digits"]
    split: Literal["train", "val"]


DataSource = Annotated[FolderData | ParquetData | DigitsData, Field(discriminator="source")]


class Data(Frozen):
    train: DataSource
    val: DataSource
    num_classes: int | None = Field(default=None, ge=2, description="default: from the labels")
    select_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="share of train held out to choose the epoch"
    )
    cache: str = Field(default="auto", description="auto | none | DIR: decoded uint8 views")


class Pairings(Frozen):
    """Which sets of models train together."""

    mode: Literal["all", "anchors", "list"] = "all"
    size: int = Field(default=2, ge=2, description="models in a pairing (modes all and anchors)")
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


class Objective(Frozen):
    """Who teaches whom. `bikd`: the model most confident in the true class teaches the rest."""

    name: Literal["bikd", "ce"] = "bikd"
    temperature: float = Field(default=1.0, gt=0)
    ties: Literal["auto", "first", "last", "drop"] = "auto"
    detach_teacher: bool = True

    @model_validator(mode="after")
    def _no_teacher_no_options(self) -> Self:
        if self.name == "ce" and self != CONTROL:
            raise ValueError("ce has no teacher: it takes no temperature, ties or detach_teacher")
        return self

    @property
    def label(self) -> str:
        """The name with what differs from the defaults; a key in the store and on screen."""
        changed = {
            k: v
            for k, v in self.model_dump().items()
            if k != "name" and v != type(self).model_fields[k].default
        }
        inner = ", ".join(f"{k}={v}" for k, v in changed.items())
        return f"{self.name}({inner})" if inner else self.name


CONTROL = Objective.model_construct(name="ce")
"""The cross-entropy-only objective of the control jobs."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Recipe(Frozen):
    """How every job of the sweep trains; part of each job's identity."""

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    schedule: Literal["none", "cosine"] = "none"
    augment: Literal["none"] = "none"
    precision: Literal["fp32", "bf16"] = "fp32"
    train_fraction: float = Field(default=1.0, gt=0, le=1)


class Resources(Frozen):
    """What one job occupies; never part of its identity."""

    gpus_per_job: float | Literal["auto"] = Field(
        default="auto", description="auto: 1 if there are GPUs"
    )
    cpus_per_job: float | Literal["auto"] = Field(
        default="auto", description="auto: 4 with a GPU, else 1"
    )
    keep_weights: Literal["none", "best", "all"] = Field(
        default="best",
        description="best: the weights of the selected epoch; all: of every selection",
    )

    @field_validator("gpus_per_job", "cpus_per_job", mode="before")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "auto" and not (number and 0 <= value < inf):
            raise ValueError(f"must be a number >= 0 or auto, got {value!r}")
        return value


Selection = Literal["last", "best_val", "best_select"]

CHOSEN_ON_VAL = "best_val"
"""The selection whose epoch was chosen on the reported images: no interval and no rank is fair."""


class Spec(Frozen):
    """A sweep: which models, on which images, how trained, and where the results go."""

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
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    resources: Resources = Resources()
    store: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names, problems = [entry.name for entry in self.zoo], []
        for i, name in enumerate(names):
            if name in names[:i]:
                problems.append(
                    f"zoo[{names.index(name)}] and zoo[{i}] are both called {name!r}; "
                    "give one of them another alias"
                )
        for wanted in chain(self.pairings.models, *self.pairings.list):
            if wanted not in names:
                problems.append(f"pairings: {wanted!r} is not in the zoo; {choices(wanted, names)}")
        if self.pairings.mode != "list" and self.pairings.size > len(names):
            problems.append(
                f"pairings.size is {self.pairings.size}, but the zoo has {len(names)} "
                f"model{'s' * (len(names) > 1)}; add models or lower the size"
            )
        for field, values in (
            ("seeds", self.seeds),
            ("objectives", [o.label for o in self.objectives]),
        ):
            if len(set(values)) < len(values):
                problems.append(f"{field} lists a value twice: {list(values)}; leave one out")
        if self.selection == "best_select" and not self.data.select_fraction:
            problems.append("selection best_select needs data.select_fraction > 0 (say 0.1), got 0")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def entry(self, name: str) -> ZooEntry:
        return next(entry for entry in self.zoo if entry.name == name)


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where plain YAML forgets the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"{key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_spec(path: str | Path) -> Spec:
    """Read a YAML spec.

    Relative paths in it (checkpoints, data, cache, store) are taken from the spec's folder.
    Raises UserError with one line for each mistake: the field, the value, the choices.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the spec {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not YAML: not UTF-8 text") from None
    try:
        value = yaml.load(text, _UniqueKeys)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{at}: not YAML: {problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a spec is a YAML mapping with at least zoo: and data:")
    return parse_spec(value, base=path.parent.resolve(), name=str(path))


def parse_spec(value: dict[str, Any], *, base: Path | None = None, name: str = "spec") -> Spec:
    """A spec from plain values; relative paths are taken from `base`. Raises UserError."""
    try:
        spec = Spec.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_context=True)
        # a list is also called too short when the fault is in its items
        said = [e for e in found if e["type"] != "too_short" or e["input"] in ([], ())]
        explained = [_explain(e, value).splitlines() for e in said or found]
        lines = [f"{name}: {line}" for part in explained for line in part]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    return _absolute(spec, base) if base else spec


def _absolute(spec: Spec, base: Path) -> Spec:
    def local(path: str) -> str:
        return path if "://" in path or Path(path).is_absolute() else str(base / path)

    zoo = tuple(
        e.model_copy(update={"checkpoint": local(e.checkpoint)}) if e.checkpoint else e
        for e in spec.zoo
    )

    def source(d: Any) -> Any:
        return d.model_copy(update={"path": local(d.path)}) if hasattr(d, "path") else d

    cache = spec.data.cache if spec.data.cache in ("auto", "none") else local(spec.data.cache)
    data = spec.data.model_copy(
        update={"train": source(spec.data.train), "val": source(spec.data.val), "cache": cache}
    )
    store = local(spec.store) if spec.store else None
    return spec.model_copy(update={"zoo": zoo, "data": data, "store": store})


def _explain(error: Any, value: Any) -> str:
    """One pydantic error as one line in the words of the spec's writer."""
    parts = [p for p in error["loc"] if p not in ("folder", "parquet", "digits")]
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")
    kind, context = error["type"], error.get("ctx", {})
    got = error["input"]
    if kind == "extra_forbidden":
        parent = where.rpartition(".")[0]
        known = _fields_at(Spec, parts[:-1], value)
        of = f" of {parent}" if parent else ""
        return f"{where}: unknown field{of}; {choices(parts[-1], known)}"
    if kind == "missing":
        parent = where.rpartition("[" if where.endswith("]") else ".")[0]
        return f"{where}: missing; {parent or 'every spec'} needs it"
    if kind in ("literal_error", "union_tag_invalid"):
        raw = context.get("expected") or context.get("expected_tags") or ""
        known = [w.strip(" '\"") for w in raw.replace(" or ", ",").split(",")]
        tag = kind == "union_tag_invalid"
        field = f"{where}.source" if tag else where
        value = context.get("tag", got)
        return f"{field}: unknown value {value!r}; {choices(value, known)}"
    if kind == "too_short":
        return f"{where} must list at least {context['min_length']}, got {got!r}"
    if kind == "string_pattern_mismatch":
        return f"{where} must be package.module:function, got {got!r}"
    if kind == "union_tag_not_found":
        return f"{where}: missing source; choose from folder, parquet, digits"
    if kind == "value_error":
        reason = str(context["error"])
        return f"{where}: {reason}" if where else reason
    message = error["msg"].replace("Input should be", "must be").replace("input", "value")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
    message = message.replace("valid tuple", "list")
    bound = message[0].lower() + message[1:]
    return f"{where} {bound}, got {got!r}" if bound.startswith("must be") else f"{where}: {bound}"


def _at(value: Any, parts: list[str | int]) -> Any:
    for part in parts:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return value
    return value


def _fields_at(model: type[BaseModel], parts: list[str | int], value: Any) -> list[str]:
    """The field names of the model that stands at `parts` in a Spec."""
    nested: dict[str, type[BaseModel]] = {
        "zoo": ZooEntry,
        "input": Input,
        "data": Data,
        "pairings": Pairings,
        "objectives": Objective,
        "recipe": Recipe,
        "resources": Resources,
    }
    sources = {"folder": FolderData, "parquet": ParquetData, "digits": DigitsData}
    names = [p for p in parts if isinstance(p, str)]
    if names and names[-1] in ("train", "val"):
        kind = _at(value, [*parts, "source"])
        return list(sources[kind].model_fields) if kind in sources else ["source", "path"]
    return list((nested[names[-1]] if names else model).model_fields)
