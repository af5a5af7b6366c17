"""What only a GPU can show; without one all of it is skipped."""

import copy

import numpy as np
import pytest
import torch

from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import open_images
from bikd_ray.specs import Resources
from bikd_ray.train import Fit, fit
from bikd_ray.train.fit import _Run
from bikd_ray.train.parallel import ALONE
from bikd_ray.train.step import train_step
from tests.plain_loop import CPU, NAMES, assert_close, job_of, networks_of, noisy_zoo

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CUDA = torch.device("cuda")
QUIET = noisy_zoo(dropout=0.0)
RECIPE = {"epochs": 2, "batch_size": 20, "lr": 1e-2}


def trained(job, networks, device=CUDA, **resources) -> list[dict]:
    """The members' weights at the end, on the CPU."""
    networks = copy.deepcopy(networks)
    *_, end = fit(job, networks, device, resources=Resources(**resources), similarity=False)
    assert isinstance(end, Fit)
    kept = [chosen.state for chosen in end.chosen["last"]]
    return [{k: v.cpu() for k, v in state.items()} for state in kept if state is not None]


def same(job, networks, tolerance, device=CUDA, **resources) -> None:
    """Whether a job ends as it does on the CPU."""
    got, want = trained(job, networks, device, **resources), trained(job, networks, CPU)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, tolerance)


@pytest.mark.parametrize("objective", ["bikd", "dml", "kd", "kl_dp", "ce", "self"])
def test_a_job_ends_as_on_the_cpu(spec_file, objective):
    members = NAMES[:1] if objective in ("ce", "self") else NAMES
    if objective == "kd":
        members = NAMES[:2]
    job = job_of(spec_file, members, {"name": objective}, recipe=RECIPE, zoo=QUIET)
    same(job, networks_of(job), 1e-8)


def test_parts_of_a_batch_add_up_to_it(spec_file):
    quiet = noisy_zoo(dropout=0.0, norm=False)  # statistics of parts are not those of the whole
    job = job_of(spec_file, NAMES, {"name": "bikd"}, recipe=RECIPE, zoo=quiet)
    same(job, networks_of(job), 1e-8, micro_batch=7)


def test_compiled_networks_end_close_to_plain_ones(spec_file):
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    same(job, networks_of(job, wrap=lambda network: network), 1e-3, compile=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("objective", ["bikd", "dml", "kl_dp"])
def test_a_step_does_not_wait_for_the_gpu(spec_file, precision, objective):
    recipe = {**RECIPE, "precision": precision, "clip_norm": 1.0, "schedule": "cosine"}
    job = job_of(spec_file, NAMES, {"name": objective}, recipe=recipe, zoo=noisy_zoo())
    networks = networks_of(job, wrap=lambda network: network)
    run = _Run(job, networks, CUDA, 0, False, Resources(), ALONE, ())
    batches = list(run.train.batches(run.rows, 20))
    for step in (0, 1):  # the optimiser's state is made, kernels are chosen
        run.tally.add(train_step(run.sources, batches[0], step), step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(batches[:3], 2):
            run.tally.add(train_step(run.sources, batch, step), step)
        with pytest.raises(RuntimeError):  # it would have been seen
            bool(torch.ones((), device=CUDA) > 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_copies_beside_busy_kernels_arrive_whole(spec_file):
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    images, views = open_images(job.data.data.train), [m.input.view for m in job.members]
    here, there = (Loader(images, views, device) for device in (CPU, CUDA))
    order = np.arange(len(images.labels))
    busy = torch.rand(4096, 4096, device=CUDA)
    for plain, copied in zip(here.batches(order, 7), there.batches(order, 7), strict=True):
        busy = busy @ busy / 4096
        assert torch.equal(copied.target.cpu(), plain.target)
        for view, pixels in plain.views.items():
            assert torch.equal(copied.views[view].cpu(), pixels)
