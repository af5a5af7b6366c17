"""The three saliency networks once more, as formulas over the tensors of a published file.

Every tensor is asked for by its name there, so that a layer out of place is seen. Evaluation mode.
Axes: B clips, C channels, T frames, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def resized(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Each frame for itself, bilinearly."""
    frames = [F.interpolate(x[:, :, t], size, mode="bilinear", align_corners=align_corners)
              for t in range(x.shape[2])]  # fmt: skip
    return torch.stack(frames, 2)


def up(x: Tensor, times: int, align_corners: bool = False) -> Tensor:
    return resized(x, (x.shape[3] * times, x.shape[4] * times), align_corners)


def conv(
    state: State, name: str, x: Tensor, stride: Any = 1, padding: Any = (0, 1, 1), **how: Any
) -> Tensor:
    bias = state.get(f"{name}.bias")
    return F.conv3d(x, state[f"{name}.weight"], bias, stride, padding, **how)


def tmfi_decoder(state: State, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor) -> Tensor:
    state = {k.removeprefix("decoder."): v for k, v in state.items()}

    def gated(i: int, x: Tensor) -> Tensor:
        if i < 4:
            x = conv(state, f"convs{i}", x)
        return x * conv(state, f"gate{i}.gate", x).sigmoid() + x

    def branch(i: int, x: Tensor) -> Tensor:
        half = {"stride": (2, 1, 1)}
        x = up(conv(state, f"convtsp{i}.0", x, **half).relu(), 2)
        x = up(conv(state, f"convtsp{i}.3", x, **half).relu(), 2)
        x = conv(state, f"convtsp{i}.6", x, **half).relu()
        x = conv(state, "convtsp1.8", x) if i == 1 else conv(state, f"convtsp{i}.9", up(x, 2))
        return up(x, {1: 1, 2: 1, 3: 2, 4: 4}[i]).sigmoid()

    y1, y2, y3, y4 = (
        conv(state, f"conv{i}", f, (2, 1, 1), 0) for i, f in enumerate((f1, f2, f3, f4), 1)
    )
    t3 = up(y4, 2) + y3
    t2 = up(t3, 2) + y2 + up(y4, 4)
    t1 = up(t2, 2) + y1 + up(y4, 8)
    maps = [branch(i, gated(i, x)) for i, x in enumerate((t1, t2, t3, y4), 1)]
    return conv(state, "convout.0", torch.cat(maps, 1)).sigmoid()[:, 0, 0]


def vinet_s_decoder(
    state: State, y0: Tensor, y1: Tensor, y2: Tensor, y3: Tensor, align_corners: bool
) -> Tensor:
    state = {k.removeprefix("decoder."): v for k, v in state.items()}

    def layer(name: str, x: Tensor, frames: int, groups: int) -> Tensor:
        x = conv(state, name, x, (frames, 1, 1), groups=groups).relu()
        return up(x, 2, align_corners)

    x = torch.cat((layer("convtsp1.0", y0, 1, 32), y1), 2)
    x = torch.cat((layer("convtsp2.0", x, 3, 16), y2), 2)
    x = torch.cat((layer("convtsp3.0", x, 5, 8), y3), 2)
    x = layer("convtsp4.3", layer("convtsp4.0", x, 5, 4), 2, 2)
    x = conv(state, "convtsp4.6", x, (2, 1, 1), 0).relu()
    return conv(state, "convtsp4.8", x, 1, 0).sigmoid()[:, 0, 0]


def vinet_a(state: State, clip: Tensor) -> Tensor:
    slow, fast, skips = slow_fast(
        {k.removeprefix("backbone."): v for k, v in state.items() if "backbone" in k}, clip
    )
    neck = {k.removeprefix("neck."): v for k, v in state.items()}
    slow = conv(neck, "conv_slow.0", slow, 1, 0).relu()
    skips = [conv(neck, f"conv_skip{i}.0", x, 1, 0).relu() for i, x in enumerate(skips, 1)]
    folded = slow.new_empty((len(fast), 512, 16, *fast.shape[3:]))
    for c in range(256):
        for t in range(32):
            folded[:, 2 * c + t // 16, t % 16] = fast[:, c, t]
    pooled = torch.maximum(folded[:, :, ::2], folded[:, :, 1::2])
    return vinet_a_decoder(state, torch.cat((slow, pooled), 1), skips)


def vinet_a_decoder(state: State, x: Tensor, skips: list[Tensor]) -> Tensor:
    state = {k.removeprefix("decoder."): v for k, v in state.items()}

    def cube(i: int, x: Tensor, groups: int) -> Tensor:
        return conv(state, f"convtsp{i}.0", x, 1, 1, groups=groups).relu()

    def halved(name: str, x: Tensor, groups: int) -> Tensor:
        return up(conv(state, name, x, (2, 1, 1), groups=groups).relu(), 2)

    def shuffled(x: Tensor, groups: int) -> Tensor:
        return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)

    x = shuffled(torch.cat((cube(1, x, 32), skips[3]), 1), 32)
    x = resized(cube(2, x, 16), skips[2].shape[3:])
    x = shuffled(torch.cat((x, skips[2]), 1), 16)
    x = shuffled(torch.cat((up(cube(3, x, 8), 2), skips[1]), 1), 8)
    x = torch.cat((cube(4, x, 8), skips[0]), 1)
    x = halved("convtsp6.0", halved("convtsp5.0", x, 4), 2)
    x = conv(state, "convtsp6.3", x).relu()
    x = conv(state, "convtsp6.5", x, 1, 0).relu()
    return conv(state, "convtsp6.7", x, 1, 0).sigmoid()[:, 0, 0]


def slow_fast(state: State, clip: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    def stem(path: str, x: Tensor, frames: int) -> Tensor:
        x = conv(state, f"{path}_conv1", x, (1, 2, 2), (frames // 2, 3, 3))
        return F.max_pool3d(norm(f"{path}_bn1", x).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def block(name: str, x: Tensor, frames: int, stride: int, dilation: int) -> Tensor:
        y = norm(f"{name}.bn1", conv(state, f"{name}.conv1", x, 1, (frames // 2, 0, 0))).relu()
        wide = (0, dilation, dilation)
        y = conv(state, f"{name}.conv2", y, (1, stride, stride), wide, dilation=(1, *wide[1:]))
        y = norm(f"{name}.bn3", conv(state, f"{name}.conv3", norm(f"{name}.bn2", y).relu(), 1, 0))
        if f"{name}.downsample.0.weight" in state:
            x = conv(state, f"{name}.downsample.0", x, (1, stride, stride), 0)
            x = norm(f"{name}.downsample_bn", x)
        return (x + y).relu()

    fast, slow, skips = stem("fast", clip, 5), stem("slow", clip[:, :, range(0, 32, 4)], 1), []
    for i, blocks in enumerate((3, 4, 6, 3), 1):
        skips.append(torch.cat((slow, conv(state, f"Tconv{i}", fast, (4, 1, 1), (2, 0, 0))), 1))
        slow = skips[-1]
        for j in range(blocks):
            how = (2 if i in (2, 3) and j == 0 else 1, 2 if i == 4 else 1)
            slow = block(f"slow_res{i}.{j}", slow, 3 if i > 2 else 1, *how)
            fast = block(f"fast_res{i}.{j}", fast, 3, *how)
    return slow, fast, skips
