"""The README tells the truth: its tree, its commands, its spec, its examples."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from bikd_ray.spec_file import parse_spec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


FENCED = README.split("```")[1::2]
PROSE = "".join(README.split("```")[::2])


def blocks(language: str) -> list[str]:
    found = (block.split("\n", 1) for block in FENCED)
    return [text for named, text in found if named == language]


def test_every_path_of_the_tree_is_there_and_every_part_is_in_the_tree():
    tree = next(b for b in blocks("") if b.startswith("bikd_ray/"))
    named, top = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        top = "" if not line.startswith(" ") else top
        named.add(top + name)
        top = name if not line.startswith(" ") else top
    for path in named:
        assert (ROOT / path).exists(), path
    apart = ("__init__.py", "__pycache__", "py.typed")
    parts = {p for p in (ROOT / "bikd_ray").iterdir() if p.name not in apart}
    assert {f"bikd_ray/{p.name}{'/' if p.is_dir() else ''}" for p in parts} <= named


def test_the_spec_reads():
    spec = parse_spec(yaml.safe_load(blocks("yaml")[0]))
    names = ["PiT-B", "MAE", "DINOv2", "my_models.resnet:build"]
    assert [entry.name for entry in spec.zoo] == names


def test_every_command_is_one():
    from bikd_pipelines.cli import app

    commands = app.registered_commands
    known = {c.name or getattr(c.callback, "__name__", None) for c in commands}
    known |= {group.name for group in app.registered_groups}
    code = [*blocks("console"), *re.findall(r"`[^`]+`", PROSE)]
    used = set(re.findall(r"\bbikd ([a-z]+)\b", "\n".join(code)))
    assert {"sweep", "partners", "plan"} <= used <= known
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", "\n".join(code)):
        assert f"\n{target}:" in targets


def test_the_loss_example_runs():
    example = next(b for b in blocks("python") if "joint_loss" in b)
    logits = torch.randn(2, 8, 5, requires_grad=True)
    exec(example, {"logits": logits, "labels": torch.arange(8) % 5})
    assert logits.grad is not None


def test_the_store_examples_run(tmp_path, monkeypatch):
    from bikd_ray.store import Writer
    from tests.stores import BEFORE, baseline, job

    writer = Writer(str(tmp_path / "bikd-demo"))
    before = {"ViT": BEFORE["a"], "b": BEFORE["b"]}
    for model in before:
        baseline(writer, model, before=before)
    job(writer, before, 0, before=before)
    monkeypatch.chdir(tmp_path)
    said: dict = {}
    for example in (b for b in blocks("python") if "bikd-demo" in b):
        exec(example, said)
    assert len(said["results"]) == len(before)
    assert said["jobs"]["status"].to_list() == ["done"]
    assert said["mean"][0] == pytest.approx((said["results"]["delta"].mean(),))


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)", README))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()
