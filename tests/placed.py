"""Jobs at work on several processes, as the workers of a placement."""

import socket
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bikd_ray.plan import Job
from bikd_ray.train import Fit, fit
from bikd_ray.train.parallel import Workers
from tests.plain_loop import CPU, networks_of

Case = tuple[Job, tuple[int, int]]
"""A job, and its workers: rows of models, shares of samples."""


def run_placed(cases: Sequence[Case], count: int, folder: Path) -> list[list[dict[str, Any]]]:
    """What each worker came to in each case: [case][rank]."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    start = get_context("forkserver")  # what all import is imported once
    start.set_forkserver_preload(["tests.placed"])
    workers = [
        start.Process(target=_work, args=(list(cases), rank, count, address, folder))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    return [
        [torch.load(folder / f"{case}-{rank}.pt", weights_only=False) for rank in range(count)]
        for case in range(len(cases))
    ]


def _work(cases: list[Case], rank: int, count: int, address: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    for number, (job, grid) in enumerate(cases):
        workers = Workers(*grid, rank)
        networks = [n if workers.has(k) else None for k, n in enumerate(networks_of(job))]
        rows = []
        untouched = partial(_untouched, job)
        for message in fit(job, networks, CPU, workers=workers, untouched=untouched):
            if isinstance(message, Fit):
                torch.save(_found(rows, message), folder / f"{number}-{rank}.pt")
            else:
                rows.append(message)
    dist.destroy_process_group()


def _untouched(job: Job, k: int) -> nn.Module:
    return networks_of(job)[k]


def _found(rows: list, end: Fit) -> dict[str, Any]:
    last = end.chosen["last"]
    return {
        "rows": rows,
        "states": [chosen.state for chosen in last],
        "statistics": [chosen.outcome.statistics for chosen in last],
        "ensemble": [e and e.values for e in (end.before.ensemble, end.ensemble_after)],
        "likeness": end.likeness,
        "further": {
            name: {s: [one.values for one in of] for s, of in by.items()}
            for name, by in end.further.outcomes.items()
        },
        "failed": end.further.failed,
        "pictures": end.pictures,
    }
