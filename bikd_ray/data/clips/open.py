"""The videos that a data source of a spec names."""

from bikd_ray.data.clips.clip_set import ClipSet
from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.moving_digits import MovingDigits
from bikd_ray.errors import UserError
from bikd_ray.specs import ClipsData, DataSource, MovingDigitsData


def open_clips(source: DataSource) -> ClipSet:
    """The scored frames of a source of videos. Raises UserError for any other source."""
    if isinstance(source, MovingDigitsData):
        digits = MovingDigits(source.split, videos=source.videos, frames=source.frames)
        return ClipSet(digits, size=digits.size, stride=source.eval_stride, blur=source.eval_blur)
    if isinstance(source, ClipsData):
        files = ClipFiles(
            source.path,
            source.layout,
            split=source.split,
            videos=source.videos,
            shots=source.shots,
        )
        return ClipSet(
            files, size=source.map_size, stride=source.eval_stride, blur=source.eval_blur
        )
    raise UserError(
        f"data: source {source.source} has no videos with maps; give source: clips, or "
        "moving_digits"
    )
