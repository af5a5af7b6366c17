"""`bikd plan --calibrate`: a few real steps of each model on this machine's device, timed."""

import itertools
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch

from bikd_ray.data import open_split
from bikd_ray.data.loader import Batch, Loader
from bikd_ray.errors import BikdError
from bikd_ray.plan import Job, Pace, ResolvedModel
from bikd_ray.specs import CONTROL, Recipe
from bikd_ray.train.evaluate import EVAL_BATCH
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.step import Sources, train_step
from bikd_ray.zoo import build

MINUTE = 60.0
"""Seconds for all models together; building them comes on top."""

FEW = 16
"""Images of the first batch; a whole one follows if it promises to fit into the time."""


def calibrate(jobs: Iterable[Job], note: Callable[[str], None]) -> dict[str, Pace]:
    """model_id to its pace here, for every model of the jobs. Raises BikdError.

    Images are decoded before the clock starts, as a sweep decodes them once. A job's own slot has
    as many threads as its CPUs; this is measured with one where there is no GPU.
    """
    jobs = list(jobs)
    models = {m.model_id: m for job in jobs for m in job.members}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    paces = {}
    for model in models.values():
        paces[model.model_id] = _pace(model, jobs[0], device, MINUTE / len(models))
        pace = paces[model.model_id]
        note(
            f"{model.name}: {1000 * pace.train:.3g} ms an image in training, "
            f"{1000 * pace.forward:.3g} ms in evaluation ({device.type})"
        )
    return paces


def _pace(model: ResolvedModel, job: Job, device: torch.device, seconds: float) -> Pace:
    recipe = job.recipe
    member = Member(model, build(model.entry), device)
    loader = Loader(open_split(job.data, "train"), [model.input.view], device, cache="none")
    learner = Learner.of(member, _still(recipe), 10**6)
    sources = Sources([learner], CONTROL, seed=0, precision=recipe.precision)
    count = itertools.count()

    def look(batch: Batch) -> None:
        with torch.no_grad():  # what a network keeps from inference mode cannot be trained with
            member.output(batch)

    def step(batch: Batch) -> None:
        train_step(sources, batch, next(count))

    def timed(work: Callable[[Batch], None], size: int, limit: float) -> float:
        """Seconds an image."""
        for images in (min(FEW, size, len(loader)), min(size, len(loader))):
            batch = next(iter(loader.batches(np.arange(images), images)))
            found = _seconds(lambda b=batch: work(b), device, limit) / images
            if 3 * found * size > limit:
                break
        return found

    try:
        member.network.eval()
        forward = timed(look, EVAL_BATCH, seconds / 6)
        member.network.train()
        train = timed(step, recipe.batch_size, seconds / 3)
    except torch.cuda.OutOfMemoryError:
        raise BikdError(
            f"{model.name} does not fit this GPU at batch {recipe.batch_size}"
        ) from None
    return Pace(train, forward)


def _still(recipe: Recipe) -> Recipe:
    """The recipe at a rate at which nothing can diverge in a few steps."""
    return recipe.model_copy(update={"lr": 1e-12, "lrs": {}, "warmup_epochs": 0.0})


def _seconds(work: Callable[[], None], device: torch.device, limit: float) -> float:
    """The median of some calls after a first one that warms up."""
    times = []
    until = time.perf_counter() + limit
    while len(times) < 2 or (time.perf_counter() < until and len(times) < 12):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))
