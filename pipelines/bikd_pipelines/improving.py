"""What people see of goal improve: what it costs before, and what came of it."""

import shlex
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from bikd_pipelines.planning import Opened
from bikd_ray.analysis.groups import ENOUGH, gain_by_size
from bikd_ray.formatting import count, difference_unit, digits_of, listed, signed
from bikd_ray.grouping import Wished, gains_of, map_work, own_work, targets, wishes
from bikd_ray.search.choose import confirmed_seeds
from bikd_ray.specs import Spec, labelled
from bikd_ray.store import Store
from bikd_ray.store.kinds import kinds

MANY = 3
"""Models from which on only what was chosen is shown of each."""


def improve_lines(spec: Spec, found: Opened, only: str | None = None) -> list[str]:
    """A line or two for each objective: what the groups cost beside the map, and what is known of
    the gain by size. Nothing for other goals.
    """
    if spec.goal != "improve":
        return []
    wanted = wishes(spec, found.zoo, found.data, found.store, only)
    names = targets(spec)
    cost = _all_lines(spec, found) if names is None else _nested_lines(spec, found, wanted)
    told = [line for one in wanted for line in _by_size(found.store, one, len(wanted) > 1)]
    return [*cost, *(told or [_not_predicted(0)])]


def _not_predicted(groups: int) -> str:
    return f"gain by size: not predicted ({groups} of {ENOUGH} group jobs are stored)"


def _map(spec: Spec, models: int) -> str:
    controls = spec.controls and labelled(spec.data.train)
    jobs = len(spec.seeds) * (models * (models - 1) // 2 + controls * models)
    return f"the map's {jobs:,} jobs"


def _all_lines(spec: Spec, found: Opened) -> list[str]:
    """All models in groups: 1 / (N - 1) of the pairs of one seed, whatever their size is."""
    models = len(found.zoo)
    groups = -(-models // spec.improve.group)
    confirm = _confirmed(spec, models)
    share = confirm / max(1, models - 1)
    more = f" with each of {confirm} seeds" if confirm > 1 else ""
    controls = ", controls as much again" if spec.controls else ""
    return [
        f"improve: {count(groups, 'group')} of at most {spec.improve.group}, each of {models} "
        f"models once{more}: {100 * share:.1f}% of a one-seed map of pairs{controls}, "
        f"in place of {_map(spec, models)}"
    ]


def _nested_lines(spec: Spec, found: Opened, wanted: Sequence[Wished]) -> list[str]:
    """The groups of each model that is to become better, at least and at most."""
    whole = map_work(found.zoo.values(), spec, found.data)
    alone = {m.model_id: own_work(m, spec, found.data) for m in found.zoo.values()}
    confirm = _confirmed(spec, len(found.zoo))
    if not wanted:
        mean = float(np.mean([*alone.values()]))
        sizes = range(2, spec.improve.group + 1)
        most = (sum(sizes) + confirm * 3 + (confirm - 1) * spec.improve.group) * mean
        some = len(targets(spec) or ())
        return [
            f"improve: groups of 2 to {spec.improve.group} for {count(some, 'model')}, at most "
            f"about {100 * some * most / whole:.1f}% of the work of {_map(spec, len(found.zoo))}; "
            "who joins is told once all models are measured (bikd baseline)"
        ]
    lines = []
    for one in wanted:
        for model, groups in one.wish.groups.items():
            work = [sum(alone[m] for m in group) for group in groups]
            pair = 2 * max(alone.values())
            least = sum(work[:2]) + alone[model]
            most = sum(work) + (confirm - 1) * work[-1] + confirm * (alone[model] + pair)
            fewest, jobs = len(work[:2]) + 1, len(work) + (confirm - 1) + 2 * confirm
            order = _joined(model, groups, one.names)
            label = f"{one.setting[2]}: " if len(wanted) > 1 else ""
            lines.append(
                f"{label}improve: {fewest}–{jobs} jobs for {one.names[model]}, joined by "
                f"{', then '.join(order)}: {100 * least / whole:.1f}–{100 * most / whole:.1f}% of "
                f"the work of {_map(spec, len(found.zoo))}"
            )
    return lines


def _joined(model: str, groups: Sequence[Sequence[str]], names: Mapping[str, str]) -> list[str]:
    """Names of those who join a model, the first one first."""
    before, order = {model}, []
    for group in groups:
        order += [names[m] for m in group if m not in before]
        before |= {*group}
    return order


def _confirmed(spec: Spec, models: int) -> int:
    given = None if spec.search.confirm == "auto" else spec.search.confirm
    return max(1, min(len(spec.seeds), confirmed_seeds(given, models)))


def _by_size(store: Store, one: Wished, several: bool) -> list[str]:
    """What a model more in a group has added so far, once enough groups are known."""
    gains = gains_of(store, one.setting, one.names)
    groups = {
        (members, seed)
        for mine in gains.values()
        for members, seeds in mine.items()
        for seed in seeds
        if len(members) > 2
    }
    label = f"{one.setting[2]}: " if several else ""
    rows = [
        (len(members), learner, gain)
        for learner, mine in enumerate(gains.values())
        for members, seeds in mine.items()
        for gain in seeds.values()
        if len(members) > 1
    ]
    slope, error = gain_by_size(*map(np.array, zip(*rows, strict=True))) if rows else (np.nan,) * 2
    if len(groups) < ENOUGH or np.isnan(slope):
        return [f"{label}{_not_predicted(len(groups))}"]
    unit = store.metric(one.setting[0], one.setting[3]).unit
    digits = digits_of(unit)
    return [
        f"{label}gain by size: a model more adds {signed(slope, digits)} ± {error:.{digits}f} "
        f"{difference_unit(unit)} (by {len(groups)} groups of three and more)"
    ]


def print_improved(store: Store, spec: Spec) -> None:
    """What came of each model that was to become better, and the command that takes it home."""
    from bikd_pipelines.layout import print_rows, say
    from bikd_pipelines.search_views import KINDS, kinds_lines

    names = targets(spec) or tuple(entry.name for entry in spec.zoo)
    parts = [kinds(store, name, None, spec.selection) for name in names if name in store.models()]
    table = pa.concat_tables(parts) if parts else None
    if table is None or not len(table):
        return
    rows = table.to_pylist()
    print_rows([r for r in rows if r["chosen"] or len(names) <= MANY], KINDS)
    for line in kinds_lines(table):
        say(line)
    better = [row for row in rows if row["chosen"] and row["job_ids"]]
    same = [row["model"] for row in rows if row["chosen"] and not row["job_ids"]]
    if same:
        say(f"Best as {'it is' if len(same) == 1 else 'they are'}: {listed(same)}.")
    if better:
        sign = {row["model"]: store.metric(row["data_id"], row["metric"]).sign for row in better}
        first = max(better, key=lambda row: sign[row["model"]] * row["decided_delta"])
        out = "".join(c if c.isalnum() else "-" for c in f"{first['model']}-better")
        say("Take it home:", "bold")
        command = ["bikd", "export", first["model"], "--out", out, "--store", store.uri]
        print(f"  {shlex.join(command)}")
    sys.stdout.flush()
