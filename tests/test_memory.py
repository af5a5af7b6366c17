"""Batches in parts, memory that runs out, and steps that never wait for the device."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bikd_ray.data import open_split
from bikd_ray.data.loader import Loader
from bikd_ray.errors import BikdError
from bikd_ray.specs import Resources
from bikd_ray.sweep.events import JobRequest
from bikd_ray.train import Fit, evaluate, fit
from bikd_ray.train.fit import _Run
from bikd_ray.train.member import Member
from bikd_ray.train.parallel import ALONE
from bikd_ray.train.step import train_step
from tests.jobs import result_of
from tests.plain_loop import (
    CPU,
    NAMES,
    assert_close,
    assert_rows_close,
    job_of,
    networks_of,
    noisy_zoo,
)

QUIET = noisy_zoo(dropout=0.0, norm=False)
RECIPE = {"epochs": 1, "batch_size": 20, "lr": 1e-2}


def trained(job, networks=None, **resources) -> tuple[list, Fit]:
    networks = networks or networks_of(job)
    *rows, end = fit(job, networks, CPU, resources=Resources(**resources), similarity=False)
    assert isinstance(end, Fit)
    return rows, end


class Small(nn.Module):
    """Has memory for so many images in training."""

    def __init__(self, network: nn.Module, room: int, error: Exception) -> None:
        super().__init__()
        self.network, self.room, self.error = network, room, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.room:
            raise self.error
        return self.network(x)


@pytest.mark.parametrize("name", ["bikd", "dml", "kd", "kl_dp", "ce"])
@pytest.mark.parametrize("micro_batch", [1, 7, 20])
def test_parts_of_a_batch_add_up_to_it(spec_file, name, micro_batch):
    members = NAMES[:1] if name == "ce" else NAMES[:2]
    job = job_of(spec_file, members, {"name": name}, recipe=RECIPE, zoo=QUIET)
    rows, whole = trained(job)
    in_parts, parts = trained(job, micro_batch=micro_batch)
    for a, b in zip(whole.chosen["last"], parts.chosen["last"], strict=True):
        assert_close(a.state, b.state)
    for a, b in zip(rows[1], in_parts[1], strict=True):
        assert_rows_close(a, b)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
    ids=["cuda", "cpu"],
)
def test_memory_that_runs_out_halves_the_parts_until_they_fit(spec_file, error):
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    small = [Small(network, 6, error) for network in networks_of(job)]
    _, end = trained(job, small)
    assert end.micro_batch == 5  # of 20, 10, 5
    _, same = trained(
        job, [Small(network, 6, error) for network in networks_of(job)], micro_batch=5
    )
    for a, b in zip(end.chosen["last"], same.chosen["last"], strict=True):
        assert_close(a.state, b.state, 0.0)


class Late(Small):
    """Runs out of memory when its network has seen the images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.network(x)
        if self.training and len(x) > self.room:
            raise self.error
        return z


