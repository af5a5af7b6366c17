"""TMFI-Net: a video Swin transformer whose four stages are merged and decoded one by one.

Zhou et al., Transformer-based multi-scale feature integration network for video saliency
prediction, IEEE TCSVT 2023. Written from a description of the layers. The tensors have the names
of the published files.
Axes: B clips, C channels, T frames, H and W pixels.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from bikd_ray.zoo.saliency.layers import check_clip, conv, relu, up

FRAMES = 32
"""The patches and the decoder halve time five times, down to the one map."""

START_NAMES = (
    *((rf"^features\.{2 * i}\.", f"layers.{i}.blocks.") for i in range(4)),
    *((rf"^features\.{2 * i + 1}\.", f"layers.{i}.downsample.") for i in range(3)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
"""torchvision's names of a Swin transformer to those of the encoder; other files have these."""


def tmfi_net(
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 18, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    width: int = 192,
) -> "TMFINet":
    """TMFI-Net as published, or a smaller one of its kind.

    embed_dim: channels of the first stage, a multiple of heads[0]; each stage doubles them.
    depths, heads: transformer blocks and attention heads of the four stages.
    width: channels of the decoder, a multiple of 8.
    """
    return TMFINet(embed_dim, depths, heads, width)


class TMFINet(nn.Module):
    """Clips [B, 3, 32, H, W] to maps [B, H, W] in (0, 1) of the last frame.

    H and W must be multiples of 32. Raises UserError for other clips.
    """

    def __init__(
        self, embed_dim: int, depths: Sequence[int], heads: Sequence[int], width: int
    ) -> None:
        super().__init__()
        self.backbone = Encoder(embed_dim, depths, heads)
        self.decoder = Decoder([embed_dim * 2**i for i in range(4)], width)

    def forward(self, clip_B3THW: Tensor) -> Tensor:
        check_clip(clip_B3THW, "tmfi_net", FRAMES, 32)
        return self.decoder(*self.backbone(clip_B3THW))


class Encoder(nn.Module):
    """torchvision's Swin transformer without a norm of the patches; drop path 0.2.

    Answers the features of its four stages [B, C, T, H, W], before patches are merged.
    """

    def __init__(self, embed_dim: int, depths: Sequence[int], heads: Sequence[int]) -> None:
        super().__init__()
        swin = SwinTransformer3d(
            patch_size=[2, 4, 4],
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(heads),
            window_size=[8, 7, 7],
            stochastic_depth_prob=0.2,
            num_classes=1,
            patch_embed=_patches,
        )
        self.patch_embed = swin.patch_embed
        self.layers = nn.ModuleList(
            Stage(nn.Sequential(*blocks.children()), merge)
            for blocks, merge in zip(swin.features[::2], [*swin.features[1::2], None], strict=True)
        )
        self.norm = swin.norm

    def forward(self, clip_B3THW: Tensor) -> list[Tensor]:
        x = self.patch_embed(clip_B3THW)  # channels last from here on
        features = []
        for stage in self.layers:
            feature, x = stage(x)
            features.append(feature)
        features[-1] = self.norm(features[-1])
        return [feature.permute(0, 4, 1, 2, 3) for feature in features]


def _patches(patch_size: list[int], embed_dim: int, **_: object) -> nn.Module:
    return PatchEmbed3d(patch_size, embed_dim=embed_dim, norm_layer=None)


class Stage(nn.Module):
    """Transformer blocks and, but for the last stage, the merging of patches after them."""

    def __init__(self, blocks: nn.Sequential, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = downsample
        names = ("fc1", "act", "drop1", "fc2", "drop2")
        for block in blocks:
            parts = block.get_submodule("mlp").children()
            block.mlp = nn.Sequential(OrderedDict(zip(names, parts, strict=True)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return x, x if self.downsample is None else self.downsample(x)


class Decoder(nn.Module):
    """Stages are merged from the top down, gated, and each decoded to a map; one map of the four.

    channels: of the stages. Takes their features, [B, C, 16, H/4, W/4] the first.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Conv3d(inside, width, (2, 1, 1), (2, 1, 1)) for inside in channels
        )
        self.convs1, self.convs2, self.convs3 = (conv(width, width, 1) for _ in range(3))
        self.gate1, self.gate2, self.gate3, self.gate4 = (Gate(width) for _ in range(4))
        self.convtsp1 = _branch(width)
        self.convtsp2 = _branch(width, 2)
        self.convtsp3 = _branch(width, 2, 2)
        self.convtsp4 = _branch(width, 2, 4)
        self.convout = nn.Sequential(conv(4, 1, 1, bias=True), nn.Sigmoid())
        self.up2, self.up4, self.up8 = (up(times) for times in (2, 4, 8))

    def forward(self, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor) -> Tensor:
        y1, y2, y3, y4 = self.conv1(f1), self.conv2(f2), self.conv3(f3), self.conv4(f4)
        t3 = self.up2(y4) + y3
        t2 = self.up2(t3) + y2 + self.up4(y4)
        t1 = self.up2(t2) + y1 + self.up8(y4)
        maps = [
            self.convtsp1(self.gate1(self.convs1(t1))),
            self.convtsp2(self.gate2(self.convs2(t2))),
            self.convtsp3(self.gate3(self.convs3(t3))),
            self.convtsp4(self.gate4(y4)),
        ]
        return self.convout(torch.cat(maps, 1))[:, 0, 0]


class Gate(nn.Module):
    """What is let through is added to the whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = conv(channels, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x)) + x


def _branch(width: int, before: int = 1, after: int = 1) -> nn.Sequential:
    """A feature [B, width, 8, H, W] to a map [B, 1, 1, nH, nW], n = 4 · before · after: H and W
    grow `before` the last convolution and `after` it.
    """
    return nn.Sequential(
        *(conv(width, width // 2, 2, 2), relu(), up(2)),
        *(conv(width // 2, width // 4, 2, 2), relu(), up(2)),
        *(conv(width // 4, width // 8, 2, 2), relu()),
        *([up(before)] if before > 1 else []),
        conv(width // 8, 1, 1),
        *([up(after)] if after > 1 else []),
        nn.Sigmoid(),
    )
