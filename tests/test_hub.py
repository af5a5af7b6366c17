"""Models from a folder, the Hugging Face cache and torch hub: all of it works without a network."""

import json
import re
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from bikd_ray.errors import UserError
from bikd_ray.plan import ResolvedInput, ResolvedModel
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo import build, resolve_model

TINY = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "model_args": TINY,
    "label_names": ["ant", "bee", "cow"],
    "pretrained_cfg": {
        "input_size": [3, 24, 24],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.75,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "mit",
    },
}
DIGITS = {split: {"source": "digits", "split": split} for split in ("train", "val")}
HUBCONF = """
from pathlib import Path
from torch import nn

(Path(__file__).parent / "it-ran").touch()
print("a word from the author")

def net(classes=2):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

def reads_a_file():
    return open("/nowhere/weights.pth")

def no_module():
    return {"a": 1}
"""


def entry(**fields) -> ZooEntry:
    return ZooEntry.model_validate(fields)


def resolved(**fields) -> ResolvedModel:
    return resolve_model(entry(**fields))[0]


def tiny(**changes) -> nn.Module:
    torch.manual_seed(7)
    return timm.create_model("resnet18", pretrained=False, **{"num_classes": 3, **TINY, **changes})


def hf_layout(folder: Path, **changes) -> Path:
    """A folder as timm's save_for_hf writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(tiny().state_dict(), folder / "model.safetensors")
    return folder


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, and a proxy that is not there. huggingface_hub has read its own by now."""
    for scheme in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def hf_cache(tmp_path: Path, repository: str) -> Path:
    """The folder of a repository's only revision in the Hugging Face cache."""
    home = tmp_path / "hf" / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit


def refusal(**fields) -> str:
    with pytest.raises(UserError) as raised:
        build(entry(**fields))
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Folders


def test_a_folder_says_the_architecture_weights_input_classes_and_licence(tmp_path):
    folder = hf_layout(tmp_path / "mine")
    model, network = resolve_model(entry(timm=f"local-dir:{folder}"))
    want = ResolvedInput(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.75, "bicubic", "squash")
    assert model.input == want
    assert (model.num_classes, model.classes) == (3, ("ant", "bee", "cow"))
    assert model.licence == "mit"
    assert same_state(network, tiny())


def test_class_names_may_be_numbered_as_json_numbers_them(tmp_path):
    names = {str(i): f"c{i}" for i in reversed(range(12))}
    folder = hf_layout(tmp_path / "mine", num_classes=12, label_names=names)
    save_file(tiny(num_classes=12).state_dict(), folder / "model.safetensors")
    model = resolved(timm=f"local-dir:{folder}")
    assert model.classes == tuple(f"c{i}" for i in range(12))


def test_a_new_head_does_not_keep_the_names_of_the_old_one(tmp_path):
    folder = hf_layout(tmp_path / "mine")
    model = resolved(timm=f"local-dir:{folder}", kwargs={"num_classes": 5})
    assert (model.num_classes, model.classes) == (5, None)


def test_a_relative_folder_is_found_from_the_spec_and_keeps_its_name(tmp_path, monkeypatch):
    hf_layout(tmp_path / "specs" / "mine")
    repository = tmp_path / "specs" / "code"
    repository.mkdir()
    (repository / "hubconf.py").write_text(HUBCONF)
    spec = {
        "zoo": [{"timm": "local-dir:mine"}, {"hub": "code:net", "trust": True}],
        "data": DIGITS,
        "pairings": {"list": [["local-dir:mine", "code:net"]]},
    }
    (tmp_path / "specs" / "zoo.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.chdir(tmp_path)
    read = load_spec("specs/zoo.yaml")
    assert same_state(build(read.entry("local-dir:mine")), tiny())
    assert isinstance(build(read.entry("code:net")), nn.Sequential)


def test_a_models_identity_is_its_config_and_weights_and_not_its_folder(tmp_path):
    here = resolved(timm=f"local-dir:{hf_layout(tmp_path / 'here')}")
    there = resolved(timm=f"local-dir:{hf_layout(tmp_path / 'there')}")
    pooled = hf_layout(tmp_path / "max", model_args={**TINY, "global_pool": "max"})
    other = resolved(timm=f"local-dir:{pooled}")
    assert here.model_id == there.model_id
    assert here.weights_id == other.weights_id  # the same tensors, which answer differently
    assert here.model_id != other.model_id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "config.json").unlink(), r"cannot read its config\.json .*give the folder"),
        (lambda f: (f / "config.json").write_text("<html>"), r"cannot read its config\.json "),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "KeyError: 'archit"),
        (lambda f: hf_layout(f, architecture="resnet81"), r"no model 'resnet81'; choose from .*18"),
        (lambda f: (f / "model.safetensors").unlink(), "No suitable checkpoints.* give checkpoint"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{}"), "cannot fetch its pretrained w"),
        (lambda f: hf_layout(f, num_classes=4), "cannot fetch its pretrained weights"),
    ],
    ids=["no config", "no json", "no timm", "architecture", "no weights", "damaged", "no fit"],
)
def test_a_folder_that_is_no_model_is_explained_in_one_line(tmp_path, change, said):
    folder = hf_layout(tmp_path / "mine")
    change(folder)
    assert re.search(said, refusal(timm=f"local-dir:{folder}"))


