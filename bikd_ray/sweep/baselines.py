"""One baseline for each model, as Ray tasks that share GPUs where the models are small."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from bikd_ray.errors import BikdError, UserError
from bikd_ray.formatting import shown
from bikd_ray.plan import Cost, ResolvedData, ResolvedModel
from bikd_ray.specs import CONTROL, labelled
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.write import Writer
from bikd_ray.sweep.capacity import CapacityMonitor, ResourceRequest
from bikd_ray.sweep.connection import ours
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import nodes, task_options
from bikd_ray.sweep.scheduler import POLL_SECONDS
from bikd_ray.tasks import task_of
from bikd_ray.vocabulary import UNTOUCHED

ONE_CPU = ResourceRequest(1, 0)


@dataclass(frozen=True)
class Baseline:
    """One model on one set: rows of `baselines`, one for each metric, the primary one first.

    statistics: rows of the task's table, where it has one. doubt: why these answers may not be
    what the model can do.
    """

    rows: list[dict[str, Any]]
    statistics: pa.Table | None
    doubt: str | None


def measure(
    model: ResolvedModel,
    data: ResolvedData,
    needs: ResourceRequest,
    store: str,
    eval_set: str,
) -> Baseline:
    """Evaluate one untouched model on val or a further set. Runs in a Ray task."""
    from bikd_ray.sweep.measured_rows import baseline_rows
    from bikd_ray.train import evaluate
    from bikd_ray.zoo.published import published_for

    (member,), loader = at_work([model], data, needs, store, eval_set)
    on_val, task = eval_set == VAL, task_of(data.task)
    task = task if on_val else task.on(data.eval[eval_set])
    known = published_for(model, data.n_val) if on_val else None
    start = time.monotonic()
    evaluation = evaluate([member], loader, task=task)
    (found,) = evaluation.outcomes
    about = {
        "model": model.name,
        "model_id": model.model_id,
        "weights_id": model.weights_id,
        "data_id": data.data_id,
        "eval_set": eval_set,
        "unit_set_id": data.unit_set_id if on_val else data.eval[eval_set].unit_set_id,
        "seconds": time.monotonic() - start,
    }
    rows = baseline_rows(task, found, known.top1 if known else None)
    kept = {"sample": evaluation.rows, **task.columns(found.statistics)} if task.table else None
    return Baseline(
        [{**about, **row} for row in rows],
        kept and pa.table(kept),
        task.doubt(found.statistics) if on_val else None,
    )


def probabilities(
    model: ResolvedModel,
    data: ResolvedData,
    needs: ResourceRequest,
    store: str,
    samples_U: np.ndarray,
) -> np.ndarray:
    """float32 [U, C]: an untouched model's softmax on some val images. Runs in a Ray task."""
    import torch

    from bikd_ray.train.evaluate import EVAL_BATCH

    task = task_of(data.task)
    (member,), loader = at_work([model], data, needs, store)
    member.network.eval()
    with torch.inference_mode():
        parts = [
            torch.exp(task.predict(member.output(batch), batch).log_prob_BEP.float()).cpu()
            for batch in loader.batches(samples_U, EVAL_BATCH)
        ]
    return torch.cat(parts).squeeze(2).numpy()


def at_work(
    models: Sequence[ResolvedModel],
    data: ResolvedData,
    needs: ResourceRequest,
    store: str,
    eval_set: str = VAL,
) -> tuple[list[Any], Any]:
    """(members, loader): models on the device and the images of a set, in a Ray task."""
    import torch

    from bikd_ray.data import open_split
    from bikd_ray.data.loader import DISK_FRACTIONS, Loader
    from bikd_ray.sweep.device import device_of
    from bikd_ray.train.member import Member
    from bikd_ray.weights import network_of

    torch.set_num_threads(needs.threads)
    device = device_of(needs.gpus)
    loader = Loader(
        open_split(data, eval_set),
        [model.input.view for model in models],
        device,
        cache=data.data.cache,
        disk_fraction=DISK_FRACTIONS["val"],
        workers=needs.threads - 1 if needs.gpus else 0,
        skip=data.data.on_bad_image == "skip",
        task=task_of(data.task),
    )
    fs = StoreFS.at(store)
    return [Member(model, network_of(model, fs), device) for model in models], loader


def prepare(
    data: ResolvedData, models: list[ResolvedModel], splits: Mapping[str, str]
) -> list[str]:
    """Put what is to be kept of each split (and how it is augmented) on this node's disk.

    Returns what a person should know. Runs in a Ray task.
    """
    import torch

    from bikd_ray.data import open_split
    from bikd_ray.data.loader import DISK_FRACTIONS, Loader

    notes = _Notes()
    logging.getLogger("bikd_ray").addHandler(notes)
    for split, augment in splits.items():
        loader = Loader(
            open_split(data, split),
            [m.input.view for m in models],
            torch.device("cpu"),
            cache=data.data.cache,
            disk_fraction=DISK_FRACTIONS["further" if split in data.eval else split],
            skip=data.data.on_bad_image == "skip",
            augment=augment,
            task=task_of(data.task),
        )
        faults = list(loader.kept.faults.values()) if loader.kept else []
        if faults:
            notes.lines.append(f"{split}: {len(faults)} images left out; the first: {faults[0]}")
    logging.getLogger("bikd_ray").removeHandler(notes)
    return notes.lines


