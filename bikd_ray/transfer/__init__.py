"""Who teaches whom, and the loss of it: usable without the rest of the package."""

from bikd_ray.transfer.loss import JointLoss, compete_by, joint_loss, transfer_loss
from bikd_ray.transfer.objectives import OBJECTIVES, TIES, Rule

__all__ = [
    "OBJECTIVES",
    "TIES",
    "JointLoss",
    "Rule",
    "compete_by",
    "joint_loss",
    "transfer_loss",
]
