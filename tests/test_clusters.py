"""Sweeps on a cluster: what is sent to its nodes, and the whole way on two nodes of one machine."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

from bikd_pipelines.submit import SPEC, entrypoint, pack, store_of
from bikd_ray.errors import UserError
from bikd_ray.store import Store
from bikd_ray.sweep.runtime_env import shipped
from tests.clusters import FACTORY, ROOT, in_namespaces


def changed(project, **fields):
    path = project / "zoo.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))
    return path


def test_code_is_packed_and_weights_data_and_stores_are_not(project, tmp_path, monkeypatch):
    (project / "weights").mkdir()
    (project / "weights" / "a.safetensors").write_bytes(b"w" * 100)
    (project / ".venv").mkdir()
    (project / ".venv" / "x.py").touch()
    (project / "store" / "jobs").mkdir(parents=True)
    (project / "store" / "notes.txt").touch()
    (project / "notes.bin.txt").write_bytes(b"n" * (11 * 2**20))
    (project / "settings.json").write_text("{}")
    zoo = yaml.safe_load((project / "zoo.yaml").read_text())["zoo"]
    zoo[0]["checkpoint"] = "weights/a.safetensors"
    zoo[1]["kwargs"]["settings"] = str(project / "settings.json")
    path = changed(project, zoo=zoo)
    monkeypatch.chdir(project)

    package = pack(Path("zoo.yaml"), str(project / "store"), tmp_path / "code.zip")
    with zipfile.ZipFile(package.zip) as files:
        names = set(files.namelist())
        spec = yaml.safe_load(files.read(SPEC))
    assert names == {
        "my_models/__init__.py", "my_models/nets.py", "shapes.py", "settings.json", path.name, SPEC,
    }  # fmt: skip
    weights = str(project / "weights" / "a.safetensors")
    assert package.elsewhere == (weights,)
    assert spec["zoo"][0]["checkpoint"] == weights  # as this machine sees it
    assert spec["zoo"][1]["kwargs"]["settings"] == "settings.json"  # as the job will
    assert "store" not in spec


def test_what_git_ignores_is_not_packed(project, tmp_path, monkeypatch):
    (project / ".gitignore").write_text("runs/\n")
    (project / "runs").mkdir()
    (project / "runs" / "log.txt").touch()
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    monkeypatch.chdir(project)
    package = pack(Path("zoo.yaml"), "s3://b/s", tmp_path / "code.zip")
    with zipfile.ZipFile(package.zip) as files:
        assert "my_models/nets.py" in files.namelist()
        assert not any(name.startswith("runs") for name in files.namelist())


def test_the_folder_of_the_spec_is_packed_where_the_person_stands_elsewhere(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path.parent / "other.py").touch()
    (project / "specs").mkdir()
    shutil.move(project / "zoo.yaml", project / "specs" / "zoo.yaml")
    monkeypatch.chdir(project)
    package = pack(Path("specs/zoo.yaml"), "s3://b/s", tmp_path / "a.zip")
    assert "shapes.py" in zipfile.ZipFile(package.zip).namelist()
    monkeypatch.chdir(project / "my_models")
    package = pack(project / "specs" / "zoo.yaml", "s3://b/s", tmp_path / "b.zip")
    assert set(zipfile.ZipFile(package.zip).namelist()) == {"zoo.yaml", SPEC}


def test_too_much_code_is_refused_with_the_largest_files(project, tmp_path, monkeypatch):

    from bikd_ray.sweep import runtime_env

    monkeypatch.setattr(runtime_env, "LARGEST_PACKAGE", 2 * 2**20)
    (project / "words.txt").write_bytes(b"w" * (3 * 2**20))
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=r"has 3 MiB, and Ray takes 2; .*words.txt \(3 MiB\)"):
        pack(Path("zoo.yaml"), "s3://b/s", tmp_path / "code.zip")


@pytest.mark.parametrize(
    ("given", "own", "variable"),
    [("out", None, None), (None, "out", None), (None, None, "out"), (None, None, None)],
)
def test_a_store_that_would_go_with_the_job_is_refused(project, monkeypatch, given, own, variable):
    path = changed(project, store=own) if own else project / "zoo.yaml"
    monkeypatch.delenv("BIKD_STORE", raising=False)
    if variable:
        monkeypatch.setenv("BIKD_STORE", variable)
    with pytest.raises(UserError, match=r"store (out|\./bikd-store) is relative"):
        store_of(path, given)


def test_a_folder_that_would_hide_our_own_packages_is_refused(project, tmp_path, monkeypatch):
    (project / "bikd_pipelines").mkdir()
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match="bikd_pipelines would hide bikd's own package"):
        pack(Path("zoo.yaml"), "s3://b/s", tmp_path / "code.zip")


def test_a_cluster_without_this_package_says_so_in_one_line(tmp_path):
    command = entrypoint("s3://b/s", [])
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    run = subprocess.run(
        command, shell=True, env={"PATH": path}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stdout.startswith("bikd: the cluster's head has no bikd-ray 0.1.0")
    assert len(run.stdout.splitlines()) == 1


def test_only_what_was_imported_from_folders_is_own_code(project, monkeypatch):
    from bikd_ray.sweep.runtime_env import own_code

    for name in ("shapes", "my_models", "my_models.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(project)
    __import__("my_models.nets")
    own = own_code()
    assert own["my_models"] == project / "my_models"
    assert own["shapes"] == project / "shapes.py"
    assert not own.keys() & {"torch", "numpy", "os", "json", "bikd_ray", "bikd_pipelines"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sweep", "submit"])
def test_own_code_reaches_a_node_that_does_not_see_it(project, tmp_path, how):
    store = tmp_path / "store"
    command = {
        "sweep": f"bikd sweep zoo.yaml --address 127.0.0.1:6390 --store {store}",
        "submit": f"bikd submit zoo.yaml --address http://127.0.0.1:8265 --store {store}",
    }[how]
    run = in_namespaces(project, [str(ROOT / "tests" / "two_nodes.sh"), command])
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"bikd: 6 jobs done · {store}" in run.stderr
    lines = [line for line in run.stderr.splitlines() if "network_util" not in line]  # no internet
    (last,) = [i for i, line in enumerate(lines) if "[6/6]" in line]  # then comes the answer
    assert all(line.startswith("bikd") for line in lines[: last + 1]), run.stderr
    spec = {"sweep": "zoo.yaml", "submit": "SPEC"}[how]
    assert f"bikd sweep {spec}\n" in run.stdout + run.stderr
    jobs = Store(str(store)).table("jobs").to_pylist()
    assert [job["status"] for job in jobs] == ["done"] * 6


@pytest.mark.slow
def test_nodes_without_this_package_are_sent_it(project, tmp_path):
    seen = tmp_path / "seen"
    nets = project / "my_models" / "nets.py"
    says = f"import bikd_ray; print(bikd_ray.__file__, file=open({str(seen)!r}, 'a'))"
    nets.write_text(FACTORY.replace("    return", f"    {says}\n    return", 1))
    store, url = tmp_path / "store", "http://127.0.0.1:8265"
    command = f"bikd submit zoo.yaml --address {url} --store {store}"
    installed = urlparse(
        json.loads(distribution("bikd-ray").read_text("direct_url.json") or "")["url"]
    )
    ours = [path.relative_to(ROOT) for path in shipped()]
    hidden = {str(Path(at) / path) for at in (ROOT, installed.path) for path in ours}
    run = in_namespaces(
        project,
        [str(ROOT / "tests" / "two_nodes.sh"), f"{command} || {command} --ship"],
        HIDDEN=" ".join(sorted(hidden)),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr.count("bikd: the cluster's head has no bikd-ray") == 1
    assert f"bikd: 6 jobs done · {store}" in run.stderr
    places = {fs for fs in seen.read_text().split() if not fs.startswith(str(ROOT))}
    assert places
    assert all("/runtime_resources/" in fs for fs in places), places


LEFT = """
env --default-signal=INT bikd submit zoo.yaml --address $URL --store $STORE >id 2>log & follower=$!
until grep -q "jobs to do" log; do kill -0 $follower; sleep 0.2; done
kill -INT $follower
wait $follower && exit 8 || test $? = 1
cat log >&2
(cd / && bikd status --store $STORE --format json) 2>&1 >/dev/null | grep "sweep own is at work"
$(sed -n 's/^bikd: follow it: //p' log) >follow.log 2>&1
ray job status --address $URL $(cat id) 2>&1 | grep -q succeeded
bikd plan zoo.yaml --address 127.0.0.1:6390 --store $STORE >/dev/null 2>plan
grep "0 of 6 jobs to do" plan
job=$(bikd submit zoo.yaml --address $URL --store $STORE --no-wait 2>/dev/null)
until ray job status --address $URL $job 2>&1 | grep -q succeeded; do sleep 1; done
"""


@pytest.mark.slow
def test_a_job_goes_on_where_its_follower_leaves(project, tmp_path):
    store = str(tmp_path / "store")
    script = [str(ROOT / "tests" / "two_nodes.sh"), LEFT]
    run = in_namespaces(project, script, STORE=store, URL="http://127.0.0.1:8265")
    assert run.returncode == 0, run.stdout + run.stderr
    job = (project / "id").read_text().strip()
    lines = (project / "log").read_text().splitlines()
    assert lines[-4:] == [
        f"bikd: job {job} goes on",
        f"bikd: follow it: ray job logs --follow --address http://127.0.0.1:8265 {job}",
        f"bikd: stop it:   ray job stop --address http://127.0.0.1:8265 {job}",
        f"bikd: progress:  bikd status --store {store}",
    ]
    jobs = Store(store).table("jobs").to_pylist()
    assert [job["status"] for job in jobs] == ["done"] * 6


@pytest.mark.slow
def test_a_cluster_of_no_worker_yet_grows_for_the_sweep(project, tmp_path):
    store = tmp_path / "store"
    may = project / "may.yaml"
    shutil.copy(changed(project, resources={"cpus_per_job": 1, "autoscaler": {"cpus": 1}}), may)
    changed(project, resources={"cpus_per_job": 1})
    sweep = f"--address 127.0.0.1:6390 --store {store}"
    command = f"bikd sweep zoo.yaml {sweep} && exit 8; bikd plan may.yaml {sweep}; "
    run = in_namespaces(
        project, [str(ROOT / "tests" / "growing.sh"), command + f"bikd sweep may.yaml {sweep}"]
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "or say under resources.autoscaler what nodes it may grow by" in run.stderr
    assert f"bikd: 6 jobs done · {store}" in run.stderr
