"""Models from names, factories and files: built the same everywhere, and known by their content."""

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from bikd_ray.errors import UserError
from bikd_ray.plan import ResolvedInput, ResolvedModel
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo import build, check_classes, logits_of, resolve_model, weights_id
from tests.models import entry, same_state, tiny, tiny_entry

torch.set_num_threads(1)


def built(entry: ZooEntry) -> Any:
    """Of a class that only its factory knows."""
    return build(entry)


def resolved(entry: ZooEntry) -> ResolvedModel:
    return resolve_model(entry)[0]


@pytest.fixture
def safetensors(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(tiny(7).state_dict(), path)
    return path


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of factories that can be imported during the test; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)

    def write(body: str) -> str:
        name = f"factories_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{body}\n")
        return name

    return write


NET = """
class Net(nn.Module):
    def __init__(self, classes=5, answer="tensor"):
        super().__init__()
        self.head, self.answer = nn.Linear(3, classes), answer

    def forward(self, x):
        logits = self.head(x.mean((2, 3)))
        return {
            "tensor": lambda: logits,
            "dict": lambda: {"loss": None, "logits": logits},
            "object": lambda: type("Output", (), {"logits": logits})(),
            "tuple": lambda: (logits, x),
            "text": lambda: "no logits",
            "map": lambda: x,
        }[self.answer]()

class Holder:
    build = Net
"""


# Checkpoints


def test_a_timm_model_takes_its_weights_from_safetensors(safetensors):
    model = build(tiny_entry(safetensors))
    assert same_state(model, tiny(7))
    assert not model.training


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_the_state_of_a_torch_file_is_found_under_its_key_and_prefix(tmp_path, key, prefix):
    state = {prefix + name: tensor for name, tensor in tiny(7).state_dict().items()}
    content = {"epoch": 3, key: state, "optimizer": {"lr": 0.1}} if key else state
    torch.save(content, tmp_path / "tiny.pth")
    assert same_state(build(tiny_entry(tmp_path / "tiny.pth")), tiny(7))


def test_the_averaged_weights_are_preferred_where_a_file_holds_both(tmp_path):
    content = {"state_dict": tiny(1).state_dict(), "model_ema": tiny(2).state_dict()}
    torch.save(content, tmp_path / "both.pth")
    assert same_state(build(tiny_entry(tmp_path / "both.pth")), tiny(2))


def test_code_in_a_checkpoint_is_refused_and_never_runs(tmp_path):
    trace = tmp_path / "it-ran"

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    for zipped in (True, False):
        content = {"state_dict": tiny().state_dict(), "args": Code()}
        path = tmp_path / f"{zipped}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"holds posix\.mkdir, more than tensors") as raised:
            build(tiny_entry(path))
        assert "\n" not in str(raised.value)
        assert "weights_only" not in str(raised.value)  # torch's own advice is to trust the file
    assert not trace.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.0003, 0.5, 0.999])
def test_a_truncated_checkpoint_is_named_in_one_line(tmp_path, suffix, share):
    path = tmp_path / f"tiny.{suffix}"
    if suffix == "safetensors":
        save_file(tiny().state_dict(), path)
    else:
        zipped = suffix == "pth"
        torch.save(tiny().state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError) as raised:
        build(tiny_entry(path))
    assert str(path) in str(raised.value)
    assert "Tiny" in str(raised.value)
    assert "copy it again" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404 Not Found</html>", "is an HTML page, not the file"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer.* git lfs pull"),
    ],
)
def test_a_file_of_another_kind_is_not_called_dangerous(tmp_path, content, message):
    (tmp_path / "tiny.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        build(tiny_entry(tmp_path / "tiny.pth"))


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"model": {"name": "resnet18"}, "epoch": 3, "loss": [0.1]}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"holds no state_dict \(no named tensors\)"):
        build(tiny_entry(tmp_path / "odd.pth"))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Tiny: checkpoint .*none\.pth does not exist"):
        build(tiny_entry(tmp_path / "none.pth"))


