"""Which stored result a person takes home, chosen so that no seed is picked for its luck."""

from collections.abc import Sequence
from dataclasses import replace

from bikd_ray.errors import UserError, choices
from bikd_ray.export.summary import Row, SelectedResult, around, results, results_of
from bikd_ray.formatting import difference, listed
from bikd_ray.store import Store
from bikd_ray.store.kinds import kinds, several_kinds
from bikd_ray.store.read import pc
from bikd_ray.store.verdicts import clearness
from bikd_ray.vocabulary import CHOSEN_ON_VAL, UNTOUCHED


def select_result(
    store: Store,
    model: str,
    *,
    partner: str | None = None,
    job: str | None = None,
    objective: str | None = None,
    selection: str = "last",
    seed: int | None = None,
) -> SelectedResult:
    """The result that was named, else that of the best partner and its lowest seed.

    Of several objectives it is the one with the clearest verdict, as `bikd summary` ranks them.
    Where there are groups or soups, or a search has chosen, it is the best of the model untouched,
    alone, in a pair, in a group and as a soup, by the half of the units that decides.

    The lowest seed with kept weights is fixed before any result is looked at, so the Δ of its
    checkpoint is not that of the luckiest. Raises UserError where a choice is left to make, where
    there is no such result, or where its weights were not kept.
    """
    if job is not None:
        if partner is not None or objective is not None or seed is not None:
            raise UserError(
                "--job names one result; leave out --partner, --objective and --seed beside it"
            )
        return around(store, _of_job(store, model, job, selection), ("It was named by its job.",))
    if partner is None:
        table = kinds(store, model, objective, selection)
        if several_kinds(store, table):
            return _of_kind(store, model, table.to_pylist(), seed)
    row, why, among = _with_partner(store, model, partner, objective, selection)
    result, how = _of_seed(store, row, seed)
    return around(store, result, (*why, *([among] if among else []), how), among)


def _of_job(store: Store, model: str, job: str, selection: str) -> Row:
    done = store.done()
    if job not in done:
        raise UserError(f"no finished job {job!r} in the store {store.uri}; {choices(job, done)}")
    rows = results(store, pc.field("job_id") == job)
    learned = sorted({row["model"] for row in rows})
    mine = [row for row in rows if row["model_id"] in store.model_ids(model)]
    if not mine:
        raise UserError(f"job {job} did not train {model}; it trained {' and '.join(learned)}")
    found = [row for row in mine if row["selection"] == selection]
    if not found:
        known = choices(selection, {row["selection"] for row in mine})
        raise UserError(f"job {job} has no selection {selection!r}; {known}")
    return _kept(store, found)[0]


def _of_kind(store: Store, model: str, rows: list[Row], seed: int | None) -> SelectedResult:
    """The best of its kinds, on the units that decide."""
    chosen = [row for row in rows if row["chosen"]]
    if len(chosen) > 1:
        named = [
            f"{row['job_ids'][0]} (data {row['data_id'][:6]}, recipe {row['recipe_id'][:6]}, model "
            f"{row['model_id'][:6]}, {kind_in_words(row)})"
            for row in chosen
            if row["job_ids"]
        ]
        raise UserError(
            f"{model} was trained on several data sets, by several recipes or from several "
            f"weights; name one result with --job: {', '.join(named) or 'none is better than it'}"
        )
    (best,) = chosen
    if not best["job_ids"]:
        second = next(row for row in rows if row["job_ids"])
        raise UserError(
            f"{model} is best as it is, by the {best['decided_on']:,} images that decide: "
            f"{kind_in_words(second)} comes next with "
            f"{difference(second['decided_delta'], second['unit'])}; name a result with --partner "
            "or --job to take it all the same"
        )
    mine = pc.field("job_id").isin(best["job_ids"]) & (pc.field("model_id") == best["model_id"])
    found = results(store, mine & (pc.field("selection") == best["selection"]))
    found.sort(key=lambda row: row["seed"])
    why = (
        f"Of {listed([kind_in_words(row) for row in rows])} it is the best by the "
        f"{best['decided_on']:,} images that decide.",
    )
    if best["kind"] == "soup":
        how: tuple[str, ...] = ()
        result = _kept(store, found)[0]
    else:
        result, said = _of_these(store, f"{model}, {kind_in_words(best)}", found, seed)
        how = (said,)
    taken = around(store, result, (*why, *how))
    return replace(taken, kinds=tuple(rows))


def kind_in_words(row: Row) -> str:
    """A row of KINDS: `the group with A + B`."""
    if row["kind"] == UNTOUCHED:
        return "the untouched model"
    if row["kind"] == "control":
        return "training alone"
    return f"the {row['kind']} with {row['partner']}"


