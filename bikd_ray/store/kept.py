"""Answers that are kept beside the store, model by model, for the command, the report and the app.

What is worked out of a model's rows changes only when a job or a baseline of that model is added,
or when a model gets another name. So each answer has one file under `_work/answers/`, whose parts
say of which state of which model they are: what is still true is read back, the rest is worked out
and the file replaced. It is safe to delete, and where the store can only be read nothing is kept.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bikd_ray.errors import BikdError
from bikd_ray.identity import digest
from bikd_ray.store.read import Reader, joined, pc
from bikd_ray.store.series import DoneJobs

FOLDER = "_work/answers"
VERSION = 1
"""Raised when a change to the code changes an answer."""

STAMP, OWNER = "__stamp", "__model"


def by_model(
    reader: Reader,
    what: tuple[object, ...],
    schema: pa.Schema,
    work_out: Callable[[Collection[str]], Iterable[tuple[str, pa.Table]]],
) -> pa.Table:
    """Rows of all models in any order, worked out for those alone whose rows are not kept.

    what: the question, which names the file. work_out: gives (model_id, rows) of some models.
    """
    stamps = _stamps(reader)
    form = pa.schema([(STAMP, pa.string()), (OWNER, pa.string()), *schema])
    path = f"{FOLDER}/{digest(VERSION, *what, _called(reader), schema.names)}.parquet"
    kept = _read(reader, path, form)
    now = [f"{model_id} {stamp}" for model_id, stamp in stamps.items()]
    of = pc.binary_join_element_wise(kept[OWNER], kept[STAMP], " ")
    kept = kept.filter(pc.is_in(of, value_set=pa.array(now, pa.string())))
    missing = stamps.keys() - set(kept[OWNER].unique().to_pylist())
    if missing:
        parts = [*work_out(missing)]
        # a model without rows is remembered by one that holds nothing
        parts += [(i, _nothing(schema)) for i in missing - {model_id for model_id, _ in parts}]
        kept = pa.concat_tables([kept, *(_marked(part, i, stamps[i], form) for i, part in parts)])
        _write(reader, path, kept)
    return _answers(kept, schema)


def whole(
    reader: Reader, what: tuple[object, ...], schema: pa.Schema, work_out: Callable[[], pa.Table]
) -> pa.Table:
    """The same for an answer that each model has a part in: it is kept while no model changes."""
    form = pa.schema([(STAMP, pa.string()), (OWNER, pa.string()), *schema])
    path = f"{FOLDER}/{digest(VERSION, *what, _called(reader), schema.names)}.parquet"
    stamp = digest(sorted(_stamps(reader).items()))
    kept = _read(reader, path, form)
    if stamp not in kept[STAMP].unique().to_pylist():
        found = work_out()
        marked = [_marked(part, "", stamp, form) for part in (_nothing(schema), found)]
        kept = pa.concat_tables(marked)
        _write(reader, path, kept)
    return _answers(kept, schema)


def _write(reader: Reader, path: str, kept: pa.Table) -> None:
    with contextlib.suppress(BikdError):  # a store that can only be read
        sink = pa.BufferOutputStream()
        pq.write_table(kept, sink, compression="zstd")
        reader.fs.write(path, memoryview(sink.getvalue()))


def _answers(kept: pa.Table, schema: pa.Schema) -> pa.Table:
    rows = kept.filter(pc.is_valid(kept[schema.names[0]]))
    return rows.select(schema.names).cast(schema)


def _read(reader: Reader, path: str, form: pa.Schema) -> pa.Table:
    """What is kept; nothing where there is none yet, or it is damaged."""
    with contextlib.suppress(FileNotFoundError, BikdError, pa.ArrowException, OSError):
        found = pq.read_table(pa.BufferReader(reader.fs.read(path)))
        if found.schema.equals(form):
            return found
    return form.empty_table()


def _marked(part: pa.Table, model_id: str, stamp: str, form: pa.Schema) -> pa.Table:
    marks = [pa.array([value] * len(part), pa.string()) for value in (stamp, model_id)]
    return pa.Table.from_arrays([*marks, *part.columns], schema=form)


def _nothing(schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(1, f.type) for f in schema], schema=schema)


def _called(reader: Reader) -> str:
    """What changes with any model's name, with what is measured, and against what."""
    return digest(
        sorted(reader.names.newest.items()),
        sorted(map(str, reader.metrics.items())),
        sorted(reader.untouched),
    )


def _stamps(reader: Reader) -> Mapping[str, str]:
    return reader.derived(
        "stamps",
        lambda *_: stamps(reader),
        reader.committed("jobs"),
        reader.committed("baselines"),
    )


def stamps(reader: Reader) -> Mapping[str, str]:
    """model_id -> what changes with every job of it and with its baselines, in any order."""
    done = reader.derived("done", DoneJobs, reader.committed("jobs"))
    stems = joined(done.jobs, ["job_id", "attempt"]).to_pylist()
    numbers = np.array([_number(stem) for stem in stems], np.uint64)
    found: dict[str, int] = {}
    names = ["model_id", "data_id", "attempt"]
    baselines = reader.committed("baselines").group_by(names).aggregate([])
    for row in baselines.to_pylist():
        model_id = row["model_id"]
        own = numbers[done.jobs_of(model_id)].sum(dtype=np.uint64) if len(numbers) else 0
        number = _number(f"{row['data_id']}-{row['attempt']}")
        found[model_id] = (found.get(model_id, int(own)) + number) % 2**64
    return {model_id: f"{stamp:016x}" for model_id, stamp in found.items()}


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
