"""Checkpoints as people have them: what is taken of a file, what is left out, what is refused."""

import argparse
import collections
import decimal
import io
import json
import pathlib
import pickle
import random
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save, save_file
from torch import Tensor, nn

from bikd_ray import zoo
from bikd_ray.errors import UserError
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo import checkpoints, load_resolved, resolve_model, save_resolved
from tests.models import entry, same_state, tiny, tiny_entry

DOCS = Path(__file__).parent.parent / "docs"

State = dict[str, Tensor]


_said: list[str] = []


def build(entry: ZooEntry) -> nn.Module:
    """As the zoo builds it; `notes` then tells what was said of its checkpoint."""
    _said.clear()
    return zoo.build(entry, notes=_said)


@pytest.fixture
def notes() -> Callable[[], list[str]]:
    return lambda: list(_said)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def write(content: object, name: str = "tiny.pth") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def prefixed(prefix: str, state: State) -> State:
    return {prefix + k: v for k, v in state.items()}


def refused(path: Path, **fields) -> str:
    """The one line with which a checkpoint of the tiny network is refused."""
    with pytest.raises(UserError) as raised:
        build(tiny_entry(path, **fields))
    message = str(raised.value)
    assert "\n" not in message
    assert str(path) in message
    return message


STATE, OTHER = tiny(7).state_dict(), tiny(8).state_dict()


# Where the state lies


@pytest.mark.parametrize("key", ["net", "teacher", "ema_state_dict", "module", "my weights"])
def test_the_one_state_of_a_file_is_taken_whatever_its_key(saved, notes, key):
    path = saved({key: STATE, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}})
    assert same_state(build(tiny_entry(path)), tiny(7))
    assert notes() == [f"took '{key}' of {path}"]


