"""Optimisers, schedules, clipping, averages, precisions: against plain torch and worked numbers."""

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close as close

from bikd_ray.plan import Job
from bikd_ray.specs import Recipe
from bikd_ray.train.optim import make_optimizer
from tests.failing import BadGradient
from tests.plain_loop import (
    NAMES,
    assert_close,
    assert_equal,
    job_of,
    networks_of,
    noisy_zoo,
    run,
    states,
    train,
)

ALONE = {"name": "ce"}
SIDE_BY_SIDE = {"name": "bikd", "kl_weight": 0.0}  # so that no equation but the recipe's matters
SIX_STEPS = {"epochs": 2, "batch_size": 21, "lr": 1e-2}
PLAIN_SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}


def test_the_defaults_are_the_papers():
    got = Recipe().model_dump()
    assert got == {
        "epochs": 20, "batch_size": 128, "optimizer": "adam", "lr": 1e-6, "lrs": {},
        "momentum": 0.9, "weight_decay": 1e-5, "schedule": "none", "warmup_epochs": 0,
        "clip_norm": None, "ema": None, "augment": "none", "precision": "fp32",
        "train_fraction": 1.0, "backbone_lr": 1.0, "decay": "all", "freeze_batchnorm": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("paper", {}),
        ("paper_vit", {"augment": "timm", "schedule": "cosine"}),
        ("reference", {"augment": "reference"}),
    ],
)
def test_a_named_recipe_is_the_papers_but_for_what_it_is_named_for(preset, changes):
    assert Recipe.model_validate(preset) == Recipe(**changes)
    beside = Recipe.model_validate({"preset": preset, "lr": 0.1, "augment": "none"})
    assert beside == Recipe(**{**changes, "lr": 0.1, "augment": "none"})


def rates(steps: int, **recipe) -> list[float]:
    """The learning rate of every step, over the recipe's own."""
    recipe = Recipe(lr=0.5, **recipe)
    optimizer, schedule = make_optimizer(nn.Linear(1, 1), recipe, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / recipe.lr)
        optimizer.step()
        schedule.step()
    return found


COSINE_6 = [1, 0.9330127019, 0.75, 0.5, 0.25, 0.0669872981]  # (1 + cos(pi i / 6)) / 2
POLY_6 = [1, 0.8486661468, 0.6942531627, 0.5358867313, 0.3720410580, 0.1993718665]


