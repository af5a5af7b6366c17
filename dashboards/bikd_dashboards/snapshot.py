"""A store's answers as they were at one moment, each worked out once and only when asked for."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from bikd_dashboards.figures import pc
from bikd_dashboards.runs import recipe_text
from bikd_ray.errors import BikdError
from bikd_ray.metrics import Metric
from bikd_ray.store import Store
from bikd_ray.store.answer_schemas import CLASSES, FLIPS
from bikd_ray.store.hidden import Hidden, Measure, hidden
from bikd_ray.store.pairings import with_likeness
from bikd_ray.store.upgrade import VAL
from bikd_ray.store.verdicts import clearness
from bikd_ray.vocabulary import CHOSEN_ON_VAL, is_alone

SELECTIONS = {
    "last": "last epoch",
    "best_select": "epoch chosen on held-out images",
    "best_val": "epoch chosen on the reported images",
}


@dataclass(frozen=True)
class Setting:
    """What must not be pooled. Nothing trained yet: no objective, perhaps no recipe."""

    data_id: str
    recipe_id: str | None
    objective: str | None
    selection: str

    @property
    def key(self) -> str:
        """For a link."""
        parts = (self.objective, self.selection, self.recipe_id, self.data_id)
        return ".".join(part for part in parts if part)


class Snapshot:
    """The answers of one store. Several threads may ask; each answer is worked out once, and
    nobody waits for another one.
    """

    def __init__(self, store: Store, metric: str | None = None, eval_set: str = VAL) -> None:
        """metric: None for the primary one of each data set."""
        self.store = store.as_of_now()
        self.measure = {"metric": metric, "eval_set": eval_set}
        self._lock = threading.Lock()
        self._held: dict[tuple, _Once] = {}

    def measured(self, metric: str | None, eval_set: str) -> "Snapshot":
        """The same store by another metric, on another set."""
        if self.measure == {"metric": metric, "eval_set": eval_set}:
            return self
        key = ("measured", metric, eval_set)
        return self.once(key, lambda: Snapshot(self.store, metric, eval_set))

    def once(self, key: tuple, work_out: Callable[[], Any]) -> Any:
        """What was worked out under this key, else what `work_out` says now."""
        with self._lock:
            held = self._held.setdefault(key, _Once())
        return held.get(work_out)

    def read(self) -> None:
        """Read what every page needs, which is soon done; of several settings also their gains,
        which say what to show first.
        """
        _ = self.settings, self.jobs, self.baselines, self.pairs, self.opening

    def prepare(self) -> None:
        """Work out what most pages ask for."""
        for setting in self.settings[:1]:
            self.controls(setting.selection)
            self.gains(setting.selection)

    @property
    def jobs(self) -> pa.Table:
        """How each job went; see `Store.outcomes`."""
        return self.once(("jobs",), self.store.outcomes)

    @property
    def runs(self) -> pa.Table:
        """The table `jobs`, with all that is known of each."""
        return self.once(("runs",), lambda: self.store.table("jobs"))

    @property
    def recipes(self) -> dict[str, str]:
        """recipe_id to the recipe in words."""

        def work_out() -> dict[str, str]:
            return {i: recipe_text(recipe) for i, recipe in self.store.recipes().items()}

        return self.once(("recipes",), work_out)

    @property
    def baselines(self) -> pa.Table:
        return self.once(("baselines",), lambda: self.store.baselines(**self.measure))

    @property
    def pairs(self) -> pa.Table:
        """The table `pairs`: what each pair knows before training."""
        return self.once(("pairs",), lambda: self.store.pairs_before(**self.measure))

    @property
    def decisions(self) -> pa.Table:
        return self.once(("decisions",), lambda: self.store.table("decisions"))

    @property
    def similarities(self) -> pa.Table:
        return self.once(("similarities",), lambda: self.store.table("similarities"))

    def gains(self, selection: str) -> pa.Table:
        return self.once(
            ("gains", selection), lambda: self.store.gains(selection=selection, **self.measure)
        )

    def controls(self, selection: str) -> pa.Table:
        return self.once(
            ("controls", selection), lambda: self.store.controls(selection, **self.measure)
        )

    def groups(self, selection: str) -> pa.Table:
        return self.once(
            ("groups", selection), lambda: self.store.groups(selection=selection, **self.measure)
        )

    def sizes(self, model_id: str, selection: str) -> pa.Table:
        """The rows of `groups` of one model, which is a small part of the work."""
        key = ("sizes", model_id, selection)
        return self.once(
            key, lambda: self.store.groups(model_id, selection=selection, **self.measure)
        )

    def teachers(self, selection: str) -> pa.Table:
        return self.once(
            ("teachers", selection),
            lambda: self.store.teachers(selection=selection, **self.measure),
        )

    def curves(self, model_id: str) -> pa.Table:
        return self.once(("curves", model_id), lambda: self.store.curves(model_id))

    def flips(self, model_id: str, selection: str) -> pa.Table:
        def flips() -> pa.Table:
            if not self.any_binary:
                return FLIPS.empty_table()
            return self.store.flips(model_id, selection=selection, **self.measure)

        return self.once(("flips", model_id, selection), flips)

    @cached_property
    def units(self) -> str:
        """What is measured, in words: `images`, `videos`."""
        found = {of.units for metrics in self.store.metrics.values() for of in metrics}
        return " and ".join(sorted(found)) or Metric.units

    @cached_property
    def about(self) -> str:
        """What the answers are about, in words: `mIoU on the val images`."""
        name = self.measure["metric"]
        found = {self.store.metric(d, name).title: None for d in self.store.metrics}
        return f"{' or '.join(found) or 'metric'} on the {self.measure['eval_set']} {self.units}"

    @cached_property
    def any_binary(self) -> bool:
        """Whether some data set's metric says of each unit if it is right."""
        name = self.measure["metric"]
        every = self.store.metrics.values()
        return any(m.binary for found in every for m in found if m.name == (name or found[0].name))

    def classes(self, model_id: str, selection: str) -> pa.Table:
        def classes() -> pa.Table:
            try:
                if not self.store.has_classes(self.measure["metric"]):
                    return CLASSES.empty_table()
                return self.store.classes(model_id, selection=selection, **self.measure)
            except BikdError:  # its predictions are gone; the rest of the page is not
                return CLASSES.empty_table()

        return self.once(("classes", model_id, selection), classes)

    @cached_property
    def selections(self) -> tuple[str, ...]:
        """Those with results, in the order of SELECTIONS."""
        there = {s.selection for s in self.settings if s.recipe_id}
        return tuple(s for s in SELECTIONS if s in there)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every combination with results; else what has a control alone, else a baseline alone."""
        results = [Setting(**row) for row in self.store.settings().to_pylist()]
        found = [s for s in results if not is_alone(s.objective)]
        trained = {(s.data_id, s.recipe_id, s.selection) for s in found}
        for s in results:
            alone = Setting(s.data_id, s.recipe_id, None, s.selection)
            if (s.data_id, s.recipe_id, s.selection) not in trained and alone not in found:
                found.append(alone)
        begun = {s.data_id for s in found}
        for data_id in self.baselines["data_id"].unique().to_pylist():
            if data_id not in begun:
                found.append(Setting(data_id, None, None, "last"))
        order = list(SELECTIONS)
        return tuple(
            sorted(
                found,
                key=lambda s: (
                    order.index(s.selection),
                    s.objective or "~",
                    s.recipe_id or "",
                    s.data_id,
                ),
            )
        )

    @property
    def opening(self) -> Setting | None:
        """The setting with the clearest verdict of those of the first selection, which a person
        should see first; None where the store is empty.
        """
        return self.once(("opening",), self._clearest)

    def _clearest(self) -> Setting | None:
        settings = [s for s in self.settings if s.selection == self.settings[0].selection]
        trained = [s for s in settings if s.objective and s.recipe_id]
        if len(trained) < 2:
            return settings[0] if settings else None
        best: dict[tuple[str, ...], tuple[Any, ...]] = {}
        for row in self.gains(settings[0].selection).to_pylist():
            sign = self.store.metric(row["data_id"], self.measure["metric"]).sign
            at = (row["data_id"], row["recipe_id"], row["objective"])
            best[at] = min(best.get(at, _LAST), clearness(row, sign))
        keys = {s: (s.data_id, s.recipe_id or "", s.objective or "") for s in trained}
        return min(trained, key=lambda s: best.get(keys[s], _LAST))

    @cached_property
    def labels(self) -> dict[str, str]:
        """A setting's key to what tells it from the others, in words."""
        several_recipes = len({s.recipe_id for s in self.settings}) > 1
        several_data = len({s.data_id for s in self.settings}) > 1
        recipes = self.recipes if several_recipes else {}
        labels = {}
        for s in self.settings:
            parts = [s.objective or ("controls only" if s.recipe_id else "baselines only")]
            parts += [SELECTIONS[s.selection]] if s.recipe_id else []
            if several_recipes and s.recipe_id:
                parts.append(f"{recipes.get(s.recipe_id, 'recipe')} ({s.recipe_id[:6]})")
            if several_data:
                parts.append(f"data {s.data_id[:6]}")
            labels[s.key] = " · ".join(parts)
        return labels


