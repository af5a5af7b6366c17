"""From a spec to its jobs: pure values, no torch, no Ray, no files."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from pydantic import TypeAdapter

from bikd_ray.identity import RESULT_VERSION, digest
from bikd_ray.specs import (
    CONTROL,
    Data,
    Objective,
    Pairings,
    Probe,
    Recipe,
    Spec,
    ZooEntry,
    labelled,
)
from bikd_ray.tasks import DEFAULT


@dataclass(frozen=True)
class Window:
    """The frames that a network sees around the one whose answer it gives.

    first: offset of the first frame from that one, in frames of the video. phase: moves all of
    them.
    """

    frames: int = 32
    stride: int = 1
    first: int = -31
    phase: int = 0

    @property
    def offsets(self) -> tuple[int, ...]:
        """Of every frame from the target.

        >>> Window(frames=4, stride=2, first=-3).offsets
        (-3, -1, 1, 3)
        >>> Window(frames=4, stride=2, first=-3, phase=-1).offsets
        (-4, -2, 0, 2)
        """
        first = self.first + self.phase
        return tuple(range(first, first + self.frames * self.stride, self.stride))


@dataclass(frozen=True)
class View:
    """What decides the pixels a model gets; models of one view share one decoded copy.

    width: of an input that is not square, whose height is `size`. window: of a clip.
    """

    size: int
    crop_pct: float
    interpolation: str
    crop_mode: str
    fill: tuple[float, float, float] | None = None  # around the image, where crop_mode is border
    width: int | None = None
    window: Window | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: 3, H, W, or 3, T, H, W."""
        frames = () if self.window is None else (self.window.frames,)
        return (3, *frames, self.size, self.width or self.size)


@dataclass(frozen=True)
class ResolvedInput:
    """What a model's images look like: nothing is left to a default any more.

    size, width, window: as a view has them.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    interpolation: str
    crop_mode: str = "center"
    width: int | None = None
    window: Window | None = None

    @property
    def view(self) -> View:
        fill = self.mean if self.crop_mode == "border" else None
        how = (self.size, self.crop_pct, self.interpolation, self.crop_mode, fill)
        return View(*how, self.width, self.window)

    @property
    def identity(self) -> dict[str, Any]:
        """What an id covers: what is new leaves the ids of square images as they were."""
        known = vars(self).items()
        found = {name: value for name, value in known if value is not None}
        return found if self.window is None else {**found, "window": vars(self.window)}

    @property
    def text(self) -> str:
        """For people: `224 px`, `224 × 384 px, 32 frames`."""
        size = f"{self.size} px" if self.width is None else f"{self.size} × {self.width} px"
        return size if self.window is None else f"{size}, {self.window.frames} frames"


@dataclass(frozen=True)
class Blueprint:
    """How timm builds an architecture without its weights: nothing needs to be fetched for it."""

    name: str
    config: Mapping[str, Any] | None  # of hf-hub: and local-dir: models, from their config.json
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What one image costs a model, measured on its own input; bytes are of float32."""

    params: int
    flops: int  # of a forward pass; a multiply-add is 2
    activations: int  # bytes that a training forward keeps for the backward pass
    peak: int  # bytes, the largest transient of an inference forward
    features: int | None  # width of what the classifier reads; None where that is not found


@dataclass(frozen=True)
class Pace:
    """What one image takes of a model, in FLOPs or in seconds."""

    train: float  # forward, backward and update
    forward: float


@dataclass(frozen=True)
class ResolvedModel:
    """A zoo entry whose weights have been read.

    `weights_id` hashes the tensors; `model_id` also covers what makes equal tensors answer
    differently (architecture, keyword arguments, input), and is the key of every query.
    """

    entry: ZooEntry
    weights_id: str
    model_id: str
    input: ResolvedInput
    num_classes: int
    cost: Cost
    classes: tuple[str, ...] | None = None  # names in the order of the logits, where known
    licence: str | None = None
    blueprint: Blueprint | None = None
    holds: str | None = None  # timm's name for its weights, where they are timm's own
    notes: tuple[str, ...] = ()  # what its person may not know of it, a line each

    @property
    def name(self) -> str:
        return self.entry.name

    def to_json(self) -> str:
        return _RESOLVED.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "ResolvedModel":
        """What `to_json` wrote. Raises ValueError for anything else."""
        return _RESOLVED.validate_json(text)


