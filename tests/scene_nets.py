"""Two tiny segmentation networks of two families, and specs on digit scenes for them."""

from typing import Any

import torch
from torch import Tensor, nn

from bikd_ray.specs import Spec

INPUT = {"size": 24, "multiple": 8, "mean": [0.5] * 3, "std": [0.5] * 3}


class Pixels(nn.Module):
    """Logits of every pixel."""

    def __init__(self, width: int = 8, classes: int = 11) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class Masks(nn.Module):
    """Queries with class and mask logits, at half the resolution."""

    def __init__(self, width: int = 8, classes: int = 11, queries: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, padding=1), nn.ReLU())
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.classes = nn.Linear(2 * width, classes + 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        masks = torch.einsum("qd,bdhw->bqhw", self.queries, features)
        mean = torch.einsum("bqhw,bdhw->bqd", masks.sigmoid(), features) / features[0, 0].numel()
        both = torch.cat([mean, self.queries.expand(len(images), -1, -1)], -1)
        return {"class_queries_logits": self.classes(both), "masks_queries_logits": masks}


class Pooled(Pixels):
    """What DeepLab does: what the whole image says is normalised over the batch."""

    def __init__(self, width: int = 8, classes: int = 11) -> None:
        super().__init__(width, classes)
        self.whole = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images) + self.whole(images))


class Named(Pixels):
    """Pixels that know what their classes are called."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.pretrained_cfg = {"label_names": names}


def entry(kind: str, alias: str, **kwargs: Any) -> dict[str, Any]:
    factory = f"tests.scene_nets:{kind}"
    return {"factory": factory, "alias": alias, "kwargs": kwargs, "input": INPUT}


TWO = [entry("Pixels", "pixels"), entry("Masks", "masks")]


def scene_spec(zoo: list[dict[str, Any]], **changes: Any) -> Spec:
    """A sweep of two epochs; val has scenes of three shapes."""
    scenes = {"source": "digit_scenes", "size": 24, "digits": [1, 2]}
    return Spec.model_validate(
        {
            "task": "segmentation",
            "zoo": zoo,
            "data": {
                "train": {**scenes, "split": "train", "count": 24},
                "val": {**scenes, "split": "val", "count": 12, "wide": True},
                "cache": "none",
            },
            "recipe": {"epochs": 2, "batch_size": 8, "optimizer": "adamw", "lr": 3e-3},
            "seeds": [0],
            **changes,
        }
    )
