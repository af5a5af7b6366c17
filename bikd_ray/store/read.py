"""Reading tables by the commit rule: one attempt of each job, and nothing uncommitted."""

import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from bikd_ray.errors import UserError
from bikd_ray.store.place import Place
from bikd_ray.store.schema import KEYS, SCHEMA_VERSION, SCHEMAS

log = logging.getLogger(__name__)

pc: Any = pyarrow.compute  # most of its functions are made at import, where no checker sees them

COMMITTED_BY = {
    "results": "jobs",
    "curves": "jobs",
    "similarities": "jobs",
    "predictions": "baselines",
}
"""Tables whose rows count only once the attempt stands in another; the others commit themselves."""


class Reader:
    """The tables of one store as they are now."""

    def __init__(self, uri: str) -> None:
        self.place = Place.at(uri)

    def table(
        self, name: str, columns: list[str] | None = None, where: pads.Expression | None = None
    ) -> pa.Table:
        """A table's committed rows, one attempt for each key; empty if there are none.

        columns: which to keep. where: a pyarrow expression over any columns.
        """
        # predictions lie under their baseline's name and are replaced as a whole
        attempt = [] if name == "predictions" else ["attempt"]
        wanted, keys = columns or SCHEMAS[name].names, [*KEYS[name], *attempt]
        # what it is committed by is read first: a commit that comes between is seen next time
        winners = self._winners(COMMITTED_BY.get(name, name))
        held = self._all(name, list(dict.fromkeys([*wanted, *keys])), where)
        index = held.select(keys).append_column("row", pa.array(range(len(held)), pa.int64()))
        rows = index.join(winners.select(keys), keys=keys, join_type="inner")["row"]
        kept = held.take(rows.take(pc.sort_indices(rows)))  # a join does not keep the order
        return kept.select(wanted)

    def _winners(self, name: str) -> pa.Table:
        """(keys, attempt) of the attempt to believe: done before failed, then the newest."""
        keys = list(KEYS[name])
        status = ["status"] if name == "jobs" else []
        rows = self._all(name, [*keys, "attempt", *status])
        rank = rows["attempt"]
        if status:
            done = pc.if_else(pc.equal(rows["status"], "done"), "1", "0")
            rank = pc.binary_join_element_wise(done, rank, "")
        best = (
            rows.select(keys)
            .append_column("rank", rank)
            .group_by(keys)
            .aggregate([("rank", "max")])
        )
        attempt = pc.utf8_slice_codeunits(best["rank_max"], len(status))
        return best.select(keys).append_column("attempt", attempt)

    def _all(self, name: str, columns: list[str], where: pads.Expression | None = None) -> pa.Table:
        files = self.place.files(name, ".parquet")
        if files:  # a newer bikd that writes here also wrote the newest file
            self._is_sound(max(files, key=lambda path: path[-len(".parquet") - 21 :]))
        try:
            return self._read(name, files, columns, where)
        except (pa.ArrowInvalid, OSError):
            sound = [path for path in files if self._is_sound(path)]
            return self._read(name, sound, columns, where)

    def _read(
        self, name: str, files: list[str], columns: list[str], where: pads.Expression | None
    ) -> pa.Table:
        schema = SCHEMAS[name]
        if not files:
            return schema.empty_table().select(columns)
        dataset = pads.dataset(
            files, schema=schema, format="parquet", filesystem=self.place.filesystem
        )
        return dataset.to_table(columns=columns, filter=where)

    def _is_sound(self, path: str) -> bool:
        """Whether a file's footer can be read. Raises UserError for a newer schema."""
        try:
            metadata = pq.read_schema(path, filesystem=self.place.filesystem).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            log.warning("left out: %s is damaged (%s)", path, str(error).splitlines()[0])
            return False
        version = int(metadata.get(b"bikd_schema", b"0"))
        if version > SCHEMA_VERSION:
            raise UserError(
                f"store {self.place.uri}: {path} has schema {version}, this bikd reads up to "
                f"{SCHEMA_VERSION}; install a newer bikd-ray"
            )
        return True