_RESOLVED = TypeAdapter(ResolvedModel)


@dataclass(frozen=True)
class ResolvedData:
    """The images of a spec, counted and hashed. `data_id` covers train, val, the
    classes and the task.

    `unit_set_id`: which val images, in which order; what `correct` bits refer to.
    """

    data: Data
    data_id: str
    unit_set_id: str
    train: "ResolvedSplit"
    val: "ResolvedSplit"
    num_classes: int
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = field(default=(), compare=False)  # what may be a mistake, a line each
    class_order: tuple[str, ...] = field(default=(), compare=False)  # where it was taken from
    task: str = DEFAULT
    probes: tuple["ResolvedProbe", ...] = field(default=(), compare=False)
    eval: Mapping[str, "FurtherSet"] = field(default_factory=dict)  # that are only measured on

    @property
    def n_train(self) -> int:
        return self.train.count

    @property
    def n_val(self) -> int:
        return self.val.count


@dataclass(frozen=True)
class ResolvedSplit:
    """One split's images, as a node must find them."""

    count: int
    content_id: str  # of each image's bytes and label
    listing_id: str  # of the files' names, sizes and own labels: what is seen without reading them
    spot_id: str  # of the bytes of a few images
    renumbered: bool = False  # whether labels differ from those that version 1 gave


@dataclass(frozen=True)
class ResolvedProbe:
    """A probe of a spec, counted and hashed; `unit_set_id` covers its images, k and temperature.

    It is part of no other identity.
    """

    name: str
    probe: Probe
    train: ResolvedSplit
    val: ResolvedSplit
    num_classes: int
    classes: tuple[str, ...] | None
    unit_set_id: str


@dataclass(frozen=True)
class FurtherSet:
    """A labelled set on which models are only measured.

    places: of each class of the set, the class of the data; None where labels are the data's.
    kept: the data's classes between which the models are asked to decide; None for all.
    """

    split: ResolvedSplit  # of all its images
    unit_set_id: str  # of those with a label, with what is right there
    n: int  # images with a label
    places: tuple[int, ...] | None = None
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Job:
    """One training run, complete: a worker needs nothing else to do it."""

    job_id: str
    members: tuple[ResolvedModel, ...]
    objective: Objective
    seed: int
    recipe: Recipe
    recipe_id: str
    data: ResolvedData

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.members)

    @property
    def live(self) -> tuple[ResolvedModel, ...]:
        """The members that learn; in a directed objective the first, taught by the rest."""
        return self.members[:1] if self.objective.directed else self.members

    @property
    def teachers(self) -> tuple[ResolvedModel, ...]:
        """The members that stay as they are."""
        return self.members[len(self.live) :]

    @property
    def label(self) -> str:
        """The job in words, for progress and errors."""
        student, *others = self.names
        sign = " ← " if self.objective.directed else " + "
        who = sign.join([student, " + ".join(others)]) if others else student
        return f"{who} · {self.objective.label} · seed {self.seed}"

    @property
    def flops(self) -> float:
        """About what it computes: a training step is three forward passes."""
        return self.work(lambda m: Pace(3 * m.cost.flops, m.cost.flops))

    def work(self, pace: Callable[[ResolvedModel], Pace]) -> float:
        """What it takes in all, from what one image takes of each member."""
        images = self.recipe.epochs * self.recipe.train_fraction * self.data.n_train
        looks = (self.recipe.epochs + 1) * self.data.n_val
        looks += sum(part.n for part in self.data.eval.values())
        learning = sum(pace(m).train for m in self.live) + sum(
            pace(m).forward for m in self.teachers
        )
        return images * learning + looks * sum(pace(m).forward for m in self.live)

    @property
    def role(self) -> str:
        """What its live members are."""
        if self.objective.alone:
            return "control"
        return "student" if self.objective.directed else "peer"


@dataclass(frozen=True)
class Plan:
    """A sweep's jobs against a store. Iterates over, and counts, the jobs still to do."""

    todo: tuple[Job, ...] = ()
    done: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)  # job_id -> why it failed

    def __iter__(self) -> Iterator[Job]:
        return iter(self.todo)

    def __len__(self) -> int:
        return len(self.todo)

    @property
    def jobs(self) -> tuple[Job, ...]:
        return self.todo + self.done + self.failed

    def only(self, model: str) -> "Plan":
        """The jobs with this model."""
        todo, done, failed = (
            tuple(job for job in jobs if model in job.names)
            for jobs in (self.todo, self.done, self.failed)
        )
        return Plan(todo, done, failed, {job.job_id: self.errors[job.job_id] for job in failed})


