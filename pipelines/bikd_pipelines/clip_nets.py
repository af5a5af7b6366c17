"""Networks of videos that the demo has, small enough to learn in seconds."""

import torch
from torch import Tensor, nn
from torch.nn import functional

MAP = (64, 96)
"""Height and width of the maps that they answer."""


class ClipNet(nn.Module):
    """Frames [B, 3, T, H, W], or one [B, 3, H, W], to a map [B, 64, 96].

    Two strided stages, one that takes all frames together, and a second scale that sees more of
    them at once. frames: T.
    """

    def __init__(self, frames: int = 1, width: int = 12) -> None:
        super().__init__()
        deep = 3 if frames >= 3 else 1
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (1, 5, 5), (1, 2, 2), (0, 2, 2)),
            nn.ReLU(),
            nn.Conv3d(width, width, (deep, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(width, 2 * width, (frames - deep + 1, 3, 3), 1, (0, 1, 1)),
            nn.ReLU(),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Conv2d(4 * width, 2 * width, 3, 1, 1), nn.ReLU(), nn.Conv2d(2 * width, 1, 1)
        )

    def forward(self, frames: Tensor) -> Tensor:
        clip = frames if frames.ndim == 5 else frames[:, :, None]
        fine = self.stem(clip)[:, :, 0]
        coarse = functional.interpolate(self.coarse(fine), fine.shape[-2:], mode="bilinear")
        logits = self.head(torch.cat([fine, coarse], 1))
        return functional.interpolate(logits, MAP, mode="bilinear").sigmoid()[:, 0]