_LAST: tuple[Any, ...] = (float("inf"),)


class _Once:
    """One answer, and a lock for as long as somebody works it out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: tuple[Any, ...] = ()

    def get(self, work_out: Callable[[], Any]) -> Any:
        with self._lock:
            if not self._found:
                self._found = (work_out(),)
            return self._found[0]


class SettingView:
    """One setting of a snapshot, and how much of it to show."""

    def __init__(self, snapshot: Snapshot, setting: Setting, limits: "Limits") -> None:
        self.snapshot, self.setting, self.limits = snapshot, setting, limits

    @cached_property
    def metric(self) -> Metric:
        return self.snapshot.store.metric(self.setting.data_id, self.snapshot.measure["metric"])

    @property
    def label(self) -> str:
        return self.snapshot.labels[self.setting.key]

    @cached_property
    def primary(self) -> Metric:
        """What learning curves are of."""
        return self.snapshot.store.metric(self.setting.data_id)

    @cached_property
    def baselines(self) -> list[dict[str, Any]]:
        return self._own(self.snapshot.baselines, ("data_id",)).to_pylist()

    @cached_property
    def names(self) -> dict[str, str]:
        return shown_names(self.baselines, self.metric.sign)

    @cached_property
    def gains(self) -> pa.Table:
        table = self.snapshot.gains(self.setting.selection)
        return self._own(table, ("data_id", "recipe_id", "objective"))

    @cached_property
    def controls(self) -> pa.Table:
        table = self.snapshot.controls(self.setting.selection)
        return self._own(table, ("data_id", "recipe_id"))

    @cached_property
    def jobs(self) -> pa.Table:
        """How each job went, of this setting or of its data where nothing was trained."""
        return self._own(self.snapshot.jobs, ("data_id", "recipe_id", "objective"))

    @cached_property
    def of_every_objective(self) -> pa.Table:
        """The gains of the same data, recipe and selection."""
        table = self.snapshot.gains(self.setting.selection)
        return self._own(table, ("data_id", "recipe_id"))

    @cached_property
    def flops(self) -> dict[str, float]:
        """model_id to what a forward pass of one image takes, where it is known."""
        rows = self.snapshot.store.table("models", ["model_id", "flops"]).to_pylist()
        return {row["model_id"]: float(row["flops"]) for row in rows if row["flops"] is not None}

    @cached_property
    def decisions(self) -> list[dict[str, Any]]:
        """What a search for best partners has decided about this setting, in the order of time;
        nothing of metrics and sets other than those that it decides by.
        """
        store, measure = self.snapshot.store, self.snapshot.measure
        if not len(store.index("decisions")) or measure["eval_set"] != VAL:
            return []
        table = self._own(self.snapshot.decisions, ("data_id", "recipe_id", "objective"))
        rows = table.sort_by([("at", "ascending"), ("model", "ascending")]).to_pylist()
        name = self.metric.name
        return [row for row in rows if row["goal"] != "improve" and row["metric"] == name]

    @cached_property
    def search_note(self) -> str:
        """What to bear in mind where a search has chosen what was trained; else nothing."""
        if not self.decisions:
            return ""
        from bikd_ray.store.searches import search_note

        first = self.decisions[0]
        setting = (first[name] for name in ("data_id", "recipe_id", "objective"))
        return search_note(self.snapshot.store, *setting)

    @cached_property
    def _looks(self) -> list[Any]:
        """What a search knows of this setting, where it has left something untrained."""
        if not self.decisions or self.setting.selection == CHOSEN_ON_VAL:
            return []
        from bikd_ray.store.searched import looks

        one, store = self.setting, self.snapshot.store
        key = ("looks", one.objective, one.selection)
        seen = self.snapshot.once(key, lambda: looks(store, one.objective, one.selection))
        wanted = (one.data_id, one.recipe_id, one.objective)
        return [look for look in seen if look.search.setting[:3] == wanted]

    def searched(self, model_id: str) -> list[dict[str, Any]]:
        """Rows of SEARCHED of a model; none where none has searched, or all is trained."""
        if not self._looks:
            return []
        from bikd_ray.store.searched import searched_partners

        one = self.setting
        found = searched_partners(
            self.snapshot.store, model_id, one.objective, one.selection, self._looks
        )
        return found.to_pylist()

    @cached_property
    def expected(self) -> dict[tuple[str, str], float]:
        """What learners are expected to gain with partners that a search has left untrained, by
        model_ids; nothing where none has searched, or all is trained.
        """
        if not self._looks:
            return {}
        from bikd_ray.store.searched import expected_gains

        return expected_gains(self.snapshot.store, self._looks)

    @cached_property
    def teachers(self) -> pa.Table:
        table = self.snapshot.teachers(self.setting.selection)
        return self._own(table, ("data_id", "recipe_id", "objective"))

    def sizes(self, model_id: str) -> pa.Table:
        rows = self.snapshot.sizes(model_id, self.setting.selection)
        return self._own(rows, ("data_id", "recipe_id", "objective"))

    @cached_property
    def pairs(self) -> pa.Table:
        """Rows of the table `pairs`, with the mean CCA of this setting's jobs."""
        pairs = self._own(self.snapshot.pairs, ("data_id",))
        alike = self._own(self.snapshot.similarities, ("data_id", "recipe_id", "objective"))
        return with_likeness(pairs, alike)

    def curves(self, model_id: str) -> pa.Table:
        """Of this objective and of the control."""
        rows = self._own(self.snapshot.curves(model_id), ("data_id", "recipe_id"))
        own = pc.equal(rows["objective"], self.setting.objective or "")
        return rows.filter(pc.or_(own, pc.equal(rows["objective"], "ce")))

    def along(self, model_id: str, partner_ids: Sequence[str]) -> pa.Table:
        """What a learner with these partners scores on each frame of each video, if of videos."""
        setting = asdict(self.setting)
        return self.snapshot.once(
            ("along", self.setting, model_id, *partner_ids),
            lambda: self.snapshot.store.along(
                model_id, partner_ids, **self.snapshot.measure, **setting
            ),
        )

    def flips(self, model_id: str) -> pa.Table:
        rows = self.snapshot.flips(model_id, self.setting.selection)
        return self._own(rows, ("data_id", "recipe_id", "objective"))

    def hidden(self, model_id: str) -> tuple[list[Measure], list[Hidden]]:
        """What the mean gains of a model hide, of this setting."""
        setting = self.setting

        def work_out() -> tuple[list[Measure], list[Hidden]]:
            measures, rows = hidden(
                self.snapshot.store, model_id, setting.objective, setting.selection
            )
            own = [
                one
                for one in rows
                if (one.row["data_id"], one.row["recipe_id"])
                == (setting.data_id, setting.recipe_id)
            ]
            return measures, own

        return self.snapshot.once(("hidden", setting, model_id), work_out)

    def classes(self, model_id: str) -> pa.Table:
        rows = self.snapshot.classes(model_id, self.setting.selection)
        return self._own(rows, ("data_id", "recipe_id", "objective"))

    def _own(self, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        for name in columns:
            value = getattr(self.setting, name)
            mine = None if value is None else pc.equal(table[name], value)
            if mine is not None and not pc.all(mine).as_py():  # a copy of a large table is slow
                table = table.filter(mine)
        return table


@dataclass(frozen=True)
class Limits:
    """How much a page shows; where something is left out it says so."""

    matrix: int
    """Models in a heatmap."""
    models: int
    """Models with figures of their own."""
    pairs: int
    """Pairs that can be opened."""
    rows: int
    """Rows of a table of gains."""
    runs: int
    partners: int = 20
    """Partners in one ranking."""
    lines: int = 7
    """Partners with a curve."""
    file: int = 20_000
    """Rows of a file to download."""
    pictures: int = 3
    """Samples of an opened pair's learner that got better, and as many that got worse."""


def shown_names(baselines: Sequence[Mapping[str, Any]], sign: int = 1) -> dict[str, str]:
    """model_id to name, the best first; equal names get the start of their id.

    sign: -1 where a lower metric is better.
    """
    ranked = sorted(baselines, key=lambda r: (-sign * r["value"], r["model"], r["model_id"]))
    often = Counter(r["model"] for r in ranked)
    return {
        r["model_id"]: r["model"]
        if often[r["model"]] == 1
        else f"{r['model']} ({r['model_id'][:6]})"
        for r in ranked
    }
