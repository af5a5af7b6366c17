"""Installed as people install it, bikd takes no name of theirs: their packages stay theirs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bikd_pipelines.submit import SPEC, pack
from bikd_ray.errors import UserError
from bikd_ray.store import Store

ROOT = Path(__file__).parent.parent
BIN = Path(sysconfig.get_path("scripts"))

FACTORY = """
import torch
from dashboards import SIDE

def build(width: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, width),
        torch.nn.ReLU(), torch.nn.Linear(width, 10),
    )
"""


def uv(*arguments: object, python: Path | None = None) -> None:
    """Run uv on what the environment's own set-up has fetched; over the network where that is gone.

    Its cache is the person's: what tests write otherwise goes to one of their own.
    """
    target = ["--python", str(python)] if python else []
    command = [str(BIN / "uv"), *map(str, arguments), *target, "--quiet"]
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    for how in (["--offline"], []):
        ran = subprocess.run(
            [*command, *how], env=environment, capture_output=True, text=True, check=False
        )
        if ran.returncode == 0:
            return
    raise AssertionError(ran.stderr)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["wheel", "editable"])
def scripts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment: bikd in it, and what it depends on seen from it."""
    folder = tmp_path_factory.mktemp(request.param)
    uv("venv", folder, python=Path(sys.executable))
    python = folder / "bin" / "python"
    installed = ["--editable", ROOT]
    if request.param == "wheel":
        installed = [request.getfixturevalue("wheel")]
    uv("pip", "install", "--no-deps", *installed, python=python)
    (site,) = folder.glob("lib/python*/site-packages")
    # of a folder that is named so, .pth files such as our own editable install's are not followed
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose own packages are called as our folders are, one without __init__.py."""
    folder = tmp_path / "project"
    (folder / "pipelines").mkdir(parents=True)
    (folder / "pipelines" / "nets.py").write_text(FACTORY)
    (folder / "dashboards").mkdir()
    (folder / "dashboards" / "__init__.py").write_text("SIDE = 4\n")
    entry = {"factory": "pipelines.nets:build", "input": {"size": 8, "crop_pct": 1.0}}
    digits = {split: {"source": "digits", "split": split} for split in ("train", "val")}
    spec = {
        "name": "own",
        "zoo": [{**entry, "alias": f"w{w}", "kwargs": {"width": w}} for w in (8, 16)],
        "data": {**digits, "cache": "views"},
        "recipe": {"epochs": 1, "lr": 0.01},
        "seeds": [0],
        "store": str(tmp_path / "store"),
    }
    (folder / "zoo.yaml").write_text(yaml.safe_dump(spec))
    return folder


def run(command: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """As in a person's shell: nothing but the installation says where bikd is."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def files_of(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        yield from (name for name in archive.namelist() if not name.endswith("/"))


def test_the_wheel_takes_three_names_and_its_own_record(wheel: Path):
    names = {name.split("/")[0] for name in files_of(wheel)}
    record = {name for name in names if name.endswith(".dist-info")}
    assert len(record) == 1
    assert names - record == {"bikd_ray", "bikd_pipelines", "bikd_dashboards"}


def test_the_wheel_holds_every_file_that_lies_in_the_packages(wheel: Path):
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "bikd_ray",
         "pipelines/bikd_pipelines", "dashboards/bikd_dashboards"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    lie = [name for name in listed if (ROOT / name).exists()]  # of which git knows may be gone
    there = {name for name in files_of(wheel) if ".dist-info/" not in name}
    assert there == {n.removeprefix("pipelines/").removeprefix("dashboards/") for n in lie}
    assert {Path(name).suffix for name in there} >= {".py", ".csv", ".j2", ".js", ".css"}


def test_bikd_runs_from_where_it_is_installed(scripts: Path, tmp_path: Path):
    assert "sweep" in run([scripts / "bikd", "--help"], tmp_path).stdout
    names = ("bikd_ray", "bikd_pipelines", "bikd_dashboards")
    code = f"import {', '.join(names)}; print(*({'.__file__, '.join(names)}.__file__))"
    found = [Path(path) for path in run([scripts / "python", "-c", code], tmp_path).stdout.split()]
    home = scripts.parent if "wheel" in scripts.parent.name else ROOT
    assert all(home in path.parents for path in found), found


def test_a_factory_of_a_persons_own_pipelines_is_built(scripts: Path, project: Path):
    said = run([scripts / "bikd", "check", "zoo.yaml", "--format", "json"], project)
    assert '"w8"' in said.stdout
    assert '"w16"' in said.stdout


def test_a_project_with_packages_of_those_names_is_packed_for_a_cluster(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(project)
    package = pack(Path("zoo.yaml"), "s3://b/s", tmp_path / "code.zip")
    names = set(zipfile.ZipFile(package.zip).namelist())
    assert {"pipelines/nets.py", "dashboards/__init__.py", SPEC} <= names


def test_a_checkout_of_ours_may_be_packed_and_a_package_that_hides_ours_not(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(project)
    (project / "bikd_ray").symlink_to(ROOT / "bikd_ray")
    pack(Path("zoo.yaml"), "s3://b/s", tmp_path / "code.zip")
    (project / "bikd_ray").unlink()
    (project / "bikd_ray").mkdir()
    with pytest.raises(UserError, match="bikd_ray would hide bikd's own package"):
        pack(Path("zoo.yaml"), "s3://b/s", tmp_path / "code.zip")


@pytest.mark.slow
@pytest.mark.parametrize("scripts", ["wheel"], indirect=True)
def test_a_wheel_alone_sweeps_a_persons_own_pipelines_and_the_demo(
    scripts: Path, project: Path, tmp_path: Path
):
    run([scripts / "bikd", "sweep", "zoo.yaml"], project)
    done = Store(str(tmp_path / "store")).table("jobs")["status"].to_pylist()
    assert done == ["done"] * 3
    shutil.rmtree(project)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    run([scripts / "bikd", "demo"], folder)
    assert set(Store(str(folder / "bikd-demo")).table("jobs")["status"].to_pylist()) == {"done"}
