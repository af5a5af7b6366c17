"""Each model's own weights, kept once in the store, where every node of a cluster finds them.

A file is named by the hash of its tensors, so it is written once and never changes.
"""

from collections.abc import Iterable

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bikd_ray.errors import BikdError
from bikd_ray.plan import ResolvedModel
from bikd_ray.store.filesystem import StoreFS
from bikd_ray.zoo import build, rebuild, weights_id


def base_path(identity: str) -> str:
    """Where the store keeps the weights with this weights_id."""
    return f"weights/base/{identity}.safetensors"


def keep_base(fs: StoreFS, identity: str, network: nn.Module) -> None:
    """Store a network's tensors under their weights_id, unless they are there."""
    if not fs.exists(base_path(identity)):
        fs.write(base_path(identity), pack_state(network.state_dict()))


def keep_all(fs: StoreFS, zoo: Iterable[ResolvedModel]) -> None:
    """Store the weights of every model that the store lacks: no node has to fetch them then.

    Raises BikdError where a model's weights are no longer those of the plan.
    """
    for model in zoo:
        if not fs.exists(base_path(model.weights_id)):
            keep_base(fs, model.weights_id, _planned(model, build(model.entry)))


def pack_state(state: dict[str, Tensor], about: dict[str, str] | None = None) -> bytes:
    """A state_dict as safetensors; tensors that share memory are written out each."""
    tensors = {k: v.detach().cpu().clone() for k, v in state.items() if isinstance(v, Tensor)}
    contiguous = {k: v.contiguous() for k, v in tensors.items()}
    return save(contiguous, metadata=about)


def network_of(model: ResolvedModel, fs: StoreFS) -> nn.Module:
    """A resolved model's network, from the store if it keeps the weights, else from its source.

    Raises BikdError where the weights are not those of the plan.
    """
    try:
        network = rebuild(model, load(fs.read(base_path(model.weights_id))))
    except (FileNotFoundError, SafetensorError):
        network = build(model.entry)
    return _planned(model, network)


def _planned(model: ResolvedModel, network: nn.Module) -> nn.Module:
    found = weights_id(network)
    if found != model.weights_id:
        raise BikdError(
            f"{model.name} has weights {found} on this node and {model.weights_id} in the plan; "
            "its checkpoint changed, or its factory is not deterministic"
        )
    return network
