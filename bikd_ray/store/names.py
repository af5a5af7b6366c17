"""What each model is called: an alias is for people, and the newest one counts everywhere."""

from typing import Any

import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # most of its functions are made at import, where no checker sees them

COLUMNS = ["model", "model_id", "attempt"]

KEY_OF = {
    "model": "model_id",
    "model_a": "model_id_a",
    "model_b": "model_id_b",
    "partners": "partner_ids",
    "members": "member_ids",
}
"""Columns of aliases, and of the ids that they are of."""


class Names:
    """The names of all models, by the attempts of the rows that hold them.

    models, baselines: COLUMNS of every attempt.
    """

    def __init__(self, models: pa.Table, baselines: pa.Table) -> None:
        rows = pa.concat_tables([baselines.select(COLUMNS), models.select(COLUMNS)])
        named = rows.group_by(COLUMNS[:2]).aggregate([("attempt", "max")]).to_pylist()
        self._called: dict[str, list[str]] = {}
        for row in sorted(named, key=lambda row: (row["attempt_max"], row["model"])):
            self._called.setdefault(row["model_id"], []).append(row["model"])
        self.newest = {i: names[-1] for i, names in self._called.items()}
        self.changed = {i: names[-1] for i, names in self._called.items() if len(names) > 1}

    def before(self, model_id: str) -> list[str]:
        """What a model was called before, the newest of these names first."""
        return self._called[model_id][-2::-1]

    def told(self, name: str) -> list[str]:
        """What to say with an answer to who asks for the models of a name."""
        lines = []
        for model_id, newest in sorted(self.changed.items()):
            if name in (newest, model_id):
                lines.append(f"{newest} was {', '.join(self.before(model_id))}")
            elif name in self.before(model_id):
                lines.append(f"what was {name} is now {newest}")
        return lines

    def formerly(self, name: str) -> set[str]:
        """Models that had a name and have another one now."""
        return {
            i for i, newest in self.changed.items() if name != newest and name in self.before(i)
        }

    def applied(self, table: pa.Table) -> pa.Table:
        """Rows of a table of the store with the newest names in its columns of aliases.

        Columns of aliases need that of their ids beside them.
        """
        for alias, key in KEY_OF.items() if self.changed else ():
            if alias in table.column_names:
                old, ids = (table[name].combine_chunks() for name in (alias, key))
                at = table.schema.get_field_index(alias)
                made = (
                    self._lists(old, ids)
                    if alias in ("partners", "members")
                    else self._new(old, ids)
                )
                table = table.set_column(at, table.schema.field(at), made)
        return table

    def _lists(self, old: pa.ListArray, ids: pa.ListArray) -> pa.Array:
        new = self._new(old.flatten(), ids.flatten())
        lengths = pc.fill_null(pc.list_value_length(old), 0)
        ends = pc.cumulative_sum(lengths).cast(pa.int32())
        return pa.ListArray.from_arrays(pa.concat_arrays([pa.array([0], pa.int32()), ends]), new)

    def _new(self, old: pa.Array, ids: pa.Array) -> pa.Array:
        known = pa.array(self.changed, pa.string())
        return pc.coalesce(
            pa.array(self.changed.values(), pa.string()).take(pc.index_in(ids, known)), old
        )