@pytest.mark.parametrize("prefix", ["backbone.", "net.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("keys", [(), ("a",), ("state_dict", "model", "b")])
def test_wrappers_are_peeled_in_any_order_and_depth(saved, prefix, keys):
    content: object = prefixed(prefix, STATE)
    for key in reversed(keys):
        content = {"config": {"name": "resnet"}, "empty": {}, "none": None, key: content}
    assert same_state(build(tiny_entry(saved(content))), tiny(7))


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_inside_a_network_are_taken_off(saved, wrapper):
    inside = {k.replace("layer1.", f"layer1.{wrapper}."): v for k, v in STATE.items()}
    assert same_state(build(tiny_entry(saved({"state_dict": inside}))), tiny(7))
    both = prefixed("module.", inside)
    assert same_state(build(tiny_entry(saved({"state_dict": both}))), tiny(7))


def test_a_plain_state_dict_needs_no_word(saved, notes):
    build(tiny_entry(saved(STATE)))
    assert notes() == []


@pytest.mark.parametrize(
    ("content", "took"),
    [
        ({"model": OTHER, "model_ema": STATE}, "model_ema"),
        ({"state_dict": OTHER, "state_dict_ema": STATE, "model_ema": OTHER}, "state_dict_ema"),
        ({"params": OTHER, "params_ema": STATE}, "params_ema"),
        ({"model": OTHER, "state_dict": STATE}, "state_dict"),
        ({"teacher": OTHER, "model": STATE}, "model"),
        ({"model": STATE, "model_ema": {}}, "model"),
        ({"model": None, "model_ema": None, "state_dict": STATE}, "state_dict"),
        ({"model": {"name": "resnet", "num_classes": 5}, "state_dict": STATE}, "state_dict"),
    ],
)
def test_of_several_averaged_weights_win_then_timms_order(saved, notes, content, took):
    assert same_state(build(tiny_entry(saved(content))), tiny(7))
    assert f"took '{took}' of" in notes()[0]


def test_timm_takes_the_same_of_two_states(saved):
    for content in ({"model": OTHER, "model_ema": STATE}, {"model": OTHER, "state_dict": STATE}):
        path = saved(content)
        want = timm.models.load_state_dict(str(path))
        assert all(torch.equal(want[k], v) for k, v in build(tiny_entry(path)).state_dict().items())


def test_averaged_weights_inside_one_state_win_and_the_rest_is_named(saved, notes):
    path = saved({"state_dict": prefixed("model.", OTHER) | prefixed("ema.module.", STATE)})
    assert same_state(build(tiny_entry(path)), tiny(7))
    assert "took 'state_dict', prefix 'ema.module.'" in notes()[0]
    assert (
        f"left out model.conv1.weight, model.bn1.weight, model.bn1.bias, … ({len(OTHER)} tens"
        in (notes()[0])
    )


def test_two_states_of_equal_standing_must_be_chosen_between(saved):
    path = saved({"student": STATE, "teacher": OTHER})
    message = refused(path)
    assert (
        "different weights that fit, 'student', 'teacher'; choose with key: or prefix:" in message
    )
    assert same_state(build(tiny_entry(path, key="teacher")), tiny(8))
    saved({"student": STATE, "teacher": STATE})
    assert same_state(build(tiny_entry(path)), tiny(7))


def test_a_dict_that_holds_itself_ends(saved):
    loop: dict = {"state_dict": STATE}
    loop["self"] = loop
    assert same_state(build(tiny_entry(saved(loop))), tiny(7))


def test_the_shadow_of_torchs_averaged_model_is_taken(saved, notes):
    shadow = torch.optim.swa_utils.AveragedModel(tiny(7), use_buffers=True)
    path = saved({"model": OTHER, "model_ema": shadow.state_dict()})
    assert same_state(build(tiny_entry(path)), tiny(7))
    assert notes() == [
        f"took 'model_ema', prefix 'module.' of {path}; 'model' would fit too "
        "(key: or prefix: chooses); left out n_averaged (1 tensor)"
    ]


# What is left out


def test_what_lies_beside_the_model_is_left_out_and_named(saved, notes):
    path = saved({"state_dict": prefixed("model.", STATE) | {"criterion.weight": torch.ones(5)}})
    assert same_state(build(tiny_entry(path)), tiny(7))
    assert notes()[0].endswith("; left out criterion.weight (1 tensor)")


@pytest.mark.parametrize(
    "extra",
    [
        "criterion.weight",
        "loss_fn.weight",
        "layer1.0.conv1.total_ops",
        "total_params",
        "n_averaged",
    ],
)
def test_counters_and_losses_beside_plain_names_are_left_out(saved, notes, extra):
    path = saved({**STATE, extra: torch.zeros(1)})
    assert same_state(build(tiny_entry(path)), tiny(7))
    assert notes() == [f"{path}: left out {extra} (1 tensor)"]


def test_a_deeper_networks_blocks_are_refused(saved):
    deeper = tiny(7, layers=[1, 1, 1, 2]).state_dict()
    for content in (deeper, {"model": prefixed("module.", deeper)}):
        message = refused(saved(content))
        assert re.search(r"[ (]\d+ unexpected, first layer4\.1\.conv1\.weight\)", message)


def test_a_layer_between_backbone_and_head_is_refused(saved, notes):
    body = prefixed("backbone.", {k: v for k, v in STATE.items() if not k.startswith("fc.")})
    head = {f"head.{k}": v for k, v in STATE.items() if k.startswith("fc.")}
    path = saved({"meta": {"epoch": 1}, "state_dict": body | head})
    assert same_state(build(tiny_entry(path)), tiny(7))
    assert notes() == [f"took 'state_dict', prefix 'backbone.' and 'head.' of {path}"]
    saved({"state_dict": body | head | {"neck.fc.weight": torch.ones(8, 8)}})
    assert "2 tensors missing, first fc.weight" in refused(path)
    auxiliary = {f"aux_{k}": v for k, v in head.items()}
    saved({"state_dict": body | head | auxiliary})
    assert "2 tensors missing, first fc.weight" in refused(path)


def test_a_small_part_of_a_larger_network_is_no_fit_unless_it_is_asked_for(saved, tmp_path):
    large = {"0.weight": torch.ones(9, 9), "2.weight": torch.ones(3, 2), "2.bias": torch.ones(3)}
    path = saved(large)
    how = {"factory": "torch.nn:Linear", "kwargs": {"in_features": 2, "out_features": 3}}
    entry = ZooEntry(**how, checkpoint=str(path), alias="Linear")
    with pytest.raises(UserError, match=r"less than half of the weights.* say prefix: '2\.'"):
        build(entry)
    chosen = entry.model_copy(update={"prefix": "2."})
    assert torch.equal(build(chosen).state_dict()["bias"], torch.ones(3))


def test_integers_are_no_weights(saved):
    path = saved({**STATE, "fc.weight": STATE["fc.weight"].to(torch.int8)})
    assert "1 of another type (torch.int8 for torch.float32), first fc.weight" in refused(path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_cast_as_torch_does(saved, notes, kind):
    path = saved({k: v.to(kind) if v.is_floating_point() else v for k, v in STATE.items()})
    want = tiny(1)
    want.load_state_dict(torch.load(path))
    assert same_state(build(tiny_entry(path)), want)
    assert notes()[0].endswith(f"cast {str(kind)[6:]} to float32")


# What modules themselves treat as optional


def test_counts_that_torch_itself_does_without_are_optional(saved, notes):
    old = {k: v for k, v in STATE.items() if "tracked" not in k}
    path = saved(prefixed("module.", old))
    tiny(1).load_state_dict(old)  # torch takes it
    built = build(tiny_entry(path)).state_dict()
    assert all(torch.equal(built[k], v) for k, v in old.items())
    assert "it lacks bn1.num_batches_tracked, " in notes()[0]


def test_a_version_that_torch_wrote_says_that_counts_are_not_optional(saved):
    state = tiny(7).state_dict()  # with versions
    del state["bn1.num_batches_tracked"]
    with pytest.raises(RuntimeError, match="Missing key"):
        tiny(1).load_state_dict(state)
    assert "1 tensors missing, first bn1.num_batches_tracked" in refused(saved(state))


# key, prefix, rename


def test_key_and_prefix_choose(saved, notes):
    both = prefixed("student.", OTHER) | prefixed("teacher.net.", STATE)
    path = saved({"a": {"b": both}, "model_ema": OTHER})
    assert same_state(build(tiny_entry(path, key="a.b", prefix="teacher.net.")), tiny(7))
    assert (
        f"left out student.conv1.weight, student.bn1.weight, student.bn1.bias, … ({len(OTHER)}"
        in (notes()[0])
    )
    assert same_state(build(tiny_entry(path, key="a", prefix="student")), tiny(8))


def test_a_key_or_prefix_that_matches_nothing_says_what_there_is(saved):
    path = saved({"model": prefixed("net.", STATE), "other": {"x": torch.ones(1)}})
    assert "has no tensors under key 'mdel'; it has them under model, other" in (
        refused(path, key="mdel")
    )
    assert "prefix 'nets.' begins no tensor's name; they begin with net." in (
        refused(path, prefix="nets.")
    )


def test_rename_is_in_turn_and_an_empty_name_is_left_out(saved, notes):
    renamed = {k.replace("layer", "stage").replace("fc.", "head."): v for k, v in STATE.items()}
    path = saved({**renamed, "stage9.mask": torch.ones(2)})
    rules = {r".*\.mask$": "", "^head": "classifier", r"^stage(\d)": r"layer\1", "classifier": "fc"}
    assert same_state(build(tiny_entry(path, rename=rules)), tiny(7))
    assert "left out stage9.mask (1 tensor)" in notes()[0]
    wrong = dict(reversed(rules.items()))  # classifier → fc has nothing to do yet
    message = refused(path, rename=wrong)
    assert "2 tensors missing, first fc.weight; 2 unexpected, first classifier.weight" in message
    assert "rename 'classifier' matches no name" in message
    assert "rename makes x of both conv1.weight and bn1.weight" in refused(
        path, rename={"^.*$": "x"}
    )


def test_the_order_of_rename_is_part_of_what_is_remembered_of_a_model(saved):
    rules = {"^head": "fc", "^fc": "fc"}
    path = saved({k.replace("fc.", "head."): v for k, v in STATE.items()})
    entry = tiny_entry(path, rename=rules)
    model, _ = resolve_model(entry)
    save_resolved(model)
    assert load_resolved(entry) == model
    for change in ({"rename": dict(reversed(rules.items()))}, {"key": "x"}, {"prefix": "x"}):
        assert load_resolved(tiny_entry(path, **{"rename": rules, **change})) is None
    plain, _ = resolve_model(tiny_entry(saved(STATE, "plain.pth")))
    assert (plain.weights_id, plain.model_id) == (model.weights_id, model.model_id)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": "model"}, "key goes with checkpoint: FILE; add it or remove key"),
        ({"rename": {"a": "b"}}, "rename goes with checkpoint"),
        ({"rename": {"(": ""}, "checkpoint": "x"}, r"rename: '\(': '' is not a regular expression"),
        ({"rename": {"a": r"\1"}, "checkpoint": "x"}, "invalid group reference"),
        ({"rename": {"a": r"\g<b>"}, "checkpoint": "x"}, "unknown group name"),
        ({"rename": {"a": None}, "checkpoint": "x"}, "must map text to text.* got 'a': None"),
        ({"rename": "a", "checkpoint": "x"}, "must be a mapping, regular expression"),
    ],
)
def test_bad_fields_are_refused_when_they_are_read(fields, message):
    with pytest.raises(ValueError, match=message):
        ZooEntry(timm="resnet18", **fields)


# timm's own filters


def swin(**changes) -> dict:
    small = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "num_classes": 3}
    return {"timm": "swin_tiny_patch4_window7_224", "kwargs": {**small, **changes}}


