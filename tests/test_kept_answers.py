"""Answers kept beside the store are what would be worked out now, and only what changed is."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bikd_ray.errors import BikdError, UserError
from bikd_ray.store import Store, queries
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.kept import FOLDER
from tests.synthetic import World, made, zoo

ANSWERS: dict[str, Callable[[Store], pa.Table]] = {
    "gains": lambda store: store.gains(),
    "pairs": lambda store: store.pairs(),
    "groups": lambda store: store.groups(),
    "teachers": lambda store: store.teachers(),
}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return made(tmp_path / "store", World(zoo(4), {("model-000", "model-001"): 3.0}, n=200))


@pytest.fixture
def worked(monkeypatch) -> list[str]:
    """The models of which something is worked out, as they are."""
    seen: list[str] = []
    for name in ("gain_table", "growth_rows"):
        make = getattr(queries, name)

        def counted(learner, make=make):
            seen.append(learner.model_id)
            return make(learner)

        monkeypatch.setattr(queries, name, counted)
    return seen


def kept(uri: str) -> list[Path]:
    return sorted(Path(uri, FOLDER).glob("*.parquet"))


def anew(uri: str, name: str) -> pa.Table:
    """Where nothing is kept."""
    for path in kept(uri):
        path.unlink()
    return ANSWERS[name](Store(uri))


def same(a: pa.Table, b: pa.Table) -> bool:
    """NaN is NaN."""
    return a.schema == b.schema and repr(a.to_pylist()) == repr(b.to_pylist())


@pytest.mark.parametrize("name", ANSWERS)
def test_a_kept_answer_is_the_one_that_would_be_worked_out(uri, worked, name):
    plain = anew(uri, name)
    assert len(plain)
    del worked[:]
    assert same(ANSWERS[name](Store(uri)), plain)
    assert worked == []
    assert len(kept(uri)) == 1


def test_a_new_job_makes_only_its_own_models_be_worked_out(uri, worked):
    [path] = Path(uri, "jobs").glob("*.parquet")
    jobs = pq.read_table(path)
    last = jobs.slice(len(jobs) - 1)  # of the last two models
    pq.write_table(jobs.slice(0, len(jobs) - 1), path)
    for answer in ANSWERS.values():
        answer(Store(uri))
    del worked[:]
    pq.write_table(last, path.with_name(path.name.replace("merged-0", "merged-1")))
    found = {name: answer(Store(uri)) for name, answer in ANSWERS.items()}
    assert {*worked} == {"id-002", "id-003"}
    for name, table in found.items():
        assert same(table, anew(uri, name))


def test_a_question_has_a_file_of_its_own(uri):
    asked = [{"selection": "last"}, {"selection": "best_val"}, {"metric": "top1"}]
    for how in asked:
        Store(uri).gains(**how)
    assert len(kept(uri)) == len(asked)
    Store(uri).gains(None)  # as it was asked first
    Store(uri).gains("bikd")  # a part of it
    assert len(kept(uri)) == len(asked)
    Store(uri).controls()
    assert len(kept(uri)) == len(asked) + 1


def test_a_part_of_what_is_kept_is_what_would_be_worked_out_alone(uri, worked):
    def ask(store: Store) -> list[pa.Table]:
        return [store.partners("model-000"), store.partners("model-001", "bikd"),
                store.gains("bikd"), store.groups("model-002")]  # fmt: skip

    plain = ask(Store(uri))
    for path in kept(uri):
        path.unlink()
    for answer in ANSWERS.values():
        answer(Store(uri))
    del worked[:]
    assert all(map(same, ask(Store(uri)), plain))
    assert worked == []


def test_what_one_model_was_asked_is_not_worked_out_again(uri, worked):
    plain = Store(uri).partners("model-000")
    assert {*worked} == {"id-000"}
    del worked[:]
    assert same(Store(uri).partners("model-000"), plain)
    assert worked == []


def test_gains_of_a_store_that_was_copied_are_not_worked_out_again(tmp_path, uri, worked):
    plain = Store(uri).gains()
    del worked[:]
    other = shutil.copytree(uri, tmp_path / "other", copy_function=shutil.copyfile)
    assert same(Store(str(other)).gains(), plain)
    assert worked == []


def test_a_store_as_of_now_does_not_see_what_comes_later(uri):
    [path] = Path(uri, "jobs").glob("*.parquet")
    jobs = pq.read_table(path)
    pq.write_table(jobs.slice(0, len(jobs) - 1), path)
    store = Store(uri)
    now = store.as_of_now()
    pq.write_table(jobs.slice(len(jobs) - 1), path.with_name("merged-1.parquet"))
    assert len(now.table("jobs")) == len(now.as_of_now().index("jobs")) == len(jobs) - 1
    assert len(store.table("jobs")) == len(store.as_of_now().index("jobs")) == len(jobs)


def test_a_store_as_of_now_is_of_later_where_its_files_were_merged(uri):
    [path] = Path(uri, "jobs").glob("*.parquet")
    now = Store(uri).as_of_now()
    path.rename(path.with_name("merged-1.parquet"))
    assert len(now.table("jobs")) == len(pq.read_table(path.with_name("merged-1.parquet")))


@pytest.mark.parametrize("damage", [b"", b"torn", None], ids=["empty", "foreign", "other columns"])
@pytest.mark.parametrize("name", ["gains", "teachers"])
def test_a_damaged_file_is_worked_out_again(uri, name, damage):
    plain = anew(uri, name)
    [path] = kept(uri)
    if damage is None:
        pq.write_table(pa.table({"model": ["a"]}), path)
    else:
        path.write_bytes(damage)
    assert same(ANSWERS[name](Store(uri)), plain)
    assert same(ANSWERS[name](Store(uri)), plain)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_store_that_can_only_be_read_answers_too(uri):
    plain = anew(uri, "gains")
    for path in kept(uri):
        path.unlink()
    folder = Path(uri, FOLDER)
    folder.chmod(0o500)
    assert same(ANSWERS["gains"](Store(uri)), plain)
    assert kept(uri) == []
    folder.chmod(0o700)


def test_what_cannot_be_kept_beside_the_store_is_kept_on_this_machine(uri, worked, monkeypatch):
    def refused(*_: object) -> None:
        raise BikdError("read only")

    monkeypatch.setattr(StoreFS, "write", refused)
    plain = ANSWERS["gains"](Store(uri))
    assert {*worked} == {f"id-{i:03}" for i in range(4)}
    del worked[:]
    assert same(ANSWERS["gains"](Store(uri)), plain)
    assert worked == [] == kept(uri)


def test_where_nothing_can_be_kept_answers_are_as_before(uri):
    plain = anew(uri, "gains")
    for path in kept(uri):
        path.unlink()
    Path(uri, FOLDER).rmdir()
    Path(uri, FOLDER).write_text("in the way")
    assert same(ANSWERS["gains"](Store(uri)), plain)


def test_what_is_kept_does_not_answer_for_a_question_that_cannot_be_asked(uri):
    store = Store(uri)
    for name in ("gains", "groups", "teachers"):
        ask = getattr(store, name)
        ask()
        for how in ({"objective": "x"}, {"selection": "x"}, {"metric": "x"}):
            with pytest.raises(UserError):
                ask(**how)


def test_a_model_with_another_name_has_it_in_every_answer(uri):
    anew(uri, "gains")
    for path in Path(uri, "models").glob("*.parquet"):
        table = pq.read_table(path)
        names = ["renamed" if name == "model-001" else name for name in table["model"].to_pylist()]
        at = table.schema.get_field_index("model")
        table = table.set_column(at, table.schema.field(at), pa.array(names))
        late = table.schema.get_field_index("attempt")
        newer = pa.array(["1fffffffffff-00000000"] * len(table))
        table = table.set_column(late, table.schema.field(late), newer)
        pq.write_table(table, path.with_name("merged-9renamed.parquet"))
    gains = Store(uri).gains()
    assert "renamed" in gains["model"].to_pylist()
    assert "model-001" not in gains["model"].to_pylist()
