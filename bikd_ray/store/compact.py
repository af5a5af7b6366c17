"""Merging small files, beside writers and readers.

A merged file holds every committed row of some smaller files, and these go only once it is there:
at each moment every row stands in some file, and a reader takes one of several equal rows. So an
interrupted merge leaves only repetitions, which the next one removes, and two merges at once do no
more harm than that. Files that are not committed yet are left alone.

Attempts that lost to another one, such as a failure before a success, are dropped on the way, once
both are so old that no reader can still believe the loser. So are files that a killed writer has
half written.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bikd_ray.store.filesystem import Listing
from bikd_ray.store.read import MERGED, Reader, is_merged, joined, owner, pc
from bikd_ray.store.schema import SCHEMAS
from bikd_ray.store.write import new_attempt, serialised

GROUP = 1 << 20  # bytes of a row group: what a reader takes at least of a file for one model
DELETERS = 16  # at once: on an object store each takes three requests
GRACE = 3600  # seconds: longer than a reader takes from the jobs to their rows, clocks askew

ORDER = {
    "results": ("model_id", "selection", "eval_set", "metric", "job_id"),
    "curves": ("model_id", "job_id", "epoch"),
    "result_frames": ("model_id", "selection", "eval_set", "job_id", "sample"),
    "result_counts": ("model_id", "selection", "eval_set", "job_id", "sample"),
    "pictures": ("model_id", "job_id", "sample"),
    "similarities": ("job_id", "model_id_a", "model_id_b"),
    "jobs": ("job_id",),
}
"""Tables with one file for each job, which are merged, and the order of rows in merged files: a
question about one model and metric then reads a small part of them. Jobs last: what a dropped
attempt leaves behind in an interruption is then found by its job's row."""


MERGINGS = pa.schema(
    [("table", pa.string()), ("files", pa.int64()), ("into", pa.int64()), ("bytes", pa.int64())],
    metadata={
        "files": "that were merged, or dropped as those of attempts that others replaced",
        "into": "how many",
        "bytes": "of them, before",
    },
)


@dataclass(frozen=True)
class MergeSizes:
    """In bytes. small: from which files are left as they are. large: that are merged into one file;
    about four times that is held in memory. group: of a row group.
    """

    small: int = 32 << 20
    large: int = 96 << 20
    group: int = GROUP


_SIZES = MergeSizes()


def compact(uri: str, sizes: MergeSizes = _SIZES, now: Callable[[], float] = time.time) -> pa.Table:
    """Merge the small files of a store; one row for each table, columns `MERGINGS`.

    Safe beside writers, readers and other compactions. now: the clock by which replaced attempts
    have grown old, seconds since 1970. Raises BikdError where the store cannot be read or written.
    """
    reader = Reader(uri)
    for folder in (*SCHEMAS, "weights", "_work"):
        reader.fs.sweep_up(folder)
    lost = _lost(reader, now())
    return pa.Table.from_pylist([_compact(reader, table, lost, sizes) for table in ORDER], MERGINGS)


def _lost(reader: Reader, now: float) -> pa.Array:
    """Stems of committed attempts that another one has replaced for longer than GRACE."""
    old = f"{int(1000 * (now - GRACE)):012x}"
    every, believed = reader.attempts(), reader.committed("jobs")
    replaced = believed.filter(pc.less(believed["attempt"], old))["job_id"]
    names = joined(every, ["job_id", "attempt"])
    loses = pc.and_(pc.less(every["attempt"], old), pc.is_in(every["job_id"], value_set=replaced))
    winners = joined(believed, ["job_id", "attempt"])
    return names.filter(pc.and_not(loses, pc.is_in(names, value_set=winners)))


def _compact(reader: Reader, table: str, lost: pa.Array, sizes: MergeSizes) -> dict[str, Any]:
    order = [(name, "ascending") for name in ORDER[table]]
    gone, names = _singles_of(reader.listing(table), lost), ["job_id", "attempt"]
    _delete(reader, gone)
    count, into, size = len(gone), 0, sum(stamp[0] for stamp in gone.values())
    for lot in _lots(reader.committed_files(table), sizes):
        try:
            rows, files = reader.sound_rows(table, lot)
        except FileNotFoundError:  # another compaction has merged them
            continue
        if len(files) < 2:
            continue
        rows = rows.filter(pc.invert(pc.is_in(joined(rows, names), value_set=lost)))
        name = f"{table}/{MERGED}{new_attempt()}.parquet"
        reader.fs.write(name, serialised(rows.sort_by(order), sizes.group))
        _delete(reader, files)
        count, into = count + len(files), into + 1
        size += sum(lot[path][0] for path in files)
    return {"table": table, "files": count, "into": into, "bytes": size}


def _singles_of(files: Listing, stems: pa.Array) -> Listing:
    wanted = set(stems.to_pylist())
    return {p: stamp for p, stamp in files.items() if not is_merged(p) and owner(p) in wanted}


def _delete(reader: Reader, paths: Iterable[str]) -> None:
    with ThreadPoolExecutor(DELETERS) as pool:
        list(pool.map(reader.fs.delete, paths))


def _lots(files: Listing, sizes: MergeSizes) -> Iterator[Listing]:
    """Two or more small files at a time, together no more than one file may hold."""
    lot: Listing = {}
    held = 0
    for path, stamp in files.items():
        if stamp[0] >= sizes.small:
            continue
        if held + stamp[0] > sizes.large:
            yield lot
            lot, held = {}, 0
        lot[path], held = stamp, held + stamp[0]
    if len(lot) > 1:
        yield lot