def test_the_authors_names_of_swin_load_by_timms_filter(saved, notes):
    model = timm.create_model(swin()["timm"], **swin()["kwargs"])
    official: State = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    for name, tensor in model.state_dict().items():
        name = name.replace("head.fc.", "head.")
        earlier = re.sub(r"(?<=layers\.)(\d)(?=\.down)", lambda m: str(int(m[1]) - 1), name)
        official[earlier] = tensor
    path = saved({"model": official})
    built = build(ZooEntry(**swin(), checkpoint=str(path), alias="Swin"))
    assert same_state(built, model)
    assert "renamed by timm's own filter of checkpoints" in notes()[0]
    assert "left out layers.0.blocks.0.attn.relative_position_index (1 tensor)" in notes()[0]


def vit(size: int, patch: int = 16) -> tuple[dict, nn.Module]:
    kwargs = {"depth": 1, "embed_dim": 12, "num_heads": 1, "num_classes": 3, "img_size": size}
    how = {"timm": "vit_tiny_patch16_224", "kwargs": {**kwargs, "patch_size": patch}}
    torch.manual_seed(3)
    return how, timm.create_model(how["timm"], **how["kwargs"])


def test_position_embeddings_of_another_size_are_resized_as_timm_does_and_said(saved, notes):
    _, large = vit(64)
    how, small = vit(32)
    path = saved(large.state_dict())
    built = build(ZooEntry(**how, checkpoint=str(path), alias="ViT"))
    filter_fn = getattr(timm.models.vision_transformer, "checkpoint_filter_fn")  # noqa: B009
    want = filter_fn(large.state_dict(), small)
    assert torch.equal(built.state_dict()["pos_embed"], want["pos_embed"])
    assert "resized position embedding pos_embed from [1, 17, 12] to [1, 5, 12]" in notes()[0]


