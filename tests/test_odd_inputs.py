"""Odd inputs of the parts around a sweep: leases, hosts, splits, names, other systems."""

import json
import os

import pytest
from typer.testing import CliRunner

from bikd_dashboards.app import make_app
from bikd_pipelines.cli import app
from bikd_ray.cache_dir import usable_cpus
from bikd_ray.data.webdataset import webdataset
from bikd_ray.errors import UserError, choices
from bikd_ray.specs import TimmData
from bikd_ray.store import Store
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.store.lease import FOLDER, Lease, at_work
from bikd_ray.sweep.resources import this_machine


def test_leases_of_other_versions_are_read_or_left_out(tmp_path):
    fs = StoreFS.at(str(tmp_path))
    Lease(fs, "ours").say(frozenset({"j1"}), left=3)
    said = {"name": "newer", "host": "elsewhere", "pid": 1, "jobs": ["j2"], "about": {}}
    for name, content in {
        "newer": {**said, "gpus": 8, "since": "2027"},
        "no-jobs": {k: v for k, v in said.items() if k != "jobs"},
        "odd": {**said, "pid": "x", "about": 3},
        "list": [1],
    }.items():
        fs.write(f"{FOLDER}/{name}.json", json.dumps(content).encode())
    found = {sweep.name: sweep.jobs for _, sweep in at_work(fs)}
    assert found == {"ours": {"j1"}, "newer": {"j2"}}


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:8050", 200),
        ("127.0.0.1", 200),  # a browser leaves out port 80
        ("localhost", 200),
        ("[::1]", 200),
        ("[::1]:8050", 200),
        ("evil.example", 403),
        ("evil.example:8050", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_the_app_answers_this_machine_on_any_port(tmp_path, host, code):
    client = make_app(Store(str(tmp_path))).server.test_client()
    assert client.get("/", headers={"Host": host}).status_code == code


def test_a_split_with_tar_in_its_name_is_no_shard(tmp_path):
    (tmp_path / "_info.json").write_text('{"splits": {"target": {"filenames": ["a.tar"]}}}')
    source = TimmData(source="timm", name="wds/", path=str(tmp_path), split="target")
    with pytest.raises(UserError, match=r"a\.tar does not exist"):
        webdataset(source)
    with pytest.raises(UserError, match="has no split 'start'"):
        webdataset(source.model_copy(update={"split": "start"}))
    with pytest.raises(UserError, match=r"b-01\.tar does not exist"):
        webdataset(source.model_copy(update={"split": "b-{01..02}.tar"}))


def test_a_name_in_another_case_is_found():
    assert choices("vit", ["ViT", "ResNet"]).endswith("(did you mean 'ViT'?)")
    assert choices("RESNET", ["ViT", "ResNet"]).endswith("(did you mean 'ResNet'?)")
    assert choices("qqq", ["ViT", "ResNet"]) == "choose from ResNet, ViT"


def test_store_is_a_uri_in_every_command_and_defaults_are_the_ones_used():
    shown = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).output
    assert "./bikd-demo" in shown
    assert "bikd-store" not in shown
    assert CliRunner().invoke(app, ["schema", "--tables", "--format", "csv"]).exit_code == 0
    assert CliRunner().invoke(app, ["schema", "--store"]).exit_code == 2


def test_a_system_without_the_calls_of_linux_does_with_others(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cpus() == os.cpu_count()
    assert this_machine()[0]["CPU"] == os.cpu_count()
