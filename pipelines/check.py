"""`bikd check`: everything that could stop a sweep, found before it starts and said all at once."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.sampled import counted, refuse_mostly_bad, undecodable
from bikd_ray.errors import UserError
from bikd_ray.plan import Cost, ResolvedData, ResolvedInput, ResolvedModel, pairings
from bikd_ray.resolve import same_twice
from bikd_ray.spec_file import load_parts
from bikd_ray.specs import LOCAL_DIR, Data, Recipe, Spec, ZooEntry
from bikd_ray.store.place import Place, store_uri
from bikd_ray.weights import keep_base
from bikd_ray.zoo import build, check_classes, describe, remember, resolve_model
from bikd_ray.zoo.cost import training_bytes

NOT_FETCHED = "not fetched"

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
        ("licence", pa.string()),
    ],
    metadata={
        "kind": "model or pairing",
        "flops": "of a forward pass of one image; a multiply-add is 2",
        "memory": "bytes that a job of it takes at the recipe's batch size, estimated",
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
    data = _data(parts.data, found) if parts.data else None
    abouts: dict[str, _About] = {}
    models: dict[str, ResolvedModel] = {}
    recipe = parts.spec.recipe if parts.spec else Recipe()
    for entry in parts.zoo:
        start = time.monotonic()
        try:
            with _notes_shown():
                about = _model(entry, data, fetch, keep, models)
        except UserError as error:
            found.problems += str(error).splitlines()
            continue
        found.rows.append(_model_row(entry, about, recipe))
        if about:
            abouts[entry.name] = about
        print(f"bikd: {entry.name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
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


def _model(
    entry: ZooEntry,
    data: ResolvedData | None,
    fetch: bool,
    keep: Place | None,
    models: dict[str, ResolvedModel],
) -> _About | None:
    """Build one model, with its real weights where they are at hand or may be fetched; None where
    even its code is elsewhere.
    """
    if not fetch and entry.hub and not Path(entry.hub.partition(":")[0]).is_dir():
        return None
    remote = entry.checkpoint is None or "://" in entry.checkpoint
    if not fetch and remote and entry.timm and not entry.timm.startswith(LOCAL_DIR):
        network = build(entry, weights=False)
        about = describe(entry, network)
        check = ResolvedModel(
            entry, "", "", about.input, about.num_classes, about.cost, about.classes
        )
        weights, licence = NOT_FETCHED, None
    else:
        check, network = resolve_model(entry)
        models[entry.name] = check
        remember(check)
        if keep:
            keep_base(keep, check.weights_id, network)
        weights, licence = check.weights_id, check.licence
    if data:
        check_classes(check, data.num_classes, data.classes)
    return _About(check.input, check.num_classes, check.cost, weights, licence)


@contextmanager
def _notes_shown() -> Iterator[None]:
    """Prints what building a model says of its checkpoint."""
    logger, shown = logging.getLogger("bikd_ray.zoo"), logging.Handler()
    shown.emit = lambda record: print(f"bikd: {record.getMessage()}", file=sys.stderr)
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)
        logger.level, logger.propagate = before


def _store(given: str | None, of_spec: str | None, found: Findings) -> Place | None:
    try:
        return Place.at(store_uri(given, of_spec))
    except UserError as error:
        found.problems.append(str(error))
        return None


def _data(data: Data, found: Findings) -> ResolvedData | None:
    """Open both splits and decode some images of each."""
    try:
        resolved = resolve_data(data)
    except UserError as error:
        found.problems += str(error).splitlines()
        return None
    for split in ("train", "val"):
        images = open_split(resolved, split)
        print(f"bikd: {split}: {len(images.labels)} images", file=sys.stderr)
        try:
            faults = undecodable(images)
            if faults and data.on_bad_image == "fail":
                fix = "replace or remove them, or set data.on_bad_image: skip"
                found.problems.append(f"data.{split}: {counted(faults, images)}; {fix}")
            elif faults:
                refuse_mostly_bad(split, images, faults)
                print(f"bikd: {split}: {counted(faults, images)}; skipped", file=sys.stderr)
        except UserError as error:
            found.problems.append(str(error))
    print(*(f"bikd: {note}\n" for note in resolved.notes), sep="", end="", file=sys.stderr)
    return resolved


def _model_row(entry: ZooEntry, about: _About | None, recipe: Recipe) -> dict:
    row = {"kind": "model", "name": entry.name, "source": entry.source, "weights": NOT_FETCHED}
    if about is None:
        return row
    how = about.input
    return {
        **row,
        "weights": about.weights,
        "input": f"{how.size} px {how.interpolation}, crop {how.crop_pct:g}",
        "params": about.cost.params,
        "flops": about.cost.flops,
        "features": about.cost.features,
        "memory": _memory([about], recipe),
        "licence": about.licence,
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
    costs, classes = [m.cost for m in members], members[0].num_classes
    return training_bytes(costs, recipe.batch_size, classes, recipe.optimizer, recipe.precision)
