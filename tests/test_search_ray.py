"""A search on a real Ray: it is killed in the middle, goes on, and ends by its own rule."""

import pytest
import yaml

from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store
from bikd_ray.store.searched import searched_partners
from tests.faults import assert_whole, begin, run, wait_until


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_trains_a_part_of_the_map(spec_file, cluster):
    shape = {"input": {"size": 8, "crop_pct": 1.0}}
    zoo = [
        {"factory": "tests.conftest:net", "alias": f"n{w}", "kwargs": {"width": w}, **shape}
        for w in range(4, 13)
    ]
    path = spec_file(
        zoo=zoo,
        goal="best_partner",
        search={"regret": 2.0, "share": 0.6},
        recipe={"epochs": 1, "batch_size": 16, "lr": 1e-3},
        similarity="none",
        resources={"cpus_per_job": 1},
    )
    store = Store(yaml.safe_load(path.read_text())["store"])
    process = begin(path)
    assert wait_until(lambda: store.exists and len(store.done()) >= 8)
    process.kill()
    process.wait()
    before = store.done()
    report = run(path)
    assert (report.failed, report.left) == (0, 0)
    assert report.complete
    done = store.done()
    jobs = plan_jobs(load_spec(path), store).jobs
    assert before < done < {job.job_id for job in jobs}
    assert len(store.table("jobs")) == len(done)
    assert run(path).done == 0  # nothing is left to ask for
    decisions = store.table("decisions")
    assert len(decisions) % len(zoo) == 0
    rows = searched_partners(store, "n4").to_pylist()
    assert {row["trained"] for row in rows} == {True, False}
    # and switched back to a map, it is the map
    path.write_text(path.read_text().replace("goal: best_partner", "goal: map"))
    assert run(path).complete
    assert_whole(path)
