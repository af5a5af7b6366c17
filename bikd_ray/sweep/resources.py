"""What the cluster has and what a job needs of it."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import inf
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bikd_ray import __version__
from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import Cost, Job
from bikd_ray.specs import Resources
from bikd_ray.store.place import Place
from bikd_ray.store.write import new_attempt
from bikd_ray.sweep.connection import ours
from bikd_ray.sweep.device import gpu_memory, gpus_seen, no_gpu
from bikd_ray.sweep.needs import Needs, Node, shortage
from bikd_ray.train.evaluate import EVAL_BATCH
from bikd_ray.zoo.cost import inference_bytes, training_bytes

FEWEST = 2
"""Workers of a job that is shared, where the spec gives no number."""

MOST_ASKED = 2000
"""Bundles that an autoscaler is asked for at once, more than any cluster has room for."""


def nodes() -> list[Node]:
    """The resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def reach(spec: Resources, *, grows: bool) -> list[Node]:
    """The nodes of the cluster, and if it grows those that may come."""
    return grown(spec, nodes()) if grows else nodes()


def ask(needs: Sequence[Needs]) -> None:
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
    free = _free_memory()
    cpus = os.cpu_count() or 1
    return [{"CPU": cpus, "GPU": gpus_seen(), "memory": 0.7 * free}]


def _free_memory() -> int:
    """Bytes; all of the machine's where the system does not tell what is free (macOS)."""
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)


def needs_of(spec: Resources, has: Sequence[Node]) -> Needs:
    """One worker's needs; `auto` is one GPU and up to four CPUs where there are GPUs, else one CPU.

    Raises UserError for what no single node of the cluster can ever give.
    """
    with_gpus = [node for node in has if node.get("GPU", 0) >= 1]
    workers = 1 if spec.placement == "together" else FEWEST
    gpus = 1.0 if with_gpus else 0.0
    if spec.gpus_per_job != "auto":
        gpus = float(spec.gpus_per_job) / workers
    if spec.cpus_per_job != "auto":
        cpus = float(spec.cpus_per_job) / workers
    elif gpus and with_gpus:  # no GPU may wait for a CPU
        cpus = max(1.0, min(4.0, *(n.get("CPU", 0) * gpus // n["GPU"] for n in with_gpus)))
    else:
        cpus = 1.0
    needs = Needs(cpus, gpus)
    check_fits(needs, has)
    return needs


def check_fits(needs: Needs, has: Sequence[Node]) -> None:
    """Raises UserError for what the cluster can never give."""
    if short := shortage(needs, has):
        raise UserError(
            f"resources: {short}; lower them, leave them out to use what there is, or say under "
            "resources.autoscaler what nodes it may grow by"
        )


def job_needs(spec: Resources, job: Job, most: Needs) -> Needs:
    """What one job occupies: with `gpus_per_job: auto` no more of a GPU than its memory asks for.

    most: what `needs_of` allows.
    """
    workers = _workers(spec, job, most)
    if workers > 1:  # each with whole GPUs, unless the spec says otherwise
        given = {"cpus": spec.cpus_per_job, "gpus": spec.gpus_per_job}
        of_most = {"cpus": most.cpus, "gpus": most.gpus}
        sums = {k: of_most[k] * workers if v == "auto" else float(v) for k, v in given.items()}
        return Needs(**sums, workers=workers)
    if spec.gpus_per_job != "auto" or not most.gpus:
        return most
    costs, recipe = [m.cost for m in job.members], job.recipe
    classes = job.data.num_classes
    return part_of(
        most,
        training_bytes(costs, recipe.batch_size, classes, recipe.optimizer, recipe.precision),
    )


def _workers(spec: Resources, job: Job, most: Needs) -> int:
    """Of a job: one for each of its models, or for each GPU (CPU, without any) that it may have."""
    if spec.placement == "one_model_per_worker":
        return len(job.members)
    if spec.placement == "data_parallel":
        given = spec.gpus_per_job if most.gpus else spec.cpus_per_job
        return FEWEST if given == "auto" else max(1, int(given))
    return 1


def baseline_needs(cost: Cost, most: Needs) -> Needs:
    """What one baseline occupies: no more of a GPU than its memory asks for."""
    return part_of(most, inference_bytes(cost, EVAL_BATCH)) if most.gpus else most


def part_of(most: Needs, wanted: int) -> Needs:
    """The smallest of 1/8, 1/4, 1/2 and all of a GPU that leaves a fifth of its memory free."""
    whole, gpus = min(1.0, most.gpus), 1 / 8
    while gpus < min(wanted / (0.8 * gpu_bytes()), whole):
        gpus *= 2
    if gpus >= whole:
        return most
    return Needs(max(1.0, most.cpus * gpus // most.gpus), gpus)


@cache
def gpu_bytes() -> int:
    """Memory of a GPU of the cluster; asked of one, since Ray's resources only count them. Without
    a connection to Ray, of this machine's.
    """
    if not ray.is_initialized():
        return gpu_memory()
    try:
        return ray.get(ray.remote(gpu_memory).options(num_cpus=0, num_gpus=0.01).remote())
    except RayError as error:
        raise ours(error, "no GPU can be asked for its memory") from None


def check_nodes(place: Place, *, gpus: bool = False) -> None:
    """See that the store can be written, that every node reaches a local one, that every node has
    this package, and the same, and for `gpus` that torch sees those that Ray counts.

    Raises BikdError where it cannot be written, and UserError that names the nodes at fault.
    """
    work = f"_work/shared-{new_attempt()}"
    place.write(f"{work}/here", b"")

    def look(path: str, gpus: bool) -> tuple[str | None, bool, int]:
        try:  # sent whole: a node may lack this package
            from bikd_ray import __version__ as version
        except ImportError:
            return None, os.path.exists(path), 0
        if not gpus or version != __version__:
            return version, os.path.exists(path), 0
        from bikd_ray.sweep.device import gpus_seen  # a bikd of another version may lack it

        return version, os.path.exists(path), gpus_seen()

    task = ray.remote(max_calls=int(gpus))(look)  # who has looked for GPUs is of no more use
    alive = [node for node in ray.nodes() if node["Alive"]]
    counted = [int(node["Resources"].get("GPU", 0)) if gpus else 0 for node in alive]
    try:
        seen = ray.get(
            [
                task.options(
                    num_cpus=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                ).remote(place.path(f"{work}/here"), count > 0)
                for node, count in zip(alive, counted, strict=True)
            ]
        )
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BikdError(f"the nodes cannot begin to work: {reason}") from None
    finally:
        place.remove(work)
    hosts = [node["NodeManagerHostname"] for node in alive]
    others = [(h, v) for h, (v, _, _) in zip(hosts, seen, strict=True) if v != __version__]
    if others:
        named = ", ".join(f"{host} has {version or 'none'}" for host, version in others)
        raise UserError(
            f"every node needs bikd-ray {__version__}, as this machine has; {named}: install it "
            "there, or send it along with --ship"
        )
    blind = [h for h, (_, sees, _) in zip(hosts, seen, strict=True) if not sees]
    if blind and place.is_local:
        raise UserError(
            f"store {place.uri} is a folder that {', '.join(blind)} cannot see; give a folder on "
            "a shared mount, s3://… or gs://…"
        )
    for host, count, (_, _, found) in zip(hosts, counted, seen, strict=True):
        if count and not found:
            raise UserError(no_gpu(host))


def task_options(needs: Needs) -> dict[str, Any]:
    """The needs as options of a Ray task."""
    return {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
