"""What the app keeps of a store that grows, without a browser."""

import threading

import pytest

from bikd_dashboards.live import KEPT, Live
from bikd_dashboards.snapshot import Snapshot
from bikd_ray.store import Store
from bikd_ray.store.write import Writer
from tests.drawn import sweep


@pytest.fixture
def live(tmp_path) -> Live:
    sweep(tmp_path / "s", ("vit", "convnext"), seeds=(0,))
    return Live(Store(str(tmp_path / "s")))


def test_a_drawing_that_takes_long_is_handed_out_once_it_is_done(live):
    may_end, begun = threading.Event(), []

    def draw() -> str:
        begun.append(1)
        assert may_end.wait(60)
        return "drawn"

    assert live.drawn("page", draw, wait=0.01) is None
    assert live.drawn("another", lambda: "at once", wait=60) == "at once"
    may_end.set()
    assert live.drawn("page", draw, wait=60) == "drawn"
    assert len(begun) == 1


def test_a_drawing_that_failed_is_tried_again(live):
    def fail() -> None:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="away"):
        live.drawn("page", fail, wait=60)
    assert live.drawn("page", lambda: "back", wait=60) == "back"


def test_the_drawings_kept_are_those_used_last(live):
    for i in range(KEPT):
        assert live.drawn(i, lambda i=i: f"first {i}", wait=60) == f"first {i}"
    live.drawn(0, lambda: "", wait=60)
    live.drawn("one more", lambda: "", wait=60)
    assert live.drawn(0, lambda: "second", wait=60) == "first 0"
    assert live.drawn(1, lambda: "second", wait=60) == "second"


def test_an_answer_waits_for_no_other_and_is_worked_out_once(live):
    now, may_end, worked = Snapshot(live.store), threading.Event(), []

    def slow() -> int:
        worked.append(1)
        assert may_end.wait(60)
        return 7

    asking = [threading.Thread(target=now.once, args=(("slow",), slow)) for _ in range(3)]
    for thread in asking:
        thread.start()
    assert now.once(("quick",), lambda: len(now.jobs)) == 3
    may_end.set()
    for thread in asking:
        thread.join()
    assert (now.once(("slow",), slow), len(worked)) == (7, 1)


def test_the_sizes_of_one_model_are_its_rows_of_all(live):
    now = Snapshot(live.store)
    for model_id in now.baselines["model_id"].to_pylist():
        rows = [r for r in now.groups("last").to_pylist() if r["model_id"] == model_id]
        assert rows
        assert now.sizes(model_id, "last").to_pylist() == rows


def test_what_was_measured_after_its_job_is_news(live):
    def number() -> int:
        """Of the snapshot after another look at the store."""
        with live._busy:  # no look is under way
            live._next = 0.0
        live.look()
        with live._busy:
            return live.now(60)[0]

    rows = live.store.table("results").to_pylist()
    first = rows[0]
    assert number() == number() == 1
    mine = [row for row in rows if row["job_id"] == first["job_id"]]
    found = [{**row, "eval_set": "more"} for row in mine]
    Writer(live.store.uri).write_later(first["job_id"], first["attempt"], "more", found)
    assert number() == number() == 2


def test_a_setting_of_which_one_job_can_be_read_is_shown(tmp_path):
    sweep(tmp_path / "s", ("vit", "convnext", "mixer"), seeds=(0,))
    store = Store(str(tmp_path / "s"))
    whole = Snapshot(store).settings
    for objective in ("bikd", "ce"):
        of_it = [row for row in store.table("jobs").to_pylist() if row["objective"] == objective]
        for gone in sorted(row["job_id"] for row in of_it)[:-1]:
            [file] = (tmp_path / "s" / "results").glob(f"{gone}-*.parquet")
            file.unlink()
    assert Snapshot(Store(store.uri)).settings == whole
    assert [one.objective for one in whole] == ["bikd"]
