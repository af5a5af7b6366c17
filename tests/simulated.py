"""A sweep on a GPU that Ray counts and this machine has not: its jobs compute on the CPU.

`python -m tests.simulated SPEC [--pretend]` prints, as JSON, how many jobs are done and failed and
what parts of the GPU were taken at once.
"""

import json
import logging
import sys
import threading

from bikd_ray.zoo.cost import CUDA_CONTEXT

GPU_BYTES = int((CUDA_CONTEXT + 1.5e6) * 2 / 0.8)
"""A half is enough for networks whose weights and activations take up to 1.5 MB."""


def pretend() -> None:
    """In each process of Ray: the GPU that it was given is this machine's CPU."""
    import torch

    from bikd_ray.sweep import device

    device.device_of = lambda gpus: torch.device("cpu")
    device.gpus_seen = lambda: [GPU_BYTES]


def watch(seen: set[tuple[float, ...]], over: threading.Event) -> None:
    """Note again and again what each placement group has of the GPU."""
    from ray.util import placement_group_table

    while not over.wait(0.1):
        groups = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
        bundles = [bundle for group in groups for bundle in group["bundles"].values()]
        seen.add(tuple(sorted(b["GPU"] for b in bundles if b.get("GPU"))))


def main(path: str, *options: str) -> None:
    from bikd_ray.sweep import ray_env  # noqa: F401  # isort: skip  (before Ray)

    import ray

    from bikd_ray.spec_file import load_spec
    from bikd_ray.sweep.engine import run_sweep

    hook = {"worker_process_setup_hook": "tests.simulated.pretend"} if options else None
    ray.init(
        "local",
        num_cpus=2,
        num_gpus=1,
        runtime_env=hook,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    seen: set[tuple[float, ...]] = set()
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=[seen, over])
    watcher.start()
    try:
        report = run_sweep(load_spec(path))
    finally:
        over.set()
        watcher.join()
    print(json.dumps([report.done, report.failed, sorted(seen)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