def test_a_patch_embedding_of_another_size_is_another_architecture(saved):
    _, other = vit(64, patch=32)
    how, _ = vit(32)
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight: file \[12, 3, 32, 32\]"):
        build(ZooEntry(**how, checkpoint=str(saved(other.state_dict())), alias="ViT"))


def test_a_layer_that_timms_filter_drops_is_another_architecture(saved):
    how, model = vit(32)
    extra = {"pre_logits.fc.weight": torch.ones(12, 12), "pre_logits.fc.bias": torch.ones(12)}
    path = saved({**model.state_dict(), **extra})
    with pytest.raises(UserError, match=r"2 unexpected, first pre_logits\.fc\.weight"):
        build(ZooEntry(**how, checkpoint=str(path), alias="ViT"))


# Containers


def test_values_of_training_scripts_do_not_stand_in_the_way(saved):
    counts = collections.defaultdict(list)
    counts["loss"].append(0.5)
    extra = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PosixPath("/tmp")),
        "counts": counts,
        "best": np.float64(0.5),
        "dtype": np.dtype("float32"),
        "random": np.random.default_rng(0).integers(0, 9, 4),
        "version": torch.__version__,
    }
    assert same_state(build(tiny_entry(saved({"model": STATE, **extra}))), tiny(7))


