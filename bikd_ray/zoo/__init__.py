"""Models: building them, giving them their weights, and knowing them again."""

from bikd_ray.zoo.load import build, build_resolved, logits_of, resolve_model, weights_id

__all__ = ["build", "build_resolved", "logits_of", "resolve_model", "weights_id"]
