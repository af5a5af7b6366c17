"""Merging small files, beside writers and readers.

A merged file holds every committed row of some smaller files, and these go only once it is there:
at each moment every row stands in some file, and a reader takes one of several equal rows. So an
interrupted merge leaves only repetitions, which the next one removes, and two merges at once do no
more harm than that. Files that are not committed yet are left alone.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from bikd_ray.store.place import Listing
from bikd_ray.store.read import MERGED, Reader
from bikd_ray.store.write import new_attempt, serialised

SMALL = 32 << 20  # bytes; larger files are left as they are
LARGE = 96 << 20  # bytes that are merged into one file; about four times that is held in memory
DELETERS = 16  # at once: on an object store each takes three requests
GROUP = 4 << 20  # bytes of a row group: what a reader takes at least of a file for one model

ORDER = {
    "jobs": ("job_id",),
    "results": ("model_id", "selection", "job_id"),
    "curves": ("model_id", "job_id", "epoch"),
    "similarities": ("job_id", "model_id_a", "model_id_b"),
}
"""Tables with one file for each job, which are merged, and the order of rows in merged files: a
question about one model then reads a small part of them."""


MERGINGS = pa.schema(
    [("table", pa.string()), ("files", pa.int64()), ("into", pa.int64()), ("bytes", pa.int64())],
    metadata={"files": "that were merged", "into": "how many", "bytes": "of them, before"},
)


def compact(uri: str) -> pa.Table:
    """Merge the small files of a store; one row for each table, columns `MERGINGS`.

    Safe beside writers, readers and other compactions. Raises BikdError where the store cannot be
    read or written.
    """
    reader = Reader(uri)
    return pa.Table.from_pylist([_compact(reader, table) for table in ORDER], MERGINGS)


def _compact(reader: Reader, table: str) -> dict[str, Any]:
    order = [(name, "ascending") for name in ORDER[table]]
    count, into, size = 0, 0, 0
    for lot in _lots(reader.committed_files(table)):
        try:
            rows, files = reader.sound_rows(table, lot)
        except FileNotFoundError:  # another compaction has merged them
            continue
        if len(files) < 2:
            continue
        name = f"{table}/{MERGED}{new_attempt()}.parquet"
        reader.place.write(name, serialised(rows.sort_by(order), GROUP))
        with ThreadPoolExecutor(DELETERS) as pool:
            list(pool.map(reader.place.delete, files))
        count, into = count + len(files), into + 1
        size += sum(lot[path][0] for path in files)
    return {"table": table, "files": count, "into": into, "bytes": size}


def _lots(files: Listing) -> Iterator[Listing]:
    """Two or more small files at a time, of LARGE bytes together at most."""
    lot: Listing = {}
    held = 0
    for path, stamp in files.items():
        if stamp[0] >= SMALL:
            continue
        if held + stamp[0] > LARGE:
            yield lot
            lot, held = {}, 0
        lot[path], held = stamp, held + stamp[0]
    if len(lot) > 1:
        yield lot
