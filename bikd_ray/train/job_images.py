"""The images of a job, as its members see them."""

from collections.abc import Sequence
from typing import Any

import torch

from bikd_ray.data import open_split
from bikd_ray.data.loader import DISK_FRACTIONS, Loader
from bikd_ray.data.resolve import split_train
from bikd_ray.data.sources import ImageSet
from bikd_ray.plan import Job
from bikd_ray.tasks.base import Task
from bikd_ray.train.member import Member


class JobImages:
    """The images of a job, and the rows of train to learn from."""

    def __init__(self, job: Job, task: Task, device: torch.device, decoders: int) -> None:
        self.job, self.task, self.device, data = job, task, device, job.data.data
        self._how: dict[str, Any] = {
            "cache": data.cache,
            "workers": decoders,
            "skip": data.on_bad_image == "skip",
            "task": task,
        }
        self._train = open_split(job.data, "train")
        self.rows, self._held = split_train(
            self._train.labels,
            select_fraction=data.select_fraction,
            train_fraction=job.recipe.train_fraction,
        )

    def train(self, members: Sequence[Member | None]) -> Loader:
        """As these members see them in training."""
        recipe = self.job.recipe
        how = {"augment": recipe.augment, "seed": self.job.seed, "whole": True}
        return self._loader(self._train, members, **how)

    def val(self, members: Sequence[Member | None]) -> Loader:
        images, share = open_split(self.job.data, "val"), DISK_FRACTIONS["val"]
        return self._loader(images, members, disk_fraction=share)

    def held(self, members: Sequence[Member | None]) -> Loader | None:
        """What is held out of train, if anything is."""
        if not len(self._held):
            return None
        return self._loader(self.task.held_out(self._train, self._held), members)

    def _loader(self, images: ImageSet, members: Sequence[Member | None], **how: Any) -> Loader:
        views = [m.model.input.view for m in members if m is not None]
        return Loader(images, views, self.device, **how, **self._how)
