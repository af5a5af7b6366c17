"""What a spec says of images whose classes the models were not trained for."""

from typing import Self

from pydantic import Field, model_validator

from bikd_ray.specs.data import DataSource, labelled
from bikd_ray.specs.values import Float, Frozen, Int


class Probe(Frozen):
    """Labelled images of other classes, by which a backbone is judged: the k nearest images of
    train vote on each image of val.
    """

    train: DataSource = Field(description="the images that vote")
    val: DataSource = Field(description="the images that are asked about")
    k: Int = Field(default=20, ge=1, description="how many of the nearest vote")
    temperature: Float = Field(
        default=0.07, gt=0, description="a vote weighs exp(cosine / temperature)"
    )

    @model_validator(mode="after")
    def _has_labels(self) -> Self:
        bare = [split for split in ("train", "val") if not labelled(getattr(self, split))]
        if bare:
            raise ValueError(f"{' and '.join(bare)} needs labels: they vote and are voted on")
        return self
