"""Models that were resolved before are not built again, unless something about them changed."""

import datetime
import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from bikd_ray.errors import UserError
from bikd_ray.plan import ResolvedModel
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import parse_spec
from bikd_ray.specs import Spec, ZooEntry
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.tasks.base import Task
from bikd_ray.weights import base_path, keep_all
from bikd_ray.zoo import cache_path, load_resolved, resolve_model, save_resolved
from bikd_ray.zoo.checkpoints import downloaded

KWARGS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8, "num_classes": 10}
DIGITS = {split: {"source": "digits", "split": split} for split in ("train", "val")}


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own memory, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False, **KWARGS).state_dict(), path)
    return path


def raw(path: object, **fields) -> dict:
    shape = {"kwargs": KWARGS, "input": {"size": 32}, "alias": "Tiny"}
    return {"timm": "resnet18", "checkpoint": str(path), **shape, **fields}


def tiny_entry(checkpoint: object, **fields) -> ZooEntry:
    return ZooEntry.model_validate(raw(checkpoint, **fields))


def spec(*zoo: dict) -> Spec:
    """These models and another one, on the digits."""
    other = {"factory": "tests.test_zoo_cache:net", "alias": "other", "input": {"size": 4}}
    return parse_spec({"zoo": [*zoo, other], "data": DIGITS})


def net() -> torch.nn.Module:
    pool = torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(3, 10))


def remembered(entry: ZooEntry) -> ResolvedModel:
    model, _ = resolve_model(entry)
    save_resolved(model)
    return model


