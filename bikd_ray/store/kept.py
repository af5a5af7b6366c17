"""Answers that are kept beside the store, for the command, the report and the app.

Each answer has one file under `_work/answers/`, which says of which files of the store it was
worked out: while these are there and no others, it is read back as it is. Where something has come,
the models whose jobs and baselines are the same keep their rows, and only the rest is worked out.
The files are safe to delete. A store that can only be read keeps its answers in this machine's
cache.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.cache_dir import cache_root, replace_file
from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.store.read import Reader, joined, pc, stem
from bikd_ray.store.series import Measure, done_jobs
from bikd_ray.store.upgrade import VAL

FOLDER = "_work/answers"
VERSION = 2
"""Raised when a change to the code changes an answer."""

WORKED_OUT_OF = ("jobs", "baselines", "pairs", "results", "models", "metrics")
"""Tables whose files an answer comes from; what else there is of a job comes with these."""

ABOUT = b"bikd_answer"
"""Where a file says what it was worked out of."""


@dataclass(frozen=True)
class _Kept:
    """rows: an answer. files: of which it was worked out. context: what every model's rows depend
    on. stamps: model_id -> what changes with the jobs and baselines of this model.
    """

    rows: pa.Table
    files: str = ""
    context: str = ""
    stamps: Mapping[str, str] = field(default_factory=dict)


def by_model(
    reader: Reader,
    what: tuple[object, ...],
    measure: Measure,
    schema: pa.Schema,
    work_out: Callable[[Collection[str]], Iterable[pa.Table]],
    settle: Callable[[pa.Table], pa.Table] = lambda rows: rows,
) -> pa.Table:
    """Rows with a column `model_id`, worked out for those models alone whose rows are not kept.

    what, measure: the question, which names the file. work_out: gives rows of some models.
    settle: what is done to all rows together, some of which may have gone through it before.
    """
    path, files = _path((*what, *measure.key), schema), _files(reader)
    kept = _read(reader, path, schema)
    if kept.files == files:
        return kept.rows
    now, context = _stamps(reader), _context(reader)
    # what was measured later came without a job, so that no stamp tells it
    known = kept.stamps if kept.context == context and measure.eval_set == VAL else {}
    same = [i for i, stamp in now.items() if known.get(i) == stamp]
    rows = kept.rows.filter(pc.is_in(kept.rows["model_id"], value_set=pa.array(same, pa.string())))
    missing = now.keys() - set(same)
    rows = settle(pa.concat_tables([rows, *(work_out(missing) if missing else ())]))
    _write(reader, path, _Kept(rows, files, context, now))
    return rows


def whole(
    reader: Reader, what: tuple[object, ...], schema: pa.Schema, work_out: Callable[[], pa.Table]
) -> pa.Table:
    """An answer that each model has a part in: it is kept while no file comes or goes."""
    path, files = _path(what, schema), _files(reader)
    kept = _read(reader, path, schema)
    if kept.files == files:
        return kept.rows
    rows = work_out()
    _write(reader, path, _Kept(rows, files))
    return rows


def unchanged(
    reader: Reader, what: tuple[object, ...], measure: Measure, schema: pa.Schema
) -> pa.Table | None:
    """What `by_model` has kept; None where that is nothing, or something has come since."""
    kept = _read(reader, _path((*what, *measure.key), schema), schema)
    return kept.rows if kept.files == _files(reader) else None


def _path(what: tuple[object, ...], schema: pa.Schema) -> str:
    return f"{FOLDER}/{digest(VERSION, *what, schema.names)}.parquet"


def _files(reader: Reader) -> str:
    """What changes with every file that answers are worked out of."""
    found = ((name, reader.listing(name)) for name in WORKED_OUT_OF)
    listed = [(name, [(stem(path), *of) for path, of in some.items()]) for name, some in found]
    return blake2b(repr(listed).encode(), digest_size=16).hexdigest()


def _context(reader: Reader) -> str:
    """What changes with a model's new name, with what is measured, and against what."""
    return digest(
        reader.names.changed, sorted(map(str, reader.metrics.items())), sorted(reader.untouched)
    )


def _write(reader: Reader, path: str, kept: _Kept) -> None:
    about = {"files": kept.files, "context": kept.context, "stamps": dict(kept.stamps)}
    sink = pa.BufferOutputStream()
    marked = kept.rows.replace_schema_metadata({ABOUT: json.dumps(about)})
    pq.write_table(marked, sink, compression="zstd")
    content = memoryview(sink.getvalue())
    try:
        if reader.fs.is_folder():  # a question makes no store
            reader.fs.write(path, content)
    except BikdError:  # a store that can only be read
        with contextlib.suppress(OSError):
            replace_file(_elsewhere(reader, path), content)


def _read(reader: Reader, path: str, schema: pa.Schema) -> _Kept:
    """What is kept; nothing where there is none yet, or it is damaged."""
    for read in (lambda: reader.fs.read(path), lambda: _elsewhere(reader, path).read_bytes()):
        with contextlib.suppress(BikdError, pa.ArrowException, OSError, KeyError, ValueError):
            rows = pq.read_table(pa.BufferReader(read()))
            about = json.loads((rows.schema.metadata or {})[ABOUT])
            if rows.schema.equals(schema):
                rows = rows.replace_schema_metadata(schema.metadata)
                return _Kept(rows, about["files"], about["context"], about["stamps"])
    return _Kept(schema.empty_table())


def _elsewhere(reader: Reader, path: str) -> Path:
    """In this machine's cache."""
    return cache_root() / "answers" / digest(reader.fs.uri) / stem(path)


def _stamps(reader: Reader) -> dict[str, str]:
    """model_id -> what changes with every job of it and with its baselines, in any order."""
    done = done_jobs(reader)
    numbers = _numbers(joined(done.jobs, ["job_id", "attempt"]))
    names = ["model_id", "data_id", "attempt"]
    baselines = reader.committed("baselines").select(names).group_by(names).aggregate([])
    found: dict[str, int] = {}
    own = _numbers(joined(baselines, names))
    for model_id, number in zip(baselines["model_id"].to_pylist(), own.tolist(), strict=True):
        jobs = int(numbers[done.jobs_of(model_id)].sum(dtype=np.uint64))
        found[model_id] = (found.get(model_id, jobs) + number) % 2**64
    return {model_id: f"{stamp:016x}" for model_id, stamp in found.items()}


def _numbers(texts: pa.Array) -> np.ndarray:
    """A 64-bit number for each text, as a hash gives it: their sums tell sets of texts apart."""
    width = -(-(pc.max(pc.binary_length(texts)).as_py() or 1) // 8) * 8
    padded = pc.utf8_rpad(texts, width).cast(pa.binary()).cast(pa.binary(width))
    content = padded.buffers()[1]
    words = np.frombuffer(content, np.uint64)[padded.offset * width // 8 :].reshape(-1, width // 8)
    mixed = np.full(len(texts), 0x9E3779B97F4A7C15, np.uint64)
    for word in words.T:  # the steps of splitmix64 (Steele, Lea and Flood, 2014)
        mixed += word
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
