"""Statistics of all pairs of a zoo, as Ray tasks; nothing is trained.

Where predictions are stored, their top-k probabilities settle nearly every ensemble. For the few
images that they leave open each model is asked again for all its probabilities, so that none stays
uncertain. Other tasks ask all models again, some of them side by side.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from bikd_ray.analysis.pairs import Row, StoredPredictions, Undecided, pair_statistics, settle
from bikd_ray.errors import BikdError
from bikd_ray.plan import Cost, ResolvedData, ResolvedModel
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.write import Writer
from bikd_ray.sweep.baselines import ONE_CPU, at_work, first_of, probabilities
from bikd_ray.sweep.capacity import CapacityMonitor, ResourceRequest
from bikd_ray.sweep.connection import ours
from bikd_ray.sweep.progress import Progress
from bikd_ray.sweep.resources import task_options
from bikd_ray.tasks import task_of
from bikd_ray.tasks.classification_metrics import TOP1

TILE = 32
"""Models in one side of a task: it holds the predictions of two sides, 10 MB a model at 50,000
images."""

HELD = 4
"""Models in one side of a task that holds the models themselves."""

PREDICTIONS = "predictions"
"""The table from which pairs are settled without asking a model again, or hardly one."""

Pair = tuple[str, str]  # of model_ids
Partial = tuple[Pair, Row, Undecided]  # samples of Undecided are indices into the split


def missing_pairs(
    zoo: Mapping[str, ResolvedModel], data: ResolvedData, store: Store
) -> list[tuple[ResolvedModel, ResolvedModel]]:
    """The pairs of the zoo, in alphabetical order, whose statistics the store lacks."""
    models = sorted(zoo.values(), key=lambda m: m.name.casefold())
    columns = ["data_id", "model_id_a", "model_id_b"]
    have = {
        frozenset((r["model_id_a"], r["model_id_b"]))
        for r in store.table("pairs", columns).to_pylist()
        if r["data_id"] == data.data_id
    }
    every = combinations(models, 2)
    return [(a, b) for a, b in every if frozenset((a.model_id, b.model_id)) not in have]


def run_pairs(
    zoo: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    writer: Writer,
    needs: Callable[[Cost], ResourceRequest],
    progress: Progress,
) -> None:
    """Store the pair statistics still missing. Every model of the zoo has its baseline.

    Raises BikdError where stored predictions are damaged.
    """
    wanted = missing_pairs(zoo, data, store)
    if not wanted:
        return
    progress.enter(f"statistics of {len(wanted)} pairs")
    models = {model.model_id: model for pair in wanted for model in pair}
    pairs = [(a.model_id, b.model_id) for a, b in wanted]
    watch = CapacityMonitor(progress.note)
    try:
        if task_of(data.task).table == PREDICTIONS:
            partial = _first_pass(pairs, data, store, watch)
            rows = _second_pass(partial, models, data, store, needs, watch)
        else:
            rows = _side_by_side(pairs, models, data, store, needs, watch)
    except RayError as error:
        raise ours(error, "pair statistics failed") from None
    for row in rows:
        a, b = models[row["model_id_a"]], models[row["model_id_b"]]
        row |= {"model_a": a.name, "model_b": b.name, "eval_set": VAL, "data_id": data.data_id}
    writer.write_pairs(rows)


def _side_by_side(
    pairs: Sequence[Pair],
    models: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    needs: Callable[[Cost], ResourceRequest],
    watch: CapacityMonitor,
) -> list[dict[str, Any]]:
    """Every pair from a pass over val with a tile of models in memory: what models answer is too
    large to be stored.
    """
    pending = {}
    for some in _tiled(pairs, HELD):
        held = [models[model_id] for model_id in dict.fromkeys(m for pair in some for m in pair)]
        share = needs(_sum([model.cost for model in held]))
        task = ray.remote(measured_pairs).options(**task_options(share))
        pending[task.remote(held, some, data, share, store.uri)] = share
    rows = []
    while pending:
        ready = first_of(pending, watch)
        pending.pop(ready)
        rows += ray.get(ready)
    return rows


def measured_pairs(
    models: list[ResolvedModel],
    pairs: list[Pair],
    data: ResolvedData,
    needs: ResourceRequest,
    store: str,
) -> list[dict[str, Any]]:
    """Rows of `pairs` of some of these models, in one pass over val. Runs in a Ray task."""
    from bikd_ray.sweep.measured_rows import pair_rows
    from bikd_ray.train.evaluate import evaluate_pairs

    members, loader = at_work(models, data, needs, store)
    at = {model.model_id: i for i, model in enumerate(models)}
    task = task_of(data.task)
    found, ensembles = evaluate_pairs(members, [(at[a], at[b]) for a, b in pairs], loader, task)
    return [
        {**row, "model_id_a": a, "model_id_b": b}
        for (a, b), together in zip(pairs, ensembles, strict=True)
        for row in pair_rows(task, found[at[a]], found[at[b]], together)
    ]


def _tiled(pairs: Sequence[Pair], size: int) -> list[list[Pair]]:
    """The pairs in lots, each of at most two tiles of `size` models."""
    rank = {model_id: i for i, model_id in enumerate(dict.fromkeys(m for p in pairs for m in p))}
    tiles: dict[tuple[int, ...], list[Pair]] = defaultdict(list)
    for a, b in pairs:
        tiles[tuple(sorted((rank[a] // size, rank[b] // size)))].append((a, b))
    return [*tiles.values()]


def _sum(costs: Sequence[Cost]) -> Cost:
    """Of models that are in memory together, and compute one after the other."""
    return Cost(
        params=sum(cost.params for cost in costs),
        flops=sum(cost.flops for cost in costs),
        activations=max(cost.activations for cost in costs),
        peak=max(cost.peak for cost in costs),
        features=None,
    )


def _first_pass(
    wanted: Sequence[Pair], data: ResolvedData, store: Store, watch: CapacityMonitor
) -> list[Partial]:
    """Every pair from stored predictions, a tile of models at a time."""
    task = ray.remote(tile).options(**task_options(ONE_CPU))
    where = (store.uri, data.data_id, data.num_classes)
    parts = [task.remote(pairs, *where) for pairs in _tiled(wanted, TILE)]
    return [p for part in parts for p in ray.get(first_of({part: ONE_CPU}, watch))]


def tile(wanted: list[Pair], store: str, data_id: str, num_classes: int) -> list[Partial]:
    """Some pairs, each model's predictions read once. Runs in a Ray task."""
    stored = Store(store)
    ids = list(dict.fromkeys(model_id for pair in wanted for model_id in pair))
    answers, samples_N, labels_N = [], np.empty(0), np.empty(0)
    for model_id in ids:
        where = (pc.field("model_id") == model_id) & (pc.field("data_id") == data_id)
        where &= pc.field("eval_set") == VAL
        table = stored.table("predictions", where=where).sort_by("sample")
        if not len(table):
            raise BikdError(
                f"the predictions of model {model_id} are damaged or gone in {store}; remove its "
                "file under baselines/ and run bikd baseline again"
            )
        samples_N, labels_N = table["sample"].to_numpy(), table["label"].to_numpy()
        k = len(table["top_classes"][0])
        top = {
            name: table[name].combine_chunks().flatten().to_numpy().reshape(-1, k)
            for name in ("top_classes", "top_probs")
        }
        classes = top["top_classes"].astype(np.min_scalar_type(num_classes))
        predicted, of_label = (table[name].to_numpy() for name in ("predicted", "label_prob"))
        answers.append(StoredPredictions(predicted, classes, top["top_probs"], of_label))
    at = {model_id: i for i, model_id in enumerate(ids)}
    pairs = [(at[a], at[b]) for a, b in wanted]
    return [
        ((ids[i], ids[j]), row, Undecided(samples_N[left.samples_U], left.right))
        for i, j, row, left in pair_statistics(answers, labels_N, pairs)
    ]


