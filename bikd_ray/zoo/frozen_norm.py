"""Batch normalisation that training leaves as it is: its statistics, and its scale and shift."""

from torch import nn


class FrozenBatchNorm1d(nn.BatchNorm1d):
    """Stays in eval mode; its tensors have the names that they had."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm1d":
        return super().train(False)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Stays in eval mode; its tensors have the names that they had."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)


class FrozenBatchNorm3d(nn.BatchNorm3d):
    """Stays in eval mode; its tensors have the names that they had."""

    def train(self, mode: bool = True) -> "FrozenBatchNorm3d":
        return super().train(False)


FROZEN = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
}


def freeze_batchnorm(network: nn.Module) -> int:
    """Freeze all batch normalisation of a network, as detectron2 does by default; how many.

    Its statistics are used and never changed, and its weight and bias get no gradient. Names and
    values of the state_dict stay, and so does the weights' identity. Also makes batches of one
    image trainable. Subclasses of torch's layers (a library's own) are left as they are.
    """
    found = [module for module in network.modules() if type(module) in FROZEN]
    for module in found:
        module.__class__ = FROZEN[type(module)]
        module.eval()
        module.requires_grad_(False)
    return len(found)
