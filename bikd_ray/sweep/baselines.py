"""One baseline for each model, as Ray tasks; then the statistics of all pairs, without training."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayError, RayTaskError

from bikd_ray.analysis.pairs import Answers, pair_statistics
from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import ResolvedData, ResolvedModel
from bikd_ray.store.queries import Store
from bikd_ray.store.write import Writer
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import task_options
from bikd_ray.sweep.slot import Needs

SPLIT = "val"


@dataclass(frozen=True)
class Measured:
    baseline: dict[str, Any]
    predictions: pa.Table


def measure(model: ResolvedModel, data: ResolvedData, needs: Needs) -> Measured:
    """Evaluate one untouched model on val. Runs in a Ray task."""
    import torch

    from bikd_ray.analysis.bits import pack
    from bikd_ray.data import open_split
    from bikd_ray.data.loader import Loader
    from bikd_ray.train import evaluate
    from bikd_ray.train.member import Member
    from bikd_ray.zoo import build_resolved

    torch.set_num_threads(needs.threads)
    device = torch.device("cuda" if needs.gpus else "cpu")
    images = open_split(data.data, SPLIT)
    loader = Loader(
        images,
        [model.input.view],
        device,
        cache=data.data.cache,
        workers=needs.threads - 1 if needs.gpus else 0,
    )
    start = time.monotonic()
    result = evaluate([Member(model, build_resolved(model), device)], loader).outcomes[0]
    baseline = {
        "model": model.name,
        "model_id": model.model_id,
        "weights_id": model.weights_id,
        "data_id": data.data_id,
        "split": SPLIT,
        "n": len(result.label_N),
        "top1": result.top1,
        "top5": result.top5,
        "nll": result.nll,
        "ece": result.ece,
        "correct": pack(result.correct_N),
        "sample_set_id": data.sample_set_id,
        "seconds": time.monotonic() - start,
    }
    predictions = pa.table(
        {
            "sample": pa.array(range(len(result.label_N)), pa.int64()),
            "label": result.label_N,
            "predicted": result.predicted_N,
            "label_prob": result.label_prob_N,
            "top_classes": list(result.top_classes_Nk),
            "top_probs": list(result.top_probs_Nk),
        }
    )
    return Measured(baseline, predictions)


def prepare(data: ResolvedData, models: list[ResolvedModel]) -> None:
    """Decode every view that is to be kept; what is not kept is first opened when it is used."""
    import torch

    from bikd_ray.data import open_split
    from bikd_ray.data.loader import Loader

    for split in ("val", "train"):
        views = [m.input.view for m in models]
        Loader(open_split(data.data, split), views, torch.device("cpu"), cache=data.data.cache)


def missing_baselines(
    zoo: Mapping[str, ResolvedModel], data: ResolvedData, store: Store
) -> list[ResolvedModel]:
    """The models of the zoo that the store has no baseline of on these images."""
    known = store.reader.table("baselines", ["data_id", "model_id"]).to_pylist()
    have = {row["model_id"] for row in known if row["data_id"] == data.data_id}
    return [model for model in zoo.values() if model.model_id not in have]


def run_baselines(
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    writer: Writer,
    needs: Needs,
    progress: Progress,
) -> None:
    """Store the baselines that the store lacks, and the statistics of all pairs of the zoo.

    Raises UserError for bad data and BikdError for models that cannot be measured, after the
    others are stored.
    """
    missing = missing_baselines(zoo, data, store)
    if missing:
        progress.enter(f"baselines of {len(missing)} models")
        _measure_all(missing, list(zoo.values()), data, writer, needs, progress)
    write_pairs(list(zoo.values()), data, store, writer)


def _measure_all(
    missing: list[ResolvedModel],
    zoo: list[ResolvedModel],
    data: ResolvedData,
    writer: Writer,
    needs: Needs,
    progress: Progress,
) -> None:
    prepared = ray.remote(prepare).options(num_cpus=1).remote(data, zoo)
    task = ray.remote(measure).options(**task_options(needs))
    pending = {task.remote(model, data, needs): model for model in missing}
    problems: list[BikdError] = []
    try:
        ray.get(prepared)  # before anything is stored: a corrupt image is the person's to mend
    except RayTaskError as error:
        raise _ours(error, "cannot prepare the images") from None
    while pending:
        ready, _ = ray.wait(list(pending))
        model = pending.pop(ready[0])
        try:
            measured: Measured = ray.get(ready[0])
        except RayError as error:
            problems.append(_ours(error, f"baseline of {model.name} failed"))
            continue
        writer.commit_baseline(measured.baseline, measured.predictions, _model_row(model, data))
        progress.note(f"{model.name}: top-1 {measured.baseline['top1']:.2f} %")
    if problems:
        text = "\n".join(str(problem) for problem in problems)
        kind = UserError if all(isinstance(p, UserError) for p in problems) else BikdError
        raise kind(text)


def _ours(error: Exception, doing: str) -> BikdError:
    """The BikdError inside a task's error, or one line about what happened instead."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BikdError):
        return type(cause)(str(cause))
    last = str(cause or error).strip().splitlines()[-1]
    return BikdError(f"{doing}: {last}")


def _model_row(model: ResolvedModel, data: ResolvedData) -> dict[str, Any]:
    how = model.input
    return {
        "model": model.name,
        "model_id": model.model_id,
        "weights_id": model.weights_id,
        "data_id": data.data_id,
        "source": model.entry.source,
        "checkpoint": model.entry.checkpoint,
        "params": model.params,
        "input_size": how.size,
        "mean": list(how.mean),
        "std": list(how.std),
        "crop_pct": how.crop_pct,
        "interpolation": how.interpolation,
        "licence": model.licence,
    }


def write_pairs(zoo: list[ResolvedModel], data: ResolvedData, store: Store, writer: Writer) -> None:
    """Statistics of all pairs of the zoo, unless the store has every one of them."""
    zoo = sorted(zoo, key=lambda m: m.name.casefold())
    ids = [m.model_id for m in zoo]
    columns = ["data_id", "model_id_a", "model_id_b"]
    stored = store.reader.table("pairs", columns).to_pylist()
    have = {
        frozenset((r["model_id_a"], r["model_id_b"]))
        for r in stored
        if r["data_id"] == data.data_id
    }
    if all(frozenset((a, b)) in have for i, a in enumerate(ids) for b in ids[i + 1 :]):
        return
    answers, labels = [], np.empty(0)
    for model_id in ids:
        where = (pc.field("model_id") == model_id) & (pc.field("data_id") == data.data_id)
        table = store.reader.table("predictions", where=where).sort_by("sample")
        if not len(table):
            raise BikdError(
                f"the predictions of model {model_id} are damaged or gone in {store.uri}; remove "
                "its file under baselines/ and run bikd baseline again"
            )
        labels = table["label"].to_numpy()
        predicted = table["predicted"].to_numpy()
        k = len(table["top_classes"][0])

        def matrix(name: str, table: pa.Table = table, k: int = k) -> np.ndarray:
            return table[name].combine_chunks().flatten().to_numpy().reshape(-1, k)

        answers.append(
            Answers(predicted == labels, predicted, matrix("top_classes"), matrix("top_probs"))
        )
    rows = []
    for i, j, statistics in pair_statistics(answers, labels, data.num_classes):
        a, b = zoo[i], zoo[j]
        names = {
            "model_a": a.name,
            "model_b": b.name,
            "model_id_a": a.model_id,
            "model_id_b": b.model_id,
        }
        rows.append({**names, **statistics, "split": SPLIT, "data_id": data.data_id})
    writer.write_pairs(rows)
