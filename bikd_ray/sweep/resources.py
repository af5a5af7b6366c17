"""What the cluster has, what a job needs, and how many jobs fit at once."""

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bikd_ray.errors import UserError
from bikd_ray.specs import Resources
from bikd_ray.store.place import Place
from bikd_ray.store.write import new_attempt
from bikd_ray.sweep.slot import Needs

DRIVER_MEMORY = 2**30
"""Bytes that a trial's own processes reserve. Reserving memory and no CPU means that a job waits
for one thing only, its worker's resources, so that jobs cannot wait for each other in a ring."""


def nodes() -> list[dict[str, float]]:
    """The resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def needs_of(spec: Resources, has: list[dict[str, float]]) -> Needs:
    """One job's needs; `auto` is one GPU and four CPUs where there are GPUs, else one CPU.

    Raises UserError for what no node of the cluster can ever give.
    """
    gpus = max((node.get("GPU", 0) for node in has), default=0)
    cpus = max((node.get("CPU", 0) for node in has), default=0)
    want_gpus = min(1.0, gpus) if spec.gpus_per_job == "auto" else float(spec.gpus_per_job)
    per_gpu = cpus / gpus if gpus else cpus
    auto_cpus = max(1.0, min(4.0, per_gpu)) if want_gpus else 1.0
    want_cpus = auto_cpus if spec.cpus_per_job == "auto" else float(spec.cpus_per_job)
    for name, wanted, largest in (
        ("gpus_per_job", want_gpus, gpus),
        ("cpus_per_job", want_cpus, cpus),
    ):
        if wanted > largest:
            raise UserError(
                f"resources.{name} is {wanted:g}, but the largest node has {largest:g}; "
                f"lower it, or leave it out to use what there is"
            )
    return Needs(want_cpus, want_gpus)


def slots(needs: Needs, has: list[dict[str, float]]) -> int:
    """How many jobs of these needs the cluster can run at once, at least 1."""

    def on(node: dict[str, float]) -> int:
        limits = [node.get("CPU", 0) // needs.cpus if needs.cpus else float("inf")]
        if needs.gpus:
            gpus = node.get("GPU", 0)
            limits.append(gpus // needs.gpus if needs.gpus >= 1 else gpus * (1 // needs.gpus))
        limits.append(node.get("memory", 0) // DRIVER_MEMORY)
        return int(min(limits))

    return max(1, sum(on(node) for node in has))


def check_shared(place: Place) -> None:
    """See that every node reaches a local store: each looks for a file that is put there.

    Raises UserError that names the nodes which do not see it.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if not place.is_local or len(alive) < 2:
        return
    work = f"_work/shared-{new_attempt()}"
    place.write(f"{work}/here", b"")
    look = ray.remote(os.path.exists)
    try:
        seen = ray.get(
            [
                look.options(
                    num_cpus=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                ).remote(place.path(f"{work}/here"))
                for node in alive
            ]
        )
    finally:
        place.remove(work)
    blind = [
        node["NodeManagerHostname"] for node, sees in zip(alive, seen, strict=True) if not sees
    ]
    if blind:
        raise UserError(
            f"store {place.uri} is a folder that {', '.join(blind)} cannot see; give a folder on "
            "a shared mount, s3://… or gs://…"
        )


def task_options(needs: Needs) -> dict[str, Any]:
    """The needs as options of a Ray task."""
    return {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
