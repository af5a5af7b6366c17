"""Main effects over a zoo: who teaches well and who learns well, whatever the partner."""

from collections.abc import Iterable
from operator import itemgetter

import numpy as np

from bikd_ray.analysis.bits import stack, unpack
from bikd_ray.analysis.effects import PairGains
from bikd_ray.store.answer_schemas import TEACHERS
from bikd_ray.store.series import ModelSeries, Row


class _Setting:
    """Pairings of one data set, recipe and objective, as gains and as net gains."""

    def __init__(self, learner: ModelSeries, models: dict[str, int]) -> None:
        self.about = {k: v for k, v in learner.about.items() if k in TEACHERS.names}
        self.models = models
        self.net = True  # until a pairing has no control
        self.gains = {net: PairGains(len(models), learner.n) for net in (False, True)}

    def add(self, learner: ModelSeries) -> None:
        jobs = [  # of several partners nobody can say which one taught
            (self.models[partners[0]], seed, row)
            for partners, seeds in learner.by_partners.items()
            if len(partners) == 1 and partners[0] in self.models
            for seed, row in seeds.items()
        ]
        jobs.sort(key=itemgetter(0))
        me = self.models[learner.model_id]
        if not jobs:
            return
        before_N, after_RN = (
            np.unpackbits(stack([row["bits"] for row in rows]), axis=1, count=learner.n)
            for rows in ([learner.baseline], [row for *_, row in jobs])
        )
        gains_RN = after_RN.view(np.int8) - before_N.view(np.int8)
        teacher_R = np.array([teacher for teacher, *_ in jobs])
        self.gains[False].add(me, *_means(teacher_R, gains_RN))
        alone = {seed: unpack(row["bits"], learner.n) for seed, row in learner.control.items()}
        paired_R = np.array([seed in alone for _, seed, _ in jobs])
        self.net &= set(teacher_R[paired_R]) == set(teacher_R)
        if paired_R.any():
            control_RN = np.stack([alone[seed] for _, seed, _ in jobs if seed in alone])
            net_RN = after_RN[paired_R].view(np.int8) - control_RN.view(np.int8)
            self.gains[True].add(me, *_means(teacher_R[paired_R], net_RN))


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


def _means(teacher_R: np.ndarray, gains_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The teachers [T], and the mean [T, N] of the rows of each, which lie together."""
    teachers_T, first_T, seeds_T = np.unique(teacher_R, return_index=True, return_counts=True)
    sums_TN = gains_RN[first_T].astype(np.float32)
    for k in range(1, seeds_T.max()):
        sums_TN[seeds_T > k] += gains_RN[first_T[seeds_T > k] + k]
    return teachers_T, sums_TN / seeds_T[:, None].astype(np.float32)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
