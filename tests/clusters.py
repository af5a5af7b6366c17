"""A person's own project, and clusters in namespaces of their own."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount"]
if os.geteuid():
    ALONE[1:1] = ["--user", "--map-root-user"]

FACTORY = """
import torch
import shapes

def build(width):
    return torch.nn.Sequential(
        torch.nn.AvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(3 * shapes.SIDE**2, width), torch.nn.ReLU(), torch.nn.Linear(width, 10),
    )
"""


def write_project(folder: Path) -> Path:
    """A folder of a person's own: a package, a module that it imports, and a spec."""
    (folder / "my_models").mkdir(parents=True)
    (folder / "my_models" / "__init__.py").touch()
    (folder / "my_models" / "nets.py").write_text(FACTORY)
    (folder / "shapes.py").write_text("SIDE = 4\n")
    small = {"size": 8, "crop_pct": 1.0}
    zoo = [
        {"factory": "my_models.nets:build", "alias": a, "kwargs": {"width": w}, "input": small}
        for a, w in (("narrow", 8), ("wide", 16))
    ]
    digits = {s: {"source": "digits", "split": s} for s in ("train", "val")}
    spec = {
        "name": "own",
        "zoo": zoo,
        "data": digits,
        "recipe": {"epochs": 1, "lr": 0.01},
        "seeds": [0, 1],
        "resources": {"cpus_per_job": 1},
    }
    (folder / "zoo.yaml").write_text(yaml.safe_dump(spec))
    return folder


def in_namespaces(project, script, **variables):
    """Run a script with networks and processes of its own, so that it may start any Ray."""
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces (root, or user namespaces)")
    short = Path(tempfile.mkdtemp(prefix="bikd-", dir="/tmp"))  # sockets need a short path
    environment = {
        **os.environ,
        **variables,
        "SCRATCH": str(short),
        "PROJECT": str(project),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    try:
        return subprocess.run(
            [*ALONE, "bash", *script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )
    finally:
        shutil.rmtree(short, ignore_errors=True)
