"""What became of a model: untouched, trained alone, with its best partner, in its best group, as a
soup; chosen by one half of the units, measured on the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.halves import on_half
from bikd_ray.analysis.scores import Scores
from bikd_ray.analysis.significance import Estimates, differences
from bikd_ray.identity import digest
from bikd_ray.search.answers import believed, with_pooled_seeds
from bikd_ray.search.improve import on_shared_seeds
from bikd_ray.search.state import gains_on_half
from bikd_ray.store.answer_schemas import answer_schema
from bikd_ray.store.gains import Vectors
from bikd_ray.store.queries import Store
from bikd_ray.store.searched import looks
from bikd_ray.store.series import ModelSeries, Row
from bikd_ray.vocabulary import CHOSEN_ON_VAL, UNTOUCHED, is_alone

_S, _I, _F, _LIST = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string())

KINDS = answer_schema(
    [
        ("model", _S, "alias, to show"),
        ("kind", _S, "untouched, control, pair, group or soup; the best of each"),
        ("partner", _S, "names of the partners, joined by +"),
        ("chosen", pa.bool_(), "the largest gain of all on the units that decide"),
        ("decided_delta", _F, "after less before, on the units that decide"),
        ("delta", _F, "after less before, on the units that report"),
        ("delta_low", _F, "95%, over units and seeds"),
        ("delta_high", _F, ""),
        ("net_delta", _F, "less the control of the same seeds (of a soup: the soup of controls)"),
        ("net_low", _F, ""),
        ("net_high", _F, ""),
        ("behind", _F, "what the chosen one has more than this one, on the units that report"),
        ("behind_low", _F, ""),
        ("behind_high", _F, ""),
        ("seeds", _I, "0 where there is nothing to draw anew"),
        (
            "pooled",
            pa.bool_(),
            "the variance over seeds is that of all pairs of a search",
        ),
        ("decided_on", _I, "units that decide"),
        ("n", _I, "units that report"),
        ("half", pa.bool_(), "whether those are other units than those that decide"),
        ("metric", _S, ""),
        ("unit", _S, "of the metric"),
        ("objective", _S, ""),
        ("selection", _S, ""),
        ("data_id", _S, ""),
        ("recipe_id", _S, ""),
        ("model_id", _S, ""),
        ("partner_ids", _LIST, ""),
        ("job_ids", _LIST, "by their seeds"),
    ]
)


SOUP = "soup("
"""How the objective of a soup begins."""


@dataclass
class _Kind:
    """One of the kinds: its vectors, in all seeds where no seed made it."""

    kind: str
    partners: tuple[str, ...]
    at_S: np.ndarray
    control_S: np.ndarray
    rows: Sequence[Row]
    about: Row
    seedless: bool = False

    @property
    def objective(self) -> str:
        """By which it was trained; of a soup, its ingredients."""
        label = self.about["objective"]
        return label[len(SOUP) : -1] if label.startswith(SOUP) else label


def kinds(
    store: Store, model: str, objective: str | None = None, selection: str = "last"
) -> pa.Table:
    """Columns `KINDS`: of each setting of a model the best of each kind, the chosen one first.

    Untouched, control, pair and group are compared on the seeds that they share. Of one data set
    and recipe one row is chosen, whatever its objective. Empty where nothing was trained with a
    partner, and for `best_val`, which has chosen its epochs on these units. Raises UserError for a
    model that the store does not have.
    """
    parts = [KINDS.empty_table()]
    ids = store.model_ids(model)
    if selection != CHOSEN_ON_VAL:
        found = list(_learners(store, sorted(ids), objective, selection))
        found.sort(key=_setting)
        for _, some in groupby(found, key=_setting):
            parts.append(pa.Table.from_pylist(_compared(store, list(some)), KINDS))
    return pa.concat_tables(parts)


def several_kinds(store: Store, table: pa.Table) -> bool:
    """Whether there is more to choose from than partners: groups, soups, or a search's choice."""
    kinds = set(table["kind"].to_pylist())
    return bool(kinds & {"group", "soup"} or (kinds and _decided(store, table)))


