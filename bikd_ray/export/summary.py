"""What the store knows of one checkpoint, as its card tells it."""

from dataclasses import dataclass
from typing import Any

from bikd_ray.metrics import Metric
from bikd_ray.store import Store
from bikd_ray.store.gains import class_columns, net_columns
from bikd_ray.store.read import pc
from bikd_ray.store.upgrade import VAL
from bikd_ray.vocabulary import CONTROL, UNTOUCHED

Row = dict[str, Any]


@dataclass(frozen=True)
class SelectedResult:
    """One result whose weights were kept, and what the store knows around it.

    result, job, baseline, models: rows of the store's tables, the first and third of the primary
    `metric` on val (models by model_id, the partners' too; the job's members have the names they
    were trained under). metrics: all of the data, by name. measured: rows of `results` of this
    checkpoint for every metric and set, with `before` and `delta` where older rows lack them.
    gain: the result with `partner`, `control`, `control_delta`, `net_delta`, `net_low`, `net_high`
    of its own seed. together: the same over all seeds, a row of GAINS.
    classes: a row for each class of this checkpoint, empty where the store has lost the
    predictions. why: sentences that say how it was chosen; among: the one of them that says why
    this objective, where there were several to choose from. kinds: rows of KINDS, where the
    checkpoint was chosen among the model's pairs, groups and soups.
    """

    metric: Metric
    metrics: dict[str, Metric]
    result: Row
    measured: list[Row]
    job: Row
    baseline: Row
    models: dict[str, Row]
    gain: Row
    together: Row | None
    classes: list[Row]
    why: tuple[str, ...]
    among: str = ""
    kinds: tuple[Row, ...] = ()

    @property
    def seeds(self) -> Row | None:
        """What all seeds say together, where there are several."""
        return self.together if self.together and self.together["seeds"] > 1 else None

    @property
    def got_worse(self) -> bool:
        return self.metric.sign * self.result["delta"] < 0


def around(store: Store, result: Row, why: tuple[str, ...], among: str = "") -> SelectedResult:
    """A result row with everything that its card says."""
    data_id, model_id = result["data_id"], result["model_id"]
    mine = (pc.field("data_id") == data_id) & (pc.field("model_id") == model_id)
    metric = store.metric(data_id)
    known = store.table("baselines", where=mine).to_pylist()
    (baseline,) = (r for r in known if (r["metric"], r["eval_set"]) == (metric.name, VAL))
    own_job = pc.field("job_id") == result["job_id"]
    (job,) = store.as_written("jobs", own_job).to_pylist()
    control = _control(store, result)
    untouched = result["role"] != "control" and store.control(data_id) == UNTOUCHED
    controls = [baseline] if untouched else [control] if control else []
    on_val = mine & (pc.field("eval_set") == VAL)
    stored = store.table("predictions", ["sample", "label"], on_val)
    labels_N = stored.sort_by("sample")["label"].to_numpy()
    whole = len(labels_N) == result["n"]
    members = [model_id, *result["partner_ids"]]
    here = (pc.field("data_id") == data_id) & pc.field("model_id").isin(members)
    models = store.table("models", where=here).to_pylist()
    return SelectedResult(
        metric=metric,
        metrics={one.name: one for one in store.metrics[data_id]},
        result=result,
        measured=_measured(store, result, known),
        job=job,
        baseline=baseline,
        models={row["model_id"]: row for row in models},
        gain={
            **result,
            "unit": metric.unit,
            "partner": " + ".join(result["partners"]),
            "control": UNTOUCHED if untouched else CONTROL,
            **(_as_delta(result) if untouched else net_columns(result, control, metric)),
        },
        together=_over_seeds(store, result),
        classes=class_columns(labels_N, baseline, [result], controls) if whole else [],
        why=why,
        among=among,
    )


def results(store: Store, where: Any) -> list[Row]:
    """Rows of the table `results` of each data set's primary metric on val; where: a pyarrow
    expression over its columns.
    """
    primary = {data_id: metrics[0].name for data_id, metrics in store.metrics.items()}
    where &= (pc.field("eval_set") == VAL) & pc.field("metric").isin([*primary.values()])
    rows = store.table("results", where=where).to_pylist()
    return [row for row in rows if row["metric"] == primary.get(row["data_id"])]


def _measured(store: Store, result: Row, baselines: list[Row]) -> list[Row]:
    where = pc.field("job_id") == result["job_id"]
    where &= pc.field("model_id") == result["model_id"]
    where &= pc.field("selection") == result["selection"]
    before = {(row["eval_set"], row["metric"]): row["value"] for row in baselines}
    rows = []
    for row in store.table("results", where=where).to_pylist():
        was = row["before"]
        was = before.get((row["eval_set"], row["metric"])) if was is None else was
        delta = None if was is None else row["after"] - was
        rows.append({**row, "before": was, "delta": delta})
    order = [metric.name for metric in store.metrics[result["data_id"]]]
    return sorted(
        rows, key=lambda r: (r["eval_set"] != VAL, r["eval_set"], order.index(r["metric"]))
    )


def results_of(store: Store, row: Row) -> list[Row]:
    """The results of a row's model, partners, objective, recipe, data and selection, by seed."""
    where = (
        (pc.field("model_id") == row["model_id"])
        & (pc.field("data_id") == row["data_id"])
        & (pc.field("recipe_id") == row["recipe_id"])
        & (pc.field("objective") == row["objective"])
        & (pc.field("selection") == row["selection"])
    )
    found = [r for r in results(store, where) if r["partner_ids"] == row["partner_ids"]]
    return sorted(found, key=lambda result: result["seed"])


def _as_delta(result: Row) -> Row:
    """Net Δ against the untouched model."""
    names = {"net_delta": "delta", "net_low": "delta_low", "net_high": "delta_high"}
    return {"control_delta": 0.0, **{name: result[of] for name, of in names.items()}}


def _control(store: Store, result: Row) -> Row | None:
    """The same training without a partner, of the same seed."""
    if result["objective"] == CONTROL:
        return None
    alone = results_of(store, {**result, "objective": CONTROL, "partner_ids": []})
    return next((row for row in alone if row["seed"] == result["seed"]), None)


def _over_seeds(store: Store, result: Row) -> Row | None:
    same = ("data_id", "recipe_id", "model_id", "partner_ids")
    if result["role"] == "control":
        rows = store.controls(result["selection"], result["objective"])
    else:
        rows = store.partners(result["model_id"], result["objective"], result["selection"])
    found = [row for row in rows.to_pylist() if all(row[name] == result[name] for name in same)]
    return found[0] if found else None
