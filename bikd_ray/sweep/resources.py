"""What the cluster has and what a job needs of it."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import psutil
import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bikd_ray import __version__
from bikd_ray.cache_dir import usable_cpus
from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import Cost, Job
from bikd_ray.specs import Resources
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.write import new_attempt
from bikd_ray.sweep.capacity import GPU_MEMORY, Node, ResourceRequest, fits, shortage
from bikd_ray.sweep.connection import ours
from bikd_ray.sweep.device import gpus_seen, no_gpu
from bikd_ray.train.evaluate import EVAL_BATCH
from bikd_ray.zoo.cost import inference_bytes, job_bytes

SHARED = 2
"""Workers of a `data_parallel` job where the spec gives no number."""

STEP = 1e-4
"""The smallest part of a resource that Ray counts."""

MOST_ASKED = 2000
"""Bundles that an autoscaler is asked for at once, more than any cluster has room for."""


def nodes() -> list[Node]:
    """The resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def reach(spec: Resources, *, grows: bool) -> list[Node]:
    """The nodes of the cluster, and if it grows those that may come."""
    return grown(spec, nodes()) if grows else nodes()


def ask(needs: Sequence[ResourceRequest]) -> None:
    """Have an autoscaler see to it that so much fits; elsewhere this says nothing to anybody."""
    bundles = [one.bundle for one in needs for _ in range(one.workers)]
    request_resources(bundles=bundles[:MOST_ASKED])


def grown(spec: Resources, has: Sequence[Node]) -> list[Node]:
    """Nodes with those that an autoscaler may start beside them, as the spec says."""
    there = Counter((node.get("CPU", 0), node.get("GPU", 0)) for node in has)
    to_come: list[Node] = []
    for kind in spec.autoscaler:
        memory = kind.memory * 2**30 if kind.memory else inf
        node = {"CPU": kind.cpus, "GPU": kind.gpus, "memory": memory}
        to_come += [node] * max(0, kind.count - there[kind.cpus, kind.gpus])
    return [*has, *to_come]


def this_machine() -> list[Node]:
    """The resources that Ray would find here if it were started now."""
    gpus = gpus_seen()
    memory = 0.7 * psutil.virtual_memory().available
    return [{"CPU": usable_cpus(), "GPU": len(gpus), "memory": memory, **_known(gpus)}]


def check_fits(needs: ResourceRequest, has: Sequence[Node]) -> None:
    """Raises UserError for what the cluster can never give."""
    if short := shortage(needs, has):
        raise UserError(
            f"resources: {short}; lower gpus_per_job and cpus_per_job, or give them where they are "
            "auto, choose another placement, or say under resources.autoscaler what nodes it may "
            "grow by"
        )


def uses_gpus(spec: Resources, has: Sequence[Node]) -> bool:
    """Whether jobs train on GPUs: as the spec says, else if some node has one."""
    if spec.gpus_per_job == "auto":
        return any(node.get("GPU", 0) >= 1 for node in has)
    return spec.gpus_per_job > 0


def job_needs(spec: Resources, job: Job, has: Sequence[Node]) -> ResourceRequest:
    """What one job occupies: what the spec gives, in equal shares of the workers of this job.

    `auto` is a GPU for each worker, or of a GPU no more than the job's memory asks for where the
    job has one worker; and of CPUs up to four beside a GPU, else one.
    """
    workers, gpus = _workers(spec, job, has), uses_gpus(spec, has)
    if spec.gpus_per_job == "auto":
        share = float(gpus)
    else:
        share = _share(spec.gpus_per_job, workers)
        if spec.placement != "together":  # a worker computes on one GPU at most
            share = min(1.0, share)
    given = spec.cpus_per_job
    cpus = _cpus_beside(share, has) if given == "auto" else _share(given, workers)
    one = ResourceRequest(cpus, share)
    if workers == 1 and gpus and spec.gpus_per_job == "auto":
        part = part_of(one, job_bytes(job), has)
        return part if given == "auto" else ResourceRequest(cpus, part.gpus)
    return ResourceRequest(workers * one.cpus, workers * one.gpus, workers)


def _workers(spec: Resources, job: Job, has: Sequence[Node]) -> int:
    """Of a job: so many for each of its models, or one for each GPU (CPU, without any) that it may
    have.
    """
    if spec.placement == "one_model_per_worker":
        return len(job.members) * spec.workers_per_model
    if spec.placement == "data_parallel":
        given = spec.gpus_per_job if uses_gpus(spec, has) else spec.cpus_per_job
        return SHARED if given == "auto" else max(1, int(given))
    return 1


def _share(given: float, workers: int) -> float:
    """One worker's part in whole steps of Ray, which would otherwise round it up."""
    return max(STEP, int(given / workers / STEP + 1e-6) * STEP) if given else 0.0


