"""Models: building them, giving them their weights, and knowing them again."""

from bikd_ray.zoo.adapters import features_of, logits_of
from bikd_ray.zoo.build import build, rebuild
from bikd_ray.zoo.cache import cache_path, load_resolved, save_resolved
from bikd_ray.zoo.resolve import check_classes, describe, resolve_model, weights_id

__all__ = [
    "build",
    "cache_path",
    "check_classes",
    "describe",
    "features_of",
    "load_resolved",
    "logits_of",
    "rebuild",
    "resolve_model",
    "save_resolved",
    "weights_id",
]
