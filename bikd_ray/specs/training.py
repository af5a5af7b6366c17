"""What a spec says of its jobs: who learns with whom, from whom, and how."""

from typing import Any, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from bikd_ray.errors import choices
from bikd_ray.specs.values import Float, Frozen, Int, Positive
from bikd_ray.vocabulary import ALONE
from bikd_ray.vocabulary import CONTROL as CONTROL_LABEL


class Pairings(Frozen):
    """Which sets of models train together.

    Short forms: `{anchors: [a]}` for all pairs that hold a, `{list: [[a, b], [a, b, c]]}` for
    these alone.
    """

    mode: Literal["all", "anchors", "list"] = Field(
        default="all", description="all sets of a size, those with an anchor, or those listed"
    )
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
    "bikd": (
        "temperature",
        "ties",
        "detach_teacher",
        "mask",
        "ce_weight",
        "kl_weight",
        "confidence",
    ),
    "dml": ("temperature", "detach_teacher", "ce_weight", "kl_weight"),
    "kd": ("temperature", "kd_weight"),
    "kl_dp": ("temperature", "confidence"),
    "kl_dp_supervised": ("temperature", "confidence"),
    "self": ("temperature", "ce_weight", "kl_weight"),
    "ce": (),
}
"""What each objective can be told."""

CONFIDENCE = {"bikd": "label", "kl_dp": "max", "kl_dp_supervised": "label"}
"""By what teachers are chosen where it is not said, of each objective that chooses them."""

OTHERWISE = {("kl_dp", "label"): "kl_dp_supervised", ("kl_dp_supervised", "max"): "kl_dp"}
"""Objectives that have a name of their own: each way to train is one job, however it is written."""

DIRECTED = ("kd", "kl_dp", "kl_dp_supervised")
"""Objectives with one student and frozen teachers: a pairing is a job for each of its students."""


class Objective(Frozen):
    """Who teaches whom.

    `bikd`: the model most confident in the true class teaches the rest. `dml`: everybody teaches
    everybody. `kd`: frozen teachers teach one student on every sample. `kl_dp`: where they are
    more confident than the student was (`_supervised`: in the true class), else its old self does.
    `self`: one model taught by its own frozen start. `ce`: nobody teaches.
    """

    name: Literal["bikd", "dml", "kd", "kl_dp", "kl_dp_supervised", "self", "ce"] = Field(
        default="bikd", description="who teaches whom"
    )
    temperature: Float = Field(
        default=1.0,
        gt=0,
        description="softens what is taught; at 1 it is the probabilities as they are",
    )
    ties: Literal["auto", "first", "last", "drop"] = Field(
        default="auto",
        description="who teaches where several are equally confident; drop: nobody; auto: the "
        "last of two, the first of more, as in the paper",
    )
    detach_teacher: bool = Field(
        default=True, description="false: gradients also reach the model that teaches"
    )
    mask: bool = Field(default=True, description="false: every model teaches on every sample")
    ce_weight: Float = Field(default=1.0, ge=0, description="weight of the labels' cross-entropy")
    kl_weight: Float = Field(default=1.0, ge=0, description="weight of what is taught")
    kd_weight: Float = Field(default=0.5, ge=0, le=1, description="kd: share of the divergence")
    confidence: Literal["auto", "label", "max"] = Field(
        default="auto",
        description="who teaches: the surest of the label, or the surest of anything; auto: label, "
        "of kl_dp max (by label it is kl_dp_supervised)",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        """What is the default, or another objective, is written as that: ids are made of labels."""
        if not isinstance(value, dict) or not isinstance(value.get("confidence"), str):
            return value
        name, by = value.get("name", "bikd"), value["confidence"]
        if not isinstance(name, str):
            return value
        rest = {k: v for k, v in value.items() if k != "confidence"}
        if (name, by) in OTHERWISE:
            return {**rest, "name": OTHERWISE[name, by]}
        return rest if CONFIDENCE.get(name) == by else value

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
    def needs_labels(self) -> str | None:
        """Why it cannot learn from images without labels, and what could; None where it can."""
        if self.name == "ce":
            return "it learns from labels alone; leave it out"
        if self.name == "kl_dp_supervised":
            return "the label chooses its teachers; take kl_dp"
        if self.name == "kd":
            return None if self.kd_weight == 1 else "it adds cross-entropy; set kd_weight: 1"
        why, fix = [], []
        if "ce_weight" in OPTIONS[self.name] and self.ce_weight:
            why.append("it adds cross-entropy")
            fix.append("ce_weight: 0")
        if self.name == "bikd" and self.mask and self.confidence != "max":
            why.append("the label chooses its teachers")
            fix.append("confidence: max")
        return f"{' and '.join(why)}; set {' and '.join(fix)}" if why else None

    @property
    def directed(self) -> bool:
        return self.name in DIRECTED

    @property
    def alone(self) -> bool:
        return self.name in ALONE


CONTROL = Objective(name=CONTROL_LABEL)
"""The cross-entropy-only objective of the control jobs."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper_vit": {"augment": "timm", "schedule": "cosine"},
    "reference": {"augment": "reference"},
    "ade20k_mask2former": {
        "epochs": 32,  # 160,000 steps of 4 images are 31.7
        "batch_size": 4,
        "optimizer": "adamw",
        "backbone_lr": 0.1,
        "decay": "matrices",
        "schedule": "poly",
        "clip_norm": 0.01,
        "augment": "joint",
        "freeze_batchnorm": True,
    },
}
"""Recipes by name: the paper's, its own for ViTs, what its reference code does, and its own for
Mask2Former on ADE20K."""


class Recipe(Frozen):
    """How every job of the sweep trains; part of each job's identity.

    A bare name (`recipe: paper_vit`) or `preset` takes one of the presets; fields beside it win.
    """

    epochs: Int = Field(default=20, ge=1, description="passes over the training images")
    batch_size: Int = Field(default=128, ge=1, description="images a step")
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="as torch has it"
    )
    lr: Float = Field(
        default=1e-6,
        gt=0,
        description="learning rate; the default is the paper's, for weights that were trained to "
        "the end on the same classes",
    )
    lrs: dict[str, Positive] = Field(
        default={}, description="model: its own learning rate, in place of lr"
    )
    momentum: Float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    backbone_lr: Float = Field(
        default=1.0, ge=0, description="factor on the learning rate of a model's backbone"
    )
    weight_decay: Float = Field(default=1e-5, ge=0, description="of the parameters that decay says")
    decay: Literal["all", "matrices"] = Field(
        default="all",
        description="which parameters decay: all, or none of norms, embeddings and tables of "
        "relative positions",
    )
    schedule: Literal["none", "cosine", "poly"] = Field(
        default="none", description="how the learning rate falls"
    )
    warmup_epochs: Float = Field(
        default=0.0, ge=0, description="epochs in which it rises from 0 in a line"
    )
    clip_norm: Float | None = Field(
        default=None, gt=0, description="largest norm of each model's gradient"
    )
    ema: Float | None = Field(
        default=None, gt=0, lt=1, description="decay of averaged weights, which are then measured"
    )
    freeze_batchnorm: bool = Field(
        default=False, description="batch norms keep their statistics, scale and shift"
    )
    augment: Literal["none", "timm", "reference", "joint"] = Field(
        default="none",
        description="none: each model's evaluation view; timm: random crop, flip and colour jitter "
        "at each model's own interpolation; reference: the same, always bilinear; joint: for "
        "segmentation, random size, crop, colours and flip of image and mask",
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        default="fp32", description="of training; results of two precisions are never mixed"
    )
    train_fraction: Float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of each class that is seen, the same images in every job",
    )

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
