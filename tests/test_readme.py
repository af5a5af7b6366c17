"""The README tells the truth: its commands, its specs, its examples; and the tree beside it."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from bikd_ray.spec_file import parse_spec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DATA = {
    "train": {"source": "digits", "split": "train"},
    "val": {"source": "digits", "split": "val"},
}


def blocks(language: str, text: str = README) -> list[str]:
    found = (block.split("\n", 1) for block in text.split("```")[1::2])
    return [body for named, body in found if named == language]


def page(name: str) -> str:
    return (ROOT / name).read_text()


def test_it_can_be_read_in_five_minutes():
    assert len(README.split()) <= 1000


def test_every_path_of_the_tree_is_there_and_every_part_is_in_the_tree():
    tree = next(b for b in blocks("", page("CONTRIBUTING.md")) if b.startswith("bikd_ray/"))
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


def specs() -> list[tuple[str, dict]]:
    """Every fenced YAML of the pages that has a zoo or is laid over the README's spec."""
    found = []
    for path in PAGES:
        texts = blocks("yaml", path.read_text())
        found += [(path.name, yaml.safe_load(text)) for text in texts]
    return [(name, spec) for name, spec in found if isinstance(spec, dict) and "timm" not in spec]


@pytest.mark.parametrize(("name", "spec"), specs(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_spec_reads(name, spec):
    own = {"zoo": [{"timm": "resnet18", "alias": a} for a in ("DeiT", *"bcd")], "data": DATA}
    parse_spec({**own, **spec})


def test_a_zoo_of_all_sources_is_called_by_its_names():
    text = next(b for b in blocks("yaml", page("docs/formats.md")) if "DINOv2" in b)
    names = ["PiT-B", "MAE", "DINOv2", "my_models.resnet:build"]
    assert [entry.name for entry in parse_spec(yaml.safe_load(text)).zoo] == names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_is_one(path):
    from bikd_pipelines.cli import app

    text = path.read_text()
    commands = app.registered_commands
    known = {c.name or getattr(c.callback, "__name__", None) for c in commands}
    known |= {group.name for group in app.registered_groups}
    code = [*blocks("console", text), *re.findall(r"`[^`]+`", "".join(text.split("```")[::2]))]
    used = set(re.findall(r"\bbikd ([a-z]+)\b", "\n".join(code)))
    assert used <= known
    if path.name == "README.md":
        assert {"check", "plan", "sweep", "partners", "export"} <= used
    targets = page("Makefile")
    for target in re.findall(r"\bmake ([a-z-]+)", "\n".join(code)):
        assert f"\n{target}:" in targets


def test_the_loss_example_runs():
    example = next(b for b in blocks("python", page("docs/api.md")) if "joint_loss" in b)
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
    examples = [*blocks("python"), *blocks("python", page("docs/store.md"))]
    assert len(examples) == 2
    for example in examples:
        exec(example, said)
    assert len(said["results"]) == len(before)
    assert said["jobs"]["status"].to_list() == ["done"]
    assert said["count"] == [(len(before),)]


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)]+)\)", README))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()
