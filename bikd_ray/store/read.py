"""Reading tables by the commit rule: one attempt of each job, and nothing uncommitted.

A finished file never changes, so what was read of it is kept while it is there. A merged file
(`store.compact`) may stand beside the files that it was made of: their rows are the same, and a
reader takes each once.
"""

import contextlib
import copy
import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import is_, itemgetter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from bikd_ray.errors import BikdError, UserError
from bikd_ray.metrics import Metric
from bikd_ray.store.filesystem import Listing, StoreFS
from bikd_ray.store.names import KEY_OF, Names
from bikd_ray.store.schema import (
    ATTEMPT_LENGTH,
    COMMITTED_BY,
    KEYS,
    LATER,
    ROW,
    SCHEMA_VERSION,
    SCHEMAS,
)
from bikd_ray.store.upgrade import CHANGED, VAL, upgraded
from bikd_ray.tasks.classification_metrics import METRICS as CLASSIFICATION
from bikd_ray.vocabulary import UNTOUCHED

log = logging.getLogger(__name__)

T = TypeVar("T")

pc: Any = pyarrow.compute  # most of its functions are made at import, where no checker sees them

MERGED = "merged-"
"""How the names of merged files begin."""

RUN = ("status", "data_id", "recipe_id", "objective", "seed", "members", "member_ids", "seconds")

LARGE = ("scores", "sums")
"""Columns of `baselines` that are not held in memory."""

INDEX = {
    table: (*KEYS[table], "attempt", *(RUN if table == "jobs" else ()))
    for table in KEYS
    if table not in COMMITTED_BY
} | {
    "baselines": tuple(name for name in SCHEMAS["baselines"].names if name not in LARGE),
    "metrics": tuple(SCHEMAS["metrics"].names),
    "models": (*KEYS["models"], "attempt", "model"),
}
"""Columns that a reader holds in memory of the tables that say what is committed."""

WHOLE = 1 << 20
"""Bytes up to which a file is read whole, in one request, and decoded by itself: a job's file is,
and arrow's datasets take two to three times as long for it."""

LOT = 200
"""Such files that one thread reads and filters at a time."""

READERS = 16
"""Threads that read from an object store, where most of the time is waiting."""

READINGS = 20  # of files that are merged meanwhile, before giving up


def is_merged(path: str) -> bool:
    """Whether `store.compact` made this file."""
    return stem(path).startswith(MERGED)


