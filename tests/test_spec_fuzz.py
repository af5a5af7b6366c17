"""Whatever stands in a spec, reading it gives a Spec or one line for each mistake."""

import copy
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from bikd_pipelines import cli
from bikd_ray import specs
from bikd_ray.errors import UserError
from bikd_ray.spec_file import load_spec, parse_spec
from bikd_ray.specs import Spec

WHOLE: dict[str, Any] = {
    "name": "s",
    "task": "classification",
    "zoo": [
        {
            "timm": "resnet18",
            "alias": "a",
            "kwargs": {"x": 1, "l": [1, {"y": 2}]},
            "checkpoint": "w.pth",
            "key": "k",
            "prefix": "p.",
            "rename": {"a": "b"},
            "input": {
                "size": 8,
                "width": 12,
                "window": {"frames": 4, "stride": 2, "first": -6, "phase": 1},
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "crop_pct": 1.0,
                "interpolation": "bicubic",
                "multiple": 8,
            },
        },
        {"factory": "m.x:f", "alias": "b"},
        {"hub": "o/r@main:entry", "trust": True, "alias": "c"},
        {"transformers": "./m", "alias": "d"},
        {"torchvision": "fcn_resnet50", "alias": "e"},
        {"smp": "unet", "alias": "f"},
        {"detectron2": "model.pkl", "alias": "g"},
        {"saliency": "vinet_s", "start": "s3d.pt", "alias": "h"},
    ],
    "data": {
        "train": {"source": "folder", "path": "t", "labels": "t.txt"},
        "val": {
            "source": "timm",
            "name": "hfds/x",
            "path": "p",
            "split": "v",
            "image": "i",
            "label": "l",
        },
        "eval": {"more": {"source": "folder", "path": "x", "classes": {"a": "b", "c": "two"}}},
        "num_classes": 10,
        "classes": "names.txt",
        "select_fraction": 0.1,
        "cache": "auto",
        "on_bad_image": "fail",
    },
    "goal": "map",
    "search": {
        "regret": 0.05,
        "share": 0.25,
        "decide_on": "half",
        "start": 4,
        "confirm": 2,
        "predict": "auto",
    },
    "improve": {"group": 3, "models": ["a"], "by": "gains", "soup": False},
    "pairings": {"mode": "list", "size": 2, "list": [["a", "b"], ["b", "c"]]},
    "objectives": [
        {
            "name": "bikd",
            "temperature": 1.0,
            "ties": "auto",
            "detach_teacher": True,
            "mask": True,
            "ce_weight": 1.0,
            "kl_weight": 1.0,
            "confidence": "auto",
        },
        "ce",
        {"name": "kd", "kd_weight": 0.5},
    ],
    "controls": True,
    "probe": {
        "other": {
            "train": {"source": "folder", "path": "p/train"},
            "val": {"source": "folder", "path": "p/val"},
            "k": 20,
            "temperature": 0.07,
        }
    },
    "recipe": {
        "preset": "paper",
        "epochs": 3,
        "batch_size": 4,
        "optimizer": "adam",
        "lr": 1e-6,
        "lrs": {"a": 0.1},
        "momentum": 0.9,
        "backbone_lr": 0.1,
        "weight_decay": 0.0,
        "decay": "matrices",
        "schedule": "none",
        "warmup_epochs": 0,
        "clip_norm": 1.0,
        "ema": 0.9,
        "freeze_batchnorm": False,
        "augment": "none",
        "precision": "fp32",
        "train_fraction": 1.0,
    },
    "selection": "last",
    "similarity": "cca",
    "seeds": [0, 1, 2],
    "resources": {
        "gpus_per_job": "auto",
        "cpus_per_job": 1,
        "slots": "auto",
        "placement": "together",
        "workers_per_model": 1,
        "micro_batch": 2,
        "frozen_cache": "none",
        "activation_checkpointing": False,
        "compile": False,
        "save_every": 600,
        "keep_weights": "best",
        "autoscaler": [{"cpus": 4, "gpus": 1, "memory": 8, "count": 2}],
    },
    "loggers": [
        {"name": "tensorboard", "dir": "runs"},
        {"name": "mlflow", "tracking_uri": "x", "experiment": "e"},
        {"name": "wandb", "project": "p", "mode": "offline"},
    ],
    "store": "s3://b/x",
}

