"""A sweep at work is seen from another machine, through the store alone."""

from bikd_pipelines.planning import sweep_lines
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import Lease


def test_a_sweep_is_seen_through_its_store_while_it_is_at_work(fs_uri):
    lease = Lease(StoreFS.at(fs_uri), "zoo")
    lease.say(frozenset({"x", "y"}), left=5, eta=120.0)
    (line,) = sweep_lines(fs_uri)
    assert line.startswith("sweep zoo is at work on ")
    assert line.endswith("2 jobs run, 5 left, about 2 min to go")
    lease.end()
    assert sweep_lines(fs_uri) == []
