"""Soups of a stored sweep: one model's variants averaged, beside as many of its controls.

Chosen greedily on the half of the val images that decides, measured on all, and stored as jobs of
a recipe of their own, so that every answer understands them: a soup of controls is the control.
Loads torch.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from bikd_ray.analysis.halves import deciding_half, on_half
from bikd_ray.analysis.scores import Scores, stored
from bikd_ray.analysis.significance import Estimates, contrast
from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.loader import Loader
from bikd_ray.errors import BikdError, UserError, choices
from bikd_ray.identity import RESULT_VERSION, canonical, derived_seed, digest
from bikd_ray.metrics import Metric
from bikd_ray.plan import ResolvedData, ResolvedModel
from bikd_ray.specs import CONTROL, Data
from bikd_ray.store import Store, Writer
from bikd_ray.store.read import pc
from bikd_ray.store.series import ModelSeries
from bikd_ray.store.upgrade import VAL
from bikd_ray.sweep.measured_rows import result_rows
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Measured, Task
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.train.soup import (
    averaged,
    best_scale,
    greedy_soup,
    has_batch_statistics,
    moved,
    reestimate_batchnorm,
)
from bikd_ray.vocabulary import CHOSEN_ON_VAL
from bikd_ray.weights import network_of, pack_state

Row = dict[str, Any]

BATCH = 256
"""Images of a batch from which batch statistics are taken."""

IMAGES = 50_000
"""Train images from which they are taken, or as many as there are."""


@dataclass(frozen=True)
class Soup:
    """One soup. jobs: its ingredients. scale: of the sum of their changes. batch_images: from
    which batch statistics were taken anew; 0 without such layers.
    """

    job_id: str
    jobs: tuple[str, ...]
    partners: tuple[str, ...]
    scale: float
    batch_images: int


@dataclass(frozen=True)
class Comparison:
    """The soup less something else, on the half that chose nothing; points of the metric."""

    what: str
    delta: float
    low: float
    high: float


@dataclass(frozen=True)
class Souped:
    """A soup, the soup of controls beside it (None without two controls), and what they are worth.

    variants: how many there were to choose from. n: images that report.
    """

    soup: Soup
    control: Soup | None
    comparisons: tuple[Comparison, ...]
    variants: int
    metric: Metric
    n: int
    notes: tuple[str, ...] = ()


@dataclass
class _Kitchen:
    """One model on its images: what its states are worth."""

    store: Store
    model: ResolvedModel
    data: ResolvedData
    task: Task
    metric: Metric
    member: Member = field(init=False)
    batch_images: int = 0

    def __post_init__(self) -> None:
        fs = Writer(self.store.uri).fs
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.member = Member(self.model, network_of(self.model, fs), device)
        self.start = {k: v.detach().clone() for k, v in self.member.network.state_dict().items()}
        self.val = self._loader(VAL)

    def _loader(self, split: str) -> Loader:
        return Loader(
            open_split(self.data, split),
            [self.model.input.view],
            self.member.device,
            cache=self.data.data.cache,
            skip=self.data.data.on_bad_image == "skip",
            task=self.task,
        )

    def measured(self, state: dict[str, Tensor], *, anew: bool) -> Measured:
        """On val; anew: with batch statistics of this state itself, which it then holds."""
        self.member.network.load_state_dict(state)
        if anew and has_batch_statistics(self.member.network):
            loader = self._loader("train")
            rng = np.random.default_rng(derived_seed("soup", self.model.model_id))
            rows = rng.permutation(self.data.n_train)[:IMAGES]
            rows = rows[: len(rows) - (len(rows) % BATCH == 1)]
            batches = loader.batches(np.sort(rows), BATCH)
            views = (self.member.normalise(b.views[self.model.input.view]) for b in batches)
            self.batch_images = reestimate_batchnorm(self.member.network, views)
            own = self.member.network.state_dict()  # changes with the next one that is measured
            state.update({name: tensor.detach().cpu().clone() for name, tensor in own.items()})
        (found,) = evaluate([self.member], self.val, task=self.task).outcomes
        return found

    def score(self, found: Measured) -> float:
        """On the deciding half; higher is better."""
        rows = [stored(found.scores[self.metric.name], self.metric)]
        half = on_half(Scores.of(rows, len(found.scores[self.metric.name]), self.metric), True)
        return float(half.sign * half.scale * half.totals[0] / half.n)


def make_soup(
    store: Store,
    model: str,
    objective: str | None = None,
    selection: str = "last",
    *,
    scales: bool = False,
    recipe: str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Souped:
    """Average a model's kept variants, and as many of its controls; store both.

    scales: also weigh the sum of all changes by 1/2 and 1 instead of by 1 / K. recipe: a recipe_id
    or its beginning, where the model was trained by several. Raises UserError
    where there are not two variants with kept weights of one setting, and BikdError where weights
    are gone.
    """
    if selection == CHOSEN_ON_VAL:
        raise UserError(
            "a soup takes weights of selection last or best_select: best_val has chosen its epochs "
            "on the images that measure it"
        )
    learner = _learner(store, model, objective, selection, recipe)
    rows = [row for seeds in learner.by_partners.values() for row in seeds.values()]
    variants = _with_weights(store, rows, selection)
    controls = _with_weights(store, list(learner.control.values()), selection)
    if len(variants) < 2:
        raise UserError(
            f"{model} has {len(variants)} variants with kept weights of {learner.objective}, "
            f"selection {selection}; a soup takes two: sweep with keep_weights: best"
        )
    kitchen = _kitchen(store, learner)
    half_N = deciding_half(learner.n)
    scores = Scores.of(variants, learner.n, learner.metric)
    alone = [float(s) for s in _on_half(scores)]
    states = [_state(store, row) for row in variants]
    cooked: dict[tuple[int, ...], tuple[dict[str, Tensor], Measured]] = {}  # the last that is kept
    best_score = max(alone)

    def measure(some: tuple[int, ...]) -> float:
        state = averaged([states[k] for k in some])
        nonlocal best_score
        found = kitchen.measured(state, anew=True)
        score = kitchen.score(found)
        note(f"{len(some)} ingredients: {score:.3f} on {half_N.sum():,} images")
        if score >= best_score:
            cooked.clear()
            cooked[some], best_score = (state, found), score
        return score

    kept, _ = greedy_soup(alone, measure)
    if len(kept) < 2:
        raise UserError(
            f"no two of the {len(variants)} variants of {model} make a soup that is as good as the "
            "best of them on the images that decide; nothing is stored"
        )
    before = kitchen.measured(dict(kitchen.start), anew=False)
    soup, after = _finish(kitchen, learner, kept, variants, states, cooked[kept], scales, before)
    best = int(np.argmax(alone))
    others: list[tuple[str, Row | Measured]] = [
        ("the untouched model", before),
        (f"the best variant (with {' + '.join(variants[best]['partners'])})", variants[best]),
    ]
    control, notes = None, []
    if len(controls) >= 2:
        some = controls[: len(kept)]
        mine = [_state(store, row) for row in some]
        state = averaged(mine)
        found = kitchen.measured(state, anew=True)
        every = tuple(range(len(some)))
        control, without = _finish(
            kitchen, learner, every, some, mine, (state, found), scales, before
        )
        others.append((f"a soup of {len(some)} controls", without))
        if len(some) < len(kept):
            notes.append(f"only {len(some)} controls are kept beside {len(kept)} ingredients")
    else:
        notes.append("fewer than two controls are kept, so nothing says what averaging alone gives")
    return Souped(
        soup,
        control,
        tuple(_compared(kitchen, what, after, other) for what, other in others),
        len(variants),
        learner.metric,
        int((~half_N).sum()),
        tuple(notes),
    )


def _learner(
    store: Store, model: str, objective: str | None, selection: str, recipe: str | None
) -> ModelSeries:
    """The one setting of a model that has variants to average; no soups. Raises UserError."""
    ids = store.model_ids(model)
    labels = sorted(
        {
            row["objective"]
            for row in store.index("jobs").to_pylist()
            if row["status"] == "done"
            and len(row["member_ids"]) > 1
            and ids & set(row["member_ids"])
            and not row["objective"].startswith("soup(")
        }
    )
    wanted = [x for x in labels if objective in (None, x, x.split("(")[0])]
    if not wanted:
        raise UserError(
            f"{model} has no finished job"
            + (f" of {objective!r}; {choices(objective, labels)}" if objective else
               " with a partner; see bikd status")
        )  # fmt: skip
    every = [x for label in wanted for x in store.learners(sorted(ids), label, selection)]
    found = [x for x in every if x.recipe_id.startswith(recipe or "")]
    if len(found) != 1:
        rows = [
            f"{x.objective}, recipe {x.recipe_id[:6]}, data {x.data_id[:6]}, weights "
            f"{x.baseline['weights_id'][:6]}"
            for x in found or every
        ]
        raise UserError(
            f"{model} was trained in {len(found)} settings"
            f"{f' with a recipe {recipe}' if recipe else ''}, whose weights are never mixed: "
            f"{'; '.join(rows) or 'none of this selection'}; choose one with --objective, --recipe "
            "or the model's id"
        )
    return found[0]


def _with_weights(store: Store, rows: Sequence[Row], selection: str) -> list[Row]:
    """Those whose weights are kept, by partners and seed."""
    ids = [row["job_id"] for row in rows]
    where = pc.field("job_id").isin(ids) & (pc.field("selection") == selection)
    columns = ["job_id", "model_id", "weights"]
    kept = {
        (row["job_id"], row["model_id"]): row["weights"]
        for row in store.table("results", columns, where).to_pylist()
    }
    found = [{**row, "weights": kept.get((row["job_id"], row["model_id"]))} for row in rows]
    return [row for row in found if row["weights"]]


def _kitchen(store: Store, learner: ModelSeries) -> _Kitchen:
    where = (pc.field("model_id") == learner.model_id) & (pc.field("data_id") == learner.data_id)
    known = store.table("models", where=where).to_pylist()
    any_row = next(iter(next(iter(learner.by_partners.values())).values()))
    (job,) = store.table("jobs", where=pc.field("job_id") == any_row["job_id"]).to_pylist()
    tasks = store.table("metrics", where=pc.field("data_id") == learner.data_id).to_pylist()
    if not known or known[0]["resolved"] is None or job["data"] is None:
        raise BikdError(
            f"{learner.baseline['model']}: an older bikd wrote this store and did not note how the "
            "model is built; sweep into another --store"
        )
    name = tasks[0]["task"] if tasks else task_of().name
    data = resolve_data(Data.model_validate(json.loads(job["data"])), name)
    data, _ = store.as_stored(data)
    if data.data_id != learner.data_id:
        raise UserError("the images are no longer those of the sweep, so a soup cannot be measured")
    model = ResolvedModel.from_json(known[0]["resolved"])
    return _Kitchen(store, model, data, task_of(name), learner.metric)


def _state(store: Store, row: Row) -> dict[str, Tensor]:
    try:
        return load(store.file(row["weights"]))
    except FileNotFoundError:
        raise BikdError(
            f"{row.get('model') or row['model_id']} of job {row['job_id']}: its kept weights are "
            f"gone ({row['weights']} in {store.uri})"
        ) from None
    except SafetensorError as error:
        raise BikdError(f"kept weights are damaged ({row['weights']}: {error})") from None


def _on_half(scores: Scores) -> np.ndarray:
    half = on_half(scores, True)
    return half.sign * half.scale * half.totals / half.n


def _finish(
    kitchen: _Kitchen,
    learner: ModelSeries,
    kept: tuple[int, ...],
    rows: Sequence[Row],
    states: Sequence[dict[str, Tensor]],
    cooked: tuple[dict[str, Tensor], Measured],
    scales: bool,
    before: Measured,
) -> tuple[Soup, Measured]:
    """Weigh the changes, and store the soup."""
    state, after = cooked
    scale = 1 / len(kept)
    if scales:
        some = [states[k] for k in kept]
        tried: dict[float, tuple[dict[str, Tensor], Measured]] = {}

        def weigh(by: float) -> float:
            mixed = moved(kitchen.start, some, by)
            tried[by] = mixed, kitchen.measured(mixed, anew=True)
            return kitchen.score(tried[by][1])

        scale, _ = best_scale(len(kept), weigh)
        state, after = tried[scale]
    soup = _stored(kitchen, learner, [rows[k] for k in kept], state, before, after, scale)
    return soup, after


def _stored(
    kitchen: _Kitchen,
    learner: ModelSeries,
    rows: Sequence[Row],
    state: dict[str, Tensor],
    before: Measured,
    after: Measured,
    scale: float,
) -> Soup:
    """Commit a soup as a job of its own recipe, whose control is the soup of controls."""
    ingredients = tuple(sorted(row["job_id"] for row in rows))
    job_id = digest("soup", ingredients, scale, kitchen.batch_images)
    mates = dict(
        sorted(
            (i, name)
            for row in rows
            for i, name in zip(row["partner_ids"], row["partners"], strict=True)
        )
    )
    label = f"soup({learner.objective})" if mates else CONTROL.label
    (job,) = kitchen.store.table("jobs", where=pc.field("job_id") == rows[0]["job_id"]).to_pylist()
    model = kitchen.model
    run = {
        "job_id": job_id,
        "data_id": learner.data_id,
        "objective": label,
        "seed": 0,
        "recipe_id": digest("soup", learner.recipe_id, learner.objective),
    }
    recipe = json.loads(job["recipe"] or "{}")
    recipe["soup"] = {
        "ingredients": list(ingredients),
        "scale": scale,
        "batch_images": kitchen.batch_images,
    }
    path = f"weights/{job_id}/{model.model_id}-{learner.selection}.safetensors"
    writer = Writer(kitchen.store.uri)
    writer.fs.write(path, pack_state(state, {"model": model.name, "job_id": job_id}))
    identity = {
        "model": learner.baseline["model"],
        "model_id": model.model_id,
        "weights_id": model.weights_id,
    }
    about = {
        **run,
        **identity,
        "partners": list(mates.values()),
        "partner_ids": list(mates),
        "role": "peer" if mates else "control",
        "selection": learner.selection,
        "epoch": recipe.get("epochs") or 1,
        "eval_set": VAL,
        "unit_set_id": kitchen.data.unit_set_id,
        "weights": path,
    }
    measured = result_rows(kitchen.task, before, after, fair=True)
    commit = {
        **run,
        "sweep": job["sweep"],
        "members": [identity["model"], *mates.values()],
        "member_ids": [model.model_id, *mates],
        "recipe": canonical(recipe),
        "data": job["data"],
        "status": "done",
        "error": None,
        "seconds": 0.0,
        "resources": "{}",
        "result_version": RESULT_VERSION,
    }
    writer.commit_job(commit, [{**about, **row} for row in measured], [])
    return Soup(job_id, ingredients, tuple(mates.values()), scale, kitchen.batch_images)


def _compared(kitchen: _Kitchen, what: str, soup: Measured, other: Row | Measured) -> Comparison:
    """On the reporting half, with a paired 95% interval over its images."""
    name, metric = kitchen.metric.name, kitchen.metric
    rows = [
        other if isinstance(other, dict) else stored(other.scores[name], metric),
        stored(soup.scores[name], metric),
    ]
    scores = on_half(Scores.of(rows, len(soup.scores[name]), metric), False)
    found: Estimates = contrast(scores, np.array([[-1.0, 1.0]]))
    return Comparison(what, float(found.mean), float(found.low), float(found.high))