def recipe_id(spec: Spec, zoo: Mapping[str, ResolvedModel]) -> str:
    """Identity of how jobs train: the recipe, the held-out share and the code's result version.

    Only what differs from the defaults counts, so that a setting which is new leaves old jobs as
    they are; a default that changes must raise RESULT_VERSION.
    """
    changed = spec.recipe.model_dump(exclude_defaults=True, exclude={"lrs"})
    lrs = {zoo[name].model_id: lr for name, lr in spec.recipe.lrs.items()}
    return digest("recipe", RESULT_VERSION, changed, lrs, spec.data.select_fraction)


def pairings(zoo: Collection[str], how: Pairings) -> list[tuple[str, ...]]:
    """The sets of models that train together, each once, in the order of the zoo."""
    order = {name: i for i, name in enumerate(zoo)}
    if how.mode == "list":
        groups = [tuple(sorted(group, key=order.__getitem__)) for group in how.list]
    else:
        groups = list(combinations(zoo, how.size))
        if how.mode == "anchors":
            groups = [g for g in groups if set(g) & set(how.models)]
    return list(dict.fromkeys(groups))


def make_job(
    members: tuple[ResolvedModel, ...],
    objective: Objective,
    seed: int,
    recipe: Recipe,
    recipe_id: str,
    data: ResolvedData,
) -> Job:
    """A job with its identity; of a directed objective the first member is the student.

    The others, and all members of a joint objective, are a set: they are put in the order of
    their ids, so that the same set is the same job whoever wrote the spec, ties between members
    included.
    """
    first = members[:1] if objective.directed else ()
    members = first + tuple(sorted(members[len(first) :], key=lambda m: m.model_id))
    job_id = digest(
        "job", [m.model_id for m in members], data.data_id, objective.label, recipe_id, seed
    )
    return Job(job_id, members, objective, seed, recipe, recipe_id, data)


def all_jobs(spec: Spec, zoo: Mapping[str, ResolvedModel], data: ResolvedData) -> list[Job]:
    """Every job that `spec` asks for, seed by seed, the controls of a seed before its pairings.

    Where train has no labels the controls are the untouched models, and no job.

    A sweep that is cut short so leaves whole seeds with their controls, not half of everything.
    """
    groups = pairings(tuple(zoo), spec.pairings)
    used = dict.fromkeys(name for group in groups for name in group)
    recipe = recipe_id(spec, zoo)
    wanted: list[tuple[tuple[str, ...], Objective]] = []
    if spec.controls and labelled(spec.data.train):
        wanted += [((name,), CONTROL) for name in used]
    for objective in spec.objectives:
        if objective.alone:
            wanted += [((name,), objective) for name in used]
        elif objective.directed:
            wanted += [(ordered, objective) for group in groups for ordered in _students(group)]
        else:
            wanted += [(group, objective) for group in groups]
    jobs = [
        make_job(tuple(zoo[name] for name in group), objective, seed, spec.recipe, recipe, data)
        for seed in spec.seeds
        for group, objective in wanted
    ]
    return list({job.job_id: job for job in jobs}.values())


def _students(group: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Each model of a group before the others: the student, then its teachers."""
    for student in group:
        yield (student, *(name for name in group if name != student))


def plan(
    jobs: Collection[Job],
    done: Collection[str],
    failed: Mapping[str, str],
    *,
    retry_failed: bool = False,
) -> Plan:
    """Split `jobs` by what the store holds: ids that are `done`, and `failed` ones with why."""
    finished = tuple(j for j in jobs if j.job_id in done)
    broken = tuple(j for j in jobs if j.job_id in failed and j.job_id not in done)
    skip = {j.job_id for j in finished}
    if not retry_failed:
        skip |= {j.job_id for j in broken}
    todo = tuple(j for j in jobs if j.job_id not in skip)
    left = () if retry_failed else broken
    return Plan(todo, finished, left, {j.job_id: failed[j.job_id] for j in left})
