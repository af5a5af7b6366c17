"""GPUs that Ray counts: where torch has none, and shared by jobs that need a part of one."""

import json
import subprocess
import sys

import pytest
import torch

from bikd_ray.errors import UserError
from bikd_ray.sweep.device import device_of
from tests.faults import ROOT, assert_whole


def simulated(path, *options):
    command = [sys.executable, "-m", "tests.simulated", str(path), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_process_takes_no_cpu_where_it_was_given_a_gpu():
    assert device_of(0) == torch.device("cpu")
    if torch.cuda.is_available():
        assert device_of(1).type == "cuda"
        return
    with pytest.raises(UserError, match=r"torch sees none; .* set resources\.gpus_per_job: 0"):
        device_of(0.25)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU that Ray counts is there")
def test_a_gpu_that_torch_does_not_see_ends_a_sweep_at_its_start(spec_file):
    run = simulated(spec_file(resources={"gpus_per_job": 1}))
    last = run.stderr.splitlines()[-1]
    assert last.startswith("bikd_ray.errors.UserError: Ray counts GPUs on ")
    assert last.endswith(
        "and torch sees none; install a torch with CUDA (or ROCm) and the driver there, or set "
        "resources.gpus_per_job: 0 to train on CPUs"
    )


@pytest.mark.slow
def test_jobs_that_need_a_half_share_a_gpu_beside_others_that_need_it_whole(spec_file):
    widths = {"small": 4, "medium": 6, "wide": 4000}
    shape = {"input": {"size": 8, "crop_pct": 1.0}}
    zoo = [
        {"factory": "tests.conftest:net", "alias": a, "kwargs": {"width": w}, **shape}
        for a, w in widths.items()
    ]
    path = spec_file(zoo=zoo, seeds=[0, 1])
    run = simulated(path, "--pretend")
    assert run.returncode == 0, run.stderr
    done, failed, seen = json.loads(run.stdout)
    assert (done, failed) == (12, 0)
    assert [1.0] in seen
    assert [0.5, 0.5] in seen
    assert all(sum(parts) <= 1 for parts in seen)
    assert_whole(path)
