"""A network of videos that is small enough to learn in a test."""

import torch
from torch import Tensor, nn


class TinyClipNet(nn.Module):
    """Frames [B, 3, T, H, W], or one [B, 3, H, W], to a map [B, H / 4, W / 4]."""

    def __init__(self, frames: int = 1, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, width, (frames, 5, 5), (1, 4, 4), (0, 2, 2))
        self.second = nn.Conv2d(width, 1, 3, 1, 1)

    def forward(self, frames: Tensor) -> Tensor:
        clip = frames if frames.ndim == 5 else frames[:, :, None]
        return self.second(self.first(clip)[:, :, 0].relu()).sigmoid()[:, 0]


class Logits(TinyClipNet):
    """One that forgot its sigmoid."""

    def forward(self, frames: Tensor) -> Tensor:
        return torch.logit(super().forward(frames)) - 20
