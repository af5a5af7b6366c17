"""What the three saliency networks have in common.

Axes: B clips, C channels, T frames, H and W pixels.
"""

from torch import Tensor, nn

from bikd_ray.errors import UserError


def conv(
    inside: int, outside: int, frames: int, stride: int = 1, *, groups: int = 1, bias: bool = False
) -> nn.Conv3d:
    """A convolution over `frames` x 3 x 3 that keeps H and W; `stride` is that of time."""
    return nn.Conv3d(
        inside, outside, (frames, 3, 3), (stride, 1, 1), (0, 1, 1), groups=groups, bias=bias
    )


def up(times: int, *, align_corners: bool = False) -> nn.Upsample:
    """H and W `times` as large, interpolated linearly frame by frame."""
    return nn.Upsample(
        scale_factor=(1, times, times), mode="trilinear", align_corners=align_corners
    )


def relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def check_clip(clip_B3THW: Tensor, name: str, frames: int, multiple: int) -> None:
    """Refuse anything but colour clips of `frames` frames with H and W multiples of `multiple`.

    Raises UserError.
    """
    shape = tuple(clip_B3THW.shape)
    if len(shape) != 5 or shape[1:3] != (3, frames):
        problem = f"[B, 3, {frames}, H, W]"
    elif not clip_B3THW.is_floating_point():
        problem = f"floating-point numbers, not {str(clip_B3THW.dtype).removeprefix('torch.')},"
    elif 0 in shape or shape[3] % multiple or shape[4] % multiple:
        problem = f"H and W that are multiples of {multiple}"
    else:
        return
    raise UserError(
        f"zoo: {name} takes clips of {problem} and was given {list(shape)}; "
        "correct the window or the size"
    )