def test_another_architecture_names_the_first_of_what_is_missing_and_unexpected(tmp_path):
    state = tiny().state_dict()
    gone = [name for name in state if name.startswith("layer4.")]
    for name in gone:
        del state[name]
    state |= {"head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    state["fc.weight"] = torch.zeros(9, 8)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError) as raised:
        build(tiny_entry(tmp_path / "other.pth"))
    message = str(raised.value)
    assert f"{len(gone)} tensors missing, first layer4.0.conv1.weight" in message
    assert "2 unexpected, first head.weight" in message
    assert "1 of another shape, first fc.weight: file [9, 8], model [5, 8]" in message
    assert "other.pth does not fit Tiny" in message
    assert "\n" not in message


# Names


def test_an_unknown_timm_name_shows_the_nearest(safetensors):
    with pytest.raises(UserError, match=r"no model 'resnet81'; choose from .*resnet18"):
        build(entry(timm="resnet81", checkpoint=str(safetensors)))


def test_kwargs_that_a_model_does_not_take_are_named(safetensors):
    with pytest.raises(UserError, match=r"does not take kwargs .*dpeth.*; correct them") as raised:
        build(tiny_entry(safetensors, kwargs={"dpeth": 3}))
    assert "\n" not in str(raised.value)


# Factories


def test_a_factory_gets_its_kwargs_and_may_be_a_dotted_name(factories):
    module = factories(NET)
    assert built(entry(factory=f"{module}:Net")).head.out_features == 5
    assert built(
        entry(factory=f"{module}:Holder.build", kwargs={"classes": 7})
    ).head.bias.shape == (7,)


def test_a_factory_is_found_in_the_folder_where_the_command_runs(factories, tmp_path, monkeypatch):
    name = f"here_{factories(NET)}"
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / f"{name}.py").write_text("import torch\nbuild = lambda: torch.nn.Linear(1, 2)\n")
    monkeypatch.chdir(folder)
    assert build(entry(factory=f"{name}:build")).out_features == 2


def test_a_factory_takes_a_checkpoint(factories, tmp_path):
    module = factories(NET)
    state = {"head.weight": torch.ones(5, 3), "head.bias": torch.arange(5.0)}
    save_file(state, tmp_path / "net.safetensors")
    how = entry(factory=f"{module}:Net", checkpoint=str(tmp_path / "net.safetensors"))
    assert torch.equal(built(how).head.bias, torch.arange(5.0))


def test_a_random_factory_gives_the_same_model_on_every_build(factories):
    how = entry(factory=f"{factories(NET)}:Net")
    torch.manual_seed(1)
    first = build(how)
    torch.manual_seed(2)
    assert same_state(build(how), first)


def test_building_leaves_the_callers_random_numbers_alone(factories, safetensors):
    random, stored = entry(factory=f"{factories(NET)}:Net"), tiny_entry(safetensors)
    torch.manual_seed(5)
    want = torch.rand(4)
    torch.manual_seed(5)
    build(random)
    build(stored)
    assert torch.equal(torch.rand(4), want)


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ("", "no_such_module_at_all:Net", r"cannot import 'no_such_module_at_all'.*installed"),
        ("import no_such_dependency", "{}:Net", r"cannot import .*no_such_dependency"),
        ("1 / 0", "{}:Net", r"raised ZeroDivisionError: division by zero"),
        ("def (:", "{}:Net", r"raised SyntaxError"),
        (NET, "{}:Nett", r"no 'Nett' in .*did you mean 'Net'"),
        ("build = lambda: 'model'", "{}:build", r"returned str, not an nn\.Module"),
        (
            "def build():\n    raise ValueError('first\\nsecond')",
            "{}:build",
            r"raised ValueError: first \(.*\.py:4\)",
        ),
    ],
    ids=["module", "dependency", "import", "syntax", "function", "type", "call"],
)
def test_a_factory_that_fails_is_explained_in_one_line(factories, body, path, message):
    path = path.format(factories(body))
    with pytest.raises(UserError, match=message) as raised:
        build(entry(factory=path))
    assert path in str(raised.value)
    assert "\n" not in str(raised.value)


# What models answer


@pytest.mark.parametrize("answer", ["tensor", "dict", "object", "tuple"])
def test_logits_are_found_in_what_models_return(factories, answer):
    how = entry(factory=f"{factories(NET)}:Net", kwargs={"answer": answer}, input={"size": 4})
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = built(how)
    want = model.head(images.mean((2, 3)))
    assert torch.equal(logits_of(model(images), "Net"), want)
    assert resolved(how).num_classes == 5


@pytest.mark.parametrize("output", ["text", {"log": torch.zeros(1)}, (), [None], None])
def test_output_without_logits_is_refused_by_name(output):
    with pytest.raises(UserError, match=rf"Net returns a {type(output).__name__} without logits"):
        logits_of(output, "Net")


def test_another_number_of_classes_is_refused_with_both_numbers(safetensors):
    model = resolved(tiny_entry(safetensors))
    check_classes(model, 5, None)
    with pytest.raises(UserError, match=r"Tiny outputs 5 classes, but the data has 10;"):
        check_classes(model, 10, None)


def test_a_map_of_logits_is_refused(factories):
    how = entry(factory=f"{factories(NET)}:Net", kwargs={"answer": "map"}, input={"size": 4})
    with pytest.raises(UserError, match=r"answers \[3, 4, 4\] logits"):
        resolved(how)


@pytest.mark.parametrize(
    "forward",
    ["x.view(2, 7)", "x.nothing", "{}['key']", "x @ 'text'", "[][0]"],
    ids=["shape", "attribute", "key", "type", "index"],
)
def test_a_forward_pass_that_fails_is_one_line(factories, forward):
    module = factories(
        f"class Net(nn.Linear):\n    def forward(self, x):\n        return {forward}"
    )
    kwargs = {"in_features": 1, "out_features": 1}
    how = entry(factory=f"{module}:Net", kwargs=kwargs, input={"size": 6})
    with pytest.raises(UserError, match="cannot take images of 6 x 6 ") as raised:
        resolved(how)
    assert "\n" not in str(raised.value)