class _Notes(logging.Handler):
    """Collects warnings: a Ray task's own output is not shown to the person."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def missing_baselines(
    zoo: Mapping[str, ResolvedModel], data: ResolvedData, store: Store
) -> list[tuple[ResolvedModel, str]]:
    """The models of the zoo, each with a set that the store has no baseline of it on: all on val
    first.
    """
    columns = ["model_id", "eval_set"]
    rows = store.table("baselines", columns, pc.field("data_id") == data.data_id).to_pylist()
    have = {(row["model_id"], row["eval_set"]) for row in rows}
    every = [(model, name) for name in (VAL, *data.eval) for model in zoo.values()]
    return [(model, name) for model, name in every if (model.model_id, name) not in have]


def run_baselines(
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    splits: Mapping[str, str],
    store: Store,
    writer: Writer,
    needs: Callable[[Cost], ResourceRequest],
    progress: Progress,
) -> dict[str, str]:
    """Decode the images that are to be kept, and store the baselines still missing.

    splits: those that will be read, and how they are augmented. needs: what a model's baseline
    occupies. Returns why models could not be measured on val, model_id to error, after the others
    are stored; what fails on a further set is noted. Raises UserError for bad data, and BikdError
    where no model could be measured.
    """
    measuring = task_of(data.task)
    if data.data_id not in store.table("metrics", ["data_id"])["data_id"].to_pylist():
        against = CONTROL.label if labelled(data.data.train) else UNTOUCHED
        writer.write_metrics(data.data_id, data.task, measuring.metrics, against, data.classes)
    missing = missing_baselines(zoo, data, store)
    further = sorted({name for _, name in missing} - {VAL})
    on = f", also on {', '.join(further)}" if further else ""
    count = len({model.model_id for model, _ in missing})
    progress.enter(f"baselines of {count} models{on}" if missing else "images")
    task = ray.remote(prepare).options(**task_options(ONE_CPU))
    prepared = task.remote(data, list(zoo.values()), splits)
    pending: dict[Any, tuple[ResolvedModel, str, ResourceRequest]] = {}
    for model, eval_set in missing:
        share = needs(model.cost)
        task = ray.remote(measure).options(**task_options(share))
        pending[task.remote(model, data, share, store.uri, eval_set)] = model, eval_set, share
    watch = CapacityMonitor(progress.note)
    try:  # before anything is stored: bad images are the person's to mend
        notes = ray.get(first_of({prepared: ONE_CPU}, watch))
    except RayTaskError as error:
        raise ours(error, "cannot prepare the images") from None
    for note in notes:
        progress.note(note)
    problems: dict[str, BikdError] = {}
    while pending:
        ready = first_of({task: share for task, (_, _, share) in pending.items()}, watch)
        model, eval_set, _ = pending.pop(ready)
        name = model.name if eval_set == VAL else f"{model.name} on {eval_set}"
        try:
            measured: Baseline = ray.get(ready)
        except RayError as error:
            problem = ours(error, f"baseline of {name} failed")
            if eval_set == VAL:
                problems[model.model_id] = problem
            progress.note(f"{name}: {problem}")
            continue
        table, primary = measuring.table or "", measuring.metrics[0]
        writer.commit_baseline(measured.rows, model_row(model, data), measured.statistics, table)
        value = measured.rows[0]["value"]
        progress.note(f"{name}: {shown(value, primary.unit, primary.title)}")
        doubts = [measured.doubt] if measured.doubt else []
        said = model.notes if eval_set == VAL else ()
        for note in [*said, *(f"warning: {doubt}" for doubt in doubts)]:
            progress.note(f"{model.name}: {note}")
    if len(problems) == len(zoo):
        raise together(problems.values())
    return {model_id: str(problem) for model_id, problem in problems.items()}


def first_of(tasks: Mapping[Any, ResourceRequest], watch: CapacityMonitor) -> Any:
    """The first of some Ray tasks to end; the watch sees meanwhile whether they have nodes."""
    while not (ready := ray.wait([*tasks], timeout=POLL_SECONDS)[0]):
        watch.look(tasks.values(), nodes())
    return ready[0]


def together(problems: Iterable[BikdError]) -> BikdError:
    """One error of several, a line each: the person's mistake if all are."""
    problems = list(problems)
    kind = UserError if all(isinstance(p, UserError) for p in problems) else BikdError
    return kind("\n".join(str(problem) for problem in problems))


def model_row(model: ResolvedModel, data: ResolvedData) -> dict[str, Any]:
    """A row of `models`."""
    how = model.input
    return {
        "model": model.name,
        "model_id": model.model_id,
        "weights_id": model.weights_id,
        "data_id": data.data_id,
        "source": model.entry.source,
        "checkpoint": model.entry.checkpoint,
        "params": model.cost.params,
        "flops": model.cost.flops,
        "input_size": how.size,
        "mean": list(how.mean),
        "std": list(how.std),
        "crop_pct": how.crop_pct,
        "interpolation": how.interpolation,
        "licence": model.licence,
        "resolved": model.to_json(),
    }
