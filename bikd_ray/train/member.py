"""One model inside a job: its network, its input, its optimiser, its own random stream."""

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bikd_ray.data.loader import Batch
from bikd_ray.data.views import Normalise
from bikd_ray.errors import BikdError
from bikd_ray.identity import derived_seed
from bikd_ray.plan import ResolvedModel
from bikd_ray.specs import Recipe, Resources
from bikd_ray.train.numerics import tf32
from bikd_ray.train.optim import make_optimizer
from bikd_ray.train.parallel import ALONE, Workers
from bikd_ray.train.sync_batchnorm import SharedBatchNorm
from bikd_ray.zoo.frozen_norm import freeze_batchnorm

_DEFAULTS = Resources()


@dataclass
class Member:
    """A resolved model that lives on a device."""

    model: ResolvedModel
    network: nn.Module
    device: torch.device
    layout: torch.memory_format = torch.contiguous_format

    def __post_init__(self) -> None:
        self.network.to(device=self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.normalise = Normalise(self.model.input, self.device)

    def output(self, batch: Batch, through: nn.Module | None = None) -> Any:
        """What its network returns for its own view of the batch; through: what wraps it."""
        images = self.normalise(batch.views[self.model.input.view])
        images = images.contiguous(memory_format=self.layout)
        return (through or self.network)(images)


@contextmanager
def measuring(members: Iterable[Member]) -> Iterator[None]:
    """Their networks as they are measured: in eval mode, in exact float32, without gradients."""
    members = list(members)
    modes = [member.network.training for member in members]
    for member in members:
        member.network.eval()
    try:
        with torch.no_grad(), tf32(False):  # not inference_mode: what a network caches here trains
            yield
    finally:
        for member, mode in zip(members, modes, strict=True):
            member.network.train(mode)


def fast_layout(network: nn.Module, device: torch.device, precision: str) -> torch.memory_format:
    """Channels last where tensor cores convolve; elsewhere it was not faster to train (LOG.md)."""
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    tensor_cores = device.type == "cuda" and precision != "fp32"
    several = convolutions > 1  # one is the patch embedding of a transformer
    return torch.channels_last if tensor_cores and several else torch.contiguous_format


@dataclass
class Learner:
    """A member with what trains it."""

    member: Member
    recipe: Recipe
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: GradScaler
    average: nn.Module | None = field(repr=False)
    forward: nn.Module = field(repr=False)  # the network, or what wraps it for training

    def __post_init__(self) -> None:
        modules = self.member.network.modules()
        self._holders = [module for module in modules if module._buffers]
        self._noted: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    @classmethod
    def of(
        cls,
        member: Member,
        recipe: Recipe,
        steps: int,
        resources: Resources = _DEFAULTS,
        workers: Workers = ALONE,
    ) -> "Learner":
        """A member that trains by a recipe for `steps` steps.

        Raises BikdError for a network that cannot do what `resources` asks for.
        """
        network, name = member.network, member.model.name
        if recipe.freeze_batchnorm:
            freeze_batchnorm(network)
        optimizer, schedule = make_optimizer(network, recipe, steps, name)
        scaler = GradScaler(member.device.type, enabled=recipe.precision == "fp16")
        average = copy.deepcopy(network) if recipe.ema is not None else None
        if resources.activation_checkpointing:
            _checkpoint_activations(network, name)
        forward: Any = torch.compile(network) if resources.compile else network
        if workers.by_samples:
            # statistics are shared by SharedBatchNorm; a parameter may be unused, as alone
            forward = DistributedDataParallel(
                network,
                process_group=workers.of_my_members,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=True,
            )
        return cls(member, recipe, optimizer, schedule, scaler, average, forward)

    @property
    def measured(self) -> Member:
        """The member that is evaluated and kept: with averaged weights, where there are any."""
        if self.average is None:
            return self.member
        return replace(self.member, network=self.average)

    def is_finite(self) -> bool:
        """Whether all trainable weights are numbers; waits for the device."""
        trained = [p for p in self.member.network.parameters() if p.requires_grad]
        return bool(torch.stack([p.isfinite().all() for p in trained]).all())

    def reseed(self, seed: int, step: int, *part: int) -> None:
        """Start this step's random stream (dropout, drop-path), whichever library draws from it.

        It depends on the job's seed, the weights and the step, never on the partners: a control
        then sees exactly the noise that its job sees. part: which of several parts of the batch.
        """
        stream = derived_seed(seed, self.member.model.weights_id, step, *part)
        torch.manual_seed(stream)
        random.seed(stream)
        np.random.seed(stream % 2**32)

    def output(self, batch: Batch) -> Any:
        """What it returns in training; where workers share a batch, it is normalised over all."""
        group = getattr(self.forward, "process_group", None)  # of DistributedDataParallel
        with SharedBatchNorm(batch.counted, group) if group else nullcontext():
            return self.member.output(batch, self.forward)

    def backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Pass gradients of what the loss was cut at on to the weights, where they are added up.

        None: the loss does not see that root. Under fp16 they are scaled, by a scale of each
        learner's own: a partner whose gradient overflows then changes nothing, as a control asks
        for. (In float32: in fp16 the gradient would be rounded before.)
        """
        scale = self.scaler.scale if self.scaler.is_enabled() else lambda gradient: gradient
        seen = [
            (root, scale(gradient).to(root.dtype))
            for root, gradient in zip(roots, gradients, strict=True)
            if gradient is not None and root.requires_grad
        ]
        if seen:
            torch.autograd.backward([root for root, _ in seen], [gradient for _, gradient in seen])

    @torch.no_grad()
    def note_buffers(self) -> None:
        """Copy what a forward pass may change beside the weights, such as running statistics."""
        self._noted = [
            (module, name, buffer, buffer.clone())
            for module in self._holders
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Put the buffers back to what they were when they were noted."""
        for module, name, buffer, copied in self._noted:
            module._buffers[name] = buffer.copy_(copied)

    def no_sync(self) -> AbstractContextManager:
        """Within it, gradients are added up here and not yet over the workers."""
        if isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def update(self) -> None:
        """One optimiser step from the gradients that the loss has left."""
        if self.recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.member.network.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None and self.recipe.ema is not None:
            _follow(self.average, self.member.network, self.recipe.ema)

    @property
    def _parts(self) -> dict[str, Any]:
        own = {
            "network": self.member.network,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return own if self.average is None else {**own, "average": self.average}

    def state(self) -> dict[str, Any]:
        """All that training has changed, as plain values and tensors."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def _checkpoint_activations(network: nn.Module, name: str) -> None:
    """Let the backward pass compute block by block what the forward pass would have kept."""
    switch = getattr(network, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError
        switch(True)
    except AssertionError:  # timm's way to say no
        raise BikdError(
            f"{name} has no activation checkpointing (timm's set_grad_checkpointing); leave out "
            "resources.activation_checkpointing, or lower resources.micro_batch"
        ) from None


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move each weight and running statistic: average = decay * average + (1 - decay) * value.

    Integers are copied: counters and indices have no mean.
    """
    means: list[Tensor] = []
    values: list[Tensor] = []
    mine = chain(average.parameters(), average.buffers())
    for mean, value in zip(mine, chain(network.parameters(), network.buffers()), strict=True):
        if mean.is_floating_point():
            means.append(mean)
            values.append(value)
        else:
            mean.copy_(value)
    get_ema_multi_avg_fn(decay)(means, values, 0)
