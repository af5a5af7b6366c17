"""What a sweep is for, where it is not the whole map: never part of a job's identity."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from bikd_ray.specs.values import Float, Frozen, Int, Positive, number


class Improve(Frozen):
    """How large a group of models trains together for one of them or for all, and who is in it."""

    group: Int = Field(default=4, ge=2, description="models of a group at most")
    models: Literal["all"] | tuple[str, ...] = Field(
        default="all",
        description="who is to become better: names, each with groups of its own that grow while "
        "that helps; or all, each in one group (where pairings has anchors: these)",
    )
    by: Literal["ensemble", "gains", "random"] = Field(
        default="ensemble",
        description="who joins. ensemble: whose untouched answers add most; gains: the best "
        "partners by what is stored; random: anybody",
    )
    soup: bool = Field(default=False, description="also average the weights of what was trained")

    @field_validator("models", mode="before")
    @classmethod
    def _all_or_names(cls, value: Any) -> Any:
        """One mistake is one line, where a union would give one for each of its sides."""
        if value == "all":
            return value
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(x, str) for x in names):
            raise ValueError("must be all, or names of models in a list")
        if not names:
            raise ValueError("names no model; give some, or all")
        if len(set(names)) < len(names):
            raise ValueError(f"names a model twice: {list(names)}")
        return tuple(names)


class Search(Frozen):
    """When a search for best partners is done, what it may spend, and what it decides by."""

    regret: Positive = Field(
        default=0.05,
        description="a model is settled once its best partner is expected to lose at most so much "
        "against the truly best one, percentage points",
    )
    share: Float = Field(
        default=0.25, gt=0, le=1, description="of the map's work that it may spend, all counted"
    )
    decide_on: Literal["half", "all"] = Field(
        default="half",
        description="half: one half of the val images decides, the other reports; all: all do "
        "both, with wider intervals",
    )
    start: Int = Field(default=4, ge=1, description="partners that each model is given first")
    confirm: Annotated[Int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="seeds of a best partner; auto: 2 from 15 models on, else 1"
    )
    predict: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: what is known of a pair before training counts once it has predicted "
        "models that were left out",
    )

    @field_validator("confirm", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        """One mistake is one line, where a union would give one for each of its sides."""
        if value == "auto":
            return value
        given = value if isinstance(value, bool) else number(value)
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ValueError("must be a whole number >= 1 or auto")
        return given
