"""Models: building them, giving them their weights, and knowing them again."""

from bikd_ray.zoo.load import build, logits_of, resolve_model, weights_id

__all__ = ["build", "logits_of", "resolve_model", "weights_id"]
