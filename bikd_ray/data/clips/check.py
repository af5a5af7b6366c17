"""What a look at a few files of each video tells before hours of training: sizes, rates, faults."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bikd_ray.data.clips.source import ClipSource, Truth
from bikd_ray.data.clips.video_file import frame_rate, is_video
from bikd_ray.data.exclusions import listed
from bikd_ray.errors import UserError

Tell = Callable[[str, str], None]

LOOKED_AT = 3
"""Truths of each video: the first, the middle and the last."""


@dataclass(frozen=True)
class Looked:
    """`faults` name a file each that does not decode or holds nothing usable; `notes` say what is
    odd, and sizes and frame rates.
    """

    faults: tuple[str, ...]
    notes: tuple[str, ...]


def look(source: ClipSource) -> Looked:
    """Decode one frame of every video, and a few of its truths.

    A video whose frame does not decode for want of PyAV or of a codec is a fault that says so.
    """
    faults: list[str] = []
    sizes: Counter[str] = Counter()
    rates: Counter[str] = Counter()
    odd: dict[str, list[str]] = {}

    def tell(kind: str, example: str) -> None:
        odd.setdefault(kind, []).append(example)

    for index, video in enumerate(source.videos):
        try:
            frame = next(iter(source.frames(index, [0])))
            truths = {t: source.truth(index, t) for t in _few(video.scored)}
            path = source.frame_path(index)
            if path and is_video(path):
                rates[f"{frame_rate(path):g} frames/s"] += 1
        except UserError as error:
            faults.append(str(error))
            continue
        sizes[f"{frame.width}×{frame.height}"] += 1
        for t, truth in truths.items():
            _odd_truth(truth, (frame.height, frame.width), f"frame {t + 1} of {video.name}", tell)
    notes = [f"frames of {_counted(sizes)}"] if sizes else []
    notes += [f"video files of {_counted(rates)}"] if rates else []
    notes += [f"{kind}: {listed(examples)}" for kind, examples in odd.items()]
    return Looked(tuple(faults), tuple(notes))


def _few(scored: np.ndarray) -> list[int]:
    places = np.linspace(0, len(scored) - 1, LOOKED_AT).round().astype(int)
    return np.unique(scored[places]).tolist() if len(scored) else []


def _odd_truth(truth: Truth, size: tuple[int, int], where: str, tell: Tell) -> None:
    height, width = truth.map.shape
    if truth.map.shape != size:
        other = f"{width}×{height} for {size[1]}×{size[0]}"
        tell("maps of another size than the frames", f"{where} ({other})")
    if not truth.map.any():
        tell("maps that are 0 everywhere, which have weight 0", where)
    if truth.rescaled:
        tell("fixations on a grid of another size than the map's", where)
    if truth.outside:
        tell("fixations outside the frame, dropped", f"{where} ({truth.outside})")


def _counted(values: Counter[str]) -> str:
    return listed(f"{value} ({count})" for value, count in values.most_common())
