"""Segmentation on several workers: by models and by samples, of two and of three members."""

import numpy as np
import pytest
import torch

from bikd_ray.plan import Job, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.train import EpochRow, Fit, fit
from tests.placed import run_placed
from tests.plain_loop import CPU, networks_of
from tests.scene_nets import TWO, entry, scene_spec

ONE_MODEL_EACH, SHARES = (2, 1), (1, 2)
"""Of two workers."""


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    """Of two families, whose losses do not compare, and of one, whose losses do."""
    spec = scene_spec(
        [*TWO, entry("Pixels", "wide", width=12)],
        pairings={"list": [["pixels", "masks"], ["pixels", "masks", "wide"]]},
        recipe={"epochs": 1, "batch_size": 7, "optimizer": "adamw", "lr": 3e-3},
    )
    return [job for job in all_jobs(spec, *resolve(spec)) if len(job.members) > 1]


def by_one_process(job: Job) -> tuple[list[EpochRow], Fit]:
    """The rows of the last epoch, and the end."""
    last: list[EpochRow] = []
    for message in fit(job, networks_of(job), CPU, untouched=lambda k: networks_of(job)[k]):
        if isinstance(message, Fit):
            return last, message
        if isinstance(message, list):
            last = message
    raise AssertionError("no end")


def test_members_or_samples_on_workers_of_their_own_change_nothing(jobs, tmp_path):
    """Losses are normalised image by image and points are drawn by image and step, so that parts
    of a batch add up to it.
    """
    assert [len(job.members) for job in jobs] == [2, 3]
    cases = [(job, grid) for job in jobs for grid in (ONE_MODEL_EACH, SHARES)]
    found = run_placed(cases, 2, tmp_path)
    for (job, grid), ranks in zip(cases, found, strict=True):
        last, alone = by_one_process(job)
        for k, one in enumerate(alone.chosen["last"]):
            of = ranks[k % 2 if grid == ONE_MODEL_EACH else 0]
            for name, tensor in (one.state or {}).items():
                assert torch.allclose(of["states"][k][name], tensor, rtol=1e-5, atol=1e-7), name
            for told in ranks:
                for name, counts in one.outcome.statistics.items():
                    assert np.allclose(told["statistics"][k][name], counts, rtol=1e-5), name
                assert told["rows"][-1][k].score == pytest.approx(last[k].score, rel=1e-9)
                assert told["rows"][-1][k].teacher_share == last[k].teacher_share
                assert told["rows"][-1][k].kl == pytest.approx(last[k].kl, rel=1e-5)
        for told in ranks:
            assert told["ensemble"][1]["miou"] == pytest.approx(alone.ensemble_after.values["miou"])
            assert told["pictures"].failed is None
        assert ranks[0]["pictures"].found == alone.pictures.found
        assert alone.pictures.found