def _decided(store: Store, table: pa.Table) -> list[Row]:
    if not len(store.index("decisions")):
        return []
    mine = set(table["model_id"].to_pylist())
    rows = store.table("decisions", ["model_id", "decide_on"]).to_pylist()
    return [row for row in rows if row["model_id"] in mine]


def _learners(
    store: Store, ids: list[str], objective: str | None, selection: str
) -> Iterator[ModelSeries]:
    jobs = store.index("jobs").to_pylist()
    labels = sorted({row["objective"] for row in jobs if row["status"] == "done"})
    for label in labels:
        named = objective in (None, label, label.partition("(")[0])
        if named and not is_alone(label) and not label.startswith(SOUP):
            yield from store.learners(ids, label, selection)


def _setting(learner: ModelSeries) -> tuple[str, str, str]:
    return learner.data_id, learner.recipe_id, learner.model_id


def _compared(store: Store, learners: list[ModelSeries]) -> list[Row]:
    """The rows of one data set, recipe and model; learners: one for each objective."""
    first = learners[0]
    half = not any(
        row["decide_on"] == "all"
        for row in _decided(store, pa.table({"model_id": [first.model_id]}))
    )
    vectors = Vectors(first)
    vectors.seeds = sorted({seed for one in learners for seed in _seeds_of(one)})
    found, choices = [], []
    searched = {one.objective: _search(store, one) for one in learners}
    for learner in learners:
        search = searched[learner.objective]
        some = _kinds_of(store, vectors, learner)
        if search and search.winner:
            some = [x for x in some if x.kind != "pair" or x.partners == (search.winner,)]
        found += some if learner is first else [x for x in some if x.kind not in OF_MODEL]
    scores = vectors.scores
    sides = (True, False) if half else (None, None)
    deciding, reporting = (on_half(scores, side) for side in sides)
    found = [*_best(found, scores, half or None)]
    gains = {k: _gains(one, scores, half or None) for k, one in enumerate(found)}
    decided = [*on_shared_seeds(gains).values()]
    chosen = int(np.argmax(decided))

    def apart(plus: _Kind, minus_S: np.ndarray, drawn: int) -> Estimates:
        """One kind less another; drawn: how many of the two come out anew with another seed."""
        estimates = differences(reporting, plus.at_S, minus_S)
        search = searched[plus.objective]
        if search is None or not drawn:
            return estimates
        return with_pooled_seeds(estimates, search.seed_variance, drawn)

    for k, one in enumerate(found):
        drawn = 0 if one.seedless else 1
        delta = apart(one, np.zeros_like(one.at_S), drawn)
        net = apart(one, one.control_S, 2 * drawn)
        best = found[chosen]
        behind = apart(best, one.at_S, drawn + (0 if best.seedless else 1))
        choices.append(
            {
                **one.about,
                "kind": one.kind,
                "partner": " + ".join(one.rows[0]["partners"]) if one.rows else "",
                "chosen": k == chosen,
                "decided_delta": scores.sign * decided[k],
                **_bounds("delta", "delta", None if one.kind == UNTOUCHED else delta),
                **_bounds("net_delta", "net", None if one.kind in OF_MODEL else net),
                **_bounds("behind", "behind", None if k == chosen else behind),
                "seeds": 0 if one.seedless else int((one.at_S >= 0).sum()),
                "pooled": bool(searched[one.objective]),
                "decided_on": deciding.n,
                "n": reporting.n,
                "half": half,
                "partner_ids": list(one.partners),
                "job_ids": [row["job_id"] for row in one.rows],
            }
        )
    return sorted(choices, key=lambda row: -scores.sign * row["decided_delta"])


OF_MODEL = (UNTOUCHED, "control")
"""Kinds that have no partner, and so no net Δ."""


def _seeds_of(learner: ModelSeries) -> list[int]:
    every = [learner.control, learner.own, *learner.by_partners.values()]
    return sorted({seed for found in every for seed in found})