def test_a_path_saved_on_windows_is_read_anywhere(saved):
    path = saved({"model": STATE, "out": pathlib.PurePosixPath("a/b")})
    data, changed = zipfile.ZipFile(path), io.BytesIO()
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as archive:
        for item in data.namelist():
            text = data.read(item).replace(b"PurePosixPath\n", b"WindowsPath\n")
            archive.writestr(item, text)
    path.write_bytes(changed.getvalue())
    assert b"WindowsPath" in path.read_bytes()
    assert same_state(build(tiny_entry(path)), tiny(7))


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def tarred(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.pth", b"", r"is empty \(0 bytes\); copy it again"),
        ("a.pt", zipped("a/data.pkl", "a/constants.pkl"), r"is TorchScript.*torch\.jit\.load"),
        ("a.npz", zipped("w.npy", "b.npy"), "is an archive of NumPy arrays; convert them"),
        ("a.pth", zipped("w.txt"), "is a zip archive without torch's data.pkl; unpack it"),
        ("a.keras", zipped("model.weights.h5"), "is a Keras model; convert"),
        ("a.pth", tarred("sys_info", "pickle", "storages"), "tar format of torch before 0.1.10"),
        ("a.pth", tarred("weights.pth"), "is a tar archive; unpack it"),
        ("a.pth", b"\n <!DOCTYPE html>", "is an HTML page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is a Keras HDF5 file"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "is an ONNX graph"),
        ("a.tflite", b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
        ("a.msgpack", b"\x81\xa6params", "is JAX/Flax msgpack"),
        ("a.pb", b"\x08\x01", "is a TensorFlow graph"),
        ("a.pth.gz", b"\x1f\x8b\x08", "is compressed with gzip"),
        ("a.json", b'{"a": 1}', "is a JSON file"),
        ("a.index.json", b'{"a": 1}', "is JSON without the weight_map"),
        ("a.index.json", b'{"weight_map": {"a": "../b"}}', "names no files beside it"),
        ("a.pkl", pickle.dumps({"a": 1}, 2), "is a pickle of no named arrays; save"),
    ],
)
def test_each_other_container_is_named_with_the_way_out(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    assert re.search(message, refused(tmp_path / file))


def test_a_folder_is_named(tmp_path):
    assert "is a folder; give the file in it, or the model as timm: local-dir:" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_shards_of_an_index_are_read(tmp_path, kind):
    names = list(STATE)
    parts = {f"m-1.{kind}": names[:9], f"m-2.{kind}": names[9:]}
    for file, part in parts.items():
        tensors = {k: STATE[k] for k in part}
        if kind == "bin":
            torch.save(tensors, tmp_path / file)
        else:
            save_file(tensors, tmp_path / file)
    where = {k: file for file, part in parts.items() for k in part}
    index = tmp_path / f"m.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same_state(build(tiny_entry(index)), tiny(7))
    model, _ = resolve_model(tiny_entry(index))
    save_resolved(model)
    assert load_resolved(tiny_entry(index)) is None  # a shard may change, and the index not
    (tmp_path / f"m-2.{kind}").unlink()
    with pytest.raises(UserError, match=rf"m-2\.{kind} does not exist"):
        build(tiny_entry(index))


def test_safetensors_whose_header_is_as_long_as_a_pickle_begins_are_read(tmp_path):
    notes = ""
    while (content := save(STATE, {"notes": notes}))[0] != 0x80:
        assert len(notes) < 256
        notes += " " * 8
    (tmp_path / "tiny.safetensors").write_bytes(content)
    assert same_state(build(tiny_entry(tmp_path / "tiny.safetensors")), tiny(7))


def test_safetensors_are_known_by_their_content_too(tmp_path):
    save_file(STATE, tmp_path / "model.bin")
    assert same_state(build(tiny_entry(tmp_path / "model.bin")), tiny(7))


# Damage


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bits flipped, bytes written over, an end cut off, or two parts joined."""
    data = bytearray(content)
    how = draw.randrange(4)
    at = draw.randrange(len(data) if draw.random() < 0.3 else min(len(data), 600))
    if how == 0:
        for _ in range(draw.choice((1, 1, 3, 20))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        data[at] ^= 1 << draw.randrange(8)
    elif how == 1:
        data[at : at + draw.randrange(1, 9)] = draw.randbytes(draw.randrange(9))
    elif how == 2:
        del data[draw.randrange(len(data)) :]
    else:
        start = draw.randrange(len(data))
        data[at:at] = data[start : start + draw.randrange(200)]
    return bytes(data)


def as_zip(state: State) -> bytes:
    stream = io.BytesIO()
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, stream)
    return stream.getvalue()


def as_legacy(state: State) -> bytes:
    stream = io.BytesIO()
    torch.save({"model": state}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("written", [save, as_zip, as_legacy], ids=["safetensors", "zip", "legacy"])
def test_damaged_bytes_load_or_are_refused_in_one_line(tmp_path, written):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    content = written(model.state_dict())
    draw = random.Random(written.__name__)
    path = tmp_path / ("a.safetensors" if written is save else "a.pth")
    entry = ZooEntry(factory="a:b", checkpoint=str(path), alias="Net")
    refusals = []
    for _ in range(120):
        path.write_bytes(damaged(content, draw))
        try:
            checkpoints.load_checkpoint(model, entry)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 60
    assert all(len(refusal.splitlines()) == 1 for refusal in refusals)


def documented(timm_name: str) -> dict[str, str]:
    """The rename: of the documentation's example for a model."""
    text = "".join(p.read_text() for p in sorted(DOCS.glob("formats*.md")))
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return next(b["rename"] for b in blocks if b.get("timm") == timm_name)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_the_documented_rename_takes_blocks_that_are_counted_through(saved, name):
    """Names of lukemelas/EfficientNet-PyTorch, made here from timm's own."""
    torch.manual_seed(4)
    model = timm.create_model(name, num_classes=3)
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    }  # fmt: skip
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    outer["classifier"] = "_fc"
    starts = np.cumsum([0, *(len(stage) for stage in cast(Any, model).blocks)]).tolist()
    state: State = {}
    for own, tensor in model.state_dict().items():
        parts = own.split(".")
        if parts[0] == "blocks":
            count, layer = starts[int(parts[1])] + int(parts[2]), parts[3]
            if layer == "se":
                new = [parts[4].replace("conv_", "_se_"), *parts[5:]]
            else:
                new = [(later if count else first)[layer], *parts[4:]]
            parts = ["_blocks", str(count), *new]
        else:
            parts[0] = outer[parts[0]]
        state[".".join(parts)] = tensor
    path = saved(state)
    rules = documented("tf_efficientnet_lite0")
    how = entry(timm=name, kwargs={"num_classes": 3}, checkpoint=str(path), rename=rules)
    assert same_state(build(how), model)


@pytest.mark.parametrize(
    "value", [collections.deque([1, 2], 5), range(3), slice(1, 2), decimal.Decimal("1.5")]
)
def test_more_values_of_training_scripts_do_not_stand_in_the_way(saved, value):
    path = saved({"state_dict": tiny().state_dict(), "kept": value})
    assert same_state(build(tiny_entry(path)), tiny())


def test_a_torch_file_is_read_under_the_name_of_another_format(saved):
    path = saved(tiny().state_dict(), "tiny.safetensors")
    assert same_state(build(tiny_entry(path)), tiny())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"error": "not found"}', "is text"),
        (b"hello there", r"is text \('hello there' …\), not tensors"),
        (b"<Error><Code>AccessDenied</Code></Error>", "is an HTML page"),
    ],
)
def test_an_answer_of_a_server_is_named(tmp_path, content, said):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=said):
        build(tiny_entry(tmp_path / "a.pth"))