def _cpus_beside(gpus: float, has: Sequence[Node]) -> float:
    """CPUs for a worker with so much of a GPU: up to four, while no GPU waits for a CPU."""
    with_gpus = [node for node in has if node.get("GPU", 0) >= 1]
    if not gpus or not with_gpus:
        return 1.0
    return max(1.0, min(4.0, *(n.get("CPU", 0) * gpus // n["GPU"] for n in with_gpus)))


def baseline_needs(spec: Resources, cost: Cost, has: Sequence[Node]) -> ResourceRequest:
    """What one baseline occupies, a single process whatever the jobs are: no more of a GPU than
    its memory asks for; without GPUs the CPUs of a job, as far as one node has them.
    """
    if uses_gpus(spec, has):
        return part_of(
            ResourceRequest(_cpus_beside(1.0, has), 1.0), inference_bytes(cost, EVAL_BATCH), has
        )
    most = max((node.get("CPU", 0) for node in has), default=0)
    given = spec.cpus_per_job
    return ResourceRequest(1.0 if given == "auto" else min(given, max(1.0, most)), 0.0)


def part_of(whole: ResourceRequest, wanted: int, has: Sequence[Node]) -> ResourceRequest:
    """The smallest of 1/8, 1/4, 1/2 and all of a GPU that leaves a fifth of its memory free.

    whole: a GPU and the CPUs beside it. Ray chooses the node, so the GPU is the smallest that is
    known of the nodes which could take it; all of it where none is known.
    """
    known = [node[GPU_MEMORY] for node in has if GPU_MEMORY in node and fits([whole], [node])]
    gpus = 1 / 8 if known else 1.0
    while known and gpus < min(wanted / (0.8 * min(known)), 1.0):
        gpus *= 2
    return ResourceRequest(max(1.0, whole.cpus * gpus // 1), gpus) if gpus < 1 else whole


def _known(gpus: Sequence[int]) -> Node:
    return {GPU_MEMORY: min(gpus)} if gpus else {}


def first_gpu(has: Sequence[Node]) -> list[Node]:
    """Nodes of which none is there with a GPU, as they will be: waits for an autoscaler to start
    one, and takes it for all.
    """
    task = ray.remote(max_calls=1)(gpus_seen).options(num_cpus=0, num_gpus=0.01)
    try:
        found = _known(ray.get(task.remote()))
    except RayError as error:
        raise ours(error, "no GPU can be asked for its memory") from None
    return [{**node, **found} if node.get("GPU", 0) >= 1 else node for node in has]


@dataclass(frozen=True)
class _Seen:
    """What a task on a node has found."""

    host: str
    resources: Node
    version: str | None  # of this package there
    reaches: bool  # the path that it was told
    gpus: Sequence[int]  # bytes of each


def measured(*, gpus: bool) -> list[Node]:
    """The nodes that are alive; with `gpus` each says how large its GPUs are, where it can."""
    return [{**seen.resources, **_known(seen.gpus)} for seen in _look("", gpus=gpus)]


def _look(path: str, *, gpus: bool) -> list[_Seen]:
    """Have every node that is alive look at itself, all at once. Raises BikdError."""

    def look(path: str, gpus: bool) -> tuple[str | None, bool, list[int]]:
        try:  # sent whole: a node may lack this package
            from bikd_ray import __version__ as version
        except ImportError:
            return None, os.path.exists(path), []
        if not gpus or version != __version__:
            return version, os.path.exists(path), []
        from bikd_ray.sweep.device import gpus_seen  # a bikd of another version may lack it

        return version, os.path.exists(path), gpus_seen()

    task = ray.remote(max_calls=int(gpus))(look)  # who has looked for GPUs is of no more use
    alive = [node for node in ray.nodes() if node["Alive"]]
    try:
        seen = ray.get(
            [
                task.options(
                    num_cpus=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                ).remote(path, gpus and node["Resources"].get("GPU", 0) >= 1)
                for node in alive
            ]
        )
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BikdError(f"the nodes cannot begin to work: {reason}") from None
    return [
        _Seen(node["NodeManagerHostname"], node["Resources"], *found)
        for node, found in zip(alive, seen, strict=True)
    ]


def check_nodes(fs: StoreFS, *, gpus: bool = False) -> list[Node]:
    """See that the store can be written, that every node reaches a local one, that every node has
    this package, and the same, and for `gpus` that torch sees those that Ray counts.

    Returns the nodes as `measured` does. Raises BikdError where the store cannot be written, and
    UserError that names the nodes at fault.
    """
    work = f"_work/shared-{new_attempt()}"
    fs.write(f"{work}/here", b"")
    try:
        nodes = _look(fs.path(f"{work}/here"), gpus=gpus)
    finally:
        fs.remove(work)
    others = [(node.host, node.version) for node in nodes if node.version != __version__]
    if others:
        named = ", ".join(f"{host} has {version or 'none'}" for host, version in others)
        raise UserError(
            f"every node needs bikd-ray {__version__}, as this machine has; {named}: install it "
            "there, or send it along with --ship"
        )
    blind = [node.host for node in nodes if not node.reaches]
    if blind and fs.is_local:
        raise UserError(
            f"store {fs.uri} is a folder that {', '.join(blind)} cannot see; give a folder on "
            "a shared mount, s3://… or gs://…"
        )
    for node in nodes:
        if gpus and node.resources.get("GPU", 0) >= 1 and not node.gpus:
            raise UserError(no_gpu(node.host))
    return [{**node.resources, **_known(node.gpus)} for node in nodes]


def task_options(needs: ResourceRequest) -> dict[str, Any]:
    """The needs as options of a Ray task."""
    return {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
