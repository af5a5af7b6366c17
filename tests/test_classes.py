"""Whether a model's classes are the data's, and what else a network must be to take part."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import nn
from torchvision.models import ResNet18_Weights

from bikd_ray.errors import UserError
from bikd_ray.plan import Cost, ResolvedInput, ResolvedModel
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import parse_spec
from bikd_ray.specs import ZooEntry
from bikd_ray.zoo import check_classes, features_of, resolve_model

SYNSETS = tuple(ImageNetInfo().label_names())
WORDS = tuple(ImageNetInfo().label_descriptions())
TINY = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


def model(classes: Iterable[str] | None, num_classes: int | None = None) -> ResolvedModel:
    """A resolved model with these names in the order of its logits."""
    names = tuple(classes) if classes is not None else None
    return ResolvedModel(
        entry=ZooEntry(factory="m:f", alias="Model"),
        weights_id="0" * 16,
        model_id="1" * 16,
        input=ResolvedInput(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "bicubic"),
        num_classes=num_classes or len(names or ()),
        cost=Cost(1, 1, 1, 1, 1),
        classes=names,
    )


def accepted(known: ResolvedModel, classes: Iterable[str] | None) -> None:
    check_classes(known, known.num_classes, tuple(classes) if classes is not None else None)


def refusal(known: ResolvedModel, classes: Iterable[str]) -> str:
    with pytest.raises(UserError) as raised:
        accepted(known, classes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def swapped(names: Iterable[str], a: int, b: int) -> list[str]:
    names = list(names)
    names[a], names[b] = names[b], names[a]
    return names


# Names


def test_another_number_of_classes_is_refused_whatever_the_names():
    with pytest.raises(
        UserError, match=r"Model outputs 2 classes, but the data has 3; .*num_classes: 3"
    ):
        check_classes(model(["ant", "bee"]), 3, ("ant", "bee", "cow"))


def test_the_same_order_is_accepted_and_unknown_names_too():
    accepted(model(["ant", "bee", "cow"]), ["ant", "bee", "cow"])
    accepted(model(None, 3), ["ant", "bee", "cow"])
    accepted(model(["ant", "bee", "cow"]), None)


def test_another_order_names_the_first_class_that_differs():
    said = refusal(model(["ant", "bee", "cow", "doe"]), ["ant", "cow", "bee", "doe"])
    assert "has class 2 'cow', which is class 1 in the data (there the model has 'bee')" in said


def test_one_name_in_common_at_another_place_is_enough():
    said = refusal(model(["ant", "bee", "cow"]), ["Ant", "Bee", "ant"])
    assert "has class 0 'ant', which is class 2 in the data (there the model has 'cow')" in said


def test_lists_without_a_name_in_common_are_not_compared():
    accepted(model(["ant", "bee", "cow"]), ["Ameise", "Biene", "Kuh"])
    accepted(model(SYNSETS), [f"class {i}" for i in range(1000)])


def test_a_name_that_either_list_holds_twice_says_nothing():
    accepted(model(["crane", "bee", "crane"]), ["bird", "bee", "crane"])
    accepted(model(["suit", "swimsuit", "cow"]), ["suit", "suit", "cow"])


# ImageNet's two vocabularies


def test_imagenets_synsets_are_compared_with_synsets():
    accepted(model(SYNSETS), SYNSETS)
    said = refusal(model(SYNSETS), swapped(SYNSETS, 3, 700))
    assert f"has class 700 {SYNSETS[700]!r}, which is class 3 in the data" in said
    assert said.endswith(
        f"(there the model has {SYNSETS[3]!r}); the orders must agree: name the classes in the "
        "model's order with data.classes"
    )


def test_imagenets_synsets_are_compared_with_words():
    assert WORDS[0] == "tench, Tinca tinca"
    accepted(model(SYNSETS), WORDS)
    said = refusal(model(SYNSETS), swapped(WORDS, 0, 1))
    assert "has class 1 'goldfish, Carassius auratus', which is class 0 in the data" in said


def test_short_words_with_two_cranes_and_two_maillots_are_accepted_in_order():
    torchvision = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    cranes = [label for label, words in enumerate(WORDS) if words == "crane"]
    assert [torchvision[label] for label in cranes] == ["crane bird", "crane"]
    accepted(model(SYNSETS), torchvision)
    short = [words.partition(",")[0] for words in WORDS]
    assert (short.count("crane"), short.count("maillot")) == (2, 2)
    accepted(model(SYNSETS), short)
    assert "'toucan'" in refusal(model(SYNSETS), swapped(short, SYNSETS.index("n01843383"), 0))


@pytest.mark.parametrize("subset", ["imagenet-12k", "imagenet-22k", "imagenet-21k-goog"])
def test_larger_subsets_of_imagenet_are_known_in_words_too(subset):
    info = ImageNetInfo(subset)
    words: Any = info.label_descriptions()
    often = Counter(words)
    a, b, *_ = (i for i, name in enumerate(words) if often[name] == 1)
    accepted(model(info.label_names()), words)
    assert repr(words[b]) in refusal(model(info.label_names()), swapped(words, a, b))


# What a model says of its classes


def test_timms_own_weights_have_imagenets_classes_and_a_persons_checkpoint_has_none(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--timm--test_convnext.r160_in1k"
    weights = repository / "snapshots" / "0" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    save_file(timm.create_model("test_convnext", pretrained=False).state_dict(), weights)
    how = {"timm": "test_convnext.r160_in1k", "input": {"size": 32}}
    timms, _ = resolve_model(ZooEntry.model_validate(how))
    own, _ = resolve_model(ZooEntry.model_validate({**how, "checkpoint": str(weights)}))
    assert timms.classes == SYNSETS
    assert own.classes is None
    assert (own.weights_id, own.num_classes) == (timms.weights_id, 1000)


def folder_data(root: Path, classes: Iterable[str]) -> dict:
    """A folder data set with these classes, and one image in all."""
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
        first = min((root / split).iterdir())
        Image.new("RGB", (4, 4)).save(first / "image.png")
    return {s: {"source": "folder", "path": str(root / s)} for s in ("train", "val")}


def named_model(folder: Path, classes: Iterable[str]) -> dict:
    """The zoo entry of a folder in the Hugging Face layout whose classes have these names."""
    names = list(classes)
    torch.manual_seed(0)
    network = timm.create_model("resnet18", pretrained=False, num_classes=len(names), **TINY)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    shape = {"input_size": [3, 32, 32], "first_conv": "conv1", "classifier": "fc"}
    config = {
        "architecture": "resnet18",
        "num_classes": len(names),
        "model_args": TINY,
        "label_names": names,
        "pretrained_cfg": shape,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return {"timm": f"local-dir:{folder}", "alias": folder.name}


def net(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def resolved(data: dict, *zoo: dict, classes: int = 3) -> dict[str, ResolvedModel]:
    """The models of a spec of `zoo` and one without known classes."""
    shape = {"input": {"size": 4}, "kwargs": {"classes": classes}}
    other = {"factory": "tests.test_classes:net", "alias": "other", **shape}
    return resolve(parse_spec({"zoo": [*zoo, other], "data": data}))[0]


def test_a_spec_whose_folders_are_the_models_synsets_is_accepted(tmp_path):
    data = folder_data(tmp_path / "data", SYNSETS)
    zoo = resolved(data, named_model(tmp_path / "imagenet", SYNSETS), classes=1000)
    assert zoo["imagenet"].classes == SYNSETS


def test_a_spec_whose_folders_are_words_is_refused_since_they_sort_otherwise(tmp_path):
    names = ["n01440764", "n01443537", "n01484850"]  # tench, goldfish, great white shark
    words = [WORDS[SYNSETS.index(name)] for name in names]
    data = folder_data(tmp_path / "data", words)
    with pytest.raises(UserError, match=r"class 1 'goldfish, .*, which is class 0 in the data"):
        resolved(data, named_model(tmp_path / "fish", names))


def test_each_model_of_a_spec_that_does_not_fit_the_data_has_its_line(tmp_path):
    data = folder_data(tmp_path / "data", ["ant", "bee", "cow"])
    fits = named_model(tmp_path / "fits", ["ant", "bee", "cow"])
    assert set(resolved(data, fits)) == {"fits", "other"}
    more = named_model(tmp_path / "more", ["ant", "bee", "cow", "doe"])
    turned = named_model(tmp_path / "turned", ["bee", "ant", "cow"])
    with pytest.raises(UserError) as raised:
        resolved(data, more, turned, classes=5)
    assert [line.partition(";")[0] for line in str(raised.value).splitlines()] == [
        "zoo: more outputs 4 classes, but the data has 3",
        "zoo: turned has class 1 'ant', which is class 0 in the data (there the model has 'bee')",
        "zoo: other outputs 5 classes, but the data has 3",
    ]


def test_models_are_looked_at_though_the_data_is_missing(tmp_path):
    missing = {s: {"source": "folder", "path": "/nowhere"} for s in ("train", "val")}
    with pytest.raises(UserError) as raised:
        resolved(missing, {"timm": "resnet81", "checkpoint": "none.pth"})
    data, zoo = str(raised.value).splitlines()
    assert data.startswith("data: /nowhere is not a folder")
    assert zoo.startswith("zoo: timm has no model 'resnet81'")


# What a network must be


class Fussy(nn.Module):
    """A classifier with one habit that gets in the way."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        self.head, self.habit, self.scale = nn.Linear(3, 2), habit, None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.habit == "train" and self.training:
            raise RuntimeError("for inference only\nsee the manual")
        if self.habit == "keep" and self.scale is None:
            self.scale = torch.ones(2) + 1
        if self.habit == "wide" and images.shape[3] < 8:
            raise ValueError("narrow")
        logits = self.head(images.mean((2, 3)))
        if self.habit == "scaled":
            return logits * 2
        return logits if self.scale is None else logits * self.scale


