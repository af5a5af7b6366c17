"""A task that the package does not know, through a whole sweep to its answers and pages."""

import pytest
import yaml

from bikd_dashboards.report import write_report
from bikd_ray.store import Store
from tests.faults import run
from tests.plans import DIGITS


def test_a_third_partys_task_is_swept_asked_and_shown(cluster, tmp_path):
    networks = [
        {"factory": "tests.ordinal:network", "alias": f"width {w}", "kwargs": {"width": w}}
        for w in (2, 4, 8)
    ]
    spec = {
        "name": "ordinal",
        "task": "tests.ordinal:Ordinal",
        "zoo": [{**net, "input": {"size": 16, "crop_pct": 1.0}} for net in networks],
        "data": {**DIGITS, "cache": str(tmp_path / "views")},
        "recipe": {"epochs": 1, "batch_size": 64, "lr": 1e-2},
        "seeds": [0, 1],
        "similarity": "none",
        "resources": {"cpus_per_job": 2},
        "store": str(tmp_path / "store"),
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    report = run(path)
    assert (report.done, report.failed, report.left) == (12, 0, 0)

    store = Store(report.store)
    ((primary, other),) = store.metrics.values()
    assert (primary.title, primary.unit, primary.sign) == ("MAE", "digits", -1)
    assert (other.name, other.unit) == ("bias", "")
    gains = store.partners("width 2").to_pylist()
    assert {row["partner"] for row in gains} == {"width 4", "width 8"}
    for row in gains:
        assert (row["metric"], row["unit"], row["seeds"]) == ("mae", "digits", 2)
        assert row["delta_low"] < row["delta"] < row["delta_high"]
        assert row["net_low"] < row["net_delta"] < row["net_high"]
        assert row["after"] == pytest.approx(row["before"] + row["delta"])
        assert row["delta"] < 0  # an epoch teaches, and a lower error is better
    bias = store.partners("width 2", metric="bias").to_pylist()
    assert {row["metric"] for row in bias} == {"bias"}

    # the error of two models' mean is never above the mean of their errors
    for pair in store.pairs().to_pylist():
        assert pair["ensemble"] <= (pair["score_a"] + pair["score_b"]) / 2 + 1e-6
        assert pair["oracle"] <= min(pair["score_a"], pair["score_b"])
        assert pair["n11"] is None

    page = tmp_path / "report.html"
    write_report(store, page)
    text = page.read_text()
    assert "MAE" in text