def test_images_that_are_not_square_are_refused_unless_a_size_is_given(tmp_path):
    wide = {**CONFIG["pretrained_cfg"], "input_size": [3, 24, 32]}
    folder = hf_layout(tmp_path / "mine", pretrained_cfg=wide)
    with pytest.raises(UserError, match=r"wants 24 x 32 images; only square .* set input: {size"):
        resolved(timm=f"local-dir:{folder}")
    assert resolved(timm=f"local-dir:{folder}", input={"size": 24}).input.size == 24


# Hugging Face


def test_a_hugging_face_model_is_read_from_the_cache(tmp_path):
    hf_layout(hf_cache(tmp_path, "user/mine"))
    model, network = resolve_model(entry(timm="hf-hub:user/mine"))
    assert same_state(network, tiny())
    assert (model.input.size, model.classes) == (24, ("ant", "bee", "cow"))
    assert model.model_id == resolved(timm=f"local-dir:{hf_layout(tmp_path / 'mine')}").model_id


def test_a_hugging_face_model_that_is_nowhere_is_one_line():
    message = refusal(timm="hf-hub:user/none")
    assert "hf-hub:user/none: cannot read its config.json" in message
    assert message.endswith("fetch it once with bikd check SPEC --fetch")


def test_a_timm_name_takes_its_pretrained_weights_from_the_cache(tmp_path):
    torch.manual_seed(3)
    own = timm.create_model("test_convnext", pretrained=False)
    snapshot = hf_cache(tmp_path, "timm/test_convnext.r160_in1k")
    snapshot.mkdir(parents=True)
    save_file(own.state_dict(), snapshot / "model.safetensors")
    model, network = resolve_model(entry(timm="test_convnext.r160_in1k"))
    assert same_state(network, own)
    assert (model.input.size, model.licence) == (160, "apache-2.0")
    assert model.classes == tuple(ImageNetInfo().label_names())

    ten = resolved(timm="test_convnext.r160_in1k", kwargs={"num_classes": 10})
    assert (ten.num_classes, ten.classes) == (10, None)


def test_pretrained_weights_that_are_nowhere_are_one_line():
    message = refusal(timm="test_convnext.r160_in1k")
    assert "test_convnext.r160_in1k: cannot fetch its pretrained weights" in message


# torch hub


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


def test_a_torch_hub_entry_comes_from_a_local_folder(repository):
    network = build(entry(hub=f"{repository}:net", trust=True, kwargs={"classes": 4}))
    assert network(torch.zeros(2, 3, 5, 5)).shape == (2, 4)
    assert not network.training


def test_what_a_repository_initialises_itself_is_the_same_on_every_build(repository):
    how = entry(hub=f"{repository}:net", trust=True)
    first = build(how)
    torch.manual_seed(99)
    assert same_state(build(how), first)


def test_a_torch_hub_entry_comes_from_the_cache(repository, tmp_path):
    cached = tmp_path / "torch" / "hub" / "owner_repo_main"
    cached.parent.mkdir(parents=True)
    repository.rename(cached)
    for name in ("owner/repo@main:net", "owner/repo:net"):
        network = build(entry(hub=name, trust=True))
        assert network(torch.zeros(2, 3, 5, 5)).shape == (2, 2)


def test_the_place_of_a_local_repository_is_not_part_of_the_model(repository, tmp_path):
    how = {"trust": True, "input": {"size": 4}}
    before = resolved(hub=f"{repository}:net", **how)
    (tmp_path / "elsewhere").mkdir()
    moved = repository.rename(tmp_path / "elsewhere" / repository.name)
    assert resolved(hub=f"{moved}:net", **how).model_id == before.model_id


def test_without_trust_a_repository_is_refused_and_its_code_never_runs(repository, tmp_path):
    zoo = [{"hub": f"{repository}:net"}, {"factory": "m:f"}]
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump({"zoo": zoo, "data": DIGITS}))
    with pytest.raises(UserError, match=r"runs the code of that .*add trust: true") as raised:
        load_spec(tmp_path / "zoo.yaml")
    assert "\n" not in str(raised.value)
    assert not (repository / "it-ran").exists()
    build(entry(hub=f"{repository}:net", trust=True))
    assert (repository / "it-ran").exists()


def test_trust_is_for_torch_hub_alone():
    with pytest.raises(ValueError, match="trust goes with hub:, not with timm:; remove it"):
        entry(timm="resnet18", trust=True)


def test_what_a_repository_prints_is_kept_from_standard_output(repository, capsys):
    build(entry(hub=f"{repository}:net", trust=True))
    assert capsys.readouterr() == ("", "a word from the author\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}:nothing", "Cannot find callable nothing in hubconf"),
        ("{}/..:net", "has no hubconf.py; give the folder that does"),
        ("{}:reads_a_file", "No such file or directory: '/nowhere/weights.pth'"),
        ("{}:no_module", "returned dict, not an nn.Module"),
        ("no_such_folder:net", "no_such_folder is neither a folder nor OWNER/REPO"),
        ("owner/none@main:net", "URLError"),
        ("owner/none:net", "no internet connection"),
    ],
)
def test_a_torch_hub_entry_that_fails_is_explained_in_one_line(repository, name, said):
    assert said in refusal(hub=name.format(repository), trust=True)
