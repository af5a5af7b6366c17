"""Main effects over a zoo: who teaches well and who learns well, whatever the partner."""

from collections.abc import Iterable

import numpy as np

from bikd_ray.analysis.effects import PairGains
from bikd_ray.store.answer_schemas import TEACHERS
from bikd_ray.store.gains import Vectors
from bikd_ray.store.series import ModelSeries, Row


class _Setting:
    """Pairings of one data set, recipe and objective, as gains and as net gains."""

    def __init__(self, learner: ModelSeries, models: dict[str, int]) -> None:
        self.about = {k: v for k, v in learner.about.items() if k in TEACHERS.names}
        self.models = models
        self.net = True  # until a pairing has no control
        self.gains = {
            net: PairGains(len(models), learner.n, binary=learner.metric.binary)
            for net in (False, True)
        }

    def add(self, learner: ModelSeries) -> None:
        mates = sorted(  # of several partners nobody can say which one taught
            (self.models[partners[0]], partners)
            for partners in learner.by_partners
            if len(partners) == 1 and partners[0] in self.models
        )
        if not mates:
            return
        vectors = Vectors(learner)
        control_S = vectors.control()
        at_TS = np.array([vectors.at(learner.by_partners[partners]) for _, partners in mates])
        scores = vectors.scores
        me, teacher_T = self.models[learner.model_id], np.array([teacher for teacher, _ in mates])
        before_TS, control_TS = np.zeros_like(at_TS), np.broadcast_to(control_S, at_TS.shape)
        self.gains[False].add(me, teacher_T, scores.unit_gains(at_TS, before_TS))
        paired_T = ((at_TS >= 0) & (control_TS >= 0)).any(1)
        self.net &= bool(paired_T.all())
        if paired_T.any():
            net_TN = scores.unit_gains(at_TS[paired_T], control_TS[paired_T])
            self.gains[True].add(me, teacher_T[paired_T], net_TN)


def teacher_rows(learners: Iterable[ModelSeries], names: dict[str, dict[str, str]]) -> list[Row]:
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


def _rows(setting: _Setting, pairings: PairGains, names: dict[str, str]) -> list[Row]:
    effects = pairings.effects()
    taught = np.bincount(pairings.teacher, minlength=len(names))
    learned = np.bincount(pairings.learner, minlength=len(names))
    rows = [
        {
            **setting.about,
            "model": name,
            "model_id": model_id,
            "measure": "net_delta" if setting.net else "delta",
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


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
