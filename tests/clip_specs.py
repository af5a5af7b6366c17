"""Specs of tiny networks that see videos of moving digits differently."""

from typing import Any

from bikd_ray.spec_file import parse_spec

NET = "tests.tiny_clip_net:TinyClipNet"
ZOO: list[dict[str, Any]] = [
    {"factory": NET, "alias": "still", "input": {"size": 32, "width": 48}},
    {
        "factory": NET,
        "alias": "short",
        "kwargs": {"frames": 4},
        "input": {"size": 32, "width": 48, "window": {"frames": 4}},
    },
    {
        "factory": NET,
        "alias": "long",
        "kwargs": {"frames": 4, "width": 5},
        "input": {"size": 16, "width": 24, "window": {"frames": 4, "stride": 3}},
    },
]


def spec_of(zoo: list[dict[str, Any]] = ZOO, **changed: Any):
    return parse_spec(
        {
            "task": "saliency",
            "zoo": zoo,
            "data": {
                "train": {"source": "moving_digits", "split": "train", "videos": 6},
                "val": {
                    "source": "moving_digits",
                    "split": "val",
                    "videos": 5,
                    "frames": 20,
                    "eval_stride": 8,
                },
            },
            "recipe": {"epochs": 1, "batch_size": 3, "lr": 1e-3},
            "seeds": [0],
            **changed,
        }
    )
