"""Tables 5 and 6b of the paper: their specs ask for them, and ours stand beside them."""

import csv
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from bikd_pipelines.cli import app
from bikd_pipelines.paper.videos import BEFORE, BESIDE, DHF1K, FIGURES, HOLLYWOOD2, METRICS
from bikd_ray.plan import pairings
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import ClipsData
from bikd_ray.tasks import task_of

SPECS = Path(__file__).parents[1] / "pipelines" / "specs"
NAMES = {
    "paper_table5_dhf1k": ("5", DHF1K),
    "paper_table5_hollywood2": ("5", HOLLYWOOD2),
    "paper_table6b": ("6b", DHF1K),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_asks_for_the_groups_of_its_table(name):
    spec, (table, data) = load_spec(SPECS / f"{name}.yaml"), NAMES[name]
    figures = [f for f in FIGURES if (f.table, f.data) == (table, data)]
    wanted = {frozenset((f.model, *f.partners)) for f in figures}
    groups = pairings([entry.name for entry in spec.zoo], spec.pairings)
    assert wanted <= {frozenset(group) for group in groups}
    assert isinstance(spec.data.val, ClipsData)
    assert spec.data.val.layout == data
    jobs = (len(spec.zoo) + len(groups)) * len(spec.seeds)
    header = (SPECS / f"{name}.yaml").read_text(encoding="utf-8").split("\nname:")[0]
    assert f"\n# {jobs} jobs" in header
    task = task_of(spec.task)
    for entry in spec.zoo:
        window = task.input(entry, nn.Identity()).view.window
        assert window is not None
        assert window.frames == 32


def test_gains_are_those_that_the_paper_claims():
    """Of K = 2 and 3 on DHF1K, as its text has them."""
    gains = {
        (f.table, f.data, f.model): tuple(
            round(after - before, 3)
            for after, before in zip(f.after, BEFORE[f.data, f.model], strict=True)
        )
        for f in FIGURES
    }
    assert gains["5", DHF1K, "TMFI-Net"] == (0.006, 0.028)
    assert gains["5", HOLLYWOOD2, "ViNet-A"] == (0.006, 0.079)
    assert gains["6b", DHF1K, "ViNet-A"] == (0.015, 0.068)
    assert gains["6b", DHF1K, "ViNet-S"] == (0.004, 0.03)


def test_the_papers_side_stands_without_a_store(tmp_path):
    run = CliRunner().invoke(
        app,
        ["paper", "--videos", "--store", str(tmp_path / "none"), "--format", "csv"],
        catch_exceptions=False,
    )
    rows = list(csv.DictReader(run.stdout.splitlines()))
    assert (list(rows[0]), len(rows)) == (BESIDE.names, len(FIGURES) * len(METRICS))
    assert {row["delta"] for row in rows} == {""}