class Reader:
    """The tables of one store, always as they are now."""

    def __init__(self, uri: str) -> None:
        self.fs = StoreFS.at(uri)
        self._held: dict[str, tuple[Listing, pa.Table]] = {}
        self._derived: dict[str, tuple[tuple[Any, ...], Any]] = {}
        self._large: dict[str, tuple[Listing, pads.Dataset]] = {}
        self._damaged: dict[tuple[str, tuple[int, int]], bool] = {}
        self._old: dict[tuple[str, tuple[int, int]], bool] = {}
        self._lock = threading.RLock()  # what is held is the same for all threads
        self._now: dict[str, Listing] | None = None  # what a reader of one moment has seen

    def as_of_now(self) -> "Reader":
        """The same tables as they are now: what comes later is not seen, and each folder is listed
        once. Where files are merged meanwhile and go, it is now again.
        """
        if self._now is not None:
            return self
        still = copy.copy(self)
        with self._lock:
            for name in ("_held", "_derived", "_large", "_damaged", "_old"):
                setattr(still, name, dict(getattr(self, name)))
        still._lock, still._now = threading.RLock(), {}
        for name in ("jobs", "baselines"):  # what they commit is there by then
            still.listing(name)
        return still

    def table(
        self,
        name: str,
        columns: Collection[str] | None = None,
        where: pads.Expression | None = None,
        jobs: pa.Table | None = None,
    ) -> pa.Table:
        """A table's committed rows, one attempt for each key; empty if there are none.

        Models have their newest names. columns: which to keep. where: a pyarrow expression over
        any columns. jobs: some rows of `committed("jobs")`, for rows of these alone.
        """
        wanted = list(columns or SCHEMAS[name].names)
        keys = [KEY_OF[alias] for alias in wanted if alias in KEY_OF]
        rows = self.as_written(name, dict.fromkeys([*wanted, *keys]), where, jobs)
        return self.names.applied(rows).select(wanted) if keys else rows

    def as_written(
        self,
        name: str,
        columns: Collection[str] | None = None,
        where: pads.Expression | None = None,
        jobs: pa.Table | None = None,
    ) -> pa.Table:
        """As `table`, with the names that models had when the rows were written."""
        # what it is committed by is read first: a commit that comes between is seen next time
        by = COMMITTED_BY.get(name, name)
        # what a baseline commits lies under its name and is replaced as a whole
        key = [*KEYS[name], *([] if COMMITTED_BY.get(name) == "baselines" else ["attempt"])]
        if jobs is None:
            named = f"{by} by {', '.join(key)}"
            committed = self.derived(named, lambda rows: joined(rows, key), self.committed(by))
        else:
            committed = joined(jobs, key)
        wanted = list(columns or SCHEMAS[name].names)
        unique = [*key, *ROW.get(name, ())]

        def read(files: Listing) -> pa.Table:
            if by == "jobs":
                files = _named(files, committed)
            return self._read(name, files, list(dict.fromkeys([*wanted, *unique])), where)

        rows = self._steadily(name, read)
        rows = rows.filter(_among(joined(rows, key), committed))
        return _distinct(rows, unique).select(wanted)

    def committed(self, name: str) -> pa.Table:
        """The rows of INDEX to believe: of each key done before failed, then the newest attempt."""
        with self._lock:
            rows = self._index(name)
            found = self.derived(name, _winners, rows, KEYS[name])
            return self.derived(f"{name}, named", Names.applied, self.names, found)

    @property
    def names(self) -> Names:
        """What the models are called now."""
        with self._lock:
            return self.derived("names", Names, self._index("models"), self._index("baselines"))

    @property
    def metrics(self) -> dict[str, tuple[Metric, ...]]:
        """data_id -> what is measured on it, the primary metric first; without metrics of which no
        model has a value, since no unit of any set defines them.
        """
        with self._lock:
            return self.derived(
                "metrics", _metrics, self._index("metrics"), self._index("baselines")
            )

    @property
    def class_names(self) -> dict[str, list[str]]:
        """data_id -> the names of its classes, in the order of the labels, where they are known."""
        with self._lock:
            return self.derived("class_names", _class_names, self._index("metrics"))

    @property
    def untouched(self) -> frozenset[str]:
        """The data_ids whose control is the untouched model: train has no labels."""
        with self._lock:
            return self.derived("untouched", _untouched, self._index("metrics"))

    def derived(self, what: str, make: Callable[..., T], *parts: Any) -> T:
        """What `make` makes of its arguments; under each name it is kept until others come."""
        with self._lock:
            known = self._derived.get(what)
            if known is None or not all(map(is_, known[0], parts)):
                known = self._derived[what] = parts, make(*parts)
            return known[1]

    def attempts(self) -> pa.Table:
        """The rows of INDEX of all attempts of jobs, also of those that others replaced."""
        with self._lock:
            return self._index("jobs")

    def committed_files(self, name: str) -> Listing:
        """The files with rows to believe, of a table that jobs commit."""
        committed = joined(self.committed("jobs"), ["job_id", "attempt"])
        return _named(self.listing(name), committed)

    def later(self) -> frozenset[str]:
        """The files of `results` that may hold what was measured after its job: files of that alone
        and merged ones, whose names no longer say it.
        """
        names = self.fs.names("results", ".parquet")
        return frozenset(path for path in names if LATER in stem(path) or is_merged(path))

    def sound_rows(self, name: str, files: Listing) -> tuple[pa.Table, list[str]]:
        """All rows of some files, each once, and the files: without those that are damaged.

        Raises FileNotFoundError where one is gone.
        """
        rows, sound = self._scan_sound(name, files, SCHEMAS[name].names)
        return _distinct(rows, [*KEYS[name], "attempt", *ROW.get(name, ())]), sound

    def listing(self, name: str) -> Listing:
        """Files that hold every row of a table that was there when this began.

        A folder is not listed in one instant: a look may miss files that are merged and go
        meanwhile, and the merged one too. A second look finds that one, and so tells whether the
        first missed anything; of itself it cannot tell.
        """
        if self._now is None:
            return self._listed(name)
        with self._lock:
            if name not in self._now:
                self._now[name] = self._listed(name)
            return self._now[name]

    def _listed(self, name: str) -> Listing:
        first = self.fs.listing(name, ".parquet")
        while any(map(is_merged, self.fs.names(name, ".parquet") - first.keys())):
            first = self.fs.listing(name, ".parquet")
        return first

    def _index(self, name: str) -> pa.Table:
        def read(files: Listing) -> pa.Table:
            known, rows = self._held.get(name, ({}, None))
            if rows is not None and known == files:
                return rows
            kept = [rows] if rows is not None and known.items() <= files.items() else []
            new = {path: stamp for path, stamp in files.items() if not kept or path not in known}
            read = self._read(name, new, list(INDEX[name]))
            rows = pa.concat_tables([*kept, read]).combine_chunks()
            self._held[name] = files, rows
            return rows

        return self._steadily(name, read)

    def _steadily(self, name: str, read: Callable[[Listing], pa.Table]) -> pa.Table:
        """Read a table's files, and again where one goes meanwhile: it has been merged.

        The rest of its lot will go too, maybe slowly, so what has been merged is then left out.
        """
        for reading in range(READINGS):
            with contextlib.suppress(FileNotFoundError):
                files = self.listing(name)
                return read(self._unmerged(name, files) if reading else files)
            if self._now is not None:
                self._now.clear()
        raise BikdError("files of the store go faster than they can be read; try again")

    def _unmerged(self, name: str, files: Listing) -> Listing:
        """Without the files of one job whose rows stand in a merged file too."""
        merged = {path: stamp for path, stamp in files.items() if is_merged(path)}
        if not merged:
            return files
        names = ["job_id", "attempt"]
        sets = ["eval_set"] if name == "results" else []
        rows = self._read(name, merged, [*names, *sets])
        there = joined(rows, names)
        if sets:  # what was measured later may not be merged with the rest of its job
            on = rows["eval_set"].combine_chunks()
            later = pc.binary_join_element_wise(there, on, LATER)
            there = pc.if_else(pc.equal(on, VAL), there, later)
        known = set(there.to_pylist())
        return {path: stamp for path, stamp in files.items() if stem(path) not in known}

    def _read(
        self, name: str, files: Listing, columns: list[str], where: pads.Expression | None = None
    ) -> pa.Table:
        if files:  # a newer bikd that writes here also wrote the newest file
            self._refuse_newer(max(files, key=lambda path: owner(path)[-ATTEMPT_LENGTH:]))
        return self._scan_sound(name, files, columns, where)[0]

    def _scan_sound(
        self, name: str, files: Listing, columns: list[str], where: pads.Expression | None = None
    ) -> tuple[pa.Table, list[str]]:
        try:
            return self._scan(name, files, columns, where), list(files)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError):
            sound = {path: s for path, s in files.items() if self._is_sound(path, s)}
        try:
            return self._scan(name, sound, columns, where), list(sound)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise BikdError(f"cannot read the {name} of {self.fs.uri}: {reason}") from None

    def _scan(
        self, name: str, files: Listing, columns: list[str], where: pads.Expression | None
    ) -> pa.Table:
        schema = SCHEMAS[name]
        tables = [schema.empty_table().select(columns)]
        small = [path for path in files if files[path][0] <= WHOLE]
        if small:
            wanted = schema.empty_table().select(_with_filtered(schema, columns, where)).schema

            threads = pa.cpu_count() if self.fs.is_local else READERS
            lot = min(LOT, 1 + len(small) // threads)

            def read(start: int) -> pa.Table:
                parts = [self._decoded(name, path, wanted) for path in small[start : start + lot]]
                rows = pa.concat_tables(parts).combine_chunks()
                return (rows if where is None else rows.filter(where)).select(columns)

            with ThreadPoolExecutor(threads) as pool:
                tables += pool.map(read, range(0, len(small), lot))
        large = {path: stamp for path, stamp in files.items() if stamp[0] > WHOLE}
        old = {path: large.pop(path) for path in [*large] if self._is_old(name, path, files[path])}
        if large:
            dataset = self._dataset(name, large)
            tables.append(dataset.to_table(columns=columns, filter=where))
        for path in old:
            tables += self._upgraded(name, path, columns, where)
        return pa.concat_tables(tables)

    def _is_old(self, name: str, path: str, stamp: tuple[int, int]) -> bool:
        """Whether a file has rows as version 1 had them; each file is asked once."""
        if name not in CHANGED:
            return False
        if (path, stamp) not in self._old:
            schema = pq.read_schema(path, filesystem=self.fs.filesystem)
            self._old[path, stamp] = schema_version(schema) < 2
        return self._old[path, stamp]

    def _upgraded(
        self, name: str, path: str, columns: list[str], where: pads.Expression | None
    ) -> Iterator[pa.Table]:
        """Rows of a large file of version 1, a part at a time."""
        dataset = pads.dataset([path], format="parquet", filesystem=self.fs.filesystem)
        for batch in dataset.to_batches():
            rows = upgraded(name, pa.Table.from_batches([batch]))
            yield (rows if where is None else rows.filter(where)).select(columns)

    def _dataset(self, name: str, files: Listing) -> pads.Dataset:
        """Of some files of a table; of merged ones it is kept, since it remembers their footers.

        Others may be replaced under their name, and an old footer would misread them.
        """
        with self._lock:
            known = self._large.get(name)
            if known is not None and known[0] == files:
                return known[1]
            how = {"format": "parquet", "filesystem": self.fs.filesystem}
            dataset = pads.dataset([*files], schema=SCHEMAS[name], **how)
            if all(map(is_merged, files)):
                self._large[name] = files, dataset
            return dataset

    def _decoded(self, name: str, path: str, wanted: pa.Schema) -> pa.Table:
        """The columns of a small file, with nulls in those that an older schema lacks."""
        file = pq.ParquetFile(pa.BufferReader(self.fs.read_path(path)))
        if name in CHANGED and schema_version(file.schema_arrow) < 2:
            return upgraded(name, file.read(use_threads=False)).select(wanted.names)
        rows = file.read(columns=wanted.names, use_threads=False)
        if rows.schema.equals(wanted):
            return rows.replace_schema_metadata(wanted.metadata)
        there = set(rows.column_names)
        columns = [
            rows[f.name].cast(f.type) if f.name in there else pa.nulls(len(rows), f.type)
            for f in wanted
        ]
        return pa.Table.from_arrays(columns, schema=wanted)

    def _refuse_newer(self, path: str) -> None:
        try:
            version = schema_version(pq.read_schema(path, filesystem=self.fs.filesystem))
        except (pa.ArrowInvalid, OSError):
            return  # the scan that follows says what is wrong
        if version > SCHEMA_VERSION:
            raise UserError(
                f"store {self.fs.uri}: {path} has schema {version}, this bikd reads up to "
                f"{SCHEMA_VERSION}; install a newer bikd-ray"
            )

    def _is_sound(self, path: str, stamp: tuple[int, int]) -> bool:
        """Whether a whole file can be read; said once of one that cannot."""
        if (path, stamp) not in self._damaged:
            fault = damage(self.fs, path)
            self._damaged[path, stamp] = fault is not None
            if fault:
                log.warning("left out: %s is damaged (%s); see bikd store check", path, fault)
        return not self._damaged[path, stamp]


def _with_filtered(
    schema: pa.Schema, columns: Sequence[str], where: pads.Expression | None
) -> list[str]:
    """The columns, and those that the expression speaks of: without them it means nothing."""
    if where is None:
        return list(columns)
    rest = [name for name in schema.names if name not in columns]
    spoken = []
    for name in rest:
        try:
            schema.remove(schema.get_field_index(name)).empty_table().filter(where)
        except pa.ArrowInvalid:
            spoken.append(name)
    return [*columns, *spoken]


def schema_version(schema: pa.Schema) -> int:
    """Of a store's file; 0 if it says none."""
    return int((schema.metadata or {}).get(b"bikd_schema", b"0"))


def damage(fs: StoreFS, path: str) -> str | None:
    """Why the content of a file is not whole Parquet, or None if it is.

    Raises FileNotFoundError, and BikdError where the file cannot be read at all: a disk or a
    network that fails says nothing about the content.
    """
    content = fs.read_path(path)
    try:
        pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        return str(error).splitlines()[0]
    return None


def stem(path: str) -> str:
    """A file's name without its ending: of one job it is its id and attempt, of what was measured
    of it later these with LATER and the set.
    """
    return path.rpartition("/")[2].removesuffix(".parquet")


def owner(path: str) -> str:
    """The id and attempt of the job of whose rows a file is."""
    return stem(path).partition(LATER)[0]


def _named(files: Listing, committed: pa.Array) -> Listing:
    """Without files of one job that is not committed."""
    single = [path for path in files if not is_merged(path)]
    if not single:
        return files
    owners = pa.array(map(owner, single), pa.string())
    others = pc.invert(_among(owners, committed))
    unwanted = set(pa.array(single, pa.string()).filter(others).to_pylist())
    return {path: stamp for path, stamp in files.items() if path not in unwanted}


def _metrics(rows: pa.Table, baselines: pa.Table) -> dict[str, tuple[Metric, ...]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(rows.to_pylist(), key=itemgetter("attempt")):
        found.setdefault(row["data_id"], {})[row["metric"]] = row
    empty = _without_value(baselines)
    metrics = {
        data_id: tuple(
            Metric(
                row["metric"],
                *(row[name] for name in _OF_METRIC),
                units=row["units"] or Metric.units,
            )
            for row in sorted(of_data.values(), key=itemgetter("position"))
            if (data_id, row["metric"]) not in empty
        )
        for data_id, of_data in found.items()
    }
    return dict.fromkeys(baselines["data_id"].unique().to_pylist(), CLASSIFICATION) | metrics


def _without_value(baselines: pa.Table) -> set[tuple[str, str]]:
    """(data_id, metric) where the value of every baseline is NaN."""
    keys = zip(baselines["data_id"].to_pylist(), baselines["metric"].to_pylist(), strict=True)
    found: dict[tuple[str, str], bool] = {}
    for key, value in zip(keys, baselines["value"].to_pylist(), strict=True):
        found[key] = found.get(key, True) and value is not None and math.isnan(value)
    return {key for key, empty in found.items() if empty}


def _class_names(rows: pa.Table) -> dict[str, list[str]]:
    known = sorted(rows.filter(rows["classes"].is_valid()).to_pylist(), key=itemgetter("attempt"))
    return {row["data_id"]: row["classes"] for row in known}


def _untouched(rows: pa.Table) -> frozenset[str]:
    return frozenset(rows.filter(pc.equal(rows["control"], UNTOUCHED))["data_id"].to_pylist())


_OF_METRIC = ("title", "unit", "higher_is_better", "binary", "pooled")


def _winners(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    if len(pc.unique(joined(rows, keys))) == len(rows):
        return rows
    rank = rows["attempt"]
    if "status" in rows.column_names:
        done = pc.if_else(pc.equal(rows["status"], "done"), "1", "0")
        rank = pc.binary_join_element_wise(done, rank, "")
    ranked = rows.append_column("rank", rank)
    best = ranked.group_by(keys).aggregate([("rank", "max")]).rename_columns([*keys, "rank"])
    names = [*keys, "rank"]
    believed = pc.is_in(joined(ranked, names), value_set=joined(best, names))
    rows = rows.filter(believed)
    parts = [name for name in ("metric",) if name in rows.column_names and name not in keys]
    return _distinct(rows, [*keys, "attempt", *parts])


def _distinct(rows: pa.Table, unique: Sequence[str]) -> pa.Table:
    """Each row once, where a merged file and its parts were both read; in the order they came."""
    names = joined(rows, unique).dictionary_encode()
    if len(names.dictionary) == len(rows):
        return rows
    index = pa.table({"name": names.indices, "row": pa.array(range(len(rows)), pa.int64())})
    first = index.group_by("name").aggregate([("row", "min")])["row_min"]
    return rows.take(first.take(pc.sort_indices(first)))


def _among(names: pa.Array, known: pa.Array) -> pa.Array:
    """Whether each name is known; of few names and many that are known in half the time."""
    if len(names) < len(known):  # the set that is looked up in is what costs
        known = known.filter(pc.is_in(known, value_set=names))
    return pc.is_in(names, value_set=known)


def joined(rows: pa.Table, columns: Sequence[str]) -> pa.Array:
    """One text for each row; for jobs it is the stem of the file's name."""
    texts = [rows[name].cast(pa.string()) for name in columns]
    joined = pc.binary_join_element_wise(*texts, "-")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
