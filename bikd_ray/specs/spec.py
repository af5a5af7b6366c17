"""The whole spec."""

import unicodedata
from itertools import chain
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from bikd_ray.errors import UserError, choices
from bikd_ray.search import checks
from bikd_ray.specs.data import Data, labelled
from bikd_ray.specs.probe import Probe
from bikd_ray.specs.running import Logger, Resources
from bikd_ray.specs.searching import Improve, Search
from bikd_ray.specs.training import Objective, Pairings, Recipe
from bikd_ray.specs.values import (
    Frozen,
    Int,
    Located,
    listed,
    named,
)
from bikd_ray.specs.zoo import ZooEntry
from bikd_ray.tasks import DEFAULT, check_name

Selection = Literal["last", "best_val", "best_select"]


def _task(name: str) -> str:
    try:
        check_name(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    return name


class Spec(Frozen):
    """A sweep: which models, on which images, how trained, and where the results go.

    Frozen; a bad value raises pydantic's ValidationError, which `load_spec` turns into UserError
    with one line for each mistake. A field at the top whose name begins with `x-` is left out when
    a spec is read: it can hold what YAML's anchors name.
    """

    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    name: str = Field(default="sweep", min_length=1, description="what the sweep is called")
    zoo: tuple[ZooEntry, ...] = Field(min_length=1, description="the models")
    task: Annotated[str, AfterValidator(_task)] = Field(
        default=DEFAULT, description="what is learned and measured: a name, or MODULE:CLASS"
    )
    data: Data = Field(description="the images")
    goal: Literal["map", "best_partner", "improve"] = Field(
        default="map",
        description="map: every pairing; best_partner: each model's best partner (of anchors: "
        "theirs), from a part of the same jobs; improve: better models from groups",
    )
    search: Search = Field(default=Search(), description="how goal best_partner searches")
    improve: Improve = Field(default=Improve(), description="which groups goal improve trains")
    pairings: Pairings = Field(
        default=Pairings(), description="which sets of models train together"
    )
    objectives: Annotated[
        tuple[Annotated[Objective, BeforeValidator(named)], ...], BeforeValidator(listed)
    ] = Field(
        default=(Objective(),),
        min_length=1,
        description="who teaches whom: one or several, bare or with settings",
    )
    controls: bool = Field(
        default=True, description="also train each model alone, by cross-entropy: the control"
    )
    recipe: Recipe = Field(default=Recipe(), description="how every job trains")
    selection: Selection = Field(
        default="last",
        description="whose weights are kept: of the last epoch, or of the best on val or on the "
        "held-out share of train; every job stores the results of all",
    )
    similarity: Literal["cca", "none"] = Field(
        default="cca", description="compare members' features before and after, or not"
    )
    probe: dict[str, Probe] = Field(
        default={},
        description="name: labelled images of other classes, on which k-NN of the features is "
        "measured before and after",
    )
    seeds: tuple[Int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="each job is done once for every seed"
    )
    resources: Resources = Field(
        default=Resources(), description="where jobs run and what of; no part of a job's identity"
    )
    loggers: Annotated[
        tuple[Annotated[Logger, BeforeValidator(named)], ...], BeforeValidator(listed)
    ] = Field(
        default=(), description="where jobs also show while they train, bare or with settings"
    )
    store: Located | None = Field(
        default=None,
        description="where the results go: a folder, s3://… or gs://…; default: $BIKD_STORE, or "
        "./bikd-store",
    )

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
        for name in self.probe.keys() & self.data.eval.keys():
            problems.append(f"probe.{name} and data.eval.{name} have one name; rename one of them")
        if self.selection == "best_select" and not self.data.select_fraction:
            problems.append("selection best_select needs data.select_fraction > 0 (say 0.1), got 0")
        problems += [
            f"probe: {name!r} cannot be a probe's name; give it one of its own"
            for name in self.probe
            if not name.strip() or name in ("train", "val")
        ]
        if not labelled(self.data.train):
            problems += [
                f"objectives: {o.label} cannot train on images without labels (data.train.labels: "
                f"none): {why}"
                for o in self.objectives
                if (why := o.needs_labels)
            ]
        objectives = [(o.label, not o.directed) for o in self.objectives if not o.alone]
        problems += checks.problems(
            self.goal, self.pairings.size, self.pairings.mode, self.selection, objectives
        )
        if self.goal == "improve":
            problems += checks.groups(self.improve.group, self.improve.models, names)
            if self.improve.soup and self.resources.keep_weights == "none":
                problems.append(
                    "improve.soup averages kept weights, but resources.keep_weights is none; "
                    "set it to best"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def entry(self, name: str) -> ZooEntry:
        """The model of the zoo that is called so. Raises StopIteration where none is."""
        return next(entry for entry in self.zoo if entry.name == name)
