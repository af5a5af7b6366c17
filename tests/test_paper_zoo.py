import re

import pytest
import timm
from timm.data import resolve_data_config  # type: ignore[attr-defined]

from bikd_ray.spec_file import load_spec, parse_spec
from bikd_ray.specs import Recipe
from bikd_ray.zoo.published import published
from tests.plans import PAPER_ZOO, paper_zoo

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

TABLE = {  # alias: accuracy in the paper, mean and std, crop, interpolation
    "SeNet154": (81.378, IMAGENET, 0.875, "bicubic"),
    "SWSL-ResNext101": (84.276, IMAGENET, 0.875, "bilinear"),
    "MAE": (83.446, IMAGENET, 0.875, "bicubic"),
    "ViT-B": (79.152, HALF, 0.9, "bicubic"),
    "PiT-B": (82.278, IMAGENET, 0.9, "bicubic"),
    "ResMLP-36": (79.576, IMAGENET, 0.875, "bicubic"),
    "MambaVision-T2": (82.506, IMAGENET, 0.98, "bicubic"),
    "ResMLP-24-dist": (80.548, IMAGENET, 0.875, "bicubic"),
    "DINOv2": (81.332, IMAGENET, 0.875, "bicubic"),
    "ViT-S": (78.842, HALF, 0.9, "bicubic"),
    "CoaT-lite-mini": (78.858, IMAGENET, 0.9, "bicubic"),
    "PiT-XS": (77.916, IMAGENET, 0.9, "bicubic"),
    "ViT-T": (75.466, HALF, 0.9, "bicubic"),
}


def comment_above(alias: str) -> str:
    """The comment in which the entry of this alias begins."""
    before = PAPER_ZOO.read_text(encoding="utf-8").split(f"alias: {alias}\n")[0]
    return re.findall(r"^  # .*$", before, flags=re.MULTILINE)[-1]


def test_the_spec_as_it_is_needs_nothing_beyond_torch():
    spec = load_spec(PAPER_ZOO)
    assert [e.name for e in spec.zoo] == [name for name in TABLE if name != "MambaVision-T2"]
    assert not any(entry.factory for entry in spec.zoo)


def test_the_whole_spec_has_the_13_models_and_the_pairings_of_the_paper():
    spec = paper_zoo()
    assert [entry.name for entry in spec.zoo] == list(TABLE)
    sizes = [len(group) for group in spec.pairings.list]
    assert sizes == [2] * 11 + [3, 4]
    assert {name for group in spec.pairings.list for name in group} == set(TABLE)


def test_the_recipe_and_the_seeds_are_the_defaults_written_out():
    spec, minimal = paper_zoo(), {"zoo": [{"timm": "resnet18"}, {"timm": "resnet34"}]}
    plain = parse_spec({**minimal, "data": spec.data.model_dump()})
    assert spec.recipe == Recipe() == plain.recipe
    assert (spec.seeds, spec.objectives, spec.controls) == ((0, 1, 2), plain.objectives, True)


@pytest.mark.parametrize("entry", paper_zoo().zoo, ids=lambda entry: entry.name)
def test_every_input_is_that_of_the_papers_table(entry):
    _, (mean, std), crop_pct, interpolation = TABLE[entry.name]
    given = {k: v for k, v in entry.input.model_dump().items() if v is not None}
    if entry.timm:
        assert timm.is_model(entry.timm)
        config = timm.get_pretrained_cfg(entry.timm)
        assert config
        own = resolve_data_config(pretrained_cfg=config.to_dict())
        given = {**own, "size": own["input_size"][-1], **given}
    assert (given["size"], given["mean"], given["std"]) == (224, mean, std)
    assert (given["crop_pct"], given["interpolation"]) == (crop_pct, interpolation)


@pytest.mark.parametrize("entry", paper_zoo().zoo, ids=lambda entry: entry.name)
def test_the_comments_say_the_accuracies(entry):
    comment = comment_above(entry.name)
    assert f"paper {TABLE[entry.name][0]:.3f}" in comment
    if entry.timm and not entry.checkpoint:
        known = published(entry.timm)
        assert known
        assert f"published {known.top1:.3f}" in comment


@pytest.mark.parametrize("alias", ["SWSL-ResNext101", "MAE", "MambaVision-T2"])
def test_the_comments_say_what_is_not_for_commercial_use(alias):
    assert "NC" in comment_above(alias)


def test_timm_gives_the_same_licence_for_the_weights_it_hosts():
    for entry in paper_zoo().zoo:
        if entry.timm and not entry.checkpoint:
            config = timm.get_pretrained_cfg(entry.timm)
            assert config
            assert ("nc" in (config.license or "")) == (entry.name == "SWSL-ResNext101")
