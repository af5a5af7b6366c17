"""What a job occupies, and whether jobs fit on nodes together; no Ray in here."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

Node = Mapping[str, float]
"""A node's resources as Ray names them: CPU, GPU, memory (bytes); and GPU_MEMORY, where known."""

GPU_MEMORY = "gpu_memory"
"""Bytes of a node's smallest GPU: Ray only counts GPUs."""

DRIVER_MEMORY = 2**30
"""Bytes that the process of a job's trial reserves."""

LONG = 600.0
"""Seconds of a job beside which the start of a fresh slot (about 10) does not count."""

SHORTAGE_PATIENCE = 30.0
"""Seconds for which a cluster may lack room for some job before the person is told."""


@dataclass(frozen=True)
class ResourceRequest:
    """What one job occupies: the sum of its workers, which have equal shares."""

    cpus: float
    gpus: float
    workers: int = 1

    @property
    def worker(self) -> "ResourceRequest":
        """What one of its workers occupies."""
        return ResourceRequest(self.cpus / self.workers, self.gpus / self.workers)

    @property
    def threads(self) -> int:
        """Of each worker."""
        return max(1, int(self.worker.cpus))

    @property
    def bundle(self) -> dict[str, float]:
        """One worker's, as Ray names resources."""
        one = self.worker
        return {"CPU": one.cpus} | ({"GPU": one.gpus} if one.gpus else {})


def fits(jobs: Iterable[ResourceRequest], nodes: Sequence[Node]) -> bool:
    """Whether all jobs fit on the nodes at once: the largest first, each where it fits first.

    A GPU is shared only by jobs that need a part of one.
    """
    free = [_Free(node) for node in nodes]
    pieces: list[tuple[ResourceRequest, float]] = []
    for job in jobs:
        if job.workers == 1:  # in the driver's own process
            pieces.append((job.worker, DRIVER_MEMORY))
        else:
            pieces += [(job.worker, 0.0)] * job.workers + [(ResourceRequest(0, 0), DRIVER_MEMORY)]
    pieces.sort(key=lambda piece: (-piece[0].gpus, -piece[0].cpus))
    return all(any(node.take(*piece) for node in free) for piece in pieces)


def shortage(needs: ResourceRequest, nodes: Sequence[Node]) -> str | None:
    """What a job needs that the nodes could not give it even alone; None if they could."""
    if fits([needs], nodes):
        return None
    one, there = needs.worker, "; ".join(sorted({_described(node) for node in nodes}))
    each = f" for each of its {needs.workers} workers" if needs.workers > 1 else ""
    return (
        f"a job needs {one.cpus:g} CPUs and {one.gpus:g} GPUs on one node{each}, "
        f"but the cluster has: {there or 'no nodes'}"
    )


class CapacityMonitor:
    """Says in one line where a job, begun or not, has long had no node; and when it has again."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self._since: float | None = None  # a job has had no room
        self._told = False

    def look(self, needs: Iterable[ResourceRequest], nodes: Sequence[Node]) -> None:
        """See whether each of some jobs would fit on the nodes, if it were alone."""
        short = next(filter(None, (shortage(one, nodes) for one in set(needs))), None)
        now = time.monotonic()
        if short is None:
            if self._told:
                self.note("the cluster has room for every job again")
            self._since, self._told = None, False
        elif self._since is None:
            self._since = now
        elif not self._told and now - self._since >= SHORTAGE_PATIENCE:
            self.note(f"{short}; this sweep waits for nodes")
            self._told = True


def _described(node: Node) -> str:
    memory = node.get("memory", 0) / 2**30
    held = f", {memory:.3g} GiB" if memory < inf else ""
    return f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs{held}"


class _Free:
    """What is left of a node while jobs are put on it."""

    def __init__(self, node: Node) -> None:
        self.cpus = node.get("CPU", 0.0)
        self.memory = node.get("memory", 0.0)
        self.gpus = [1.0] * int(node.get("GPU", 0))

    def take(self, needs: ResourceRequest, memory: float) -> bool:
        if needs.cpus > self.cpus + 1e-9 or self.memory < memory:
            return False
        if needs.gpus >= 1:
            whole = [i for i, free in enumerate(self.gpus) if free == 1]
            chosen, share = whole[: int(needs.gpus)], 1.0
            if len(chosen) < needs.gpus:
                return False
        else:
            chosen = [i for i, free in enumerate(self.gpus) if free >= needs.gpus - 1e-9][:1]
            share = needs.gpus
            if needs.gpus and not chosen:
                return False
        for i in chosen:
            self.gpus[i] -= share
        self.cpus -= needs.cpus
        self.memory -= memory
        return True