def _with_partner(
    store: Store, model: str, partner: str | None, objective: str | None, selection: str
) -> tuple[Row, tuple[str, ...], str]:
    """The row of GAINS of one partner set, why it is this one, and why this objective."""
    rows = store.partners(model, objective, selection).to_pylist()
    if not rows:
        raise UserError(
            f"{model} has no results with a partner (selection {selection}) in the store "
            f"{store.uri}; run bikd sweep first, or name a control with --job"
        )
    if partner is not None:
        named = [row for row in rows if _is_named(partner, row)]
        if not named:
            raise UserError(
                f"{model} was not trained with {partner!r}; "
                f"{choices(partner, {row['partner'] for row in rows})}"
            )
        _one_setting(store, model, named)
        row, among = _objective(store, named)
        return row, ("The partner was named.",), among
    _one_setting(store, model, rows)
    row, among = _objective(store, rows)
    alike = [other for other in rows if other["objective"] == row["objective"]]
    return row, _why_best(alike, selection), among


def _objective(store: Store, rows: Sequence[Row]) -> tuple[Row, str]:
    """The first row of the objective with the clearest verdict, and why that one, where there are
    several; rows: of one model and recipe, as `Store.partners` orders them.
    """
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row["objective"], row)
    sign = store.metric(rows[0]["data_id"]).sign
    best, *others = sorted(firsts.values(), key=lambda row: clearness(row, sign))
    if not others:
        return best, ""
    than = "; ".join(f"{row['objective']} with {row['partner']}: {_judged(row)}" for row in others)
    return best, (
        f"Of {len(firsts)} objectives {best['objective']} has the clearest verdict here: "
        f"{_judged(best)} ({than})."
    )


def _judged(row: Row) -> str:
    if row["net_delta"] is None:
        return row["verdict"]
    return f"{row['verdict']}, net Δ {difference(row['net_delta'], row['unit'])}"


def _is_named(partner: str, row: Row) -> bool:
    wanted = {name.strip() for name in partner.split("+")}
    return row["partner"] == partner or wanted in (set(row["partners"]), set(row["partner_ids"]))


def _one_setting(store: Store, model: str, rows: Sequence[Row]) -> None:
    """Refuse to choose between data sets, recipes, or models of one name."""
    settings: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        settings.setdefault((row["data_id"], row["recipe_id"], row["model_id"]), row)
    if len(settings) == 1:
        return
    jobs = [
        f"{result['job_id']} (data {data_id[:6]}, recipe {recipe_id[:6]}, model {model_id[:6]}, "
        f"with {row['partner']}, seed {result['seed']})"
        for (data_id, recipe_id, model_id), row in settings.items()
        for result in results_of(store, row)[:1]
    ]
    raise UserError(
        f"{model} was trained on several data sets, by several recipes or from several weights; "
        f"name one result with --job: {', '.join(jobs)}"
    )


def _why_best(rows: Sequence[Row], selection: str) -> tuple[str, ...]:
    if len(rows) == 1:
        return ("It is the only partner in the store.",)
    first, *others = rows
    tied = [row["partner"] for row in others if row["tie"]]
    alike = (
        f" The images cannot tell it from {', '.join(tied)} (95%)." if tied and first["tie"] else ""
    )
    if selection == CHOSEN_ON_VAL:
        alike = " Epochs were chosen on the same images, so this is no fair ranking."
    return (
        f"Of {len(rows)} partners it is the best: {first['verdict']}, and the highest net Δ of "
        f"those that may be best.{alike}",
        "A partner chosen for its Δ makes that Δ look larger than it is.",
    )


def _of_seed(store: Store, row: Row, seed: int | None) -> tuple[Row, str]:
    who = f"{row['model']} with {row['partner']}"
    return _of_these(store, who, results_of(store, row), seed)


def _of_these(store: Store, who: str, found: Sequence[Row], seed: int | None) -> tuple[Row, str]:
    """One of some results of several seeds, and why that one."""
    seeds = [result["seed"] for result in found]
    if seed is not None:
        named = [result for result in found if result["seed"] == seed]
        if not named:
            raise UserError(f"{who} has no seed {seed}; choose from {', '.join(map(str, seeds))}")
        return _kept(store, named)[0], "The seed was named."
    first = _kept(store, found)[0]
    return first, f"Seed {first['seed']} is the lowest with kept weights, whatever its result."


def _kept(store: Store, found: Sequence[Row]) -> list[Row]:
    """Those of some results of one selection whose weights were kept. Raises UserError if none."""
    kept = [result for result in found if result["weights"]]
    if kept:
        return kept
    first = found[0]
    jobs, model_id = [result["job_id"] for result in found], first["model_id"]
    elsewhere = [
        row["selection"]
        for row in results(store, pc.field("job_id").isin(jobs))
        if row["model_id"] == model_id and row["weights"]
    ]
    who = " with ".join(filter(None, [first["model"], " + ".join(first["partners"])]))
    if elsewhere:
        other = ", ".join(dict.fromkeys(elsewhere))
        raise UserError(
            f"{who}: weights were kept of selection {other}, not of {first['selection']}; "
            f"add --selection {elsewhere[0]}"
        )
    raise UserError(
        f"{who}: no weights were kept (keep_weights: none); set resources: {{keep_weights: best}} "
        "in the spec and sweep into another --store, since what is done is not run again"
    )
