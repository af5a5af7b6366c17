"""Where and with what a spec's jobs run, and where they show: never part of a job's identity."""

from math import inf
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bikd_ray.specs.values import (
    Float,
    Frozen,
    Int,
    Located,
    Positive,
    cache_in_base,
    listed,
    number,
    only_expanded,
)


class GrownNode(Frozen):
    """A kind of node that the cluster's autoscaler may start."""

    cpus: Positive = Field(description="of one node")
    gpus: Float = Field(default=0, ge=0, description="of one node")
    memory: Positive | None = Field(default=None, description="GiB; default: enough")
    count: Int = Field(
        default=1, ge=1, le=100_000, description="the most there will be, those that run included"
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
    workers_per_model: Int = Field(
        default=1,
        ge=1,
        description="with one_model_per_worker: so many workers have each model, and a share each "
        "of every batch",
    )
    micro_batch: Annotated[Int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="images that a worker computes at a time; auto: its whole batch, and halved "
        "when memory runs out",
    )
    frozen_cache: Annotated[str, AfterValidator(cache_in_base)] = Field(
        default="auto",
        min_length=1,
        description="auto | none | DIR: what models say of val before they are trained, and "
        "frozen ones of the train images (without augmentation), kept on each node",
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
    autoscaler: Annotated[tuple[GrownNode, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="what nodes a cluster may grow by, one kind or several; Ray does not tell",
    )

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        if self.workers_per_model > 1 and self.placement != "one_model_per_worker":
            raise ValueError(
                f"workers_per_model: {self.workers_per_model} goes with placement "
                f"one_model_per_worker, not {self.placement}"
            )
        if self.compile and (self.placement == "data_parallel" or self.workers_per_model > 1):
            raise ValueError(
                "compile goes with one worker for each model (placement together, or "
                "one_model_per_worker with workers_per_model: 1)"
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
        given = value if isinstance(value, bool) else number(value)
        whole = info.field_name == "micro_batch"
        kinds = int if whole else int | float
        least = 1 if whole else 0
        if isinstance(given, bool) or not isinstance(given, kinds) or not least <= given < inf:
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"must be {kind} >= {least} or auto")
        return given


LOGGER_OPTIONS: dict[str, tuple[str, ...]] = {
    "tensorboard": ("dir",),
    "mlflow": ("tracking_uri", "experiment"),
    "wandb": ("project", "mode", "dir"),
}
"""What each logger can be told."""


class Logger(Frozen):
    """Where jobs show as runs while they train, beside the store; never part of an identity."""

    name: Literal["tensorboard", "mlflow", "wandb"] = Field(description="which one")
    dir: Located = Field(default="runs", description="tensorboard, wandb: folder of the runs")
    tracking_uri: Annotated[str, AfterValidator(only_expanded)] | None = Field(
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
