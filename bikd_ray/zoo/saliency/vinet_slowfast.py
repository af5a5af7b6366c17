"""ViNet-A: SlowFast, trained to localise actions, with a neck and a decoder that shuffles channels.

Girmaji et al., Minimalistic video saliency prediction via efficient decoder and spatio-temporal
action cues, ICASSP 2025; Feichtenhofer et al., SlowFast networks for video recognition, ICCV 2019.
Written from a description of the layers. The tensors have the names of the published files.
Axes: B clips, C channels, T frames, H and W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bikd_ray.zoo.saliency.layers import check_clip, conv, relu, up

FRAMES = 32
ALPHA = 4
"""The slow path sees every fourth frame."""

BLOCKS = (3, 4, 6, 3)
START_NAMES: tuple[tuple[str, str], ...] = ()
"""The file of weights to start from has the encoder's names, behind a prefix."""


def vinet_a() -> "ViNetA":
    """ViNet-A as published."""
    return ViNetA()


class ViNetA(nn.Module):
    """Clips [B, 3, 32, H, W] to maps [B, H, W] in (0, 1) of a frame in their middle.

    H and W must be multiples of 8. The published network takes 256 x 456 alone, since its neck
    pools to 16 x 29; here the neck pools to the size of the slow path, which is the same there.
    Raises UserError for other clips.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SlowFast()
        self.neck = Neck()
        self.decoder = Decoder()

    def forward(self, clip_B3THW: Tensor) -> Tensor:
        check_clip(clip_B3THW, "vinet_a", FRAMES, 8)
        return self.decoder(*self.neck(*self.backbone(clip_B3THW)))


class SlowFast(nn.Module):
    """SlowFast-50, α = 4, β = 1/8; its last stage dilates where others stride.

    Answers the slow path's end [B, 2048, 8, H/16, W/16], the fast one's [B, 256, 32, H/16, W/16]
    and what the slow stages read: slow channels with those of the fast path behind them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fast_conv1 = nn.Conv3d(3, 8, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.fast_bn1 = nn.BatchNorm3d(8)
        self.slow_conv1 = nn.Conv3d(3, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.slow_bn1 = nn.BatchNorm3d(64)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        fast, slow = 8, 64
        for i, blocks in enumerate(BLOCKS, 1):
            lateral = nn.Conv3d(fast, 2 * fast, (5, 1, 1), (ALPHA, 1, 1), (2, 0, 0), bias=False)
            stride, dilation = {1: (1, 1), 4: (1, 2)}.get(i, (2, 1))
            how = {"blocks": blocks, "stride": stride, "dilation": dilation}
            self.add_module(f"Tconv{i}", lateral)
            self.add_module(f"slow_res{i}", _stage(slow + 2 * fast, 32 * 2**i, i > 2, **how))
            self.add_module(f"fast_res{i}", _stage(fast, 4 * 2**i, True, **how))
            fast, slow = 16 * 2**i, 128 * 2**i

    def forward(self, clip_B3THW: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        fast = self.pool(F.relu(self.fast_bn1(self.fast_conv1(clip_B3THW))))
        slow = self.pool(F.relu(self.slow_bn1(self.slow_conv1(clip_B3THW[:, :, ::ALPHA]))))
        skips = []
        for i in range(1, len(BLOCKS) + 1):
            lateral = self.get_submodule(f"Tconv{i}")(fast)
            skips.append(torch.cat((slow, lateral), 1))
            slow = self.get_submodule(f"slow_res{i}")(skips[-1])
            fast = self.get_submodule(f"fast_res{i}")(fast)
        return slow, fast, skips


def _stage(
    inside: int, planes: int, temporal: bool, *, blocks: int, stride: int, dilation: int
) -> nn.Sequential:
    first = Bottleneck(inside, planes, temporal, stride, dilation)
    rest = (Bottleneck(4 * planes, planes, temporal, 1, dilation) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


class Bottleneck(nn.Module):
    """A residual block of SlowFast, from `inside` channels to four times `planes`.

    temporal: its first convolution sees three frames. The second has the stride and dilation.
    """

    def __init__(
        self, inside: int, planes: int, temporal: bool, stride: int, dilation: int
    ) -> None:
        super().__init__()
        frames, outside = 3 if temporal else 1, 4 * planes
        self.conv1 = nn.Conv3d(
            inside, planes, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False
        )
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(
            planes,
            planes,
            (1, 3, 3),
            (1, stride, stride),
            (0, dilation, dilation),
            (1, dilation, dilation),
            bias=False,
        )
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outside)
        self.downsample = self.downsample_bn = None
        if inside != outside or stride != 1:
            shortcut = nn.Conv3d(inside, outside, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(shortcut)
            self.downsample_bn = nn.BatchNorm3d(outside)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        if self.downsample is not None and self.downsample_bn is not None:
            x = self.downsample_bn(self.downsample(x))
        return F.relu(x + y, inplace=True)


class Neck(nn.Module):
    """Halves the channels of the slow path and of the skips, and puts the fast path beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_slow = _half(2048)
        self.conv_skip1 = _half(80)
        self.conv_skip2 = _half(320)
        self.conv_skip3 = _half(640)
        self.conv_skip4 = _half(1280)

    def forward(self, slow: Tensor, fast: Tensor, skips: list[Tensor]) -> tuple[Tensor, ...]:
        slow = self.conv_slow(slow)
        # channel c of frame t becomes channel 2c + t // 16 of frame t % 16
        fast = fast.unflatten(2, (2, -1)).flatten(1, 2)
        fast = F.adaptive_max_pool3d(fast, slow.shape[-3:])
        halves = (self.conv_skip1, self.conv_skip2, self.conv_skip3, self.conv_skip4)
        joined = torch.cat((slow, fast), 1)
        return joined, *(half(skip) for half, skip in zip(halves, skips, strict=True))


def _half(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(channels, channels // 2, 1, bias=False), relu())


class Decoder(nn.Module):
    """From the deepest level up: skips are joined over channels, which are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.convtsp1 = _grouped(1536, 640, 32)
        self.convtsp2 = _grouped(1280, 320, 16)
        self.convtsp3 = nn.Sequential(*_grouped(640, 160, 8), up(2))
        self.convtsp4 = _grouped(320, 40, 8)
        self.convtsp5 = nn.Sequential(conv(80, 64, 2, 2, groups=4), relu(), up(2))
        self.convtsp6 = nn.Sequential(
            *(conv(64, 32, 2, 2, groups=2), relu(), up(2)),
            *(conv(32, 16, 2), relu()),
            *(nn.Conv3d(16, 16, 1, bias=False), relu()),
            *(nn.Conv3d(16, 1, 1), nn.Sigmoid()),
        )

    def forward(
        self, x: Tensor, skip1: Tensor, skip2: Tensor, skip3: Tensor, skip4: Tensor
    ) -> Tensor:
        x = F.channel_shuffle(torch.cat((self.convtsp1(x), skip4), 1), 32)
        x = F.interpolate(self.convtsp2(x), skip3.shape[-3:], mode="trilinear")  # 29 to 57 wide
        x = F.channel_shuffle(torch.cat((x, skip3), 1), 16)
        x = F.channel_shuffle(torch.cat((self.convtsp3(x), skip2), 1), 8)
        x = torch.cat((self.convtsp4(x), skip1), 1)
        return self.convtsp6(self.convtsp5(x))[:, 0, 0]


def _grouped(inside: int, outside: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inside, outside, 3, padding=1, groups=groups, bias=False), relu()
    )