class Counts(nn.Module):
    """Keeps a buffer that it replaces, and one that does not change, in every forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + len(x)
        return self.network(x)


def test_running_statistics_have_not_seen_a_forward_pass_that_ran_out_of_memory(spec_file):
    job = job_of(
        spec_file, NAMES[:2], {"name": "bikd"}, recipe={**RECIPE, "ema": 0.9}, zoo=noisy_zoo()
    )
    ends = []
    for micro_batch in ("auto", 5):
        nets = [Counts(net) for net in networks_of(job, lambda network: network)]
        late = [Late(net, 6, MemoryError()) for net in nets]
        ends.append(trained(job, [nets[0], late[1]], micro_batch=micro_batch)[1])
        assert nets[0].seen == 62  # each training image once
    again, plain = ends
    assert again.micro_batch == 5
    for a, b in zip(again.chosen["last"], plain.chosen["last"], strict=True):
        assert any("running_mean" in name for name in a.state)
        assert_close(a.state, b.state, 0.0)


def test_an_evaluation_takes_fewer_images_where_memory_runs_out(spec_file):
    class Narrow(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > self.room:
                raise self.error
            return self.network(x)

    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    images, views = open_split(job.data, "val"), [m.input.view for m in job.members]
    loader, found = Loader(images, views, CPU), []
    for room in (10**6, 7):
        networks = [Narrow(net, room, MemoryError()) for net in networks_of(job, nn.Sequential)]
        members = [Member(m, n.train(), CPU) for m, n in zip(job.members, networks, strict=True)]
        found.append(evaluate(members, loader, features=False))
        assert all(network.training for network in networks)
    plain, small = found
    assert plain.ensemble is not None
    assert small.ensemble is not None
    assert plain.ensemble.values == small.ensemble.values
    for a, b in zip(plain.outcomes, small.outcomes, strict=True):
        assert (a.statistics["predicted"] == b.statistics["predicted"]).all()


def test_another_error_is_nobodys_memory(spec_file):
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    with pytest.raises(RuntimeError, match="shapes"):
        trained(job, [Small(n, 6, RuntimeError("shapes do not fit")) for n in networks_of(job)])


def test_the_row_of_a_job_says_in_which_parts_it_fitted(spec_file, tmp_path, monkeypatch):
    from bikd_ray.sweep import job as module

    real = module.network_of
    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(module, "network_of", lambda m, p: Small(real(m, p), 6, error))
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    end = result_of(JobRequest(job, "tiny", str(tmp_path)))
    assert end.error is None
    assert '"micro_batch":5' in end.job["resources"]
    assert '"placement":"together"' in end.job["resources"]


def test_a_job_that_does_not_fit_at_all_fails_and_says_with_what_to_try_again(
    spec_file, tmp_path, monkeypatch
):
    from bikd_ray.sweep import job as module

    real = module.network_of
    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(module, "network_of", lambda m, p: Small(real(m, p), 0, error))
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    order = JobRequest(job, "tiny", str(tmp_path))
    end = result_of(order)
    assert "out of memory" in (end.error or "")
    assert end.micro_batch == 10
    one = replace(order, resources=Resources(micro_batch=1))
    end = result_of(one)
    assert end.micro_batch is None  # there is nothing smaller


def test_activations_computed_again_are_the_same_job(spec_file):
    zoo = [
        {
            "factory": "timm:create_model",
            "alias": alias,
            "kwargs": {
                "model_name": "vit_tiny_patch16_224",
                "img_size": 8,
                "patch_size": 4,
                "embed_dim": width,
                "depth": 2,
                "num_heads": 2,
                "num_classes": 4,
            },
            "input": {"size": 8, "crop_pct": 1.0},
        }
        for alias, width in (("small", 8), ("medium", 16))
    ]
    job = job_of(spec_file, ["small", "medium"], {"name": "bikd"}, recipe=RECIPE, zoo=zoo)
    kept, again = ({"activation_checkpointing": switch} for switch in (False, True))
    plain = [networks_of(job, lambda network: network) for _ in range(2)]
    ends = [trained(job, nets, **how)[1] for nets, how in zip(plain, (kept, again), strict=True)]
    for a, b in zip(*(end.chosen["last"] for end in ends), strict=True):
        assert_close(a.state, b.state, 1e-6)


def test_a_network_without_activation_checkpointing_is_refused(spec_file):
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe=RECIPE, zoo=QUIET)
    with pytest.raises(BikdError, match=r"^small has no activation checkpointing .* leave out"):
        trained(job, activation_checkpointing=True)


class Waits(TorchDispatchMode):
    """Notes every operation for whose result the host would wait for the device."""

    ALWAYS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if masks or name.startswith(self.ALWAYS):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["bikd", "dml", "kl_dp"])
def test_a_step_never_waits_for_the_device(spec_file, precision, objective):
    recipe = {**RECIPE, "precision": precision, "clip_norm": 1.0, "schedule": "cosine", "ema": 0.9}
    job = job_of(spec_file, NAMES[:2], {"name": objective}, recipe=recipe, zoo=noisy_zoo())
    run = _Run(job, list(networks_of(job, wrap=lambda net: net)), CPU, 0, False, Resources(),
               ALONE, ())  # fmt: skip
    batch = next(run.train.batches(run.rows, 20))
    train_step(run.sources, batch, 0)  # the optimiser's state is made
    with Waits() as waits:
        for step in (1, 2):
            run.tally.add(train_step(run.sources, batch, step), step)
    assert waits.seen == []
    with waits:
        bool(torch.ones(()) > 0)
    assert waits.seen == ["_local_scalar_dense"]  # it would have been seen


class _Kept(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
