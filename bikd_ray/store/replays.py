"""A search over a stored map: what it would have cost, and lost against the map."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from bikd_ray.errors import UserError
from bikd_ray.search.checks import FEWEST_MODELS, worth_a_search
from bikd_ray.search.replay import lost_to_map, searched, winners
from bikd_ray.search.start import missing_start
from bikd_ray.search.state import Rules, State
from bikd_ray.store.answer_schemas import answer_schema
from bikd_ray.store.queries import Store
from bikd_ray.store.searches import maps, state_in

_S, _I, _F = pa.string(), pa.int64(), pa.float64()

REPLAYS = answer_schema(
    [
        ("share", _F, "of the map's work that the search may spend"),
        ("jobs", _F, "that it trained, mean of the repeats"),
        ("map_jobs", _I, "of the stored map, controls among them"),
        ("cost", _F, "share of the map's work that it took"),
        ("settled", _F, "share of the models that it called settled"),
        ("claimed", _F, "expected regret as it said at its end"),
        ("lost", _F, "what the map's choice gains more than the search's, on units that chose "
         "neither; mean over models"),
        ("lost_se", _F, "standard error of lost over models"),
        ("same", _F, "share of models for which both chose the same partner"),
        ("random", _F, "what the map's choice gains more than an average partner, there"),
        ("models", _I, ""),
        ("seeds", _I, "of the map"),
        ("repeats", _I, "searches, each from other first pairs"),
        ("metric", _S, ""),
        ("objective", _S, ""),
        ("data_id", _S, ""),
        ("recipe_id", _S, ""),
    ]
)  # fmt: skip


DEFAULT = Rules()


def replays(
    store: Store,
    shares: Sequence[float],
    objective: str | None = None,
    selection: str = "last",
    rules: Rules = DEFAULT,
    repeats: int = 10,
) -> pa.Table:
    """Searches over each complete map of a store, a row for each share; columns `REPLAYS`.

    A search decides by one half of the units, as the map's own choice does; both are measured on
    the other half. Raises UserError where no map is complete or large enough.
    """
    rows, refused = [], []
    for setting in maps(store, objective):
        known = state_in(store, setting, rules, True, selection)
        report = state_in(store, setting, rules, False, selection)
        try:
            kept, seeds_S = _complete(known)
        except UserError as error:
            refused.append(f"{setting[2]}, recipe {setting[1][:6]}: {error}")
            continue
        known, report = _part(known, kept, seeds_S), _part(report, kept, seeds_S)
        for share in shares:
            try:
                rows.append(_row(setting, known, report, share, repeats))
            except UserError as error:
                refused.append(f"{setting[2]}, recipe {setting[1][:6]}: {error}")
    if not rows:
        raise UserError("\n".join(refused or ["no pair is done, so there is no map to replay"]))
    return pa.Table.from_pylist(rows, REPLAYS)


def _complete(state: State) -> tuple[np.ndarray, np.ndarray]:
    """The models of a map [.], and the seeds [S] that all of its pairs have."""
    kept = np.flatnonzero(state.trained_NN.any(1) | state.trained_NN.any(0))
    off = ~np.eye(len(kept), dtype=bool)
    there_NNS = state.done_NNS[np.ix_(kept, kept)]
    seeds_S = np.asarray(there_NNS[off].all(axis=0))
    if not seeds_S.any():
        done, all_of_it = int(np.sum(there_NNS[off].any(axis=1)) // 2), int(off.sum() // 2)
        raise UserError(
            f"its map is not complete: {done} of {all_of_it} pairs are done with every seed "
            "or fewer; finish it with bikd sweep --goal map"
        )
    return kept, seeds_S


def _part(state: State, kept: np.ndarray, seeds_S: np.ndarray) -> State:
    """These models and seeds alone, of which what is done is the map."""
    square = np.ix_(kept, kept)
    gain_NNS = state.gain_NNS[square][..., seeds_S]
    done_NNS = state.done_NNS[square][..., seeds_S]
    return replace(
        state,
        models=tuple(state.models[i] for i in kept),
        seeds=tuple(s for s, is_there in zip(state.seeds, seeds_S, strict=True) if is_there),
        target_N=np.ones(len(kept), bool),
        gain_NNS=gain_NNS,
        busy_NNS=np.zeros_like(done_NNS),
        open_NNS=done_NNS,
        work_NN=state.work_NN[square],
        image_var_N=state.image_var_N[kept],
        features_FNN=state.features_FNN[:, kept][:, :, kept],
    )


def _row(
    setting: tuple[str, ...], known: State, report: State, share: float, repeats: int
) -> dict[str, object]:
    nothing = replace(
        known,
        rules=replace(known.rules, share=share),
        gain_NNS=np.full_like(known.gain_NNS, np.nan),
    )
    start = sum(nothing.work_NN[pair] for pair in missing_start(nothing))
    if len(known.models) < FEWEST_MODELS or share < 1:
        worth_a_search(len(known.models), start, known.map_work, share)
    by_map, lost, ends = [], [], []
    for repeat in range(repeats):
        begun = replace(nothing, setting=(*setting, f"replay {repeat}"))
        *_, (last, decision) = searched(begun, known.gain_NNS)
        won_N = winners(last, decision)
        lost.append(lost_to_map(known.gain_NNS, report.gain_NNS, won_N, known.partner_NN))
        by_map.append(won_N)
        done = int(np.triu((last.done_NNS & last.open_NNS).transpose(2, 0, 1)).sum())
        settled = decision.settled / max(1, len(decision.standings))
        ends.append((done, decision.share, settled, decision.expected_regret))
    lost_N = np.mean(lost, axis=0)
    jobs, cost, settled, claimed = np.mean(ends, axis=0)
    best_N = _choice(known)
    mean_N = _partners_mean(report)
    there = np.arange(len(best_N))
    chosen_N = np.nanmean(report.gain_NNS[there, best_N], axis=1)
    return {
        "share": share,
        "jobs": float(jobs),
        "map_jobs": int(np.triu(known.open_NNS.transpose(2, 0, 1)).sum()),
        "cost": float(cost),
        "settled": float(settled),
        "claimed": float(claimed),
        "lost": float(lost_N.mean()),
        "lost_se": float(lost_N.std(ddof=1) / len(lost_N) ** 0.5),
        "same": float(np.mean([(won == best_N).mean() for won in by_map])),
        "random": float((chosen_N - mean_N).mean()),
        "models": len(known.models),
        "seeds": len(known.seeds),
        "repeats": repeats,
        "metric": setting[3],
        "objective": setting[2],
        "data_id": setting[0],
        "recipe_id": setting[1],
    }


def _choice(state: State) -> np.ndarray:
    """[N]: the map's own choice, by the means of all its results."""
    off = ~np.eye(len(state.models), dtype=bool)
    mean_NN = np.where(off, np.where(off[..., None], state.gain_NNS, 0).mean(2), -np.inf)
    return mean_NN.argmax(1)


def _partners_mean(state: State) -> np.ndarray:
    off = ~np.eye(len(state.models), dtype=bool)
    return np.array([state.gain_NNS[i][off[i]].mean() for i in range(len(off))])