MASKED: list[dict[str, Any]] = [
    {
        "train": {
            "source": "mask_folders",
            "images": "i",
            "masks": "m",
            "image_suffix": "_rgb",
            "mask_suffix": "_mask",
            "num_classes": 3,
            "ignore_index": 255,
            "reduce_zero_label": False,
            "label_map": {0: 0, "7": 2, "else": 255},
        },
        "val": {"source": "mask_parquet", "path": "p", "image": "i", "mask": "m", "num_classes": 3},
    },
    {
        "train": {
            "source": "digit_scenes",
            "split": "train",
            "count": 8,
            "size": 24,
            "digits": [1, 2],
            "scales": [1, 2],
            "seed": 0,
            "wide": False,
        },
        "val": {"source": "ade20k", "path": "a", "split": "val"},
    },
    {
        "train": {
            "source": "clips",
            "path": "p",
            "layout": "general",
            "split": "train",
            "videos": "v",
            "shots": "glued",
            "map_size": [256, 456],
            "eval_stride": 8,
            "eval_blur": True,
        },
        "val": {"source": "moving_digits", "split": "val", "videos": 3, "frames": 9},
    },
]
"""Data of other tasks."""

WHOLES = [WHOLE, *({**WHOLE, "data": data} for data in MASKED)]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 10**30, -(10**30), 10**4000, 0.5, -0.5, 1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "auto", "none", "20", "1e-6", "nan"),
    *("é☃𝔘😀", "a\x07b", "a\nb", "\x00", "\x85", "\u2028", "\ud800", "a" * 5000, "9" * 5000),
    *("~", "~nobody-here/x", "$NOT_SET_X", "${", "${}", "$", "$$", "${HOME}", "$HOME/x"),
    *("s3://", "gs:///x", "https://", "a::b", "::", ":", "/", "local-dir:", "hfds/", "wds/"),
    *("m:f", "o/r:e", "[", b"\xff", b"b", ("a",), set(), [], {}, [None], [[]], {"a": 1}, {1: 2}),
    *({None: None}, [1, [2, [3]]], {"a": {"b": {"c": []}}}, ["a", "a"], [True, False], [{}]),
    *({"name": "bikd"}, {"anchors": ["a"]}, {"anchors": {"models": 3}}, {"list": [["a", "b"]]}),
    *({"preset": []}, {"a\nb": 1}, {"x" * 300: 1}, {"\ud800": 1}),
)

Place = tuple[Any, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Of every value that stands in another one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in inside:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*at, key))


PLACES = list(places(WHOLE))
EVERYWHERE = [list(places(whole)) for whole in WHOLES]


def mutated(rng: random.Random, changes: int) -> dict[str, Any]:
    """The spec with so many values replaced, left out or put beside others."""
    which = rng.randrange(len(WHOLES))
    spec = copy.deepcopy(WHOLES[which])
    for _ in range(changes):
        place, value = rng.choice(EVERYWHERE[which]), copy.deepcopy(rng.choice(STRANGE))
        parent: Any = spec
        for key in place[:-1]:
            there = isinstance(parent, dict) and key in parent
            there |= _holds(parent, key)
            parent = parent[key] if there else None
        how = rng.random()
        if isinstance(parent, dict) and how < 0.1:
            parent.pop(place[-1], None)
        elif isinstance(parent, dict) and how < 0.2:
            parent[rng.choice(["new", "a\nb", "", 3, None])] = value
        elif isinstance(parent, dict) or _holds(parent, place[-1]):
            parent[place[-1]] = value
    return spec


def _holds(parent: Any, key: Any) -> bool:
    return isinstance(parent, list) and isinstance(key, int) and key < len(parent)


def mistakes(spec: dict[str, Any]) -> list[str]:
    """The lines that reading a spec ends with; none of a good one."""
    try:
        assert isinstance(parse_spec(spec, base=Path("/srv/specs")), Spec)
    except UserError as error:
        return str(error).split("\n")
    return []


