"""The images of probes: labelled sets of other classes than the models'."""

from functools import lru_cache
from typing import Any

from bikd_ray.data.content import content_id, spot_check
from bikd_ray.data.labels import label_space, relabelled
from bikd_ray.data.sources import EncodedImages, ImageSet, open_images
from bikd_ray.errors import BikdError, UserError
from bikd_ray.identity import digest
from bikd_ray.plan import ResolvedProbe, ResolvedSplit
from bikd_ray.specs import Probe

SPLITS = ("train", "val")


def resolve_probe(name: str, probe: Probe) -> ResolvedProbe:
    """Count, hash and check the images of a probe. Raises UserError where its parts disagree."""
    try:
        opened = {split: open_images(getattr(probe, split)) for split in SPLITS}
        space = label_space(opened)
        splits = {}
        for split, images in opened.items():
            images.labels = relabelled(images, space.classes)
            splits[split] = ResolvedSplit(
                len(images.labels), content_id(images), images.source_id, spot_check(images)
            )
    except UserError as error:
        raise UserError(f"probe.{name}: {str(error).removeprefix('data: ')}") from None
    contents = [split.content_id for split in splits.values()]
    unit_set_id = digest("probe", *contents, probe.k, probe.temperature)
    return ResolvedProbe(
        name, probe, splits["train"], splits["val"], space.num_classes, space.classes, unit_set_id
    )


def open_probe(probe: ResolvedProbe, split: str) -> ImageSet:
    """The images of one of SPLITS, opened once for each process. Raises BikdError where they are
    not those that were planned with.
    """
    source: Any = getattr(probe.probe, split)  # frozen, so hashable; no checker sees that
    return _opened(source, getattr(probe, split), probe.classes, f"probe.{probe.name}.{split}")


@lru_cache(maxsize=4)
def _opened(
    source: Any, planned: ResolvedSplit, classes: tuple[str, ...] | None, where: str
) -> ImageSet:
    images = open_images(source)
    if (images.source_id, spot_check(images)) != (planned.listing_id, planned.spot_id):
        raise BikdError(
            f"{where}: {getattr(source, 'path', source.source)} on this node is not what was "
            "planned with; it changed since, or this node has another copy"
        )
    images.labels = relabelled(images, classes)
    images.source_id = planned.content_id
    if isinstance(images, EncodedImages):
        images.stamps = images.stamps[:0]
    return images
