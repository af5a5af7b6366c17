"""A run that is cut off goes on from its saved state, bit for bit."""

import io
from typing import Any

import pytest
import torch

from bikd_ray.specs import Resources
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.sweep.checkpoints import StoredStates
from bikd_ray.train import Fit, fit
from bikd_ray.train.parallel import ALONE, Workers
from tests.plain_loop import CPU, NAMES, assert_equal, job_of, networks_of, noisy_zoo

RECIPE = {
    "epochs": 3, "batch_size": 16, "lr": 1e-2, "schedule": "cosine", "ema": 0.9, "clip_norm": 1.0,
}  # fmt: skip
EVERY_STEP: dict[str, Any] = {"resources": Resources(save_every=0), "log_every": 1}


class Memory:
    """States of a run, all kept."""

    def __init__(self, kept: dict[int, bytes] | None = None) -> None:
        self.kept = kept or {}

    def steps(self) -> list[int]:
        return list(self.kept)

    def read(self, step: int) -> bytes:
        return self.kept[step]

    def write(self, step: int, content: bytes) -> None:
        self.kept[step] = content

    def forget(self, before: int) -> None:
        pass


@pytest.fixture
def job(spec_file, images):
    data = {
        **{
            s: {"source": "parquet", "path": str(images / f"{s}.parquet")} for s in ("train", "val")
        },
        "cache": str(images / "views"),
        "select_fraction": 0.2,
    }
    return job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=noisy_zoo(), data=data)


def run(job, states) -> tuple[list, Fit]:
    *rows, end = fit(job, networks_of(job), CPU, **EVERY_STEP, states=states)
    assert isinstance(end, Fit)
    return rows, end


def assert_same_run(found: tuple[list, Fit], whole: tuple[list, Fit]) -> None:
    assert found[0] == whole[0]
    assert found[1].chosen.keys() == whole[1].chosen.keys() == {"last", "best_val", "best_select"}
    for selection, members in whole[1].chosen.items():
        for a, b in zip(found[1].chosen[selection], members, strict=True):
            assert a.epoch == b.epoch
            assert_equal(a.state, b.state)
            assert (a.outcome.statistics["predicted"] == b.outcome.statistics["predicted"]).all()
    assert found[1].likeness == whole[1].likeness


def test_a_run_that_is_cut_off_at_any_step_ends_as_if_it_had_not_been(job):
    states = Memory()
    whole = run(job, states)
    assert len(states.kept) == whole_steps(job)
    assert_same_run(run(job, None), whole)
    for step, content in states.kept.items():
        assert_same_run(run(job, Memory({step: content})), whole)


def whole_steps(job) -> int:
    learning = 62 - round(0.2 * 62)
    return job.recipe.epochs * -(-learning // 16)


def test_damaged_states_are_passed_over(job):
    states = Memory()
    whole = run(job, states)
    last = max(states.kept)
    torn = {last: states.kept[last][:-100], last - 1: b"", last - 2: b"PK\x03\x04 no state"}
    assert_same_run(run(job, Memory({**states.kept, **torn})), whole)
    assert_same_run(run(job, Memory(torn)), whole)


def test_states_in_a_store_are_whole_bounded_and_of_one_placement(fs_uri):
    fs = StoreFS.at(fs_uri)
    kept = StoredStates(fs, "job", ALONE)
    assert kept.steps() == []
    for step in (50, 100):
        kept.write(step, str(step).encode())
    assert sorted(kept.steps()) == [50, 100]
    kept.forget(100)
    assert (kept.steps(), kept.read(100)) == ([100], b"100")
    assert StoredStates(fs, "job", Workers(2, 1, 1)).steps() == []  # another placement's
    one, two = (StoredStates(fs, "job", Workers(2, 1, rank)) for rank in (0, 1))
    one.write(7, b"one")
    assert (one.steps(), two.steps()) == ([7], [])  # each worker of a model has its own
    shared = [StoredStates(fs, "job", Workers(1, 2, rank)) for rank in (0, 1)]
    shared[0].write(9, b"all")
    assert [of_rank.read(9) for of_rank in shared] == [b"all"] * 2


def test_weights_that_nobody_keeps_are_neither_copied_nor_saved(job):
    def sizes(*keep: str) -> tuple[int, set[str]]:
        states = Memory()
        *_, end = fit(job, networks_of(job), CPU, **EVERY_STEP, states=states, keep=keep)
        assert isinstance(end, Fit)
        held = {s for s, chosen in end.chosen.items() if any(c.state is not None for c in chosen)}
        assert held == set(keep)
        return max(map(len, states.kept.values())), held

    weights = sum(t.nbytes for net in networks_of(job) for t in net.state_dict().values())
    none, last, best, both = sizes(), sizes("last"), sizes("best_val"), sizes("best_val", "last")
    assert none[0] == pytest.approx(last[0], abs=weights / 4)  # the last is not known before
    assert best[0] - none[0] > 0.9 * weights
    assert best[0] == pytest.approx(both[0], abs=weights / 4)


def test_a_state_without_weights_that_are_now_to_be_kept_is_not_used(job):
    def run(keep: tuple[str, ...], states: Memory | None) -> tuple[list, Fit]:
        *rows, end = fit(job, networks_of(job), CPU, **EVERY_STEP, states=states, keep=keep)
        assert isinstance(end, Fit)
        return rows, end

    everything, lean = ("last", "best_val", "best_select"), Memory()
    whole = run(everything, None)
    run((), lean)
    step, content = max(lean.kept.items())
    assert_same_run(run(everything, Memory({step: content})), whole)
    _, end = run(("best_val",), Memory({step: content}))
    assert all(chosen.state for chosen in end.chosen["best_val"])
    rows, _ = run(("last",), Memory({step: content}))
    assert rows == whole[0]


def test_a_state_is_read_without_running_what_is_in_it(job):
    states = Memory()
    run(job, states)
    content = torch.load(io.BytesIO(states.kept[3]), weights_only=True)
    assert content["at"]["step"] == 3
