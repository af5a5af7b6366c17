"""What a model costs in arithmetic and memory: measured once on the CPU, then planned with.

The plan errs on the side of too much. It knows nothing of fragmentation, of workspaces of cuDNN,
or of kernels that keep less than the CPU's (a dropout mask takes a byte there, four here).
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from bikd_ray.errors import UserError
from bikd_ray.plan import Cost, Job
from bikd_ray.specs import Recipe
from bikd_ray.zoo.adapters import features_of

CUDA_CONTEXT = 512 * 2**20
"""Bytes that a process takes on a GPU before it holds a tensor: driver, kernels, cuBLAS."""

OPTIMIZER_STATES = {"adam": 2, "adamw": 2, "sgd": 1}
"""Tensors that an optimiser keeps for each parameter."""

LOGIT_COPIES = 4
"""What the loss holds of the size of the logits: them, their log-probabilities, both gradients."""

BF16_KEEPS = 0.5
"""Share of the float32 activations that bf16 autocast keeps. Norms, softmax and loss stay float32,
so models rich in them keep somewhat more."""


def cost(network: nn.Module, shape: Sequence[int]) -> Cost:
    """Measure what one sample of a shape (3, H, W; of a clip 3, T, H, W) costs a network on the
    CPU; seconds for a ViT-B.

    FLOPs are of matrix products and convolutions, as is usual. Activations are the storages that
    autograd keeps beyond those of one image less: parameters and other constants cancel.
    Leaves the network as it was (modes, buffers, gradients) and the random state too.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        # detached: the counter trips over a view of a parameter that is handed to a module (PiT)
        fixed = {name: t.detach() for name, t in _tensors(network)}
        with torch.no_grad(), FlopCounterMode(display=False) as flops, _LiveBytes(network) as live:
            functional_call(network, fixed, (torch.zeros(1, *shape),))
        with torch.no_grad():
            features = _features(network, torch.zeros(1, *shape))
        network.train()
        with torch.random.fork_rng(devices=[]):  # two at least: batch norm refuses to train on one
            activations = _kept_bytes(network, shape, 3) - _kept_bytes(network, shape, 2)
    finally:
        for module, training in modes.items():
            module.training = training
    return Cost(
        params=sum(p.numel() for p in network.parameters()),
        flops=flops.get_total_flops(),
        activations=activations,
        peak=live.peak,
        features=features,
    )


def job_bytes(job: Job) -> int:
    """GPU memory for a job whose models train on one device: its `training_bytes`."""
    return training_bytes([m.cost for m in job.members], job.data.num_classes, job.recipe)


def training_bytes(costs: Sequence[Cost], num_classes: int, recipe: Recipe) -> int:
    """GPU memory for training models together on one device by a recipe, to plan with.

    Weights, gradients and optimiser state in float32; the activations of all models at once; the
    largest model's transient once more, for the gradients on their way back; LOGIT_COPIES; the
    CUDA_CONTEXT. With the precision bf16 also the half-size copies of the weights that autocast
    makes, and BF16_KEEPS of the activations.
    """
    bf16 = recipe.precision == "bf16"
    params = sum(c.params for c in costs)
    weights = 4 * params * (2 + OPTIMIZER_STATES[recipe.optimizer]) + (2 * params if bf16 else 0)
    an_image = sum(c.activations for c in costs) + max(c.peak for c in costs)
    kept = an_image * (BF16_KEEPS if bf16 else 1)
    logits = 4 * LOGIT_COPIES * len(costs) * num_classes
    return weights + int(recipe.batch_size * (kept + logits)) + CUDA_CONTEXT


def inference_bytes(cost: Cost, batch_size: int) -> int:
    """GPU memory for evaluating one model in float32, to plan with."""
    return 4 * cost.params + batch_size * cost.peak + CUDA_CONTEXT


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(network.named_parameters(), network.named_buffers())


def _features(network: nn.Module, images_B3HW: Tensor) -> int | None:
    try:
        return features_of(network, images_B3HW, type(network).__name__).shape[1]
    except UserError:
        return None


def _kept_bytes(network: nn.Module, shape: Sequence[int], batch: int) -> int:
    """Bytes of the storages that a training forward of `batch` samples keeps for backward."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = {name: b.clone() for name, b in network.named_buffers()}  # batch norm writes to them
    images = torch.zeros(batch, *shape)
    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        output = functional_call(network, buffers, (images,))
    del output  # not before: it holds the graph, and so keeps each address to one storage
    return sum(kept.values())


class _LiveBytes(TorchDispatchMode):
    """Follows the bytes of the tensors that operations make, and notes their largest sum."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.own = {t.untyped_storage().data_ptr() for _, t in _tensors(network)}
        self.live = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in self.own:
                    self.live[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.live.values()))
        return output
