"""ViNet-S: S3D with a decoder that joins its stages along time, in grouped convolutions.

Girmaji et al., Minimalistic video saliency prediction via efficient decoder and spatio-temporal
action cues, ICASSP 2025. Written from a description of the layers. The tensors have the names of
the published files.
Axes: B clips, C channels, T frames, H and W pixels.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.video import s3d
from torchvision.ops import Conv3dNormActivation

from bikd_ray.zoo.saliency.layers import check_clip, conv, relu, up

FRAMES = 32
"""The strides over time of encoder and decoder bring these to the one map."""

BASES = ((0, 4), (5, 7), (8, 13), (14, 16))
"""Where each part of the encoder begins and ends in torchvision's features; pools lie between."""

_SEPARABLE, _BASIC = r"(base1\.[03]|branch[12]\.1)", r"(base1\.2|branch\d\.0|branch3\.1)"
START_NAMES = (
    *(
        (rf"^(?:module\.)?(?:features|base)\.{i}\.", f"base{k}.{i - begin}.")
        for k, (begin, end) in enumerate(BASES, 1)
        for i in range(begin, end)
    ),
    (r"branch0\.([01])\.(?=\w+$)", r"branch0.0.\1."),
    *(
        (rf"{_SEPARABLE}\.{i}\.{j}\.(?=\w+$)", rf"\1.{layer}_{axis}.")
        for i, axis in enumerate("st")
        for j, layer in enumerate(("conv", "bn"))
    ),
    *(
        (rf"{_BASIC}\.{j}\.(?=\w+$)", rf"\1.{layer}.")
        for j, layer in enumerate(("conv", "bn"))
    ),
)  # fmt: skip
"""torchvision's names of S3D, and those of the Kinetics file, to those of the encoder."""


def vinet_s(align_corners: bool = True) -> "ViNetS":
    """ViNet-S as published.

    align_corners: of the decoder's upsampling, of which the weights tell nothing. The published
    ones were trained with True; the authors' script that predicts with them has False.
    """
    return ViNetS(align_corners)


class ViNetS(nn.Module):
    """Clips [B, 3, 32, H, W] to maps [B, H, W] in (0, 1) of the last frame.

    H and W must be multiples of 32. Raises UserError for other clips.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.decoder = Decoder(align_corners)

    def forward(self, clip_B3THW: Tensor) -> Tensor:
        check_clip(clip_B3THW, "vinet_s", FRAMES, 32)
        return self.decoder(*self.backbone(clip_B3THW))


class Encoder(nn.Module):
    """torchvision's S3D without its classifier; answers its four levels, the deepest first."""

    def __init__(self) -> None:
        super().__init__()
        layers = [_named(layer) for layer in s3d(num_classes=1).features]
        self.base1, self.base2, self.base3, self.base4 = (
            nn.Sequential(*layers[begin:end]) for begin, end in BASES
        )
        self.pool1, self.pool2, self.pool3 = (layers[end] for _, end in BASES[:3])

    def forward(self, clip_B3THW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y3 = self.base1(clip_B3THW)
        y2 = self.base2(self.pool1(y3))
        y1 = self.base3(self.pool2(y2))
        return self.base4(self.pool3(y1)), y1, y2, y3


def _named(layer: nn.Module) -> nn.Module:
    """A layer of torchvision's S3D, its parts under the names of the published files."""
    if isinstance(layer, Conv3dNormActivation):
        return nn.Sequential(OrderedDict(zip(("conv", "bn", "relu"), layer, strict=True)))
    if isinstance(layer, nn.Sequential):  # a convolution over space and one over time
        names = [f"{part}_{axis}" for axis in "st" for part in ("conv", "bn", "relu")]
        parts = [part for half in layer.children() for part in half.children()]
        return nn.Sequential(OrderedDict(zip(names, parts, strict=True)))
    for name, branch in layer.named_children():  # the four of an inception block
        units = [branch] if isinstance(branch, Conv3dNormActivation) else branch.children()
        setattr(layer, name, nn.Sequential(*map(_named, units)))
    return layer


class Decoder(nn.Module):
    """From the deepest level up: each convolution strides over all that time has joined."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()

        def up2() -> nn.Module:
            return up(2, align_corners=align_corners)

        self.convtsp1 = nn.Sequential(conv(1024, 832, 1, groups=32), relu(), up2())
        self.convtsp2 = nn.Sequential(conv(832, 480, 3, 3, groups=16), relu(), up2())
        self.convtsp3 = nn.Sequential(conv(480, 192, 5, 5, groups=8), relu(), up2())
        self.convtsp4 = nn.Sequential(
            *(conv(192, 64, 5, 5, groups=4), relu(), up2()),
            *(conv(64, 32, 2, 2, groups=2), relu(), up2()),
            *(nn.Conv3d(32, 32, (2, 1, 1), (2, 1, 1), bias=False), relu()),
            *(nn.Conv3d(32, 1, 1), nn.Sigmoid()),
        )

    def forward(self, y0: Tensor, y1: Tensor, y2: Tensor, y3: Tensor) -> Tensor:
        x = torch.cat((self.convtsp1(y0), y1), 2)
        x = torch.cat((self.convtsp2(x), y2), 2)
        x = torch.cat((self.convtsp3(x), y3), 2)
        return self.convtsp4(x)[:, 0, 0]
