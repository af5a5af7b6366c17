"""Probes as rows of the store: of untouched models here, of finished jobs where they end."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from bikd_ray.errors import UserError
from bikd_ray.formatting import shown
from bikd_ray.metrics import KNN
from bikd_ray.plan import Cost, ResolvedData, ResolvedModel, ResolvedProbe
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.write import Writer
from bikd_ray.sweep.baselines import first_of, model_row
from bikd_ray.sweep.capacity import CapacityMonitor, ResourceRequest
from bikd_ray.sweep.connection import ours
from bikd_ray.sweep.events import Row
from bikd_ray.sweep.measured_rows import change_row, metric_row
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import task_options
from bikd_ray.tasks import task_of
from bikd_ray.vocabulary import CHOSEN_ON_VAL

if TYPE_CHECKING:
    from bikd_ray.train.fit import Probed

FACTS = (
    "job_id",
    "model",
    "model_id",
    "weights_id",
    "partners",
    "partner_ids",
    "objective",
    "seed",
    "recipe_id",
    "role",
    "selection",
    "epoch",
    "weights",
    "data_id",
)
"""What a row of `results` says of its run, whatever was measured."""


def probed_rows(probed: Sequence["Probed"], k: int, result: Row) -> list[Row]:
    """Rows of `results` of learner k on all probes; result: one of its rows at that selection."""
    selection = result["selection"]
    return [
        {
            **{name: result[name] for name in FACTS},
            "eval_set": one.probe.name,
            "unit_set_id": one.probe.unit_set_id,
            **change_row(KNN, one.before, one.after, fair=selection != CHOSEN_ON_VAL),
        }
        for one in probed
        if one.member == k and one.selection == selection
    ]


Missing = dict[str, tuple[ResolvedProbe, ...]]
"""Model name to the probes that the store lacks of it."""


def missing_probes(zoo: Mapping[str, ResolvedModel], data: ResolvedData, store: Store) -> Missing:
    """Models whose features are known, and what they have not been measured on.

    Raises UserError where a probe's name stands for other images in the store.
    """
    names = [probe.name for probe in data.probes]
    where = (pc.field("data_id") == data.data_id) & pc.field("eval_set").isin(names)
    columns = ["model_id", "eval_set", "unit_set_id"]
    rows = store.table("baselines", columns, where).to_pylist() if names else []
    for probe in data.probes:
        of_probe = {row["unit_set_id"] for row in rows if row["eval_set"] == probe.name}
        if of_probe - {probe.unit_set_id}:
            raise UserError(
                f"probe.{probe.name}: the store {store.uri} has it of other images, or with "
                "another k or temperature; give this one another name"
            )
    have = {(row["model_id"], row["eval_set"]) for row in rows}
    found = {
        name: tuple(probe for probe in data.probes if (model.model_id, probe.name) not in have)
        for name, model in zoo.items()
        if model.cost.features is not None
    }
    return {name: probes for name, probes in found.items() if probes}


def run_probes(
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    writer: Writer,
    needs: Callable[[Cost], ResourceRequest],
    progress: Progress,
) -> None:
    """Measure the untouched models on the probes that the store lacks of them.

    Models that cannot be probed are named. needs: what a model's baseline occupies.
    """
    if not data.probes:
        return
    task = task_of(data.task)
    if KNN.name not in [metric.name for metric in store.metrics.get(data.data_id, ())]:
        against = store.control(data.data_id)
        metrics = (*task.metrics, KNN)
        writer.write_metrics(data.data_id, data.task, metrics, against, data.classes)
    blind = [name for name, model in zoo.items() if model.cost.features is None]
    if blind:
        progress.note(f"not probed, since no layer makes their logits: {', '.join(blind)}")
    missing = missing_probes(zoo, data, store)
    if not missing:
        return
    progress.enter(f"probes of {len(missing)} models")
    pending: dict[Any, tuple[ResolvedModel, ResourceRequest]] = {}
    for name, probes in missing.items():
        share = needs(zoo[name].cost)
        remote = ray.remote(measure).options(**task_options(share))
        pending[remote.remote(zoo[name], data, probes, share, store.uri)] = zoo[name], share
    watch = CapacityMonitor(progress.note)
    while pending:
        ready = first_of({at: share for at, (_, share) in pending.items()}, watch)
        model, _ = pending.pop(ready)
        try:
            rows: list[Row] = ray.get(ready)
        except RayError as error:
            progress.note(f"{model.name}: {ours(error, f'probing {model.name} failed')}")
            continue
        for row in rows:
            writer.commit_baseline([row], model_row(model, data))
            value = shown(row["value"], KNN.unit, KNN.title)
            progress.note(f"{model.name}: {value} on {row['eval_set']}")


def measure(
    model: ResolvedModel,
    data: ResolvedData,
    probes: Sequence[ResolvedProbe],
    needs: ResourceRequest,
    store: str,
) -> list[Row]:
    """Rows of `baselines`: one untouched model on some probes. Runs in a Ray task."""
    import torch

    from bikd_ray.sweep.device import device_of
    from bikd_ray.train.knn import KNNProbe
    from bikd_ray.train.member import Member
    from bikd_ray.weights import network_of

    torch.set_num_threads(needs.threads)
    device = device_of(needs.gpus)
    member = Member(model, network_of(model, StoreFS.at(store)), device)
    decoders = needs.threads - 1 if needs.gpus else 0
    rows = []
    for probe in probes:
        start = time.monotonic()
        (found,) = KNNProbe.of(probe, data, [member], device, decoders).answers([member])
        if found is not None:
            about = {
                "model": model.name,
                "model_id": model.model_id,
                "weights_id": model.weights_id,
                "data_id": data.data_id,
                "eval_set": probe.name,
                "unit_set_id": probe.unit_set_id,
                "seconds": time.monotonic() - start,
            }
            rows.append({**about, **metric_row(KNN, found)})
    return rows
