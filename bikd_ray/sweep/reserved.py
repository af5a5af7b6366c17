"""What slots of several workers hold on other nodes, given back where a node of theirs dies.

Ray moves what a slot has lost with a node to another one, and Train leaves it to two actors of its
own to give all of that back. Where both were on that node, it would be kept until the sweep ends:
CPUs and GPUs on which nothing runs.
"""

import time

import ray
from ray.util import placement_group_table, remove_placement_group

from bikd_ray.sweep.events import Placed
from bikd_ray.sweep.scheduler import POLL_SECONDS


def placed() -> Placed:
    """Where the several workers of a slot are, asked by one of them."""
    group = ray.util.get_current_placement_group()
    assert group is not None, "Train reserves the workers of a slot together"
    return Placed(group, frozenset(placement_group_table(group)["bundles_to_node_id"].values()))


class Reserved:
    """The slots that have begun. One that loses a node is dead: its job is done in another."""

    def __init__(self) -> None:
        self._slots: list[Placed] = []
        self._looked = float("-inf")

    def see(self, slot: Placed) -> None:
        """A slot has begun."""
        self._slots.append(slot)

    def look(self) -> None:
        """Give back what dead slots hold, if it is time to."""
        if not self._slots or time.monotonic() - self._looked < POLL_SECONDS:
            return
        self._looked = time.monotonic()
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for slot in [slot for slot in self._slots if not slot.node_ids <= alive]:
            remove_placement_group(slot.group)
            self._slots.remove(slot)
