"""The command for a GPU: one line where there is none, and one file of what ran."""

import subprocess
import sys

import pytest
import torch

from tests.benchmarks.cuda import RUNS, TOTAL, Done, report, run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_fails_in_one_line(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.cuda", "--out", str(tmp_path / "x.md")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith("bench-cuda: no NVIDIA GPU here")
    assert not (tmp_path / "x.md").exists()


def test_all_of_it_fits_into_its_time():
    assert sum(most for _, most, _ in RUNS) <= TOTAL


def test_what_fails_or_is_late_is_said_and_what_it_printed_is_kept():
    good = run("good", ("this",), 60)
    bad = run("bad", ("json.tool", "/nowhere"), 60)
    late = run("late", ("timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)"), 0.5)
    none = run("none", ("this",), 0)
    assert [one.end for one in (good, bad, late, none)] == ["ok", "failed", "late", "late"]
    assert "Beautiful" in good.output
    assert "nowhere" in bad.output


def test_the_file_has_a_row_and_a_part_for_each():
    text = report("a card", [Done("step", "python -m x", 12.4, "ok", "1.02")])
    assert "| step | 12 | ok | `python -m x` |" in text
    assert "## step\n\n```text\n1.02\n```" in text
