"""Which rooms may load what: proven in fresh processes, since imports cannot be undone."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "pyarrow", "plotly", "timm")


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        ("bikd_ray, bikd_ray.errors, bikd_ray.specs, bikd_ray.identity, bikd_ray.plan", HEAVY),
        ("bikd_ray; bikd_ray.Spec; bikd_ray.load_spec", HEAVY),
        ("bikd_ray; bikd_ray.Store; bikd_ray.open_store", ("torch", "ray", "plotly", "timm")),
        ("bikd_ray.store, bikd_ray.analysis.significance, bikd_ray.analysis.pairs",
         ("torch", "ray", "plotly", "timm")),
        ("bikd_ray.transfer, bikd_ray.train, bikd_ray.tasks.classification, bikd_ray.zoo, "
         "bikd_ray.data", ("ray", "plotly", "bikd_ray.store")),
        ("bikd_ray.sweep.engine, bikd_ray.sweep.job",
         ("plotly", "bikd_dashboards", "bikd_pipelines")),
        ("bikd_ray.sweep.trial", ("timm", "bikd_ray.train", "plotly")),
        ("bikd_ray.sweep.channel, bikd_ray.sweep.events", ("torch", "pyarrow.dataset", "plotly")),
        ("bikd_dashboards.report, bikd_dashboards.app",
         ("torch", "ray", "bikd_ray.train", "bikd_pipelines")),
        ("bikd_pipelines.cli", HEAVY),
    ],
)  # fmt: skip
def test_a_room_does_not_load_what_it_must_not(modules, never):
    code = f"import sys, {modules}; print(*[m for m in {never!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