def _kinds_of(store: Store, vectors: Vectors, learner: ModelSeries) -> list[_Kind]:
    """All that was made of a model by one objective, and the model itself."""
    about = {name: value for name, value in learner.about.items() if name in KINDS.names}
    seeds = len(vectors.seeds)
    control_S = np.zeros(seeds, int) if learner.untouched else np.array(vectors.at(learner.control))
    none_S = np.full(seeds, -1)
    found = [_Kind(UNTOUCHED, (), np.zeros(seeds, int), none_S, (), about, True)]
    if learner.control:
        rows = [learner.control[seed] for seed in sorted(learner.control)]
        found.append(_Kind("control", (), control_S, none_S, rows, about))
    for partners, by_seed in learner.by_partners.items():
        kind = "pair" if len(partners) == 1 else "group"
        rows = [by_seed[seed] for seed in sorted(by_seed)]
        at_S = np.array(vectors.at(by_seed))
        found.append(_Kind(kind, partners, at_S, control_S, rows, about))
    return found + _soups(store, vectors, learner)


def _soups(store: Store, vectors: Vectors, learner: ModelSeries) -> list[_Kind]:
    """Soups of the learner's variants; each beside that of the controls."""
    label, found = f"{SOUP}{learner.objective})", []
    recipe = digest("soup", learner.recipe_id, learner.objective)

    def everywhere(row: Row) -> np.ndarray:
        vectors.rows.append(row)
        return np.full(len(vectors.seeds), len(vectors.rows) - 1)

    for soup in store.learners([learner.model_id], label, learner.selection):
        if (soup.data_id, soup.recipe_id) != (learner.data_id, recipe):
            continue
        about = {name: value for name, value in soup.about.items() if name in KINDS.names}
        beside = next(iter(soup.control.values()), None)
        for partners, by_seed in soup.by_partners.items():
            (row,) = by_seed.values()
            against = np.full(len(vectors.seeds), -1) if beside is None else everywhere(beside)
            found.append(_Kind("soup", partners, everywhere(row), against, [row], about, True))
    return found


@dataclass(frozen=True)
class _Search:
    """What a search says of a learner. winner: the partner that it has chosen. seed_variance:
    pooled over all pairs, since most have one seed, and its degrees of freedom.
    """

    winner: str | None
    seed_variance: tuple[float, float]


def _search(store: Store, learner: ModelSeries) -> _Search | None:
    """None where none has searched, or a map was completed since."""
    setting = learner.data_id, learner.recipe_id, learner.objective
    for look in looks(store, learner.objective, learner.selection):
        if look.search.setting[:3] == setting:
            winner = None
            if look.belief is not None and learner.model_id in look.state.models:
                winner = believed(look.state, look.belief, learner.model_id).winner
            return _Search(winner, look.report.seed_variance)
    return None


def _gains(one: _Kind, scores: Scores, half: bool | None) -> dict[int, float]:
    """On the deciding units, by the place of the seed; the same for all where no seed made it."""
    gain_S = gains_on_half(scores, one.at_S[None], 0, half)[0]
    return {int(s): float(gain_S[s]) for s in np.flatnonzero(np.isfinite(gain_S))}


def _best(found: list[_Kind], scores: Scores, half: bool | None) -> Iterator[_Kind]:
    """Of each kind the one with the largest gain on the deciding units."""
    for kind in (UNTOUCHED, "control", "pair", "group", "soup"):
        mine = [one for one in found if one.kind == kind]
        gains = {k: _gains(one, scores, half) for k, one in enumerate(mine)}
        means = on_shared_seeds({k: gain for k, gain in gains.items() if gain})
        if means:
            yield mine[max(means, key=means.__getitem__)]


def _bounds(name: str, of: str, estimates: Estimates | None) -> dict[str, float | None]:
    if estimates is None:
        return {}
    ends = {name: estimates.mean, f"{of}_low": estimates.low, f"{of}_high": estimates.high}
    return {key: None if np.isnan(value) else float(value) for key, value in ends.items()}
