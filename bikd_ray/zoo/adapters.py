"""What a network answers, whatever form it answers in: its logits and its features.

Axes: B images, C classes, D features, H and W pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from bikd_ray.errors import UserError


def logits_of(output: object, name: str) -> Tensor:
    """The logits [B, C] in what a model returns: a tensor, a dict, an object or a tuple.

    Raises UserError where none can be found.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits  # type: ignore[attr-defined]
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise UserError(
        f"zoo: {name} returns a {type(output).__name__} without logits; expected a tensor, "
        "a dict with 'logits', an object with .logits, or a tuple that begins with them"
    )


def tensors_of(output: object) -> list[Tensor]:
    """All tensors in what a model returns, in whatever it puts them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    elif hasattr(output, "__dict__") and not isinstance(output, list | tuple):
        output = list(vars(output).values())
    if not isinstance(output, list | tuple):
        return []
    return [tensor for part in output for tensor in tensors_of(part)]


def features_of(network: nn.Module, images_B3HW: Tensor, name: str) -> Tensor:
    """The pre-logits features [B, D] of a network in eval mode: what its classifier reads.

    timm's models say it themselves (`forward_head(pre_logits=True)`), those with two heads too.
    In any other it is the input of the module whose output is the logits.
    Raises UserError where no module answers the logits.
    """
    if _is_timm(network):
        model: Any = network
        features = model.forward_head(model.forward_features(images_B3HW), pre_logits=True)
        return features.flatten(1)
    head, read = _head(network, images_B3HW[:1], name), []
    hook = head.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    try:
        network(images_B3HW)
    finally:
        hook.remove()
    return read[-1].flatten(1)


@torch.no_grad()
def reader_of(network: nn.Module, images_B3HW: Tensor, name: str) -> nn.Module | None:
    """The module that reads `features_of` in an ordinary forward pass, found on a few images.

    What it is called with last in a pass in eval mode, flattened to [B, D], are the features.
    None where a timm model has no such module: with two heads its features are their mean.
    Raises UserError where no module answers the logits.
    """
    if not _is_timm(network):
        return _head(network, images_B3HW[:1], name)
    features = features_of(network, images_B3HW, name)
    reads: dict[nn.Module, bool] = {}

    def note(module: nn.Module, args: tuple[object, ...]) -> None:
        read = args[0] if args else None
        reads[module] = (
            isinstance(read, Tensor)
            and read.shape[:1] == features.shape[:1]
            and torch.equal(read.flatten(1) if read.ndim > 1 else read, features)
        )

    hooks = [module.register_forward_pre_hook(note) for module in network.modules()]
    try:
        network(images_B3HW)
    finally:
        for hook in hooks:
            hook.remove()
    readers = [module for module, reads_them in reads.items() if reads_them]
    return readers[-1] if readers else None  # the first ones only hand on: a pooling, a dropout


def _is_timm(network: nn.Module) -> bool:
    return hasattr(network, "forward_head") and hasattr(network, "forward_features")


def _head(network: nn.Module, images_B3HW: Tensor, name: str) -> nn.Module:
    """The last layer with weights whose output is the logits, or is seen through them (a flatten).

    Outputs are told apart by their memory, and kept meanwhile: logits that no layer made could
    otherwise lie where a layer's output has been. Layers that write in place share memory, which
    belongs to the last one.
    """
    writer: dict[int, nn.Module] = {}
    outputs: list[Tensor] = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            writer[output.data_ptr()] = layer
            outputs.append(output)

    def is_layer(module: nn.Module) -> bool:
        return not list(module.children()) and bool(list(module.parameters()))

    layers = [module for module in network.modules() if is_layer(module)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            logits = logits_of(network(images_B3HW), name)
    finally:
        for hook in hooks:
            hook.remove()
    if logits.data_ptr() not in writer:
        raise UserError(
            f"zoo: {name}: no layer answers the logits, so the features before them are unknown; "
            "end the network with its classifier (nn.Linear or a 1x1 convolution)"
        )
    return writer[logits.data_ptr()]