# Identity


def test_weights_id_is_of_the_tensors_whatever_the_file(tmp_path, safetensors):
    state = tiny(7).state_dict()
    torch.save({"model": {f"module.{k}": v for k, v in reversed(state.items())}}, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    files = (safetensors, tmp_path / "a.pt", tmp_path / "b.pt")
    models = [resolved(tiny_entry(path)) for path in files]
    assert {m.weights_id for m in models} == {weights_id(tiny(7))}
    assert len({m.model_id for m in models}) == 1


def test_weights_id_changes_with_one_byte_of_any_tensor():
    model = tiny()
    seen = {weights_id(model)}
    names = ["conv1.weight", "bn1.running_mean", "bn1.num_batches_tracked", "fc.bias"]
    for name in names:
        model.state_dict()[name].view(-1)[-1:].view(torch.uint8)[0] ^= 1
        seen.add(weights_id(model))
    assert len(seen) == 1 + len(names)
    assert all(len(i) == 16 and set(i) <= set("0123456789abcdef") for i in seen)


def test_weights_id_tells_names_shapes_and_types_apart():
    def module(**tensors: torch.Tensor) -> nn.Module:
        holder = nn.Module()
        for name, tensor in tensors.items():
            holder.register_buffer(name, tensor)
        return holder

    zeros = torch.zeros(2, 3)
    different = [
        module(a=zeros),
        module(b=zeros),
        module(a=zeros.T),
        module(a=zeros.int()),
        module(a=zeros, b=zeros[:0]),
        module(a=zeros[0], b=zeros[1]),
    ]
    assert len({weights_id(m) for m in different}) == len(different)
    strided = torch.arange(6.0).view(3, 2).T
    assert weights_id(module(a=strided)) == weights_id(module(a=strided.contiguous()))
    assert weights_id(module(a=zeros, b=strided)) == weights_id(module(b=strided, a=zeros))


def test_model_id_covers_kwargs_and_input_but_not_the_alias(safetensors):
    base = resolved(tiny_entry(safetensors))
    renamed = resolved(tiny_entry(safetensors, alias="Another"))
    dropped = resolved(tiny_entry(safetensors, kwargs={"drop_rate": 0.5}))
    larger = resolved(tiny_entry(safetensors, input={"size": 40}))
    cropped = resolved(tiny_entry(safetensors, input={"size": 32, "crop_pct": 0.5}))
    assert renamed.model_id == base.model_id
    assert (renamed.name, base.name) == ("Another", "Tiny")
    assert {m.weights_id for m in (base, dropped, larger, cropped)} == {base.weights_id}
    assert len({m.model_id for m in (base, dropped, larger, cropped)}) == 4


def test_kwargs_without_a_stable_form_are_refused():
    with pytest.raises(ValueError, match="when must be text, a number, a list or a mapping, got a"):
        entry(factory="m:build", kwargs={"when": {1, 2}})


def test_resolve_counts_parameters_and_says_nothing_of_a_licence_for_own_weights(safetensors):
    model = resolved(tiny_entry(safetensors))
    assert model.cost.params == sum(p.numel() for p in tiny().parameters())
    assert model.licence is None


# Input


def test_the_input_is_timms_own_with_the_overrides_of_the_spec(tmp_path):
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"depth": 1, "embed_dim": 12, "num_heads": 1, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **kwargs)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    half = (0.5, 0.5, 0.5)
    how = {
        "timm": "vit_tiny_patch16_224",
        "kwargs": kwargs,
        "checkpoint": str(tmp_path / "vit.pth"),
    }
    own = resolved(entry(**how)).input
    assert own == ResolvedInput(224, half, half, 0.9, "bicubic", "center")
    changed = resolved(
        entry(**how, input={"mean": [0, 0.1, 0.2], "crop_pct": 1, "interpolation": "lanczos"})
    ).input
    assert changed == ResolvedInput(224, (0.0, 0.1, 0.2), half, 1.0, "lanczos", "center")
    with pytest.raises(UserError, match=r"vit_tiny.* cannot take images of 32 x 32 .*set input"):
        resolved(entry(**how, input={"size": 32}))


def test_a_factorys_input_is_imagenets_where_the_spec_is_silent(factories):
    how = {"factory": f"{factories(NET)}:Net"}
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert resolved(entry(**how)).input == ResolvedInput(224, mean, std, 0.875, "bilinear")
    given = {"size": 8, "std": [1, 1, 1], "interpolation": "bicubic"}
    want = ResolvedInput(8, mean, (1.0, 1.0, 1.0), 0.875, "bicubic")
    assert resolved(entry(**how, input=given)).input == want
