"""`bikd check`: everything that could stop a sweep, found before it starts and said all at once."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from bikd_pipelines.layout import note
from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.loader import Loader
from bikd_ray.data.sampled import counted, kind_of, refuse_mostly_bad, undecodable
from bikd_ray.data.sources import ImageSet, Subset
from bikd_ray.errors import BikdError, UserError
from bikd_ray.formatting import shown as shown_value
from bikd_ray.identity import derived_seed
from bikd_ray.plan import WHOLE, Cost, ResolvedData, ResolvedInput, ResolvedModel, pairings
from bikd_ray.resolve import same_twice
from bikd_ray.spec_file import load_parts
from bikd_ray.specs import LOCAL_DIR, Data, Recipe, Spec, ZooEntry, labelled
from bikd_ray.store.filesystem import StoreFS, store_uri
from bikd_ray.tasks import DEFAULT, task_of
from bikd_ray.tasks.plausible import Plausibility, plausibility
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.weights import keep_base
from bikd_ray.zoo import build, describe, resolve_model, save_resolved
from bikd_ray.zoo.cost import training_bytes
from bikd_ray.zoo.probe import trains_alone
from bikd_ray.zoo.published import IMAGES, published_for

NOT_FETCHED = "not fetched"

SHOWN = (200, 100, 50, 25)
"""Val images that a model answers here: the most that cost it no more than FORWARD_FLOPS. With 200
an accuracy is known to 7 points and told from the chance of 10 classes at 16%; with 25 and 1,000
classes one right answer is nearly enough."""

FORWARD_FLOPS = 5e11
"""Some seven seconds of one core; of a model larger than ViT-B 25 forward passes take longer."""

NEIGHBOURS = 4
"""Images that are read together from row groups and the like."""

AT_ONCE = 25
"""Images in a batch: a CPU gains nothing from more, and memory stays small."""

CHECKED = pa.schema(
    [
        ("kind", pa.string()),
        ("name", pa.string()),
        ("source", pa.string()),
        ("weights", pa.string()),
        ("input", pa.string()),
        ("params", pa.int64()),
        ("flops", pa.int64()),
        ("features", pa.int64()),
        ("memory", pa.int64()),
        ("top1", pa.float64()),
        ("n", pa.int64()),
        ("chance", pa.float64()),
        ("published", pa.float64()),
        ("licence", pa.string()),
    ],
    metadata={
        "kind": "model or pairing",
        "flops": "of a forward pass of one image; a multiply-add is 2",
        "memory": "bytes that a job of it takes at the recipe's batch size, estimated",
        "top1": "percent, on n val images drawn for all models alike",
        "chance": "percent, of always answering the most frequent class",
        "published": "percent, by timm for these weights and this input on ImageNet-1k",
    },
)


@dataclass
class Findings:
    """What a check has found."""

    rows: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def table(self) -> pa.Table:
        """One row for each good model, then for each pairing of good models."""
        return pa.Table.from_pylist(self.rows, CHECKED)


def check(path: Path, *, fetch: bool = False, store: str | None = None) -> Findings:
    """Look at everything that a spec names, going on after each problem.

    fetch: download what is missing and keep all weights in the store, so that a sweep needs no
    network; without it pretrained weights stay where they are, and shapes alone are checked.
    Raises UserError for a file that is not a spec at all.
    """
    parts = load_parts(path)
    found = Findings(problems=list(parts.problems))
    of_spec = parts.spec.store if parts.spec else None
    keep = _store(store, of_spec, found) if fetch else None
    before = len(found.problems)
    data = _data(parts.data, parts.task, found) if parts.data else None
    unreadable = len(found.problems) > before
    abouts: dict[str, _About] = {}
    models: dict[str, ResolvedModel] = {}
    recipe = parts.spec.recipe if parts.spec else Recipe()
    with TemporaryDirectory(prefix="bikd-check-") as folder:
        shown = _Shown(data, Path(folder)) if data and not unreadable else None
        for entry in parts.zoo:
            start = time.monotonic()
            try:
                about = _model(entry, parts.task, shown, fetch, keep, models, parts.spec)
            except UserError as error:
                found.problems += str(error).splitlines()
                continue
            found.rows.append(_model_row(entry, about, recipe))
            if about:
                abouts[entry.name] = about
            _say(entry, about, time.monotonic() - start)
    found.problems += same_twice(models)
    if parts.spec:
        found.rows += _pairings(parts.spec, abouts)
    return found


@dataclass(frozen=True)
class _About:
    input: ResolvedInput
    num_classes: int
    cost: Cost
    weights: str
    licence: str | None
    notes: tuple[str, ...] = ()
    measured: "_Measured | None" = None


@dataclass(frozen=True)
class _Measured:
    """What a model answers of some val images. of_classes: where they have one class each."""

    line: str
    suspicion: str | None
    of_classes: Plausibility | None = None


@dataclass(frozen=True)
class _Shown:
    """The val images that models are shown, decoded once for all models of a view."""

    data: ResolvedData
    folder: Path

    def measure(self, model: ResolvedModel, network: nn.Module) -> _Measured:
        """A model on some val images, as a baseline measures it on all of them.

        Raises UserError where it answers NaN, or where no image can be read.
        """
        images = open_split(self.data, "val")
        count = next((n for n in SHOWN if n * model.cost.flops <= FORWARD_FLOPS), SHOWN[-1])
        some = Subset(images, drawn(images, count))
        cpu = torch.device("cpu")
        # those that do not decode are told of elsewhere
        task, member = task_of(self.data.task), Member(model, network, cpu)
        how = {"cache": str(self.folder), "skip": True, "task": task}
        try:
            loader = Loader(some, [model.input.view], cpu, **how)
            evaluation = evaluate([member], loader, task=task, batch_size=AT_ONCE)
        except BikdError as error:
            raise UserError(str(error)) from None
        (found,), metric = evaluation.outcomes, task.metrics[0]
        if self.data.task != DEFAULT:
            value = shown_value(found.values[metric.name], metric.unit, metric.title)
            n = len(found.scores[metric.name])
            said = f"{value} on {n} val {metric.units}"
            return _Measured(said, task.doubt(found.statistics))
        known = published_for(model, IMAGES)
        top1 = known.top1 if known else None
        judged = plausibility(found.statistics, images.labels, top1)
        return _Measured(f"top-1 {judged.line}", judged.suspicion, judged)


def drawn(images: ImageSet, count: int) -> np.ndarray:
    """int64, ascending: about `count` images, the same at every call, of all parts of a set.

    Where single images are dear to read, neighbours come along.
    """
    cheap = getattr(images, "random_access", True)
    total, together = len(images.labels), 1 if cheap else NEIGHBOURS
    groups = -(-total // together)
    parts = min(groups, -(-count // together))
    edges = np.arange(parts + 1) * groups // parts
    first = np.random.default_rng(derived_seed("shown")).integers(edges[:-1], edges[1:]) * together
    rows = (first[:, None] + np.arange(together)).ravel()
    return rows[rows < total]


def _say(entry: ZooEntry, about: _About | None, seconds: float) -> None:
    lines = [*about.notes] if about else []
    if about and about.measured:
        lines.append(about.measured.line)
        if about.measured.suspicion:
            lines.append(f"warning: {about.measured.suspicion}")
    for line in [*lines, f"{seconds:.1f} s"]:
        note([f"bikd: {entry.name}: {line}"])


def _elsewhere(entry: ZooEntry) -> bool:
    """Whether even what an entry is built from has to be fetched."""
    if entry.hub:
        return not Path(entry.hub.partition(":")[0]).is_dir()
    if entry.transformers:
        return not Path(entry.transformers).is_dir()
    return bool(entry.detectron2 and "://" in entry.detectron2)


def _model(
    entry: ZooEntry,
    task: str,
    shown: _Shown | None,
    fetch: bool,
    keep: StoreFS | None,
    models: dict[str, ResolvedModel],
    spec: Spec | None,
) -> _About | None:
    """Build one model, with its real weights where they are at hand or may be fetched; None where
    even its code is elsewhere.
    """
    if not fetch and _elsewhere(entry):
        return None
    of = task_of(task)
    remote = entry.checkpoint is None or "://" in entry.checkpoint
    fetched = entry.timm and not entry.timm.startswith(LOCAL_DIR)
    fetched = fetched or entry.smp or entry.kwargs.get("weights", entry.torchvision)
    if not fetch and remote and fetched:
        network = build(entry, weights=False)
        about = describe(entry, network, of)
        _refuse_singles(entry, network, about.input, spec)
        check = ResolvedModel(
            entry, "", "", about.input, about.num_classes, about.cost, about.classes
        )
        if shown:
            of.check(check, shown.data)
        return _About(check.input, check.num_classes, check.cost, NOT_FETCHED, None)
    check, network = resolve_model(entry, of)
    models[entry.name] = check
    _refuse_singles(entry, network, check.input, spec)
    if keep:
        keep_base(keep, check.weights_id, network)
    if shown:
        of.check(check, shown.data)
    measured = shown.measure(check, network) if shown else None
    save_resolved(check, task=task)
    return _About(
        check.input,
        check.num_classes,
        check.cost,
        check.weights_id,
        check.licence,
        check.notes,
        measured,
    )


def _refuse_singles(
    entry: ZooEntry, network: nn.Module, how: ResolvedInput, spec: Spec | None
) -> None:
    """Raise UserError where steps may see one sample alone and the network cannot: of parts of two
    the last may be one, of larger ones it never is.
    """
    if spec is None or spec.recipe.freeze_batchnorm:
        return
    if spec.recipe.batch_size == 1 or spec.resources.micro_batch in (1, 2):
        trains_alone(entry.name, network, how)


def _store(given: str | None, of_spec: str | None, found: Findings) -> StoreFS | None:
    try:
        return StoreFS.at(store_uri(given, of_spec))
    except UserError as error:
        found.problems.append(str(error))
        return None


def _data(data: Data, task: str, found: Findings) -> ResolvedData | None:
    """Open train, val and what is only measured on, and decode some images of each."""
    try:
        resolved = resolve_data(data, task)
    except UserError as error:
        found.problems += str(error).splitlines()
        return None
    for split in ("train", "val", *resolved.eval):
        images = open_split(resolved, split)
        where = f"eval.{split}" if split in resolved.eval else split
        own = split not in resolved.eval and not labelled(getattr(data, split))
        bare = " without labels" if own else ""
        note([f"bikd: {where}: {len(images.labels)} {kind_of(images)}{bare}"])
        try:
            faults = undecodable(images)
            if faults and data.on_bad_image == "fail":
                fix = "replace or remove them, or set data.on_bad_image: skip"
                found.problems.append(f"data.{where}: {counted(faults, images)}; {fix}")
            elif faults:
                refuse_mostly_bad(where, images, faults)
                note([f"bikd: {split}: {counted(faults, images)}; skipped"])
        except UserError as error:
            found.problems.append(str(error))
        problems, remarks = task_of(task).look(split, images)
        found.problems += problems
        for line in remarks:
            note([f"bikd: {line}"])
    for line in (*resolved.class_order, *resolved.notes):
        note([f"bikd: {line}"])
    return resolved


def _model_row(entry: ZooEntry, about: _About | None, recipe: Recipe) -> dict:
    row = {"kind": "model", "name": entry.name, "source": entry.source, "weights": NOT_FETCHED}
    if about is None:
        return row
    how = about.input
    crop = "" if how.crop_mode == WHOLE else f", crop {how.crop_pct:g}"
    return {
        **row,
        "weights": about.weights,
        "input": f"{how.text} {how.interpolation}{crop}",
        "params": about.cost.params,
        "flops": about.cost.flops,
        "features": about.cost.features,
        "memory": _memory([about], recipe),
        **_measured_row(about.measured),
        "licence": about.licence,
    }


def _measured_row(found: _Measured | None) -> dict:
    if found is None or found.of_classes is None:
        return {}
    measured = found.of_classes
    return {
        "top1": measured.top1,
        "n": measured.n,
        "chance": measured.chance,
        "published": measured.published,
    }


def _pairings(spec: Spec, abouts: Mapping[str, _About]) -> list[dict]:
    """Pairings of the models that could be built, the largest first."""
    rows = []
    for group in pairings([e.name for e in spec.zoo], spec.pairings):
        if all(name in abouts for name in group):
            members = [abouts[name] for name in group]
            rows.append(
                {
                    "kind": "pairing",
                    "name": " + ".join(group),
                    "params": sum(m.cost.params for m in members),
                    "flops": sum(m.cost.flops for m in members),
                    "memory": _memory(members, spec.recipe),
                }
            )
    return sorted(rows, key=lambda row: -row["memory"])


def _memory(members: Sequence[_About], recipe: Recipe) -> int:
    return training_bytes([m.cost for m in members], members[0].num_classes, recipe)