def assert_lines(lines: list[str]) -> None:
    for line in lines:
        assert line.startswith("spec: "), line
        assert len(line) <= 1100, line
        assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")], line


def test_the_spec_that_is_broken_here_is_good_and_has_every_field():
    assert [mistakes(whole) for whole in WHOLES] == [[]] * len(WHOLES)
    every = [place for places_of in EVERYWHERE for place in places_of]
    named = {key for place in every for key in place if isinstance(key, str)}
    models = [m for m in vars(specs).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    assert not {field for model in models for field in model.model_fields} - named - {"models"}


def test_any_value_in_any_place_is_taken_or_refused_in_lines():
    rng, refused = random.Random(0), 0
    for number in range(1500):
        lines = mistakes(mutated(rng, 1 + number % 3))
        assert_lines(lines)
        refused += bool(lines)
    assert refused > 1000


def numbers(value: Any) -> list[Place]:
    """The places of numbers."""
    found = []
    for place in PLACES:
        inner = value
        for key in place:
            inner = inner[key]
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            found.append(place)
    return [place for place in found if "kwargs" not in place]


@pytest.mark.parametrize("wrong", [True, False, 2**63, -(2**63) - 1, "1" * 30], ids=str)
def test_no_number_of_a_spec_is_a_boolean_or_beyond_int64(wrong):
    assert len(numbers(WHOLE)) > 30
    for place in numbers(WHOLE):
        spec = copy.deepcopy(WHOLE)
        parent: Any = spec
        for key in place[:-1]:
            parent = parent[key]
        whole = isinstance(parent[place[-1]], int)
        parent[place[-1]] = wrong
        if isinstance(wrong, bool) or whole:
            (line,) = [said for said in mistakes(spec) if str(place[-1]) in said]
            assert " must be " in line, line


BYTES = b"\t\n :-#&*!|>'\"%@`{}[],?<=~\x00\x07\xff\xfe\xef\xbb\xbf0123\xc3\xa9eyx"


def test_any_bytes_are_a_spec_or_one_line_for_each_mistake(tmp_path):
    rng, path = random.Random(1), tmp_path / "spec.yaml"
    text = b"""x-a: &a {epochs: 3, lr: 1e-6}
zoo: [{timm: a}, {timm: b}]
data: {train: {source: digits, split: train}, val: {source: digits, split: val}}
recipe: {<<: *a}
"""
    for _ in range(300):
        content = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(content))
            content[start : start + rng.randrange(4)] = rng.choices(BYTES, k=rng.randrange(4))
        path.write_bytes(content)
        try:
            assert isinstance(load_spec(path), Spec)
        except UserError as error:
            for line in str(error).split("\n"):
                assert line.startswith(f"{path}"), line
                assert line.isprintable(), line


def test_the_command_ends_with_lines_and_0_1_or_2(tmp_path, monkeypatch, capsys):
    rng, path = random.Random(2), tmp_path / "spec.yaml"
    nets = [
        {"factory": "tests.conftest:net", "alias": a, "kwargs": {"width": w}, "input": {"size": 8}}
        for a, w in (("a", 4), ("b", 5), ("c", 6))
    ]
    digits = {s: {"source": "digits", "split": s} for s in ("train", "val")}
    small = {**WHOLE, "zoo": nets, "data": digits, "store": str(tmp_path / "store")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    codes = set()
    for number in range(24):
        spec = {**mutated(rng, 1), **({"zoo": nets, "data": digits} if number % 4 else {})}
        spec = {**small, **dict(rng.sample(sorted(spec.items(), key=lambda f: str(f[0])), 4))}
        path.write_text(yaml.dump(spec, allow_unicode=False), encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["bikd", "check", str(path), "--format", "csv"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        codes.add(ended.value.code)
        said = capsys.readouterr().err
        assert "Traceback" not in said, said
        assert all(line.startswith("bikd: ") for line in said.split("\n")[:-1]), said
    assert codes <= {0, 1, 2}
    assert 2 in codes