def _second_pass(
    partial: Sequence[Partial],
    models: Mapping[str, ResolvedModel],
    data: ResolvedData,
    store: Store,
    needs: Callable[[Cost], ResourceRequest],
    watch: CapacityMonitor,
) -> list[dict[str, Any]]:
    """The rows, with the ensembles settled that the first pass has left open."""
    asked: dict[str, list[np.ndarray]] = defaultdict(list)
    for pair, _, undecided in partial:
        for model_id in pair if len(undecided.samples_U) else ():
            asked[model_id].append(undecided.samples_U)
    samples = {model_id: np.unique(np.concatenate(parts)) for model_id, parts in asked.items()}
    answers = {}
    for model_id, samples_U in samples.items():
        share = needs(models[model_id].cost)
        task = ray.remote(probabilities).options(**task_options(share))
        answer = task.remote(models[model_id], data, share, store.uri, samples_U)
        answers[model_id] = {answer: share}
    labels = _labels(data) if samples else np.empty(0)
    rows = []
    for (a, b), row, undecided in partial:
        left_U = undecided.samples_U
        if len(left_U):
            full_a, full_b = (
                ray.get(first_of(answers[m], watch))[np.searchsorted(samples[m], left_U)]
                for m in (a, b)
            )
            row = settle(row, undecided, full_a, full_b, labels[left_U])
        named = {"model_id_a": a, "model_id_b": b, "metric": TOP1.name}
        rows.append({**row, **named, "correlation": row["phi"]})
    return rows


def _labels(data: ResolvedData) -> np.ndarray:
    from bikd_ray.data import open_split

    return open_split(data, VAL).labels
