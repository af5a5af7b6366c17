"""Images that are decoded before a sweep, to see a wrong format and a set without good images.

They are too few to see one bad file in a million: the sweep's own decoding does that.
"""

from bikd_ray.data.decode import BadImage
from bikd_ray.data.sources import ImageSet
from bikd_ray.errors import UserError

SAMPLED = 64


def sample(images: ImageSet) -> range:
    """The indices of at most SAMPLED images, spread over the set."""
    return spread(len(images.labels))


def spread(count: int) -> range:
    """At most SAMPLED of `count` indices, evenly."""
    return range(0, count, max(1, -(-count // SAMPLED)))


def undecodable(images: ImageSet) -> list[str]:
    """Why images of the sample do not decode, a line for each that does not."""
    faults = (fault(images, index) for index in sample(images))
    return [why for why in faults if why is not None]


def counted(faults: list[str], images: ImageSet) -> str:
    """How many of the sample are `faults`, and the first."""
    kind = kind_of(images)
    return f"{len(faults)} of {len(sample(images))} {kind} looked at do not decode: {faults[0]}"


def kind_of(images: ImageSet) -> str:
    """What the samples of a set are, for people: images, frames of videos, videos."""
    return getattr(images, "kind", "images")


def refuse_mostly_bad(split: str, images: ImageSet, faults: list[str]) -> None:
    """Raises UserError if more than half of the sample are `faults`: skipping leaves too little."""
    if 2 * len(faults) > len(sample(images)):
        raise UserError(f"data.{split}: {counted(faults, images)}; too many to skip")


def refuse_all_bad(split: str, images: ImageSet) -> None:
    """Raises UserError if no image of the sample decodes; looks no further than the first good."""
    faults = []
    for index in sample(images):
        why = fault(images, index)
        if why is None:
            return
        faults.append(why)
    refuse_mostly_bad(split, images, faults)


def fault(images: ImageSet, index: int) -> str | None:
    """Why an image does not decode, or None if it does."""
    try:
        images.image(index)
    except BadImage as error:
        return error.what
    return None