@pytest.mark.parametrize(
    ("epochs", "recipe", "factors"),
    [
        (2, {}, [1] * 6),
        (2, {"schedule": "cosine"}, COSINE_6),
        (2, {"schedule": "poly"}, POLY_6),
        (2, {"warmup_epochs": 1}, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        (4, {"schedule": "cosine", "warmup_epochs": 2}, [i / 6 for i in range(6)] + COSINE_6),
        (3, {"schedule": "poly", "warmup_epochs": 1}, [0, 1 / 3, 2 / 3, *POLY_6]),
        (3, {"warmup_epochs": 2 / 3}, [0, 1 / 2, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_learning_rate_of_every_step(epochs, recipe, factors):
    """Of three steps an epoch."""
    assert rates(3 * epochs, epochs=epochs, **recipe) == pytest.approx(factors, abs=1e-9)


def test_a_run_of_one_step_takes_it_at_the_full_rate():
    for schedule in ("none", "cosine", "poly"):
        assert rates(1, epochs=1, schedule=schedule) == [1]


def plain(
    job: Job,
    networks: Sequence[nn.Module],
    make: Callable = torch.optim.SGD,
    factors: Sequence[float] = (1,) * 6,
    after_backward: Callable[[nn.Module], None] = lambda network: None,
    after_step: Callable[[int, nn.Module], None] = lambda k, network: None,
) -> list[nn.Module]:
    """Networks side by side, each on its own cross-entropy, at hand-made learning rates."""
    nets = copy.deepcopy(list(networks))
    optimizers = [make(n.parameters(), lr=0.0) for n in nets]
    recipe = job.recipe

    def update(step: int) -> None:
        for k, (network, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            own = recipe.lrs.get(job.names[k], recipe.lr)
            optimizer.param_groups[0]["lr"] = own * factors[step]
            after_backward(network)
            optimizer.step()
            after_step(k, network)

    def loss(live: list[Tensor], frozen: list[Tensor], labels: Tensor) -> Tensor:
        return torch.stack([cross_entropy(z, labels) for z in live]).sum()

    train(job, nets, loss, update)
    return nets


def assert_fits(job: Job, networks: Sequence[nn.Module], expected: Sequence[nn.Module]) -> None:
    for got, network in zip(states(run(job, networks)[1]), expected, strict=True):
        assert_close(got, network.state_dict())


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        ("adam", lambda p, lr: torch.optim.Adam(p, lr, weight_decay=0.1)),
        ("adamw", lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1)),
        ("sgd", lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8, weight_decay=0.1)),
    ],
)
def test_every_optimiser_is_pytorchs_with_a_learning_rate_of_each_models_own(
    spec_file, optimizer, make
):
    recipe = {**SIX_STEPS, "optimizer": optimizer, "weight_decay": 0.1, "momentum": 0.8,
              "lrs": {"medium": 3e-2}, "schedule": "cosine"}  # fmt: skip
    job = job_of(spec_file, NAMES[:2], SIDE_BY_SIDE, zoo=noisy_zoo(), recipe=recipe)
    networks = networks_of(job)
    assert_fits(job, networks, plain(job, networks, make, COSINE_6))


def test_the_papers_recipe_for_vits_trains_on_timms_augmentation_by_a_cosine(spec_file):
    recipe = {"preset": "paper_vit", **SIX_STEPS}
    job = job_of(spec_file, NAMES[:1], ALONE, zoo=noisy_zoo(), recipe=recipe)
    networks = networks_of(job)
    adam = lambda p, lr: torch.optim.Adam(p, lr, weight_decay=1e-5)  # noqa: E731
    assert_fits(job, networks, plain(job, networks, adam, COSINE_6))


def test_a_lone_last_sample_makes_no_step_and_so_does_not_stretch_the_schedule(spec_file):
    """62 images in batches of 61: one step an epoch, and not two."""
    recipe = {"epochs": 3, "batch_size": 61, "lr": 1e-1, "schedule": "cosine", **PLAIN_SGD}
    job = job_of(spec_file, NAMES[:1], ALONE, zoo=noisy_zoo(), recipe=recipe)
    networks = networks_of(job)
    assert_fits(job, networks, plain(job, networks, factors=[1, 0.75, 0.25]))


def test_each_models_gradient_is_clipped_to_the_norm_by_itself(spec_file):
    """At a norm that some steps exceed and some do not."""
    norms: list[float] = []

    def clip(network: nn.Module) -> None:
        squares = [(p.grad**2).sum().item() for p in network.parameters() if p.grad is not None]
        norm = math.sqrt(sum(squares))
        norms.append(norm)
        for p in network.parameters():
            if p.grad is not None:
                p.grad *= min(1, 0.9 / (norm + 1e-6))  # PyTorch's guard against a norm of 0

    recipe = {**SIX_STEPS, **PLAIN_SGD, "clip_norm": 0.9}
    job = job_of(spec_file, NAMES[:2], SIDE_BY_SIDE, zoo=noisy_zoo(), recipe=recipe)
    networks = networks_of(job)
    expected = plain(job, networks, after_backward=clip)
    assert min(norms) < 0.9 < max(norms)
    assert_fits(job, networks, expected)


def test_averaged_weights_start_at_the_untouched_ones_and_are_what_is_measured(spec_file):
    """m = 0.7 m + 0.3 w after every step, of running statistics too; counters are copied."""
    recipe = {**SIX_STEPS, **PLAIN_SGD, "lr": 0.3, "ema": 0.7}
    job = job_of(spec_file, NAMES[:2], SIDE_BY_SIDE, zoo=noisy_zoo(), recipe=recipe)
    networks = networks_of(job)
    means = [copy.deepcopy(network.state_dict()) for network in networks]

    def average(k: int, network: nn.Module) -> None:
        for name, value in network.state_dict().items():
            mean = means[k][name]
            means[k][name] = 0.7 * mean + 0.3 * value if value.is_floating_point() else value + 0

    trained = plain(job, networks, after_step=average)
    rows, done = run(job, networks)
    for k, (got, mean) in enumerate(zip(states(done), means, strict=True)):
        assert_close(got, mean)
        assert got["network.3.num_batches_tracked"] == 6
        assert (mean["network.6.weight"] - trained[k].state_dict()["network.6.weight"]).any()
        assert rows[-1][k].score == done.chosen["last"][k].outcome.values["top1"]
    for network, mean in zip(networks, means, strict=True):
        network.load_state_dict(mean)
    again = run(job, networks)[1].before.outcomes
    for chosen, outcome in zip(done.chosen["last"], again, strict=True):
        assert chosen.outcome.values["nll"] == pytest.approx(outcome.values["nll"], rel=1e-6)


def test_averaging_changes_nothing_of_the_training(spec_file):
    ends = []
    for ema in (None, 0.9):
        recipe = {**SIX_STEPS, "ema": ema}
        job = job_of(spec_file, NAMES[:1], ALONE, zoo=noisy_zoo(), recipe=recipe)
        ends.append([row[0].train_loss for row in run(job)[0]])
    assert ends[0] == ends[1]


class Indexed(nn.Module):
    """With the kinds of buffers that have no mean, and weights that do not learn."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("index", torch.tensor([7, 2**53 + 1]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.tensor([0.1]), persistent=False)
        self.frozen = nn.Parameter(torch.tensor([0.1, 1e30]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def test_what_has_no_mean_or_does_not_learn_comes_out_of_an_average_as_it_went_in(spec_file):
    recipe = {**SIX_STEPS, "ema": 0.999}
    job = job_of(spec_file, NAMES[:1], ALONE, zoo=noisy_zoo(), recipe=recipe)
    network = Indexed(networks_of(job, lambda n: n)[0])
    end, start = states(run(job, [network])[1])[0], network.state_dict()
    for name in ("index", "mask", "frozen"):
        assert torch.equal(end[name], start[name])


class Tied(nn.Module):
    """With a weight that stands in two places."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.again = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def test_a_weight_that_stands_in_two_places_is_averaged_once(spec_file):
    recipe = {**SIX_STEPS, **PLAIN_SGD, "lr": 0.3, "ema": 0.7}
    job = job_of(spec_file, NAMES[:1], ALONE, zoo=noisy_zoo(), recipe=recipe)
    network = Tied(networks_of(job)[0])
    mean = copy.deepcopy(network.state_dict())

    def average(k: int, trained: nn.Module) -> None:
        for name, value in trained.state_dict().items():
            mean[name] = 0.7 * mean[name] + 0.3 * value if value.is_floating_point() else value + 0

    plain(job, [network], after_step=average)
    got = states(run(job, [network])[1])[0]
    assert not torch.equal(got["again.weight"], network.again.weight)
    assert_close(got, mean)


def moves(job: Job, networks: Sequence[nn.Module]) -> list[Tensor]:
    """How far every learner's weights went, in one vector for each."""
    ends = states(run(job, networks)[1])
    return [
        torch.cat([(end[name] - p).flatten() for name, p in network.named_parameters()]).detach()
        for end, network in zip(ends, networks, strict=True)
    ]


def relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


def quiet_zoo() -> list[dict]:
    return noisy_zoo(dropout=0.0)


@pytest.mark.parametrize(("precision", "worst"), [("bf16", 0.05), ("fp16", 0.005)])
def test_half_precision_moves_the_weights_almost_as_float32_does(spec_file, precision, worst):
    """By SGD, whose steps are as long as the gradients: Adam would hide their errors."""
    found = {}
    for name in ("fp32", precision):
        recipe = {**SIX_STEPS, **PLAIN_SGD, "precision": name}
        job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, zoo=quiet_zoo(), recipe=recipe)
        found[name] = moves(job, networks_of(job, lambda n: n))
    for full, half in zip(found["fp32"], found[precision], strict=True):
        assert 1e-6 < relative_error(half, full) < worst


@pytest.mark.parametrize("weight", [1e-6, 1.0])
def test_fp16_is_scaled_so_that_small_gradients_do_not_vanish(spec_file, weight):
    """A loss of 1e-6 has gradients of 1e-8 at the logits; fp16 has nothing below 6e-8."""
    objective = {"name": "bikd", "ce_weight": weight, "kl_weight": weight}
    found = []
    for precision in ("fp32", "fp16"):
        recipe = {
            **SIX_STEPS,
            **PLAIN_SGD,
            "epochs": 1,
            "lr": 1e-2 / weight,
            "precision": precision,
        }
        job = job_of(spec_file, NAMES[:2], objective, zoo=quiet_zoo(), recipe=recipe)
        found.append(moves(job, networks_of(job, lambda n: n)))
    for full, half in zip(*found, strict=True):
        assert relative_error(half, full) < 0.01


class Sure(nn.Module):
    """For class `favourite` by a logit near the end of fp16, whatever the image."""

    def __init__(self, network: nn.Module, favourite: int) -> None:
        super().__init__()
        self.network, self.favourite = network, favourite

    def forward(self, x: Tensor) -> Tensor:
        z = self.network(x)
        return z + 6e4 * (torch.arange(z.shape[1]) == self.favourite).to(z.dtype)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_large_logits_stay_finite_in_every_precision(spec_file, precision):
    recipe = {**SIX_STEPS, **PLAIN_SGD, "lr": 1e-6, "precision": precision}
    job = job_of(spec_file, NAMES, {"name": "bikd"}, zoo=quiet_zoo(), recipe=recipe)
    networks = [Sure(network, k) for k, network in enumerate(networks_of(job, lambda n: n))]
    rows, done = run(job, networks)
    assert min(row.loss for row in rows[1]) > 1e4
    for state, network in zip(states(done), networks, strict=True):
        assert all(value.isfinite().all() for value in state.values())
        assert not torch.equal(state["network.2.weight"], network.state_dict()["network.2.weight"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_is_the_gradient_and_not_its_scaled_self_that_is_clipped(spec_file, precision):
    recipe = {**SIX_STEPS, **PLAIN_SGD, "epochs": 1, "batch_size": 62, "clip_norm": 1e-3,
              "precision": precision}  # fmt: skip
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, zoo=quiet_zoo(), recipe=recipe)
    for move in moves(job, networks_of(job, lambda n: n)):
        close(move.norm().item(), 1e-2 * 1e-3, rtol=5e-3, atol=0)  # float32 weights near 0.1


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_overflows_in_fp16_costs_its_model_that_step_and_others_nothing(
    spec_file, clip_norm
):
    recipe = {**SIX_STEPS, "precision": "fp16", "clip_norm": clip_norm}
    alone = job_of(spec_file, NAMES[:1], ALONE, zoo=noisy_zoo(), recipe=recipe)
    expected = states(run(alone)[1])[0]
    job = job_of(spec_file, NAMES[:2], SIDE_BY_SIDE, zoo=noisy_zoo(), recipe=recipe)
    partner = BadGradient()
    networks = [
        network if name == "small" else partner
        for name, network in zip(job.names, networks_of(job, lambda n: n), strict=True)
    ]
    start = copy.deepcopy(partner.state_dict())
    for name, end in zip(job.names, states(run(job, networks)[1]), strict=True):
        assert_equal(end, expected if name == "small" else start)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tensorfloat32_is_for_training_where_asked_for_and_never_for_measuring(
    spec_file, precision
):
    def allowed() -> tuple[object, ...]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    recipe = {**SIX_STEPS, "epochs": 1, "precision": precision}
    job = job_of(spec_file, NAMES[:1], ALONE, recipe=recipe)
    seen: set[tuple[bool, tuple[object, ...]]] = set()

    class Watched(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            seen.add((self.training, allowed()))
            return self.network(x)

    before = allowed()
    run(job, networks_of(job, Watched))
    tf32 = precision == "tf32"
    assert seen == {(True, (tf32, tf32)), (False, (False, False))}
    assert allowed() == before
