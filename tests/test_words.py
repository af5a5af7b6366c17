"""No part of the product but a task says what its metric is called."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = (
    "bikd_ray/tasks/",
    "bikd_ray/zoo/published",
    "bikd_ray/store/upgrade.py",
    "bikd_ray/sweep/baselines.py",
    "pipelines/bikd_pipelines/paper/",
    "pipelines/bikd_pipelines/check.py",
    "pipelines/specs/",
)
"""Where classification and the paper are meant."""


def test_nothing_else_names_the_metric_of_classification():
    kinds = (".py", ".j2", ".js", ".css", ".yaml", ".html")
    files = [
        path
        for part in ("bikd_ray", "pipelines", "dashboards")
        for path in (ROOT / part).rglob("*")
        if path.suffix in kinds and "__pycache__" not in path.parts
    ]
    assert len(files) > 100
    found = {
        name
        for path in files
        if not (name := path.relative_to(ROOT).as_posix()).startswith(OWN)
        and re.search(r"top-1|(?<![A-Za-z])top1", path.read_text())
    }
    assert not found
