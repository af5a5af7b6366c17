"""A training loop plain enough to be read beside the equations: what `fit` is held against.

It shares with `fit` only what that documents: the seeds of the data order, of the members'
random streams and of the augmentation.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from bikd_ray.data.sources import ImageSet, open_images
from bikd_ray.data.views import Normalise
from bikd_ray.identity import derived_seed
from bikd_ray.plan import Job, ResolvedModel, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.train import EpochRow, Fit, StepProgress, fit
from bikd_ray.zoo import build

CPU = torch.device("cpu")
NAMES = ("small", "medium", "large")

State = dict[str, Tensor]

Loss = Callable[[list[Tensor], list[Tensor], Tensor], Tensor]
"""(live logits, frozen logits, labels) to the scalar to minimise."""


def noisy_zoo(**kwargs: Any) -> list[dict]:
    """Networks with batch normalisation and dropout, of two input sizes."""
    return [
        {
            "factory": "tests.conftest:net",
            "alias": name,
            "kwargs": {"width": width, "dropout": 0.3, "norm": True, **kwargs},
            "input": {"size": size, "crop_pct": 1.0},
        }
        for name, width, size in zip(NAMES, (4, 6, 8), (8, 9, 8), strict=True)
    ]


def job_of(spec_file: Callable, members: Sequence[str], objective: dict, **changes: Any) -> Job:
    """The job of some members, seed 0; in a directed objective the first is the student."""
    if len(members) > 1:
        changes = {"pairings": {"list": [list(members)]}, **changes}
    spec = load_spec(spec_file(objectives=[objective], **changes))
    zoo, data = resolve(spec)
    found = [
        job
        for job in all_jobs(spec, zoo, data)
        if set(job.names) == set(members)
        and job.objective == spec.objectives[0]
        and job.seed == spec.seeds[0]
        and (job.names[0] == members[0] or not job.objective.directed)
    ]
    assert len(found) == 1
    return found[0]


class Double(nn.Module):
    """A network in float64, so that two ways of writing one sum agree to 1e-15 and not to 1e-7."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def networks_of(job: Job, wrap: Callable[[nn.Module], nn.Module] = Double) -> list[nn.Module]:
    return [wrap(build(member.entry)) for member in job.members]


def run(job: Job, networks: Sequence[nn.Module] | None = None) -> tuple[list, Fit]:
    """`fit` on copies of the networks: the rows of each epoch, and the end."""
    networks = networks if networks is not None else networks_of(job, lambda network: network)
    rows: list[list[EpochRow]] = []
    for message in fit(job, copy.deepcopy(list(networks)), CPU, similarity=False):
        if isinstance(message, Fit):
            return rows, message
        assert not isinstance(message, StepProgress)
        rows.append(message)
    raise AssertionError("no end")


def states(done: Fit, selection: str = "last") -> list[State]:
    return [whole(chosen.state) for chosen in done.chosen[selection]]


def whole(state: State | None) -> State:
    """Weights that were kept."""
    assert state is not None
    return state


def batches(job: Job, images: ImageSet) -> Iterator[tuple[int, np.ndarray]]:
    """(epoch from 1, rows of the training set) of every step; a lone last row joins the others."""
    for epoch in range(1, job.recipe.epochs + 1):
        rng = np.random.default_rng(derived_seed(job.seed, "order", epoch))
        order = rng.permutation(np.arange(len(images.labels)))
        for start in range(0, len(order) - 1, job.recipe.batch_size):
            end = start + job.recipe.batch_size
            yield epoch, order[start:] if end == len(order) - 1 else order[start:end]


def inputs(job: Job, images: ImageSet, model: ResolvedModel, epoch: int, rows: Any) -> Tensor:
    """float32 [B, 3, H, W] from timm's own transforms."""
    how = model.input
    if job.recipe.augment == "none":
        extra: dict[str, Any] = {"interpolation": how.interpolation, "crop_pct": how.crop_pct}
    else:  # the reference code trains with the defaults of timm's create_loader
        bilinear = job.recipe.augment == "reference"
        interpolation = "bilinear" if bilinear else how.interpolation
        extra = {"is_training": True, "color_jitter": 0.4, "interpolation": interpolation}
    transform: Any = create_transform((3, how.size, how.size), use_prefetcher=True, **extra)
    pixels = []
    for row in rows.tolist():
        seed = derived_seed("augment", job.seed, epoch, row)
        random.seed(seed)
        torch.manual_seed(seed)
        pixels.append(torch.as_tensor(transform(images.image(row))))
    return Normalise(how, CPU)(torch.stack(pixels))


def train(
    job: Job,
    live: Sequence[nn.Module],
    loss: Loss,
    update: Callable[[int], None],
    frozen: Sequence[tuple[ResolvedModel, nn.Module]] = (),
) -> None:
    """Every step: forward, backward, then `update(step)`, which has to step the optimisers."""
    images = open_images(job.data.data.train)
    for step, (epoch, rows) in enumerate(batches(job, images)):
        views = {m.name: inputs(job, images, m, epoch, rows) for m in job.members}
        logits = []
        for model, network in zip(job.members, live, strict=False):
            torch.manual_seed(derived_seed(job.seed, model.weights_id, step))
            logits.append(network.train()(views[model.name]))
            network.zero_grad()
        with torch.no_grad():
            still = [network.eval()(views[model.name]) for model, network in frozen]
        loss(logits, still, torch.from_numpy(images.labels[rows])).backward()
        update(step)


def assert_equal(a: State | None, b: State | None) -> None:
    a, b = whole(a), whole(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_close(a: State | None, b: State | None, tolerance: float = 1e-10) -> None:
    """Within `tolerance` for values of order 1; integers exactly."""
    a, b = whole(a), whole(b)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def assert_rows_close(a: EpochRow, b: EpochRow, tolerance: float = 1e-9) -> None:
    """The same numbers, and none where there is none."""
    for name, value in vars(b).items():
        found = getattr(a, name)
        assert (found is None) == (value is None), name
        if value is not None:
            assert math.isclose(found, value, rel_tol=tolerance, abs_tol=tolerance), name
