"""Main effects over a zoo: who teaches well and who learns well, whatever the partner."""

from collections.abc import Iterable

import numpy as np

from bikd_ray.analysis.bits import unpack
from bikd_ray.analysis.effects import Pairings
from bikd_ray.store.learners import Learner, Row


class _Setting:
    """Pairings of one data set, recipe and objective, as gains and as net gains."""

    def __init__(self, learner: Learner, models: dict[str, int]) -> None:
        self.about = {
            name: learner.about[name]
            for name in ("objective", "n", "selection", "data_id", "recipe_id")
        }
        self.models = models
        self.net = True  # until a pairing has no control
        self.gains = {net: Pairings(len(models), learner.n) for net in (False, True)}

    def add(self, learner: Learner) -> None:
        n, me = learner.n, self.models[learner.model_id]
        before = unpack(learner.baseline["correct"], n)
        alone = {seed: unpack(row["correct"], n) for seed, row in learner.control.items()}
        for partners, seeds in learner.by_partners.items():
            if len(partners) != 1 or partners[0] not in self.models:
                continue  # of several partners nobody can say which one taught
            teacher = self.models[partners[0]]
            after = {seed: unpack(row["correct"], n) for seed, row in seeds.items()}
            self.gains[False].add(me, teacher, _mean(after.values()) - before)
            paired = after.keys() & alone.keys()
            self.net &= bool(paired)
            if paired:
                mine, control = (_mean(x[s] for s in paired) for x in (after, alone))
                self.gains[True].add(me, teacher, mine - control)


def teacher_rows(learners: Iterable[Learner], names: dict[str, dict[str, str]]) -> list[Row]:
    """Rows of `answers.TEACHERS`. names: data_id -> model_id -> name, of all models."""
    settings: dict[tuple[str, str, str], _Setting] = {}
    for learner in learners:
        key = (learner.data_id, learner.recipe_id, learner.objective)
        if key not in settings:
            models = {model_id: i for i, model_id in enumerate(names[learner.data_id])}
            settings[key] = _Setting(learner, models)
        settings[key].add(learner)
    rows = []
    for (data_id, *_), setting in sorted(settings.items()):
        pairings = setting.gains[setting.net]
        if pairings.gains:
            rows += _rows(setting, pairings, names[data_id])
    return rows


def _rows(setting: _Setting, pairings: Pairings, names: dict[str, str]) -> list[Row]:
    effects = pairings.effects()
    taught = np.bincount(pairings.teacher, minlength=len(names))
    learned = np.bincount(pairings.learner, minlength=len(names))
    rows = [
        {
            **setting.about,
            "model": name,
            "model_id": model_id,
            "measure": "net_delta" if setting.net else "delta_top1",
            "teaches": _number(effects.teaches.mean[i]),
            "teaches_low": _number(effects.teaches.low[i]),
            "teaches_high": _number(effects.teaches.high[i]),
            "students": int(taught[i]),
            "learns": _number(effects.learns.mean[i]),
            "learns_low": _number(effects.learns.low[i]),
            "learns_high": _number(effects.learns.high[i]),
            "teachers": int(learned[i]),
            "learner_share": effects.learner_share,
            "teacher_share": effects.teacher_share,
        }
        for i, (model_id, name) in enumerate(names.items())
        if taught[i] or learned[i]
    ]
    return sorted(rows, key=lambda row: (row["teaches"] is None, -(row["teaches"] or 0)))


def _mean(vectors: Iterable[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean([*vectors], axis=0, dtype=np.float32))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
