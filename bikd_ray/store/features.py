"""What is known of pairs before training, on the units that decide: `analysis.prediction`'s
features from the stored predictions and bits of the untouched models.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bikd_ray.analysis.halves import deciding_half
from bikd_ray.analysis.pairs import StoredPredictions, pair_statistics
from bikd_ray.analysis.prediction import (
    MODELS,
    About,
    LeftOut,
    new_model,
    pair_features,
    refusal,
    standardised,
)
from bikd_ray.search.state import State
from bikd_ray.store.queries import Store
from bikd_ray.store.read import pc

Features = Mapping[tuple[str, str], tuple[float, ...]]


def features_of(
    store: Store, data_id: str, models: Collection[str], deciding: bool | None = True
) -> Features:
    """Of ordered pairs (learner, teacher) of the models that have been measured; NaN where one is
    not known. Empty where no predictions are stored, as of tasks that store none.
    """
    answers: list[StoredPredictions] = []
    about: list[About] = []
    ids: list[str] = []
    labels_n = np.empty(0)
    known = {row["model_id"]: row for row in store.table("models").to_pylist()}
    for model in sorted(models):
        where = (pc.field("model_id") == model) & (pc.field("data_id") == data_id)
        table = store.table("predictions", where=where & (pc.field("eval_set") == "val"))
        if not len(table) or table["top_classes"].null_count or model not in known:
            continue
        table = table.sort_by("sample")
        kept = np.ones(len(table), bool)
        if deciding is not None:
            kept = deciding_half(len(table)) == deciding
        k = len(table["top_classes"][0])
        classes, probs = (
            table[name].combine_chunks().flatten().to_numpy().reshape(-1, k)[kept]
            for name in ("top_classes", "top_probs")
        )
        predicted, of_label, labels_n = (
            table[name].to_numpy()[kept] for name in ("predicted", "label_prob", "label")
        )
        ids.append(model)
        answers.append(StoredPredictions(predicted, classes, probs, of_label))
        row = known[model]
        about.append(
            About(
                100 * float((predicted == labels_n).mean()),
                float(-np.log(np.maximum(of_label, 1e-12)).mean()),
                row["params"] or 1,
                (row["source"] or model).split(":")[-1].split(".")[0].split("_")[0],
            )
        )
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for i, j, row, undecided in pair_statistics(answers, labels_n) if len(ids) > 1 else ():
        n = row["n"]
        sure = n - len(undecided.samples_U)
        shares = {name: row[name] / n for name in ("n01", "n10", "n00")}
        if sure:
            shares["ensemble"] = 100 * undecided.right / sure
        turned = shares | {"n01": shares["n10"], "n10": shares["n01"]}
        for a, b, pair in ((i, j, shares), (j, i, turned)):
            values = pair_features(about[a], about[b], pair)
            found[ids[a], ids[b]] = tuple(np.nan if v is None else v for v in values)
    return found


@dataclass
class Remembered:
    """Features of the models of a question, read until all of them are measured."""

    store: Store
    deciding: bool | None = True
    _found: dict[str, tuple[frozenset[str], Features]] = field(default_factory=dict)

    def of(self, data_id: str, models: Collection[str]) -> Features:
        measured = self.store.index("baselines")
        ids = measured.filter(pc.equal(measured["data_id"], data_id))["model_id"].to_pylist()
        wanted = frozenset(ids) & frozenset(models)
        known = self._found.get(data_id)
        if known is None or known[0] != wanted:
            known = wanted, features_of(self.store, data_id, wanted, self.deciding)
            self._found[data_id] = known
        return known[1]


def with_features(state: State, features: Features) -> State:
    """The state with what is known of its pairs, whether that has earned belief or not."""
    width = len(next(iter(features.values()), ()))
    raw_FNN = np.full((width, len(state.models), len(state.models)), np.nan)
    at = {model: i for i, model in enumerate(state.models)}
    for (learner, teacher), values in features.items():
        if learner in at and teacher in at:
            raw_FNN[:, at[learner], at[teacher]] = values
    return replace(state, features_FNN=standardised(raw_FNN))


def judged(state: State) -> tuple[LeftOut | None, str | None]:
    """How well the features of a state would have predicted models that were left out, and why
    they are not believed; None where they are.
    """
    gain_NN = np.full((len(state.models),) * 2, np.nan)
    cells = state.cells
    gain_NN[cells.learner_C, cells.teacher_C] = cells.gain_C
    used_FNN = state.used_features_FNN
    if not len(state.features_FNN) or not np.any(state.features_FNN):
        return None, "not predictable here: nothing is stored of the models' own predictions"
    if not len(used_FNN) or len(cells) < MODELS:
        few = f"not predictable here: {len(cells)} gains of {len(state.models)} models"
        return None, few
    left_out = new_model(gain_NN, used_FNN, float(cells.var_C.mean()))
    return left_out, refusal(left_out)


def earned(state: State, features: Features) -> State:
    """The state with features once they have earned belief; else as it is."""
    if not features:
        return state
    told = with_features(state, features)
    return told if judged(told)[1] is None else state