def rewrite(path: Path, content: bytes, *, later_by: int) -> None:
    """Other content under a time of change that is `later_by` nanoseconds later."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later_by))


def files(memory: Path) -> list[Path]:
    return [path for path in memory.rglob("*") if path.is_file()]


def test_a_timm_model_with_a_checkpoint_is_remembered_whole(checkpoint):
    entry = tiny_entry(checkpoint)
    assert load_resolved(entry) is None
    assert remembered(entry) == load_resolved(entry)


def test_a_remembered_model_is_not_built_again(checkpoint, monkeypatch):
    built = []

    def watched(entry: ZooEntry, *task: Task) -> object:
        built.append(entry.name)
        return resolve_model(entry, *task)

    monkeypatch.setattr("bikd_ray.resolve.resolve_model", watched)
    first, _ = resolve(spec(raw(checkpoint)))
    assert resolve(spec(raw(checkpoint)))[0] == first
    assert built == ["Tiny", "other", "other"]  # a factory may answer otherwise each time
    rewrite(checkpoint, bytes(checkpoint.stat().st_size), later_by=0)
    with pytest.raises(UserError, match=r"tiny\.safetensors cannot be read"):
        resolve(spec(raw(checkpoint)))


def test_a_remembered_model_is_built_for_a_store_that_lacks_its_weights(checkpoint, tmp_path):
    resolve(spec(raw(checkpoint)))
    fs = StoreFS.at(str(tmp_path / "store"))
    zoo, _ = resolve(spec(raw(checkpoint)))
    keep_all(fs, zoo.values())
    assert all(fs.exists(base_path(model.weights_id)) for model in zoo.values())


@pytest.mark.parametrize(
    ("grows_by", "later_by"), [(1, 0), (0, 1), (0, 0)], ids=["size", "time", "neither"]
)
def test_another_content_of_the_checkpoint_forgets_the_model(checkpoint, grows_by, later_by):
    entry = tiny_entry(checkpoint)
    remembered(entry)
    rewrite(checkpoint, checkpoint.read_bytes() + bytes(grows_by), later_by=later_by)
    assert load_resolved(entry) is None


def test_a_checkpoint_that_is_gone_forgets_the_model(checkpoint):
    remembered(tiny_entry(checkpoint))
    checkpoint.unlink()
    assert load_resolved(tiny_entry(checkpoint)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"kwargs": {**KWARGS, "drop_rate": 0.5}},
        {"input": {"size": 40}},
        {"input": {"size": 32, "crop_pct": 0.5}},
        {"timm": "resnet34"},
    ],
)
def test_other_words_in_the_entry_are_another_model(checkpoint, change):
    remembered(tiny_entry(checkpoint))
    assert load_resolved(tiny_entry(checkpoint, **change)) is None


def test_the_alias_is_the_one_of_today(checkpoint):
    model = remembered(tiny_entry(checkpoint))
    again = load_resolved(tiny_entry(checkpoint, alias="Renamed"))
    assert again is not None
    assert (again.name, again.model_id) == ("Renamed", model.model_id)


def test_a_folder_is_remembered_until_a_file_in_it_changes(tmp_path, checkpoint):
    folder = tmp_path / "mine"
    folder.mkdir()
    checkpoint.rename(folder / "model.safetensors")
    arguments = {k: v for k, v in KWARGS.items() if k != "num_classes"}
    shape = {"input_size": [3, 32, 32], "first_conv": "conv1", "classifier": "fc"}
    config = {"architecture": "resnet18", "num_classes": 10, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": shape}))
    entry = ZooEntry.model_validate({"timm": f"local-dir:{folder}"})
    model = remembered(entry)
    assert load_resolved(entry) == model
    again = (folder / "config.json").read_bytes()
    rewrite(folder / "config.json", again, later_by=1)
    assert load_resolved(entry) is None


def test_a_checkpoint_behind_an_address_is_remembered_while_it_is_kept(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    address = "http://127.0.0.1:9/tiny.safetensors"
    downloaded(address).parent.mkdir(parents=True)
    checkpoint.rename(downloaded(address))
    model = remembered(tiny_entry(address))
    assert load_resolved(tiny_entry(address)) == model
    downloaded(address).unlink()
    assert load_resolved(tiny_entry(address)) is None


@pytest.mark.parametrize("name", ["hf-hub:user/mine", "hf_hub:user/mine", "HF-Hub:user/mine"])
def test_what_may_change_without_a_sign_is_not_remembered(checkpoint, memory, name):
    model, _ = resolve_model(tiny_entry(checkpoint))
    entries = [
        ZooEntry(timm=name),
        ZooEntry(factory="tests.test_zoo_cache:net"),
        ZooEntry(hub="owner/repository:net", trust=True),
    ]
    for entry in entries:
        save_resolved(ResolvedModel(**{**vars(model), "entry": entry}))
        assert load_resolved(entry) is None
    assert not files(memory)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'{"entry": {}}', b"\xff\xfe"])
def test_a_damaged_memory_is_ignored_and_made_again(checkpoint, memory, content):
    model = remembered(tiny_entry(checkpoint))
    (path,) = files(memory)
    path.write_bytes(content)
    assert load_resolved(tiny_entry(checkpoint)) is None
    resolve(spec(raw(checkpoint)))
    assert load_resolved(tiny_entry(checkpoint)) == model


def test_without_a_place_to_remember_models_are_resolved_all_the_same(checkpoint, memory):
    memory.write_text("a file where the folder should be")
    zoo, _ = resolve(spec(raw(checkpoint)))
    assert zoo["Tiny"].num_classes == 10
    assert load_resolved(tiny_entry(checkpoint)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kwargs": {**KWARGS, "drop_rate": datetime.date(2026, 1, 1)}}, "drop_rate"),
        ({"kwargs": {**KWARGS, "drop_rate": float("nan")}}, "drop_rate"),
        ({"checkpoint": "foo://bucket/tiny.safetensors"}, r"foo://bucket/tiny\.safetensors"),
        ({"timm": "user/mine"}, "user/mine"),
        ({"timm": "local-dir:/nowhere", "checkpoint": None}, "local-dir:/nowhere"),
    ],
    ids=["date", "nan", "scheme", "name", "folder"],
)
def test_an_entry_that_cannot_be_looked_up_is_still_explained_in_one_line(checkpoint, change, said):
    with pytest.raises(UserError, match=said) as raised:
        resolve(spec(raw(checkpoint, **change)))
    assert "\n" not in str(raised.value)


def test_what_was_written_while_it_was_read_is_not_remembered(memory, checkpoint):
    entry = tiny_entry(checkpoint)
    before = cache_path(entry)
    model, _ = resolve_model(entry)
    rewrite(checkpoint, checkpoint.read_bytes(), later_by=1)
    save_resolved(model, before)
    assert load_resolved(entry) is None
    assert not files(memory)
    save_resolved(model, cache_path(entry))
    assert load_resolved(entry) == model


def test_weights_that_arguments_name_are_read_each_time(checkpoint):
    overlay = {"pretrained_cfg_overlay": {"file": str(checkpoint)}}
    entry = ZooEntry.model_validate({"timm": "resnet18", "kwargs": {**KWARGS, **overlay}})
    assert cache_path(entry) is None