def fussy(habit: str, size: int = 8) -> ZooEntry:
    fields = {"factory": "tests.test_classes:Fussy", "kwargs": {"habit": habit}, "alias": "Fussy"}
    return ZooEntry.model_validate({**fields, "input": {"size": size}})


def test_a_model_that_cannot_train_is_refused_in_one_line():
    said = r"Fussy cannot be trained as it is \(RuntimeError in training mode: for inference only\)"
    with pytest.raises(UserError, match=said) as raised:
        resolve_model(fussy("train"))
    assert "\n" not in str(raised.value)


def test_an_image_size_that_a_model_refuses_is_one_line():
    with pytest.raises(UserError, match=r"Fussy cannot take images of 4 x 4 \(narrow\); set input"):
        resolve_model(fussy("wide", 4))
    assert resolve_model(fussy("wide", 8))[0].num_classes == 2


def test_a_model_that_keeps_a_tensor_from_its_first_pass_can_be_trained_afterwards():
    network: Any = resolve_model(fussy("keep"))[1]
    network.train()
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    assert network.head.weight.grad is not None


def test_features_are_unknown_where_no_layer_answers_the_logits():
    network = Fussy("scaled").eval()
    with pytest.raises(UserError, match=r"Fussy: no layer answers the logits.* end the network"):
        features_of(network, torch.rand(2, 3, 8, 8), "Fussy")
    assert resolve_model(fussy("scaled"))[0].cost.features is None
    assert resolve_model(fussy("none"))[0].cost.features == 3
