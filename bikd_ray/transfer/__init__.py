"""Who teaches whom, and the loss of it: usable without the rest of the package."""

from bikd_ray.transfer.loss import JointLoss, joint_loss
from bikd_ray.transfer.objectives import OBJECTIVES, TIES, Rule

__all__ = ["OBJECTIVES", "TIES", "JointLoss", "Rule", "joint_loss"]
