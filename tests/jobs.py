"""A job at work here and now, without Ray."""

import torch

from bikd_ray.sweep.events import JobRequest, JobResult
from bikd_ray.sweep.job import run_job

CPU = torch.device("cpu")


def result_of(request: JobRequest, device: torch.device = CPU) -> JobResult:
    """The last that its worker says."""
    *_, end = run_job(request, device)
    assert isinstance(end, JobResult)
    return end
