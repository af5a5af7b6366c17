"""Four tiny segmentation networks of two families, for the demo's digit scenes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 11


def _layer(inside: int, outside: int, **how: Any) -> nn.Sequential:
    kernel = how.pop("kernel", 3)
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, bias=False, **how),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_layer(width, width, padding=1), _layer(width, width, padding=1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.body(maps)


def dilated(width: int = 24, classes: int = CLASSES) -> nn.Module:
    """At full resolution; each layer looks further."""
    layers = [_layer(3, width, padding=1)]
    layers += [_layer(width, width, padding=d, dilation=d) for d in (2, 4, 2)]
    return nn.Sequential(*layers, nn.Conv2d(width, classes, 1))


def residual(width: int = 48, classes: int = CLASSES) -> nn.Module:
    """At a quarter of the resolution, of which 16 pixels are made at once."""
    body = [_layer(3, width, kernel=4, stride=4), *(_Residual(width) for _ in range(3))]
    return nn.Sequential(*body, nn.Conv2d(width, 16 * classes, 1), nn.PixelShuffle(4))


class UNet(nn.Module):
    """Down twice and up again, with what was seen on the way down."""

    def __init__(self, width: int = 16, classes: int = CLASSES) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [
                _layer(3, width, padding=1),
                _layer(width, 2 * width, stride=2, padding=1),
                _layer(2 * width, 4 * width, stride=2, padding=1),
            ]
        )
        self.up = nn.ModuleList(
            [
                _layer(6 * width, 2 * width, padding=1),
                _layer(3 * width, width, padding=1),
            ]
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        seen = [images]
        for down in self.down:
            seen.append(down(seen[-1]))
        maps = seen.pop()
        for up in self.up:
            beside = seen.pop()
            maps = up(torch.cat([F.interpolate(maps, beside.shape[-2:]), beside], 1))
        return self.head(maps)


class Masks(nn.Module):
    """Queries that look at the image, each with a class and a mask; every layer's answer counts."""

    def __init__(
        self, width: int = 32, queries: int = 8, layers: int = 2, classes: int = CLASSES
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _layer(3, width, padding=1),
            _layer(width, width, padding=2, dilation=2),
            _layer(width, width, padding=4, dilation=4),
        )
        self.coarse = _layer(width, width, stride=2, padding=1)
        self.place = nn.Conv2d(2, width, 1)
        self.queries = nn.Embedding(queries, width)
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes + 1)
        self.masks = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, images: Tensor) -> dict[str, Any]:
        fine = self.body(images)
        coarse = self.coarse(fine)
        memory = (coarse + self.place(_places(coarse))).flatten(2).transpose(1, 2)
        found = self.queries.weight.expand(len(images), -1, -1)
        answers = []
        for layer in self.decoder:
            found = layer(found, memory)
            answers.append(self._answer(self.norm(found), fine))
        *others, last = answers
        return {**last, "auxiliary_logits": others}

    def _answer(self, found: Tensor, fine: Tensor) -> dict[str, Tensor]:
        masks = torch.einsum("bqd,bdhw->bqhw", self.masks(found), fine)
        return {"class_queries_logits": self.classes(found), "masks_queries_logits": masks}


def _places(maps: Tensor) -> Tensor:
    """[1, 2, h, w]: row and column of each cell, from -1 to 1."""
    rows, columns = (torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].to(maps.dtype)
